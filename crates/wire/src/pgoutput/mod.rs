//! What pgoutput, PostgreSQL's built-in output plugin, sends: protocol versions 1 and 2.
//!
//! `Relation` describes a table before its first change and again after each change of its shape;
//! the row messages name it by oid. Row values are not copied: a [`Tuple`] is a slice of what came
//! off the socket.

mod decode;
mod tuple;

use bytes::Bytes;

use crate::lsn::Lsn;

pub use decode::{Decoded, Decoder};
pub use tuple::{Column, Columns, Tuple};

/// One message. Times are microseconds since 2000-01-01 00:00 UTC, by the server's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Begin {
        /// The position of the transaction's commit record.
        final_lsn: Lsn,
        commit_time_micros: i64,
        xid: u32,
    },
    Commit {
        flags: u8,
        commit_lsn: Lsn,
        /// The position behind the commit record: what to confirm when the transaction is done.
        end_lsn: Lsn,
        commit_time_micros: i64,
    },
    /// The transaction came from elsewhere; `lsn` is its commit there.
    Origin {
        lsn: Lsn,
        name: String,
    },
    Relation(Box<Relation>),
    /// A type that is not built in, before the first relation that has a column of it.
    Type {
        oid: u32,
        namespace: String,
        name: String,
    },
    Insert {
        relation: u32,
        new: Tuple,
    },
    Update {
        relation: u32,
        /// Sent when the key changed, or always with REPLICA IDENTITY FULL.
        old: Option<Old>,
        new: Tuple,
    },
    Delete {
        relation: u32,
        old: Old,
    },
    Truncate {
        cascade: bool,
        restart_identity: bool,
        relations: Vec<u32>,
    },
    /// From `pg_logical_emit_message`.
    Message {
        transactional: bool,
        lsn: Lsn,
        prefix: String,
        content: Bytes,
    },
    /// A piece of a transaction that has not committed yet begins.
    StreamStart {
        xid: u32,
        first_segment: bool,
    },
    StreamStop,
    StreamCommit {
        xid: u32,
        flags: u8,
        commit_lsn: Lsn,
        end_lsn: Lsn,
        commit_time_micros: i64,
    },
    /// `subxid` was rolled back; with `subxid == xid`, the whole transaction.
    StreamAbort {
        xid: u32,
        subxid: u32,
    },
}

/// The old row of an update or delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Old {
    /// Only the columns of the replica identity; the others are null.
    Key(Tuple),
    /// The whole row.
    Full(Tuple),
}

impl Old {
    pub fn tuple(&self) -> &Tuple {
        match self {
            Old::Key(tuple) | Old::Full(tuple) => tuple,
        }
    }
}

/// A table's shape as its changes are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    pub oid: u32,
    pub namespace: String,
    pub name: String,
    pub replica_identity: ReplicaIdentity,
    pub columns: Vec<RelationColumn>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationColumn {
    /// Part of the replica identity (with FULL: every column).
    pub key: bool,
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
}

/// What an old row holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    Nothing,
    Full,
    /// A unique index chosen with ALTER TABLE.
    Index,
}
