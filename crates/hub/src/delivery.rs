//! Deliveries: what a node is owed, cut between two transactions of the judged order.
//!
//! One delivery per node is in flight. It carries each owed key's canonical state as of the cut, the cover it brings
//! about, and the decisions the node has not written down yet.

use std::ops::Deref;
use std::sync::Arc;

use crate::change::{Op, State};
use crate::cover::Cover;
use crate::decision::Decision;
use crate::hold::Span;
use crate::hub::{Flight, Hub};
use crate::key::{Dot, Key, NodeId, Position, Stamp, TableId};
use crate::key_change::Half;
use crate::window::{Entry, Mark, Write};

/// One transaction on a target.
#[derive(Clone, Debug)]
pub struct Delivery<I> {
    pub node: NodeId,
    /// To be carried out before the rows are written. The records of the table's held rows that are not released by this
    /// landing are [`HeldRecord::swept`](crate::HeldRecord::swept) by it.
    pub truncates: Vec<DeliveryTruncate>,
    pub rows: Vec<DeliveryRow<I>>,
    /// For the landing.
    pub cover: Cover,
    /// For the landing: the target's acknowledged position as of now.
    pub acknowledged: Position,
    /// Landing rows on the target with a smaller position may be deleted in the same transaction: once `acknowledged`
    /// is durable, recovery starts no earlier and does not need them.
    pub fold_below: Option<Position>,
    /// To be written down on the target.
    pub decisions: Vec<Decision<I>>,
    /// Held records on the target that nobody needs any more: to be deleted before the rows are written.
    pub released: Vec<Key>,
}

/// A TRUNCATE. To hold it, store a record under [`Key::whole_table`].
#[derive(Clone, Debug)]
pub struct DeliveryTruncate {
    pub table: TableId,
    pub dot: Dot,
    pub stamp: Stamp,
    /// The table is paused on the target: store it as held. A target that refuses it stores it likewise.
    pub hold: bool,
    /// As for a row.
    pub was_held: bool,
}

/// A delivery may have millions of rows: what neighbours have in common they share.
#[derive(Clone, Debug)]
pub struct DeliveryRow<I> {
    pub key: Key,
    pub state: State<I>,
    about: Arc<About<I>>,
}

/// What is known of a row beside its state.
#[derive(Clone, Debug)]
pub struct About<I> {
    /// The change whose state it is.
    pub dot: Dot,
    pub stamp: Stamp,
    pub presence: Presence,
    /// The other half of a key change: if one of the two is held, so must the other be.
    pub pair: Option<Key>,
    /// Its part in a key change. A held record must keep it: the change may be acknowledged, and never read again,
    /// before one half of it loses.
    pub half: Option<Half<I>>,
    /// A landing that wrote something else over this change on its own node, which the delivery is to put right. A held
    /// record must keep it: the landing may be folded before the next change is written there, over what it left.
    pub overwritten: Option<Position>,
    /// The table is paused on the target: store the row as held.
    pub hold: bool,
    /// A held record of the key stands on the target. If the row is written, mark the record released by this landing
    /// (it goes when [`Delivery::released`] names it); if it is held again, the new record [`HeldRecord::replaces`] it.
    /// When this is false and the row must be held, replace any record whole.
    ///
    /// [`HeldRecord::replaces`]: crate::HeldRecord::replaces
    pub was_held: bool,
}

impl<I> Deref for DeliveryRow<I> {
    type Target = About<I>;

    fn deref(&self) -> &About<I> {
        &self.about
    }
}

impl<I> DeliveryRow<I> {
    /// What is stored where a TRUNCATE is held, under [`Key::whole_table`].
    pub fn of_truncate(truncate: &DeliveryTruncate) -> DeliveryRow<I> {
        let about = About {
            dot: truncate.dot,
            stamp: truncate.stamp,
            presence: Presence::Unknown,
            pair: None,
            half: None,
            overwritten: None,
            hold: truncate.hold,
            was_held: truncate.was_held,
        };
        DeliveryRow { key: Key::whole_table(truncate.table), state: State::Absent, about: Arc::new(about) }
    }
}

impl<I> About<I> {
    /// Whether `other` says the same; where a key change is involved, it does not matter.
    fn is(&self, other: &About<I>) -> bool {
        let simple = |about: &About<I>| {
            let About { dot, stamp, presence, pair, half, overwritten, hold, was_held } = about;
            let alone = pair.is_none() && half.is_none();
            alone.then_some((*dot, *stamp, *presence, *overwritten, *hold, *was_held))
        };
        simple(self).is_some_and(|this| simple(other) == Some(this))
    }
}

/// What the target most likely has of a key before the delivery. A hint for how to write the row, never a fact: the
/// target's own changes are judged later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    Unknown,
    /// The source updated a row that both had, or one that a landing brought here.
    Present,
    /// The source inserted it, and no landing has brought it here.
    Absent,
}

/// How a delivery ended that committed.
#[derive(Clone, Debug)]
pub struct Landed {
    pub position: Position,
    /// A position behind its commit. A crash may lose a landing that the node's stream has passed, as long as it has not
    /// passed the commit: a server that does not wait for the disk may have written one and not yet the other.
    pub durable: Position,
    /// The keys that were stored as held instead of being written; [`Key::whole_table`] for a TRUNCATE.
    pub held: Vec<Key>,
    /// Deletes that found no row, and so locked nothing: for their keys the landing counts from `before`.
    pub missed: Vec<Key>,
    /// A position of the target read before the first delete was sent; without `missed` it is not looked at.
    pub before: Position,
}

impl<I: Clone> Hub<I> {
    /// Everything the node is owed as of now; `None` if it needs no landing or a delivery is in flight.
    pub fn cut(&mut self, node: NodeId) -> Option<Delivery<I>> {
        if self.node(node).flight.is_some() || !self.has_news(node) {
            return None;
        }
        let mut slots = self.take_owed(node);
        let truncates = self.truncates_among(&slots, node);
        let carried_out = truncates.iter().filter(|t| !t.hold);
        let truncated = carried_out.map(|t| (t.table, t.dot)).collect();
        let (swept, uncovered) = self.add_truncated_rows(node, &truncates, &mut slots);
        // A delivery may have millions of rows: none is copied twice.
        let mut rows = Vec::with_capacity(slots.len());
        for slot in &slots {
            rows.extend(self.row(*slot, node, rows.last()));
        }
        let cover = Cover(self.nodes.iter().map(|n| n.judged).collect());
        let acknowledged = self.acknowledged(node);
        let fold_below = self.fold_below(node);
        let end = self.log.end();
        let sequence = self.sequence;
        let state = self.node_mut(node);
        let released = std::mem::take(&mut state.released);
        let from = state.next_decision;
        state.news = false;
        let flight = Flight {
            slots,
            swept,
            uncovered,
            truncated,
            cover: cover.clone(),
            sequence,
            decisions_end: end,
            released: released.clone(),
        };
        state.flight = Some(flight);
        let decisions = self.log.range(from..end);
        Some(Delivery { node, truncates, rows, cover, acknowledged, fold_below, decisions, released })
    }

    fn take_owed(&mut self, node: NodeId) -> Vec<u32> {
        let state = &mut self.nodes[node.index()];
        state.owed_count = 0;
        let mut slots = Vec::with_capacity(state.owed.len());
        while let Some(reference) = state.owed.pop() {
            if self.window.live(reference).is_some_and(|e| e.owed.contains(node)) {
                let entry = self.window.get_mut(reference.slot);
                entry.owed.remove(node);
                entry.flying.insert(node);
                entry.outdated.remove(node);
                slots.push(reference.slot);
            }
        }
        slots
    }

    fn is_paused(&self, table: TableId, node: NodeId) -> bool {
        !self.paused.is_empty() && self.paused.contains(&(table, node))
    }

    fn truncates_among(&self, slots: &[u32], node: NodeId) -> Vec<DeliveryTruncate> {
        if self.truncates == 0 {
            return Vec::new();
        }
        let entries = slots.iter().map(|s| self.window.get(*s)).filter(|e| e.key.is_whole_table());
        let truncate = |entry: &Entry<I>| DeliveryTruncate {
            table: entry.key.table(),
            dot: entry.dot(),
            stamp: entry.stamp(),
            hold: self.is_paused(entry.key.table(), node),
            was_held: entry.unpassed_span(node, self.acknowledged(node)),
        };
        entries.map(truncate).collect()
    }

    /// A TRUNCATE on the target sweeps away what is canonical there: every present row follows it. Returns
    /// the entries that are absent, so that the TRUNCATE itself writes them, and those that are held on the target.
    fn add_truncated_rows(
        &mut self,
        node: NodeId,
        truncates: &[DeliveryTruncate],
        slots: &mut Vec<u32>,
    ) -> (Vec<u32>, Vec<u32>) {
        let (mut swept, mut uncovered) = (Vec::new(), Vec::new());
        #[cfg(test)]
        if self.broken(crate::hub::Broken::TruncatedRows) {
            return (swept, uncovered);
        }
        for truncate in truncates.iter().filter(|t| !t.hold) {
            for slot in self.window.slots_of(truncate.table) {
                let entry = self.window.get_mut(slot);
                let (held, present) = (entry.is_held_at(node), entry.state.is_present());
                if entry.flying.contains(node) {
                    continue;
                }
                if held && present {
                    // Its row waits elsewhere, and will; what stands in its place goes.
                    uncovered.push(slot);
                    continue;
                }
                entry.flying.insert(node);
                entry.outdated.remove(node);
                entry.ever_owed.insert(node); // it must cover the entry now, even if it is its own
                // A held delete is carried out now, and its record must go.
                match present || held {
                    true => slots.push(slot),
                    false => swept.push(slot),
                }
            }
        }
        (swept, uncovered)
    }

    fn row(&self, slot: u32, node: NodeId, before: Option<&DeliveryRow<I>>) -> Option<DeliveryRow<I>> {
        let entry = self.window.get(slot);
        if entry.key.is_whole_table() {
            return None;
        }
        let mut others = self.other_halves(slot).into_iter().map(|slot| self.window.get(slot));
        let about = About {
            dot: entry.dot(),
            stamp: entry.stamp(),
            presence: entry.presence_at(node),
            pair: others.find(|other| other.flying.contains(node)).map(|other| other.key.clone()),
            half: entry.half().cloned(),
            overwritten: self.overwritten_by(slot, node),
            hold: self.is_paused(entry.key.table(), node),
            was_held: entry.unpassed_span(node, self.acknowledged(node)),
        };
        let about = match before {
            Some(before) if before.about.is(&about) => Arc::clone(&before.about),
            _ => Arc::new(about),
        };
        Some(DeliveryRow { key: entry.key.clone(), state: entry.state.clone(), about })
    }

    /// The delivery in flight to the node committed.
    pub fn landed(&mut self, node: NodeId, landed: Landed) {
        let Some(flight) = self.node_mut(node).flight.take() else {
            debug_assert!(false, "no delivery to node {} is in flight", node.0);
            return;
        };
        let before = self.node(node).landings.cover_before(landed.position).clone();
        for key in &landed.held {
            if let Some(slot) = self.window.find(key) {
                let refused = || landed.held.contains(&Key::whole_table(key.table()));
                let swept_by = flight.swept_by(key.table()).filter(|_| !refused());
                self.hold(slot, node, landed.position, &before, swept_by);
            }
        }
        for key in &landed.missed {
            if let Some(slot) = self.window.find(key) {
                let span = Span::early(node, &landed, flight.cover.clone());
                let judged = self.judged(node);
                self.window.get_mut(slot).add_early(span, judged);
                self.land_entry(slot, node, landed.before);
            }
        }
        for slot in flight.uncovered.iter().copied() {
            let nodes = self.nodes.len();
            let entry = self.window.get_mut(slot);
            let table = entry.key.table();
            if let Some(by) = flight.swept_by(table).filter(|_| !landed.held.contains(&Key::whole_table(table))) {
                entry.sweep_held(node, landed.position, by, nodes);
            }
        }
        for slot in flight.swept {
            let whole = Key::whole_table(self.window.get(slot).key.table());
            if landed.held.contains(&whole) {
                self.window.get_mut(slot).flying.remove(node);
            }
            self.land_entry(slot, node, landed.position);
        }
        for slot in flight.slots {
            self.land_entry(slot, node, landed.position);
        }
        let state = self.node_mut(node);
        state.landings.push(landed.position, landed.durable.max(landed.position), flight.cover, flight.sequence);
        state.next_decision = flight.decisions_end;
        self.forget_decisions();
        let judged = self.judged(node);
        self.judged_up_to(node, judged);
        #[cfg(test)]
        if self.broken(crate::hub::Broken::Passed) {
            self.node_mut(node).passed = flight.sequence;
        }
    }

    /// `flying` was cleared already if the key was held, or its delete found nothing.
    fn land_entry(&mut self, slot: u32, node: NodeId, position: Position) {
        let judged = self.judged(node);
        let entry = self.window.get_mut(slot);
        if entry.flying.contains(node) {
            let current = !entry.outdated.contains(node);
            entry.flying.remove(node);
            entry.outdated.remove(node);
            let passed = |w: &Write| w.node == node && w.position.just_below() <= judged;
            // Of the landings that all judged changes lie behind of, the last one is enough.
            if entry.writes.iter().any(passed) && position.just_below() <= judged {
                entry.writes.retain(|w| !passed(w));
            }
            entry.writes.push(Write { position, node, current, sure: true });
            let was_held = entry.close_span(node, position);
            let key = &entry.key;
            if was_held && key.is_whole_table() {
                let table = key.table();
                self.truncate_landed(table);
            }
        }
        self.queue(slot);
    }

    fn forget_decisions(&mut self) {
        let oldest = self.nodes.iter().map(|n| n.next_decision).min().unwrap_or_default();
        self.log.forget_below(oldest);
    }

    /// The delivery in flight to the node was rolled back: everything in it is owed again.
    pub fn failed(&mut self, node: NodeId) {
        let Some(flight) = self.node_mut(node).flight.take() else {
            debug_assert!(false, "no delivery to node {} is in flight", node.0);
            return;
        };
        for slot in flight.swept {
            // The TRUNCATE is owed again, and will sweep it again.
            let entry = self.window.get_mut(slot);
            entry.flying.remove(node);
            entry.outdated.remove(node);
            self.queue(slot);
        }
        for slot in flight.slots {
            let entry = self.window.get_mut(slot);
            entry.flying.remove(node);
            entry.outdated.remove(node);
            self.owe(slot, crate::key::NodeSet::only(node));
        }
        let state = self.node_mut(node);
        state.news = true;
        state.released.extend(flight.released);
    }
}

impl<I> Entry<I> {
    fn presence_at(&self, node: NodeId) -> Presence {
        let landed = self.writes.iter().any(|w| w.node == node);
        let came_here = landed || self.sources.contains(node);
        match (self.marks.has(Mark::Inserted) && !came_here, self.marks.op()) {
            (true, _) => Presence::Absent,
            (false, Op::Update) => Presence::Present,
            (false, _) => Presence::Unknown,
        }
    }
}
