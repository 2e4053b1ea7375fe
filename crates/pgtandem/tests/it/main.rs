//! Scenarios on real servers, which the tests start themselves.

mod cluster;
mod connect;
mod connect_tls;
mod plain_role;
mod s01_both_ways;
mod s02_types;
mod s03_toast;
mod s04_unique_values;
mod s05_truncate;
mod s06_columns;
mod s08_partitions;
mod s09_keys;
mod s10_triggers;
mod s11_whole_transactions;
mod s12_large_transactions;
mod s13_transactions;
mod support;
mod support_works;
