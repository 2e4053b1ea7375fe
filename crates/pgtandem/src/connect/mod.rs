//! Reaching a server the way libpq does.
//!
//! A connection string becomes an [`Endpoint`] once, when the configuration is read. Passwords from files and
//! certificates are read at each connection, so they can be renewed while the hub runs.

mod conninfo;
mod endpoint;
mod environment;
mod error;
mod foreign;
mod params;
mod passfile;
mod replication;
mod service;
mod session;
pub(crate) mod spelling;
mod sqlstate;
mod tls;
mod verify;

pub use endpoint::{ChannelBinding, Endpoint, Host, Keepalives, Place, SessionAttributes};
pub use environment::Environment;
pub use error::{ConnectError, ConnectFault, Retry, in_words};
pub use foreign::ForeignOptions;
pub(crate) use params::is_keyword;
pub use params::{ParameterFault, ParameterFaults};
pub use session::Session;
pub use sqlstate::FaultClass;
pub use tls::{TlsMode, TlsSettings};
pub use wire::Secret;

#[cfg(test)]
mod tests;
