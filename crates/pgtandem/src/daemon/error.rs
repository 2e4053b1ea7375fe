//! Why a node cannot be reached, and why a hub ends.

use std::time::Duration;

use crate::capture::CaptureError;
use crate::connect::{ConnectError, FaultClass, Retry, in_words};
use crate::deliver::DeliverError;

#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}", in_words(.0))]
    Sql(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Replication(#[from] wire::Error),
    #[error(transparent)]
    Target(#[from] DeliverError),
    #[error(
        "{node}: this is not the database that was linked (a restored backup, a clone, or a new server); \
         run `pgtandem rejoin {node}` to compare it with its peers, settle what differs and go on with it"
    )]
    Stranger { node: String },
    #[error(
        "{node}: its replication slot {slot} is gone or has lost WAL it needs, so changes may be missing; \
         run `pgtandem rejoin {node}` to compare it with its peers, settle what differs and go on with it"
    )]
    SlotGone { node: String, slot: String },
    #[error(
        "{node}: it knows less of itself than its peers do: it was set back to an earlier state (a restored backup, a \
         promoted standby that had not got everything); run `pgtandem rejoin {node}` to compare it with its peers, settle \
         what differs and go on with it"
    )]
    SetBack { node: String },
    #[error(
        "{node}: {table} has lost the triggers that capture its changes, so changes may be missing; run `pgtandem rejoin \
         {node}` to compare it with its peers, settle what differs and go on with it"
    )]
    TriggersGone { node: String, table: String },
    #[error("{node}: `pgtandem rejoin {node}` was begun and has not ended; run it again")]
    Rejoining { node: String },
    #[error("{node}: no answer for {} s", .after.as_secs())]
    Silent { node: String, after: Duration },
    #[error("{node}: a session of an earlier hub does not end; waiting for it")]
    OldBackend { node: String },
    #[error("another hub has taken over: {holder}")]
    Deposed { holder: String },
    #[error("{node}: pgtandem is not installed here; run `pgtandem up`")]
    NotLinked { node: String },
    #[error("{node}: {reason}")]
    Misfit { node: String, reason: String },
}

impl ReachError {
    /// Whether coming back later can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Connect(error) => error.retry(),
            Self::Sql(error) => retry_of(&FaultClass::of(error)),
            Self::Target(error) => {
                if error.may_pass() {
                    Retry::Soon
                } else {
                    Retry::Never
                }
            }
            Self::Replication(error) => match error {
                wire::Error::Server(server) => retry_of(&FaultClass::of_sqlstate(&server.code)),
                _ => Retry::Soon,
            },
            // One that was deposed waits for the locks like any other.
            Self::OldBackend { .. } | Self::Silent { .. } | Self::Deposed { .. } => Retry::Soon,
            Self::Rejoining { .. } => Retry::AfterPerson,
            Self::Stranger { .. }
            | Self::SlotGone { .. }
            | Self::SetBack { .. }
            | Self::TriggersGone { .. }
            | Self::NotLinked { .. }
            | Self::Misfit { .. } => Retry::Never,
        }
    }
}

fn retry_of(class: &FaultClass) -> Retry {
    match class {
        FaultClass::Retry => Retry::Soon,
        FaultClass::NotAllowed | FaultClass::ShapeChanged => Retry::AfterPerson,
        FaultClass::Deposed | FaultClass::RowRejected | FaultClass::Unknown(_) => Retry::Never,
    }
}

/// Why `pgtandem run` ends.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Reach(#[from] ReachError),
    #[error(
        "{node}: a delivery fails and trying again cannot help: {error}. Nothing was dropped: the changes wait, and \
         `pgtandem run` goes on with them once the cause is removed"
    )]
    Delivery { node: String, error: String },
    #[error("{node}: {error}")]
    Capture { node: String, error: CaptureError },
    #[error("another hub has taken over: {0}")]
    Deposed(String),
    #[error("{node}: lost while recovering")]
    LostWhileRecovering { node: String },
    #[error("cannot read back what was spilled to a temporary file: {0}")]
    Spill(std::io::Error),
    #[error("{}", not_all_here(.0))]
    NotAllHere(Vec<(String, String)>),
    #[error(
        "{node} was away for so long that only the keys that changed were kept; they have to be settled first; \
             `pgtandem run` does that"
    )]
    Returned { node: String },
    #[error("nothing is linked here yet; run `pgtandem up` first")]
    NothingLinked,
    #[error(
        "the node {peer} is in the link, as {node} knows, but not in the configuration this hub has read; start it again \
         with one that has it, or take the node out: `pgtandem down --node {peer}`"
    )]
    UnknownPeer { peer: String, node: String },
    #[error("`pgtandem up` was interrupted while it linked {table}; run it again")]
    UpUnfinished { table: String },
}

impl RunError {
    /// Whether starting over can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Reach(error) => error.retry(),
            // The other one holds the locks; this one waits for them.
            Self::Deposed(_) | Self::LostWhileRecovering { .. } | Self::NotAllHere(_) => Retry::Soon,
            Self::UpUnfinished { .. } => Retry::AfterPerson,
            Self::Delivery { .. }
            | Self::Capture { .. }
            | Self::Spill(_)
            | Self::Returned { .. }
            | Self::NothingLinked
            | Self::UnknownPeer { .. } => Retry::Never,
        }
    }
}

fn not_all_here(missing: &[(String, String)]) -> String {
    let names: Vec<&str> = missing.iter().map(|(node, _)| node.as_str()).collect();
    let errors: Vec<&str> = missing.iter().map(|(_, error)| error.as_str()).collect();
    format!(
        "waiting for {}: a hub begins once it reaches every node (then it goes on without one that goes away); \
         until then changes wait in the nodes' WAL. For a node that is gone for good run `pgtandem down --node {}`. {}",
        names.join(" and "),
        names[0],
        errors.join("; ")
    )
}
