//! Scenarios on real servers, which the tests start themselves.

mod cluster;
mod commands;
mod connect;
mod connect_tls;
mod link;
mod s01_both_ways;
mod s02_types;
mod s03_toast;
mod s04_unique_values;
mod s05_truncate;
mod s20_no_loops;
mod s21_conflicts;
mod s26_one_of_three_is_away;
mod s30_delivery_in_doubt;
mod support;
mod support_works;
