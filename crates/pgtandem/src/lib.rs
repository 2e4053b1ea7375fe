//! pgtandem keeps chosen tables the same in two or more independent PostgreSQL databases.
//!
//! One module per noun; `ARCHITECTURE.md` at the root of the repository maps them.

pub mod capture;
pub mod catalog;
pub mod cli;
pub mod cluster;
pub mod compare;
pub mod config;
pub mod connect;
pub mod daemon;
pub mod deliver;
pub mod demo;
pub mod direct;
pub mod lifecycle;
pub mod link;
pub mod observe;
pub mod rails;
pub mod sql;
