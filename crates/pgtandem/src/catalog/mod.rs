//! What a node's catalog says about tables, keys, sequences, triggers, settings and privileges.
//!
//! Queries and plain data; nothing here judges or changes anything. Sessions are expected to have an empty
//! `search_path` (ours do), so that type names come out qualified and no operator of an application is used.

mod constraints;
mod extensions;
mod fingerprint;
mod references;
mod replication;
mod role;
mod sequences;
mod server;
mod tables;
pub mod types;

pub use constraints::{ForeignKey, ReferentialAction, Trigger, TriggerFiring, UniqueIndex, read_all_foreign_keys};
pub use extensions::{Extensions, read_extensions};
pub use fingerprint::{Difference, Fingerprint, read_fingerprint};
pub use references::{CheckConstraint, PlainColumn, read_check_constraints, read_plain_columns};
pub use replication::{Publication, Slot, read_publication, read_slot};
pub use role::{RoleFacts, TableRights, read_role};
pub use sequences::{Sequence, ServedBy, read_sequences};
pub use server::{ServerFacts, read_server};
pub use tables::{
    Column, Generated, Identity, Leaf, Persistence, ReplicaIdentity, TableKind, TableShape, estimate_rows, list_tables,
    read_tables,
};
