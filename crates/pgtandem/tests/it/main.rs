//! Scenarios on real servers, which the tests start themselves.

mod cluster;
mod support;
mod support_works;
mod connect;
mod connect_tls;
