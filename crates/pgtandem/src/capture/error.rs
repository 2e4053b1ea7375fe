//! Why a capture ended.

use std::time::Duration;

use crate::connect::{FaultClass, in_words};

/// Why streaming is better than reading in one go.
#[derive(Debug, thiserror::Error)]
pub enum MissedError {
    #[error(transparent)]
    Wire(#[from] wire::Error),
    /// The answer is read in one transaction, which keeps the node from cleaning up.
    #[error("the other nodes do not take it fast enough")]
    Slow,
}

#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error(transparent)]
    Wire(#[from] wire::Error),
    #[error("what was missed cannot be read in one go, so it is streamed: {0}")]
    Missed(#[source] MissedError),
    #[error("cannot write the changes of a large transaction to a temporary file: {0}")]
    Spill(#[from] std::io::Error),
    #[error("{table}: its primary key column {column} is no longer there; give it its name back")]
    KeyColumnGone { table: String, column: String },
    #[error(
        "{table}: a change came without its primary key; run ALTER TABLE {table} REPLICA IDENTITY DEFAULT \
         (or FULL where the table has large values)"
    )]
    KeyMissing { table: String },
    /// The second session failed, the one that is asked for what the stream leaves out.
    #[error("{0}")]
    Source(String),
    #[error("the server sent {0} where it should not")]
    OutOfOrder(&'static str),
    #[error("reading the outbox: {}", in_words(.0))]
    Outbox(#[from] tokio_postgres::Error),
    #[error("reading the outbox: no answer for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the outbox is not as pgtandem made it: {0}")]
    Unreadable(String),
    #[error(
        "{table}: its columns were changed more than once since its changes were read last, so that some cannot be \
         told apart; run `pgtandem down` and `pgtandem up` to compare and link again"
    )]
    ColumnsUnknown { table: String },
}

impl CaptureError {
    /// Whether reading again may help: the node was lost, or the disk was full.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Wire(_) | Self::Missed(_) | Self::Spill(_) | Self::Silent(_) => true,
            Self::Outbox(error) => error.is_closed() || FaultClass::of(error) == FaultClass::Retry,
            _ => false,
        }
    }
}
