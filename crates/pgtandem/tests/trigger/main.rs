//! The scenarios of `tests/it` that say what a link does, with trigger capture on every node, whose servers write no WAL
//! for decoding; and those that are about the outbox.

const CAPTURE: &str = "trigger";

mod link;
#[path = "../it/plain_role.rs"]
mod plain_role;
#[path = "../it/repair.rs"]
mod repair;
#[path = "../it/s01_both_ways.rs"]
mod s01_both_ways;
#[path = "../it/s03_toast.rs"]
mod s03_toast;
#[path = "../it/s04_unique_values.rs"]
mod s04_unique_values;
#[path = "../it/s05_truncate.rs"]
mod s05_truncate;
#[path = "../it/s06_columns.rs"]
mod s06_columns;
#[path = "../it/s07_names.rs"]
mod s07_names;
#[path = "../it/s07_three_nodes.rs"]
mod s07_three_nodes;
#[path = "../it/s08_partitions.rs"]
mod s08_partitions;
#[path = "../it/s09_keys.rs"]
mod s09_keys;
#[path = "../it/s11_whole_transactions.rs"]
mod s11_whole_transactions;
#[path = "../it/s20_no_loops.rs"]
mod s20_no_loops;
#[path = "../it/s21_conflicts.rs"]
mod s21_conflicts;
#[path = "../it/s28_random_writes.rs"]
mod s28_random_writes;
#[path = "../it/s30_delivery_in_doubt.rs"]
mod s30_delivery_in_doubt;
mod s31_s32_away;
#[path = "../it/s31_three_nodes.rs"]
mod s31_three_nodes;
mod s33_set_back;
#[path = "../it/s35_passing_faults.rs"]
mod s35_passing_faults;
#[path = "../it/s36_refused_rows.rs"]
mod s36_refused_rows;
#[path = "../it/link/traffic.rs"]
mod s40_s44_traffic;
mod s41_lifecycle;
mod s55_outbox;
#[path = "../it/support/mod.rs"]
mod support;
