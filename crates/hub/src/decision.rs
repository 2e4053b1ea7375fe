//! Decisions: made once, kept until their key retires, and written down on every node.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;

use crate::change::{Op, State};
use crate::key::{Dot, Key, Stamp};

/// One change as a decision records it.
#[derive(Clone, PartialEq, Debug)]
pub struct Side<I> {
    pub dot: Dot,
    pub stamp: Stamp,
    pub op: Op,
    pub state: State<I>,
}

/// What kind of clash was decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Two rows, named by their operations, the loser's or winner's insert first.
    InsertInsert,
    InsertUpdate,
    InsertDelete,
    UpdateUpdate,
    UpdateDelete,
    DeleteDelete,
    /// One side is a TRUNCATE of the table.
    Truncate,
    /// One half of an UPDATE of the primary key lost because its other half did.
    KeyChange,
    /// Of two changes of one node, the later was written over a delivery that had replaced the earlier.
    WrittenOverDelivery,
}

impl Kind {
    pub fn of(one: Op, other: Op) -> Kind {
        match (one, other) {
            (Op::Truncate, _) | (_, Op::Truncate) => Kind::Truncate,
            (Op::Insert, Op::Insert) => Kind::InsertInsert,
            (Op::Insert, Op::Update) | (Op::Update, Op::Insert) => Kind::InsertUpdate,
            (Op::Insert, Op::Delete) | (Op::Delete, Op::Insert) => Kind::InsertDelete,
            (Op::Update, Op::Update) => Kind::UpdateUpdate,
            (Op::Update, Op::Delete) | (Op::Delete, Op::Update) => Kind::UpdateDelete,
            (Op::Delete, Op::Delete) => Kind::DeleteDelete,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Kind::InsertInsert => "insert/insert",
            Kind::InsertUpdate => "insert/update",
            Kind::InsertDelete => "insert/delete",
            Kind::UpdateUpdate => "update/update",
            Kind::UpdateDelete => "update/delete",
            Kind::DeleteDelete => "delete/delete",
            Kind::Truncate => "truncate",
            Kind::KeyChange => "key change",
            Kind::WrittenOverDelivery => "written over a delivery",
        }
    }
}

/// The recorded outcome of a conflict.
#[derive(Clone, PartialEq, Debug)]
pub struct Decision<I> {
    pub key: Key,
    pub kind: Kind,
    pub winner: Side<I>,
    pub loser: Side<I>,
    pub policy: Cow<'static, str>,
    pub why: Cow<'static, str>,
}

/// What recovery needs of a decision that some node keeps.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Kept {
    pub key: Key,
    pub winner: Dot,
    pub loser: Dot,
    /// Its kind is [`Kind::KeyChange`].
    pub forfeit: bool,
}

/// The decisions that some node has yet to write down, in the order they were made.
#[derive(Debug)]
pub(crate) struct Log<I> {
    decisions: VecDeque<Decision<I>>,
    /// The number of the first of `decisions`.
    first: u64,
}

impl<I: Clone> Log<I> {
    pub(crate) fn new() -> Log<I> {
        Log { decisions: VecDeque::new(), first: 0 }
    }

    /// The number the next decision will have.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.decisions.len() as u64
    }

    pub(crate) fn push(&mut self, decision: Decision<I>) -> u64 {
        self.decisions.push_back(decision);
        self.end() - 1
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut Decision<I>> {
        self.decisions.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    pub(crate) fn range(&self, numbers: Range<u64>) -> Vec<Decision<I>> {
        let (from, to) = (numbers.start - self.first, numbers.end - self.first);
        self.decisions.range(from as usize..to as usize).cloned().collect()
    }

    /// Every node has written down what is below `number`.
    pub(crate) fn forget_below(&mut self, number: u64) {
        while self.first < number && self.decisions.pop_front().is_some() {
            self.first += 1;
        }
    }
}
