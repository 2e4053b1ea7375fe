//! PostgreSQL servers of our own, in a temporary directory: for the demo, the tests and the bench.
//!
//! Never a server that was already there. Each has its own directory, port and system identifier
//! (we recognise clones by it, so every server is made by initdb, unless a test knows better), and
//! none outlives the process that started it, however that ends.

mod account;
mod error;
mod home;
mod options;
mod pg_bin;
mod port;
mod processes;
mod server;
mod session;
mod template;

pub use error::{ClusterError, Result, SqlError};
pub use options::ClusterOptions;
pub use pg_bin::{PgBin, Version};
pub use server::{Cluster, Stop};
pub use session::{Pending, Session};
pub use template::Template;
