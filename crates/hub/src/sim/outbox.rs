//! A simulated node with trigger capture: transactions that stay open and commit in any order, the outbox they leave
//! their changes in, and a server that may lose what was not flushed.

use std::collections::BTreeSet;

use super::database::{Database, Transaction, Write};
use crate::hub::Broken;
use crate::{Boundary, BoundaryKind, Dot, Key, Micros, Outboxed, Position, Snapshot, TableId, place};

/// In the place of `SPACE`: more than can be open at once, and so few that there is room only because what is drawn
/// counts, too.
const SPACE: u64 = 16;

/// A transaction of the application that has not ended.
#[derive(Clone, Debug)]
pub struct Open {
    pub xid: u64,
    last: u64,
    writes: Vec<Write>,
}

/// What the node keeps for the hub, beside landings.
#[derive(Clone, Default)]
pub struct Outbox {
    next_xid: u64,
    drawn: u64,
    marks: u64,
    pub open: Vec<Open>,
    /// What was not acknowledged, by its identity in the database's log.
    rows: Vec<(Outboxed, Dot)>,
    reads: Vec<Boundary>,
    pub acknowledged: Position,
    /// Of the capture that is at work: its last read.
    passed: Position,
}

/// What reading an outbox brings.
#[derive(Clone, Debug)]
pub enum Piece {
    Transaction(Transaction),
    Passed(Position),
    /// What the read has seen behind `after` was not taken yet.
    Rest {
        after: Position,
        read: Position,
    },
}

impl Outbox {
    pub fn begin_capture(&mut self) {
        self.passed = Position(0);
    }

    /// What was not acknowledged.
    pub fn waiting(&self) -> impl Iterator<Item = Dot> {
        self.rows.iter().map(|(_, dot)| *dot)
    }

    /// The numbers of a transaction of so many changes.
    pub fn draw(&mut self, changes: u64) -> (u64, u64) {
        self.drawn += changes;
        self.next_xid += 1;
        (self.next_xid, self.drawn)
    }

    pub fn keep(&mut self, transaction: Outboxed, identity: Dot) {
        self.rows.push((transaction, identity));
    }

    pub fn last_read(&self) -> Option<Position> {
        self.reads.last().map(|read| read.position)
    }

    /// Only the last read is known.
    pub fn join_reads(&mut self) {
        self.reads.drain(..self.reads.len().saturating_sub(1));
    }
}

impl Database {
    pub fn outbox_mut(&mut self) -> &mut Outbox {
        self.outbox.as_mut().expect("a node with trigger capture")
    }

    /// Begins a transaction, or goes on with an open one. Nothing happens if it would have to wait for a lock.
    pub fn begin(&mut self, writes: Vec<Write>, into: Option<usize>) -> bool {
        let outbox = self.outbox_mut();
        let xid = into.map(|at| outbox.open[at].xid);
        let others = outbox.open.iter().filter(|open| Some(open.xid) != xid);
        if others.flat_map(|open| &open.writes).any(|theirs| writes.iter().any(|ours| ours.meets(theirs))) {
            return false;
        }
        outbox.drawn += writes.len() as u64;
        let last = outbox.drawn;
        match into {
            Some(at) => {
                outbox.open[at].writes.extend(writes);
                outbox.open[at].last = last;
            }
            None => {
                outbox.next_xid += 1;
                outbox.open.push(Open { xid: outbox.next_xid, last, writes });
            }
        }
        true
    }

    pub fn rollback(&mut self, at: usize) {
        self.outbox_mut().open.swap_remove(at);
    }

    pub fn commit_open(&mut self, at: usize, now: i64) {
        let Open { xid, last, writes } = self.outbox_mut().open.swap_remove(at);
        let identity = Dot { node: self.node, position: Position(last) };
        let (changes, keys) = self.apply(&writes, identity);
        if !changes.is_empty() {
            let time = Micros(now + self.skew);
            self.log.push(Transaction { position: Position(0), identity, time, changes, keys });
            self.outbox_mut().rows.push((Outboxed { xid, last }, identity));
        }
    }

    /// Whether an open transaction has the row's lock. Of a row that it has only inserted, a delete sees nothing.
    pub fn is_locked(&self, key: &Key, is_delete: bool) -> bool {
        let open = self.outbox.iter().flat_map(|outbox| &outbox.open);
        let unseen = |write: &Write| {
            is_delete && matches!(write, Write::Put(_)) && self.cell(key).image.is_none() && !key.is_whole_table()
        };
        let truncate = Write::Truncate(key.table());
        let ours = if key.is_whole_table() { truncate } else { Write::Put(key.clone()) };
        open.flat_map(|open| &open.writes).any(|theirs| ours.meets(theirs) && !unseen(theirs))
    }

    /// A boundary at this moment.
    pub fn mark(&mut self, kind: BoundaryKind, broken: Option<Broken>) -> Boundary {
        let outbox = self.outbox_mut();
        outbox.marks += 1;
        let in_progress = outbox.open.iter().map(|open| open.xid);
        let snapshot = match broken {
            // Numbers alone, as if they became visible in order.
            Some(Broken::Visible) => Snapshot::new(u64::MAX, []),
            _ => Snapshot::new(outbox.next_xid + 1, in_progress),
        };
        let position = Position(outbox.marks * SPACE + outbox.drawn);
        let drawn = if broken == Some(Broken::Drawn) { u64::MAX } else { outbox.drawn };
        Boundary { kind, position, snapshot, drawn }
    }

    /// Reads what no read has seen yet, and says whether there was anything. `None`: nor a landing to be passed.
    pub fn read(&mut self, broken: Option<Broken>) -> Option<(Position, bool)> {
        let read = self.mark(BoundaryKind::Read, broken);
        let position = read.position;
        let last_landing = self.landings.last().map(|l| l.position);
        let outbox = self.outbox_mut();
        let unread = |t: &Outboxed| outbox.reads.last().is_none_or(|last| !last.sees(t));
        let any = outbox.rows.iter().any(|(t, _)| unread(t));
        if any {
            outbox.reads.push(read);
        } else if last_landing.is_none_or(|landing| landing < outbox.passed) {
            return None;
        }
        outbox.passed = position;
        Some((position, any))
    }

    /// What was read and lies behind `after`, in order; sets the positions in the log.
    pub fn read_pieces(&mut self, after: Position, broken: Option<Broken>) -> Vec<Transaction> {
        let landings = self.landings.iter().flat_map(|l| &l.marks).filter(|_| broken != Some(Broken::Parted));
        let outbox = self.outbox.as_ref().expect("a node with trigger capture");
        let mut boundaries: Vec<Boundary> = outbox.reads.iter().chain(landings).cloned().collect();
        boundaries.sort_by_key(|b| b.position);
        let transactions: Vec<Outboxed> = outbox.rows.iter().map(|(t, _)| *t).collect();
        let positions = place(&boundaries, &transactions).expect("there is room");
        let placed: Vec<(Position, Dot)> =
            outbox.rows.iter().zip(positions).filter_map(|((_, dot), at)| Some((at?, *dot))).collect();
        let mut pieces = Vec::new();
        for (position, identity) in placed.into_iter().filter(|(at, _)| *at > after) {
            let transaction = self.log.iter_mut().find(|t| t.identity == identity).expect("it committed");
            transaction.position = position;
            pieces.push(transaction.clone());
        }
        pieces.sort_by_key(|t| t.position);
        pieces
    }

    /// Deletes what nobody needs any more from the outbox. The last read stays: it says what was read.
    pub fn forget_outboxed(&mut self, acknowledged: Position) {
        let done: BTreeSet<Dot> =
            self.log.iter().filter(|t| t.position.0 > 0 && t.position <= acknowledged).map(|t| t.identity).collect();
        let outbox = self.outbox_mut();
        outbox.rows.retain(|(_, dot)| !done.contains(dot));
        let last = outbox.reads.last().map(|read| read.position);
        outbox.reads.retain(|read| read.position > acknowledged || Some(read.position) == last);
        outbox.acknowledged = outbox.acknowledged.max(acknowledged);
    }

    /// A restart after a crash: what was open is gone, and transaction numbers that left nothing on disk are given again.
    pub fn restart(&mut self) {
        let outbox = self.outbox_mut();
        outbox.open.clear();
        outbox.next_xid = outbox.rows.iter().map(|(t, _)| t.xid).max().unwrap_or(outbox.next_xid);
    }

    /// Positions go on above what is known of the node elsewhere: its own sequence may have fallen back.
    pub fn go_on_above(&mut self, known: Position) {
        let outbox = self.outbox_mut();
        outbox.marks = outbox.marks.max(known.0 / SPACE + 1);
    }
}

impl Write {
    fn keys(&self) -> (Vec<&Key>, Option<TableId>) {
        match self {
            Write::Put(key) | Write::Delete(key) => (vec![key], None),
            Write::Move(from, to) => (vec![from, to], None),
            Write::Truncate(table) => (Vec::new(), Some(*table)),
        }
    }

    /// Whether the two need the same lock.
    fn meets(&self, other: &Write) -> bool {
        let ((ours, our_table), (theirs, their_table)) = (self.keys(), other.keys());
        let same = ours.iter().any(|key| theirs.contains(key));
        let of = |table: Option<TableId>, keys: &[&Key]| table.is_some_and(|t| keys.iter().any(|key| key.table() == t));
        same || of(our_table, &theirs) || of(their_table, &ours) || (our_table.is_some() && our_table == their_table)
    }
}
