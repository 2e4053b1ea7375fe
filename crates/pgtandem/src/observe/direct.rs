//! What direct mode adds to a node's status.

use jiff::Timestamp;
use serde::Serialize;

use super::verdict::timestamp;
use crate::link::DirectView;

#[derive(Debug, Clone, Serialize)]
pub struct DirectStatus {
    pub peer: String,
    pub queued: Queued,
    /// The peer has not answered, and is not asked for a while. None: it is asked.
    pub breaker: Option<Breaker>,
    /// Transactions that the peer was sent and has not answered; among those that are queued.
    pub in_doubt: i64,
    /// Transactions of the peer that are kept until it is known that they have not failed there.
    pub receipts: i64,
}

/// What is left to the hub.
#[derive(Debug, Clone, Serialize)]
pub struct Queued {
    pub changes: i64,
    pub transactions: i64,
    pub since: Option<Timestamp>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Breaker {
    /// From then on a COMMIT tries again.
    pub open_until: Option<Timestamp>,
    pub why: Option<String>,
}

impl DirectStatus {
    pub(super) fn new(view: &DirectView) -> Self {
        let queued = Queued {
            changes: view.queued_changes,
            transactions: view.queued_transactions,
            since: view.queued_since.and_then(timestamp),
        };
        let breaker = view.open_until.map(|until| Breaker { open_until: timestamp(until), why: view.open_why.clone() });
        Self { peer: view.peer.clone(), queued, breaker, in_doubt: view.in_doubt, receipts: view.receipts }
    }
}
