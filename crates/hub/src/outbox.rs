//! Positions of a node whose changes are read from an outbox instead of its WAL.
//!
//! Outbox rows are numbered under their row's lock, so numbers order the changes of one key exactly; but they become
//! visible at commit, out of order. The order that the hub needs is made from *boundaries*: moments at which a snapshot
//! was taken on the node, each with a position, one after the other. A transaction lies before the first boundary that
//! sees it; those before the same boundary follow their last numbers. Any snapshot holds a prefix of each key's changes,
//! and of two changes of one key the later has the larger last number, so this is an order of versions for every key,
//! and nothing has to wait for an old open transaction.
//!
//! There are two kinds of boundary. A *read* took its snapshot to take all that it sees; it is on disk, and with it all
//! that it saw, before any of that is judged. A *landing* took its snapshot last, while it still held its row locks: a
//! local change to one of its rows either committed before, and is seen, or came after, and is not. The node takes both
//! under one lock, so that a boundary with a larger position began after the one with the smaller had ended: what a read
//! behind a landing sees is everything that came before it.
//!
//! So a cover of such a node is a position like any other, and stands for a set. Boundaries are kept on the node as long
//! as what they bound is, which makes a transaction's position the same whoever works it out, and when: it is counted
//! back from its boundary, and what is deleted from the outbox are the first transactions in order. So what one read has
//! seen may be taken in order a piece at a time, or again after a restart: once the read is recorded, nothing moves.
//!
//! There is room for all that lies before a boundary: its position is a count of boundaries, [`SPACE`] apart, plus what
//! had been drawn of the outbox's numbers. Each transaction in between has drawn a number behind the boundary before, or
//! was open then.

use std::fmt;
use std::str::FromStr;

use crate::key::Position;

/// Positions from one boundary to the next, beside those for the numbers that were drawn in between: more transactions
/// than can be open at once.
pub const SPACE: u64 = 1 << 20;

/// Which transactions were over, as `pg_current_snapshot()` says it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    /// Below `xmax` and still in progress, ascending.
    in_progress: Vec<u64>,
}

impl Snapshot {
    /// `next`: the first transaction number that was not yet given.
    pub fn new(next: u64, in_progress: impl IntoIterator<Item = u64>) -> Snapshot {
        let mut in_progress: Vec<u64> = in_progress.into_iter().filter(|xid| *xid < next).collect();
        in_progress.sort_unstable();
        Snapshot { xmin: in_progress.first().copied().unwrap_or(next), xmax: next, in_progress }
    }

    /// Whether what the transaction did, if it committed, is visible.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }

    /// The first transaction number that was not yet given.
    pub fn next(&self) -> u64 {
        self.xmax
    }

    pub fn in_progress(&self) -> &[u64] {
        &self.in_progress
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (at, xid) in self.in_progress.iter().enumerate() {
            write!(f, "{}{xid}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// A text that is not a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotASnapshot(pub String);

impl fmt::Display for NotASnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a snapshot as pg_current_snapshot() writes it", self.0)
    }
}

impl std::error::Error for NotASnapshot {}

impl FromStr for Snapshot {
    type Err = NotASnapshot;

    fn from_str(text: &str) -> Result<Snapshot, NotASnapshot> {
        let number = |text: &str| text.parse::<u64>().ok();
        let parse = || {
            let (xmin, rest) = text.split_once(':')?;
            let (xmax, list) = rest.split_once(':')?;
            let numbers = list.split(',').filter(|part| !part.is_empty()).map(number);
            let in_progress = numbers.collect::<Option<Vec<u64>>>()?;
            Some(Snapshot { xmin: number(xmin)?, ..Snapshot::new(number(xmax)?, in_progress) })
        };
        parse().ok_or_else(|| NotASnapshot(text.to_owned()))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BoundaryKind {
    /// What it is the first to see lies at its position or below.
    Read,
    /// What it is the first to see lies below its position, as with every landing.
    Landing,
}

/// A moment in a node's order of changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Boundary {
    pub kind: BoundaryKind,
    pub position: Position,
    pub snapshot: Snapshot,
    /// The largest number that an outbox row had by then. A server that crashes gives transaction numbers again which
    /// left nothing on disk, and may have counted as over here; outbox numbers that mattered it does not.
    pub drawn: u64,
}

impl Boundary {
    pub fn sees(&self, transaction: &Outboxed) -> bool {
        transaction.last <= self.drawn && self.snapshot.sees(transaction.xid)
    }

    /// Where the transaction lies that `behind` others follow before this boundary.
    pub fn place(&self, behind: u64) -> Position {
        let last = match self.kind {
            BoundaryKind::Read => self.position,
            BoundaryKind::Landing => self.position.just_below(),
        };
        Position(last.0.saturating_sub(behind))
    }

    /// Fails if so many transactions do not fit between the two.
    pub fn holds(&self, transactions: u64, before: Option<&Boundary>) -> Result<(), Crowded> {
        let room = self.position.0.saturating_sub(before.map_or(0, |before| before.position.0));
        let fits = transactions < room;
        fits.then_some(()).ok_or(Crowded { boundary: self.position, transactions, room })
    }
}

/// A transaction in the outbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outboxed {
    pub xid: u64,
    /// The largest number of its rows.
    pub last: u64,
}

/// More transactions before one boundary than there are positions: the node's sequences are not as they were left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Crowded {
    pub boundary: Position,
    pub transactions: u64,
    pub room: u64,
}

impl fmt::Display for Crowded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Crowded { boundary, transactions, room } = self;
        write!(f, "{transactions} transactions lie before position {:X}, which has room for {room}", boundary.0)
    }
}

impl std::error::Error for Crowded {}

/// The positions of `transactions`, in their order; `None` for those that no read has seen. `boundaries` are in order of
/// position; a landing counts once a read behind it is among them.
pub fn place(boundaries: &[Boundary], transactions: &[Outboxed]) -> Result<Vec<Option<Position>>, Crowded> {
    let reads: Vec<usize> =
        boundaries.iter().enumerate().filter(|(_, b)| b.kind == BoundaryKind::Read).map(|(at, _)| at).collect();
    let mut groups: Vec<Vec<usize>> = vec![Vec::new(); boundaries.len()];
    for (index, transaction) in transactions.iter().enumerate() {
        // What one read has seen, all later ones have.
        let read = reads.partition_point(|at| !boundaries[*at].sees(transaction));
        let Some(at) = reads.get(read) else { continue };
        let after = read.checked_sub(1).map_or(0, |before| reads[before] + 1);
        let first = (after..*at).find(|at| boundaries[*at].sees(transaction)).unwrap_or(*at);
        groups[first].push(index);
    }
    let mut positions = vec![None; transactions.len()];
    let mut before = None;
    for (boundary, mut group) in boundaries.iter().zip(groups) {
        boundary.holds(group.len() as u64, before)?;
        before = Some(boundary);
        group.sort_unstable_by_key(|index| transactions[*index].last);
        for (behind, index) in group.into_iter().rev().enumerate() {
            positions[index] = Some(boundary.place(behind as u64));
        }
    }
    Ok(positions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boundary(kind: BoundaryKind, number: u64, snapshot: &str, drawn: u64) -> Boundary {
        Boundary { kind, position: Position(number * SPACE), snapshot: snapshot.parse().unwrap(), drawn }
    }

    fn placed(boundaries: &[Boundary], transactions: &[(u64, u64)]) -> Vec<Option<i64>> {
        let transactions: Vec<Outboxed> =
            transactions.iter().map(|(xid, last)| Outboxed { xid: *xid, last: *last }).collect();
        let positions = place(boundaries, &transactions).unwrap();
        let relative = |p: Position| p.0 as i64 - 10 * SPACE as i64;
        positions.into_iter().map(|p| p.map(relative)).collect()
    }

    #[test]
    fn a_snapshot_says_which_transactions_were_over() {
        let snapshot: Snapshot = "10:20:10,14".parse().unwrap();
        let seen: Vec<u64> = (8..22).filter(|xid| snapshot.sees(*xid)).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 15, 16, 17, 18, 19]);
        assert_eq!(snapshot.to_string(), "10:20:10,14");
        assert_eq!(Snapshot::new(20, [14, 10]), snapshot);
        assert_eq!("7:7:".parse(), Ok(Snapshot::new(7, [])));
        assert!("7:x:".parse::<Snapshot>().is_err());
    }

    #[test]
    fn transactions_follow_their_last_numbers_up_to_the_read() {
        let read = boundary(BoundaryKind::Read, 10, "5:9:5", 100);
        assert_eq!(placed(&[read], &[(6, 12), (7, 10), (5, 11), (9, 13)]), [Some(0), Some(-1), None, None]);
    }

    /// It is the second read that sees the old transaction, whatever its number.
    #[test]
    fn a_transaction_that_was_long_open_comes_where_it_is_first_seen() {
        let reads = [boundary(BoundaryKind::Read, 10, "5:9:5", 100), boundary(BoundaryKind::Read, 11, "9:9:", 100)];
        assert_eq!(placed(&reads, &[(5, 1), (6, 90)]), [Some(SPACE as i64), Some(0)]);
    }

    #[test]
    fn a_landing_parts_what_one_read_sees() {
        let all = [boundary(BoundaryKind::Landing, 10, "7:9:7", 100), boundary(BoundaryKind::Read, 11, "9:9:", 100)];
        assert_eq!(placed(&all, &[(6, 1), (7, 2), (8, 3)]), [Some(-2), Some(SPACE as i64), Some(-1)]);
        // Before there is a read behind it, nothing has been read.
        assert_eq!(placed(&all[..1], &[(6, 1)]), [None]);
    }

    #[test]
    fn more_than_there_is_room_for_is_refused() {
        let close = |at| Boundary { position: Position(at), ..boundary(BoundaryKind::Read, 0, "9:9:", 100) };
        let [first, second] = [close(10), Boundary { snapshot: "20:20:".parse().unwrap(), ..close(12) }];
        let three = [9, 10, 11].map(|xid| Outboxed { xid, last: xid });
        assert!(place(&[first.clone(), second.clone()], &three).is_err());
        let placed = place(&[first, second], &three[..1]).unwrap();
        assert_eq!(placed, [Some(Position(12))]);
    }

    /// Transaction 8 had left nothing on disk when the server crashed, and its number was given again.
    #[test]
    fn a_number_given_again_after_a_crash_is_not_taken_for_the_old_one() {
        let reads = [boundary(BoundaryKind::Read, 10, "9:9:", 100), boundary(BoundaryKind::Read, 11, "9:9:", 133)];
        assert_eq!(placed(&reads, &[(8, 101)]), [Some(SPACE as i64)]);
    }
}
