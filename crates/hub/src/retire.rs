//! Retiring: a key leaves the window when every node has settled on it.
//!
//! An entry is settled when it is not owed, in flight or held anywhere, and every node that must cover it has a landing
//! that was cut after the entry's last change and lies behind the node's judged position. A node need not cover its own
//! changes as long as no other node changed the key and it was never owed the key: its row is what it wrote.
//!
//! The keys of a key change settle together. If one left the window, and its node's later changes were acknowledged,
//! while the key change itself is read again for the other's sake, recovery would take it for canonical on both.
//!
//! Covers are compared by sequence: one number per node says what every entry needs to know. Entries wait in a queue
//! for each node that need not cover them and one for the rest, roughly in order of their last change. One that was
//! touched since goes to the end; one that is owed, in flight or held leaves the queue and returns when that ends. So
//! retiring costs a constant per change and landing.

use crate::hub::Hub;
use crate::key::{Key, NodeId};
use crate::window::{Mark, SlotRef};

impl<I: Clone> Hub<I> {
    /// Drops what has settled. To be called after landings and judging, as often as is convenient.
    pub fn retire(&mut self) {
        loop {
            for exempt in 0..self.retiring.len() {
                self.retire_queue(exempt);
            }
            // What was settled may let others go that waited for it.
            if !std::mem::take(&mut self.woken) {
                break;
            }
        }
        for node in 0..self.nodes.len() {
            self.clean_firsts(NodeId(node as u8));
        }
        self.window.trim();
    }

    /// Puts the entry into its queue, unless it stands in one.
    pub(crate) fn queue(&mut self, slot: u32) {
        let entry = self.window.get(slot);
        if entry.marks.has(Mark::Queued) {
            return;
        }
        let queue = self.exempt(slot).map_or(self.nodes.len(), NodeId::index);
        let entry = self.window.get_mut(slot);
        entry.marks.set(Mark::Queued, true);
        entry.marks.set(Mark::Again, false);
        let reference = SlotRef { slot, generation: entry.generation };
        self.retiring[queue].push(reference);
    }

    /// The node that need not cover the entry.
    pub(crate) fn exempt(&self, slot: u32) -> Option<NodeId> {
        let entry = self.window.get(slot);
        entry.sources.sole().filter(|source| !entry.ever_owed.contains(*source))
    }

    fn passed(&self, exempt: usize) -> u64 {
        let others = self.nodes.iter().enumerate().filter(|(index, _)| *index != exempt);
        others.map(|(_, node)| node.passed).min().unwrap_or(u64::MAX)
    }

    fn retire_queue(&mut self, queue: usize) {
        let passed = self.passed(queue);
        for _ in 0..self.retiring[queue].len() {
            let Some(reference) = self.retiring[queue].front().copied() else {
                break;
            };
            if self.window.live(reference).is_none() {
                self.retiring[queue].pop();
                continue;
            }
            let entry = self.window.get_mut(reference.slot);
            if entry.touched > passed && !entry.marks.has(Mark::Again) {
                break;
            }
            self.retiring[queue].pop();
            let entry = self.window.get_mut(reference.slot);
            entry.marks.set(Mark::Queued, false);
            let unsettled = !entry.owed.is_empty() || !entry.flying.is_empty();
            let touched = entry.touched;
            let all_passed =
                touched <= self.passed(self.exempt(reference.slot).map_or(self.nodes.len(), NodeId::index));
            if unsettled {
                continue; // it returns to a queue when its last delivery lands
            }
            if all_passed {
                self.settle(reference.slot);
            } else {
                self.queue(reference.slot);
            }
        }
    }

    /// Every node has settled on the entry, or holds it in a durable record.
    fn settle(&mut self, slot: u32) {
        let entry = self.window.get(slot);
        let (key, bound) = (entry.key.clone(), entry.bound().to_vec());
        let waits = |partner: &Key| {
            let partner = self.window.find(partner);
            partner.is_some_and(|p| self.window.get(p).bound().contains(&key) && !self.is_ready(p))
        };
        if bound.iter().any(waits) {
            return; // queued again when they settle
        }
        if !key.is_whole_table() && self.truncate_waits(slot) {
            return; // queued again when it has landed
        }
        let waits = self.waits_for_writing(slot);
        let entry = self.window.get_mut(slot);
        if waits {
            // Nothing of it need be read again: the record will bring it back. It waits for being written.
            entry.sources = Default::default();
            self.window.renew(slot);
            return self.queue_all(&bound);
        }
        if entry.extra.as_ref().is_some_and(|x| x.dependents > 0) {
            return; // queued again by the last of them
        }
        let entry = self.window.remove(slot);
        for span in entry.spans().iter().filter(|s| !s.early) {
            let released = &mut self.node_mut(span.node).released;
            if released.last() != Some(&entry.key) {
                released.push(entry.key.clone());
            }
        }
        self.release_truncate(&entry);
        self.queue_all(&bound);
    }

    /// Held, or the other half of a key change is: that one may lose yet, and take this one with it.
    fn waits_for_writing(&self, slot: u32) -> bool {
        let held = |slot: u32| self.window.get(slot).is_held();
        held(slot) || self.other_halves(slot).into_iter().any(held)
    }

    /// Whether nothing but what it is bound to keeps the entry.
    fn is_ready(&self, slot: u32) -> bool {
        let entry = self.window.get(slot);
        let exempt = self.exempt(slot).map_or(self.nodes.len(), NodeId::index);
        entry.owed.is_empty() && entry.flying.is_empty() && entry.touched <= self.passed(exempt)
    }

    fn queue_all(&mut self, keys: &[Key]) {
        for key in keys {
            let Some(slot) = self.window.find(key) else {
                continue;
            };
            let entry = self.window.get(slot);
            let settled_as_held = entry.sources.is_empty() && self.waits_for_writing(slot);
            if !settled_as_held {
                self.queue(slot);
                self.woken = true;
            }
        }
    }

    /// Drops what no longer holds back the acknowledged position.
    fn clean_firsts(&mut self, node: NodeId) {
        let (firsts, window) = (&mut self.nodes[node.index()].firsts, &self.window);
        while firsts.front().is_some_and(|(_, entry)| window.live(entry).is_none()) {
            firsts.pop();
        }
        if firsts.len() > 2 * window.len() + 1024 {
            firsts.retain(|entry| window.live(entry).is_some());
        }
    }
}
