//! Scenarios on real servers, which the tests start themselves.

mod cluster;
mod connect;
mod connect_tls;
mod link;
mod s01_both_ways;
mod s02_types;
mod s03_toast;
mod s04_unique_values;
mod s05_truncate;
mod support;
mod support_works;
