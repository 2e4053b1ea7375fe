//! The scenarios of `tests/it` that say what a link of two nodes does, in direct mode; and those that are about it.

const CAPTURE: &str = "direct";

mod link;
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
mod s07_at_commit;
#[path = "../it/s07_names.rs"]
mod s07_names;
#[path = "../it/s07_types.rs"]
mod s07_types;
mod s08_at_commit;
#[path = "../it/s08_partitions.rs"]
mod s08_partitions;
#[path = "../it/s09_keys.rs"]
mod s09_keys;
#[path = "../it/s11_whole_transactions.rs"]
mod s11_whole_transactions;
#[path = "../it/s21_conflicts.rs"]
mod s21_conflicts;
#[path = "../it/s28_random_writes.rs"]
mod s28_random_writes;
mod s33_set_back;
#[path = "../it/s35_passing_faults.rs"]
mod s35_passing_faults;
#[path = "../it/s36_refused_rows.rs"]
mod s36_refused_rows;
mod s43_lifecycle;
mod s45_ids;
mod s50_at_commit;
mod s50_single;
mod s51_peer_away;
mod s53_remote_only;
mod s54_goes_along;
mod s55_applications;
#[path = "../it/support/mod.rs"]
mod support;
