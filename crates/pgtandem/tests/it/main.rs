//! Scenarios on real servers, which the tests start themselves.

/// How the nodes' changes are captured; `tests/trigger` runs many of the same scenarios the other way.
const CAPTURE: &str = "wal";

mod cluster;
mod commands;
mod connect;
mod connect_tls;
mod diff;
mod link;
mod plain_role;
mod repair;
mod s01_both_ways;
mod s02_types;
mod s03_toast;
mod s04_unique_values;
mod s05_truncate;
mod s06_columns;
mod s07_names;
mod s07_three_nodes;
mod s07_types;
mod s08_partitions;
mod s09_keys;
mod s10_triggers;
mod s11_whole_transactions;
mod s12_large_transactions;
mod s13_transactions;
mod s20_no_loops;
mod s21_conflicts;
mod s23_clocks;
mod s26_one_of_three_is_away;
mod s28_random_writes;
mod s30_delivery_in_doubt;
mod s31_in_one_go;
mod s31_much_to_catch_up;
mod s31_three_nodes;
mod s32_lost_slot;
mod s33_set_back;
mod s35_passing_faults;
mod s36_refused_rows;
mod s39_drift;
mod support;
mod support_works;
