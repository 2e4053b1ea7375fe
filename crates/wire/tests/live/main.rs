//! The wire crate against a real server.

mod changes;
mod cluster;
mod feedback;
mod login;
mod missed;
mod pieces;
mod tls;
