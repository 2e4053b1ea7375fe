//! TRUNCATE: a change to every key of its table.
//!
//! Every entry of the table in the window is judged against it as against a delete. What is not in the window has been
//! seen by it. The truncate itself stands in the window under the table's empty key, canonical `Absent`, until it
//! retires; an entry made meanwhile begins from it, and keeps it from retiring.
//!
//! A delivery carries it as a TRUNCATE, and writes every present row of the window again behind it. Rows that were
//! written on the target before that landing and not judged yet were swept away: its landings count as writes of every
//! key of the table.
//!
//! Whichever of two unseen truncates wins, the others are owed both: each removes rows that only it had seen.

use crate::change::{Op, State};
use crate::hub::Hub;
use crate::judge::Transaction;
use crate::key::{Key, NodeSet, TableId};
use crate::window::{Entry, Mark};

impl<I: Clone> Hub<I> {
    pub(crate) fn judge_truncate(&mut self, transaction: &Transaction, table: TableId) {
        let slots = self.window.slots_of(table);
        let whole = Key::whole_table(table);
        let node = transaction.dot.node;
        let owed = |hub: &Self| {
            let slot = hub.window.find(&whole)?;
            Some((slot, hub.window.get(slot).owed.contains(node)))
        };
        let owed_before = owed(self).is_some_and(|(_, owed)| owed);
        self.judge_row(transaction, &whole, Op::Truncate, State::Absent);
        if let Some((slot, _)) = owed(self) {
            self.owe(slot, self.all().without(node));
            // Its own rows were gone at once, and what was written there since is judged by itself. But another TRUNCATE
            // that was on its way here must still sweep that: landings say it was.
            match owed_before {
                true => self.owe(slot, NodeSet::only(node)),
                false => self.no_longer_owe(slot, node),
            }
        }
        for slot in slots {
            let key = self.window.get(slot).key.clone();
            self.judge_row(transaction, &key, Op::Truncate, State::Absent);
        }
    }

    /// The unretired TRUNCATE of a table.
    pub(crate) fn truncate_of(&self, table: TableId) -> Option<&Entry<I>> {
        if self.truncates == 0 {
            return None;
        }
        self.window.find(&Key::whole_table(table)).map(|slot| self.window.get(slot))
    }

    /// A key that comes into the window while a TRUNCATE of its table is there begins from it.
    pub(crate) fn derive_from_truncate(&mut self, slot: u32) {
        let key = &self.window.get(slot).key;
        if key.is_whole_table() {
            self.truncates += 1;
            return;
        }
        #[cfg(test)]
        if self.broken(crate::hub::Broken::Truncate) {
            return;
        }
        let table = key.table();
        let Some(truncate) = self.truncate_of(table) else {
            return;
        };
        let (dot, stamp) = (truncate.dot(), truncate.stamp());
        let from = self.window.find(&Key::whole_table(table)).expect("just found");
        self.window.get_mut(from).extra().dependents += 1;
        let all = self.all();
        let entry = self.window.get_mut(slot);
        entry.become_canonical(dot, stamp, Op::Truncate, State::Absent);
        entry.marks.set(Mark::Derived, true);
        // The TRUNCATE may yet sweep it away on its own node: that one must cover it too.
        entry.ever_owed = all;
    }

    /// The entry is leaving the window.
    pub(crate) fn release_truncate(&mut self, entry: &Entry<I>) {
        if entry.key.is_whole_table() {
            self.truncates -= 1;
        } else if entry.marks.has(Mark::Derived)
            && let Some(from) = self.window.find(&Key::whole_table(entry.key.table()))
        {
            let extra = self.window.get_mut(from).extra();
            extra.dependents -= 1;
            self.woken |= extra.dependents == 0;
            self.queue(from);
        }
    }

    /// While a TRUNCATE is held on some node, nothing of its table retires: it will sweep away rows there which must
    /// then be written again.
    pub(crate) fn truncate_waits(&self, slot: u32) -> bool {
        self.truncate_of(self.window.get(slot).key.table()).is_some_and(Entry::is_held)
    }

    /// A held TRUNCATE landed at last: what waited for it may retire.
    pub(crate) fn truncate_landed(&mut self, table: TableId) {
        for slot in self.window.slots_of(table) {
            self.queue(slot);
        }
    }
}
