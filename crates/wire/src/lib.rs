//! PostgreSQL's replication connection and the pgoutput decoder: bytes in, typed messages out.
//!
//! ```no_run
//! # async fn read() -> wire::Result<()> {
//! use wire::{ConnectOptions, Event, Host, Lsn, Message, PgOutputOptions, ReplicationClient};
//!
//! let options = ConnectOptions::new(Host::Tcp("db1.example".into(), None), "app", "new_app");
//! let client = ReplicationClient::connect(&options).await?;
//! let pgoutput = PgOutputOptions::new(["products"]);
//! let (mut stream, feedback) = client.start("my_slot", Lsn(0), &pgoutput).await?;
//! loop {
//!     match stream.next().await? {
//!         Event::Message { message: Message::Commit { end_lsn, .. }, .. } => {
//!             feedback.set(end_lsn, end_lsn); // the server may now forget what lies before
//!         }
//!         Event::Message { .. } => {}
//!         Event::Keepalive { wal_end, .. } => feedback.set(wal_end, wal_end),
//!     }
//! }
//! # }
//! ```
//!
//! Deliberately absent: SQL (that is `tokio_postgres`'s work; but see [`Backlog`]), physical replication, reconnecting
//! (only the caller knows from which position), and any idea of what a change means.

mod auth;
mod client;
mod cursor;
mod error;
mod feedback;
pub mod frame;
mod lsn;
mod missed;
mod options;
mod pace;
pub mod pgoutput;
mod quote;
mod secret;
mod startup;
mod stream;
mod tls;
mod transport;

pub use client::{CreatedSlot, ReplicationClient, SystemIdentity};
pub use error::{Error, Result, ServerError};
pub use feedback::Feedback;
pub use lsn::{Lsn, ParseLsnError};
pub use missed::{Backlog, Missed};
pub use options::{
    ChannelBinding, ConnectOptions, Host, Keepalives, Origin, PgOutputOptions, ProtoVersion, Tls, TlsConfig,
};
pub use pgoutput::{Column, Columns, Decoded, Decoder, Message, Old, Relation, RelationColumn, ReplicaIdentity, Tuple};
pub use secret::Secret;
pub use stream::{Event, Stream};
pub use tls::end_point_digest;
