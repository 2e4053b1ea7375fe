//! The wire crate against a real server.

mod changes;
mod cluster;
