//! A key's changes before a restart, and what follows from them.
//!
//! Per node only the last change can have survived, and only if no other node's last had seen it. An earlier one is
//! kept only if a landing wrote the key between it and the next: it may then have been overwritten by a delivery before
//! it was judged, which has to be recorded. The rest were overwritten knowingly; what remains of them is a floor for the
//! stamps of what followed.

use smallvec::SmallVec;

use crate::change::{Op, State};
use crate::cover::{Cover, Landing};
use crate::decided::Made;
use crate::decision::Side;
use crate::hold::Span;
use crate::key::{Dot, Key, Micros, NodeId, Position, Stamp};
use crate::key_change::Half;
use crate::wrote::Touch;

/// One change of a key.
#[derive(Clone, Debug)]
pub(crate) struct Past<I> {
    pub dot: Dot,
    pub time: Micros,
    pub op: Op,
    pub state: State<I>,
    pub half: Option<Half<I>>,
}

/// The changes of one key, per node in order.
#[derive(Debug)]
pub(crate) struct History<I> {
    pub changes: Vec<Past<I>>,
    /// Per node, the first change, kept or not.
    pub firsts: SmallVec<[Dot; 2]>,
    /// The other keys of its key changes.
    pub bound: Vec<Key>,
    /// Known from a held record: this change, which may have been acknowledged, and what the record reflects.
    pub from_record: Option<(Dot, Cover)>,
}

impl<I> Default for History<I> {
    fn default() -> Self {
        History { changes: Vec::new(), firsts: SmallVec::new(), bound: Vec::new(), from_record: None }
    }
}

impl<I: Clone> History<I> {
    pub(crate) fn push(&mut self, key: &Key, mut change: Past<I>, landings: &[Landing]) {
        let Dot { node, position } = change.dot;
        if !self.firsts.iter().any(|d| d.node == node) {
            self.firsts.push(change.dot);
        }
        self.bind(&change);
        let Some(index) = self.changes.iter().rposition(|c| c.dot.node == node) else {
            return self.changes.push(change);
        };
        let last = &mut self.changes[index];
        if last.dot == change.dot {
            last.merge(change);
            return;
        }
        change.time = change.time.max(Micros(last.time.0.saturating_add(1)));
        let landed = landings.partition_point(|l| l.position <= position);
        let mut between = landings[..landed].iter().rev().take_while(|l| l.position > last.dot.position);
        if between.all(|l| l.wrote.what(key) == Touch::Nothing) {
            *last = change;
        } else {
            self.changes.push(change);
        }
    }

    pub(crate) fn bind(&mut self, change: &Past<I>) {
        for partner in change.half.iter().flat_map(|h| &h.partners) {
            if !self.bound.contains(partner) {
                self.bound.push(partner.clone());
            }
        }
    }

    pub(crate) fn last_of(&self, node: NodeId) -> Option<&Past<I>> {
        self.changes.iter().filter(|c| c.dot.node == node).max_by_key(|c| c.dot.position)
    }
}

impl<I> Past<I> {
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { time: self.time, node: self.dot.node }
    }

    pub(crate) fn side(&self) -> Side<I>
    where
        I: Clone,
    {
        Side { dot: self.dot, stamp: self.stamp(), op: self.op, state: self.state.clone() }
    }

    /// A later change of the same transaction.
    fn merge(&mut self, later: Past<I>) {
        self.op = self.op.then(&later.state);
        self.state = later.state;
        let Some(half) = later.half else { return };
        match &mut self.half {
            None => self.half = Some(half),
            Some(mine) => {
                for partner in half.partners {
                    if !mine.partners.contains(&partner) {
                        mine.partners.push(partner);
                    }
                }
            }
        }
    }
}

/// Which changes had seen which, on all nodes. Covers of a node's landings are joined with those before.
pub(crate) struct Causality<'a> {
    pub key: &'a Key,
    pub landings: &'a [Vec<Landing>],
    pub spans: &'a [Span],
    /// Where TRUNCATEs of the table are held, and which they are.
    pub table_spans: &'a [Span],
    pub truncates: &'a [Dot],
    /// The kept decisions that these won on this key.
    pub truncated: &'a [Made],
    /// Landings that wrote something else over the change of a held record, on its own node. They may be folded.
    pub overwritten: &'a [(Dot, Position)],
    /// A change known from a held record, and what it stands for: everything that the record reflects.
    pub record: Option<&'a (Dot, Cover)>,
    pub broken: bool,
}

impl Causality<'_> {
    pub(crate) fn cover_before(&self, node: NodeId, position: Position) -> Option<&Cover> {
        let landings = &self.landings[node.index()];
        let after = landings.partition_point(|l| l.position <= position);
        Some(&landings[after.checked_sub(1)?].cover)
    }

    pub(crate) fn had_seen(&self, change: Dot, other: Dot) -> bool {
        if change.node == other.node {
            return other.position < change.position;
        }
        if let Some((_, reflects)) = self.record.filter(|(dot, _)| *dot == change) {
            return reflects.contains(other);
        }
        let cover = self.cover_before(change.node, change.position).filter(|_| !self.broken);
        let of_table = match self.truncates.contains(&other) {
            true if !self.was_delivered(change, other) => self.table_spans,
            _ => &[],
        };
        let spans = self.spans.iter().chain(of_table);
        cover.is_some_and(|cover| Span::seen(spans, change, other, cover))
    }

    /// Whether a landing before the change wrote this key by itself when `other` was known. Landings may be folded; but
    /// what a TRUNCATE beat on a node, the next delivery there put right.
    fn was_delivered(&self, change: Dot, other: Dot) -> bool {
        let landings = self.landings[change.node.index()].iter();
        let mut before = landings.take_while(|l| l.position <= change.position);
        let put_right = |l: &Landing| {
            let beaten = |d: &Made| d.winner == other && d.loser.node == change.node && l.cover.contains(d.loser);
            self.truncated.iter().any(beaten)
        };
        let wrote = |l: &Landing| matches!(l.wrote.what(self.key), Touch::Wrote | Touch::Swept);
        before.any(|l| l.cover.contains(other) && (wrote(l) || put_right(l)))
    }

    /// Whether the key was held on the node when the landing at `position` had committed.
    pub(crate) fn was_held_at(&self, node: NodeId, position: Position) -> bool {
        self.spans.iter().any(|s| s.contains(Dot { node, position }))
    }

    /// Raises the stamps along seen changes, in an order in which each comes after those it had seen.
    pub(crate) fn raise<I>(&self, changes: &mut [Past<I>]) {
        changes.sort_by_key(|c| (c.dot.node, c.dot.position));
        let mut of_nodes: Vec<std::ops::Range<usize>> = Vec::new();
        for index in 0..changes.len() {
            match of_nodes.last_mut() {
                Some(range) if changes[range.start].dot.node == changes[index].dot.node => range.end = index + 1,
                _ => of_nodes.push(index..index + 1),
            }
        }
        let mut done: Vec<usize> = of_nodes.iter().map(|r| r.start).collect();
        loop {
            let before = done.clone();
            for node in 0..of_nodes.len() {
                while done[node] < of_nodes[node].end
                    && let Some(floor) = self.floor(changes, done[node], &of_nodes, &done)
                {
                    let time = &mut changes[done[node]].time;
                    *time = (*time).max(floor);
                    done[node] += 1;
                }
            }
            if done == before {
                return;
            }
        }
    }

    /// The least time of a change, if all that it had seen is done.
    fn floor<I>(
        &self,
        changes: &[Past<I>],
        index: usize,
        of_nodes: &[std::ops::Range<usize>],
        done: &[usize],
    ) -> Option<Micros> {
        let mut floor = Micros(i64::MIN);
        for (range, done) in of_nodes.iter().zip(done) {
            let seen = |c: &Past<I>| self.had_seen(changes[index].dot, c.dot);
            let count = changes[range.clone()].partition_point(seen);
            if range.start + count > *done {
                return None;
            }
            if let Some(last) = count.checked_sub(1) {
                let time = changes[range.start + last].time.0;
                floor = floor.max(Micros(time.saturating_add(1)));
            }
        }
        Some(floor)
    }

    /// Whether a landing on the change's node overwrote it before it was judged, and what was written there next, up to
    /// `upto`, was not a later landing: that one put right what had become of it.
    pub(crate) fn overwritten_unjudged<I>(&self, changes: &[Past<I>], change: &Past<I>, upto: Position) -> bool {
        let landings = &self.landings[change.dot.node.index()];
        let from = landings.partition_point(|l| l.position <= change.dot.position);
        let to = landings.partition_point(|l| l.position <= upto);
        let between = landings[from..to.max(from)].iter();
        let touched = between.map(|l| (l, l.wrote.what(self.key)));
        let mut wrote = touched.filter(|(_, t)| matches!(t, Touch::Wrote | Touch::Swept));
        let last = wrote.next_back();
        let noted = |(dot, at): &(Dot, Position)| {
            let is_last = last.is_none_or(|(l, _)| l.position <= *at);
            *dot == change.dot && *at <= upto && is_last
        };
        if self.overwritten.iter().any(noted) {
            return true;
        }
        match last {
            None => false,
            Some((last, _)) if !last.cover.contains(change.dot) => true,
            Some((_, Touch::Wrote)) => false,
            // Its row was held, unless something known by then had taken its place.
            Some((last, _)) => {
                let replaced = |by: &Dot| last.cover.contains(*by) && self.had_seen(*by, change.dot);
                let mut others = changes.iter().map(|c| &c.dot).chain(self.truncates);
                self.was_held_at(change.dot.node, last.position) && change.state.is_present() && !others.any(replaced)
            }
        }
    }
}
