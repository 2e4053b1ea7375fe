//! Scenarios on real servers, which the tests start themselves.

mod cluster;
mod link;
