//! pgtandem's deciding core: changes in, deliveries out. No sockets, clock, files, threads or randomness.
//!
//! The hub knows each node's own order of changes and where its own deliveries fell in it, so it knows which changes
//! had seen which others. It decides once per conflict, keeps what is canonical for every key that some node may not
//! have settled on, and says what each node is owed.
//!
//! The caller's part, per node: hand over whole transactions in commit order ([`Hub::judge`], [`Hub::advance`]) while
//! no delivery to that node is in flight ([`Hub::may_judge`]); take a delivery ([`Hub::cut`]), carry it out in one
//! transaction together with its landing and decisions, and report [`Hub::landed`] or [`Hub::failed`]; now and then
//! [`Hub::retire`], and confirm [`Hub::acknowledged`] to the node. After a restart: [`Recovery`].

mod change;
mod cover;
mod decided;
mod decision;
mod delivery;
mod fifo;
mod firsts;
mod hold;
mod hub;
mod judge;
mod key;
mod key_change;
mod outbox;
mod outcome;
mod past;
mod policy;
mod recovery;
mod retire;
mod truncate;
mod window;
mod wrote;

pub use change::{Change, Op, State};
pub use cover::{Cover, Landing};
pub use decision::{Decision, Kept, Kind, Side};
pub use delivery::{Delivery, DeliveryRow, DeliveryTruncate, Landed, Presence};
pub use hold::{HeldBefore, HeldRecord};
pub use hub::Hub;
pub use key::{Dot, Key, Micros, NodeId, Position, Stamp, TableId};
pub use key_change::Half;
pub use outbox::{Boundary, BoundaryKind, Crowded, NotASnapshot, Outboxed, SPACE, Snapshot, place};
pub use policy::{Contender, Newest, PerTable, Policies, Prefer, Verdict};
pub use recovery::{Recovery, reach};
pub use wrote::Wrote;

#[cfg(test)]
mod sim;
