//! Scenarios on real servers, which the tests start themselves.

mod cluster;
mod connect;
mod connect_tls;
mod s20_no_loops;
mod s21_conflicts;
mod s26_one_of_three_is_away;
mod s28_random_writes;
mod s30_delivery_in_doubt;
mod s35_passing_faults;
mod s36_refused_rows;
mod s39_drift;
mod support;
mod support_works;
