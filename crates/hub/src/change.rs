//! What capture hands to the hub.

use crate::key::{Key, TableId};

/// A row, or that there is none. `I` is the row's image, which the hub never looks into; it should be cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State<I> {
    Present(I),
    Absent,
}

impl<I> State<I> {
    pub fn is_present(&self) -> bool {
        matches!(self, State::Present(_))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    Insert,
    Update,
    Delete,
    Truncate,
}

impl Op {
    /// What two operations of one transaction on one key amount to.
    pub(crate) fn then<I>(self, state: &State<I>) -> Op {
        match (self, state) {
            (_, State::Absent) => Op::Delete,
            (Op::Insert, State::Present(_)) => Op::Insert,
            (_, State::Present(_)) => Op::Update,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Op::Insert => "insert",
            Op::Update => "update",
            Op::Delete => "delete",
            Op::Truncate => "truncate",
        }
    }
}

/// One change of a source transaction.
#[derive(Clone, Debug)]
pub enum Change<I> {
    Row {
        key: Key,
        op: Op,
        state: State<I>,
    },
    /// An UPDATE of the primary key. Its delete and its insert win or lose together; if they lose and no rival holds
    /// the old key, the row keeps its old key with its new values: `image_under_old_key`.
    KeyChange {
        from: Key,
        to: Key,
        image: I,
        image_under_old_key: I,
    },
    Truncate {
        tables: Vec<TableId>,
    },
}
