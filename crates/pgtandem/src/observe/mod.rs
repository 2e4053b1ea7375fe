//! What there is to know of a link, read from its databases, with or without a hub at work.
//!
//! For `status` and `conflicts`. Nothing here writes, and a node that does not answer is part of the answer.

mod conflicts;
mod direct;
mod node;
mod observer;
mod status;
mod verdict;

pub use conflicts::{Conflict, ConflictFilter, NoConflicts, Side, read_conflicts};
pub use direct::{Breaker, DirectStatus, Queued};
pub use node::{DecidedTable, HeldHere, HeldKey, HubRow, LockHolder, NodeView, SlotView, TableView};
pub use observer::{Away, Observed, Observer};
pub use status::{
    Conflicts, Delivered, HeldKeys, HubState, HubStatus, NodeState, NodeStatus, Owner, Read, Status, TableStatus,
    TableWell,
};
