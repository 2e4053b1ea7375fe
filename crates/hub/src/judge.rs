//! Judging: which change of a key is canonical, and who may not have it.
//!
//! x had seen y iff y came earlier on the same node, or a landing on x's node before x covers y. Whoever had seen the
//! canonical replaces it; otherwise the policy decides, once, and the decision is recorded.
//!
//! One exception, for the record only: when a landing wrote the key between y and x of one node, before y was judged,
//! then x was written over the delivered row and not over y. x wins all the same, and the override is recorded.
//! Such a landing is in the entry's `writes` and is not marked `current`: it wrote what was canonical before y.

use std::borrow::Cow;

use crate::change::{Change, Op, State};
use crate::cover::Cover;
use crate::hold::Span;
use crate::hub::Hub;
use crate::key::{Dot, Key, Micros, NodeId, Position, Stamp};
use crate::policy::{Contender, Verdict};
use crate::window::{Entry, Mark, SlotRef, Write};

/// The source transaction being judged.
pub(crate) struct Transaction {
    pub dot: Dot,
    pub time: Micros,
    /// What the last landing before it covers.
    pub cover: Cover,
}

/// How a change stands to what is in the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// No canonical in the window.
    First,
    /// An earlier change of the same transaction is canonical.
    Same,
    /// An earlier change of the same transaction lost.
    Lost,
    /// It had seen the canonical.
    Seen,
    /// It had not.
    Rival,
}

impl<I: Clone> Hub<I> {
    /// Judges one whole source transaction. A transaction at or below [`Hub::judged`] was judged before and is
    /// ignored: slots repeat what was not confirmed.
    ///
    /// Must not be called while [`Hub::may_judge`] is false.
    pub fn judge(
        &mut self,
        node: NodeId,
        position: Position,
        time: Micros,
        changes: impl IntoIterator<Item = Change<I>>,
    ) {
        if position <= self.judged(node) {
            return;
        }
        #[cfg(test)]
        let allowed = self.broken(crate::hub::Broken::Landing);
        #[cfg(not(test))]
        let allowed = false;
        debug_assert!(allowed || self.may_judge(node), "a delivery to node {} is in flight", node.0);
        let cover = self.cover_before(node, position);
        let transaction = Transaction { dot: Dot { node, position }, time, cover };
        self.sequence += 1;
        let mut any = false;
        for change in changes {
            any = true;
            match change {
                Change::Row { key, op, state } => self.judge_row(&transaction, &key, op, state),
                Change::KeyChange { from, to, image, image_under_old_key } => {
                    self.judge_key_change(&transaction, &from, &to, image, image_under_old_key);
                }
                Change::Truncate { tables } => {
                    tables.iter().for_each(|table| self.judge_truncate(&transaction, *table));
                }
            }
        }
        if any {
            self.spread_news(Some(node));
        }
        self.judged_up_to(node, position);
    }

    /// Nothing else below `position` will come from the node.
    pub fn advance(&mut self, node: NodeId, position: Position) {
        self.judged_up_to(node, position.just_below());
    }

    pub(crate) fn judged_up_to(&mut self, node: NodeId, position: Position) {
        let node = self.node_mut(node);
        node.judged = node.judged.max(position);
        if let Some(sequence) = node.landings.pass(node.judged) {
            node.passed = node.passed.max(sequence);
        }
    }

    fn cover_before(&self, node: NodeId, position: Position) -> Cover {
        #[cfg(test)]
        if self.broken(crate::hub::Broken::Seen) {
            return Cover::nothing(self.nodes.len());
        }
        self.node(node).landings.cover_before(position).clone()
    }

    pub(crate) fn judge_row(&mut self, transaction: &Transaction, key: &Key, op: Op, state: State<I>) {
        let slot = self.open(transaction, key);
        match self.standing(transaction, slot) {
            Standing::Same => self.replace_own(transaction, slot, state),
            Standing::Lost => self.replace_lost(transaction, slot, state),
            Standing::First => {
                self.window.get_mut(slot).marks.set(Mark::Inserted, op == Op::Insert);
                self.win(transaction, slot, op, state);
            }
            Standing::Seen => self.win(transaction, slot, op, state),
            Standing::Rival => {
                let verdict = self.verdict(transaction, slot, op);
                if verdict.challenger_wins {
                    self.defeat(transaction, slot, op, state, verdict);
                } else {
                    self.lose(transaction, slot, op, state, verdict);
                }
            }
        }
    }

    /// The key's entry, touched by this transaction; made if need be.
    pub(crate) fn open(&mut self, transaction: &Transaction, key: &Key) -> u32 {
        let (slot, made) = self.window.find_or_make(key, Entry::undecided);
        if made {
            self.derive_from_truncate(slot);
        }
        self.touch(slot, Some(transaction.dot));
        slot
    }

    /// The entry must be covered anew, by all nodes or all but its only source.
    pub(crate) fn touch(&mut self, slot: u32, by: Option<Dot>) {
        let sequence = self.sequence;
        let entry = self.window.get_mut(slot);
        entry.touched = sequence;
        entry.marks.set(Mark::Again, true);
        if let Some(dot) = by
            && !entry.sources.contains(dot.node)
        {
            entry.sources.insert(dot.node);
            let reference = SlotRef { slot, generation: entry.generation };
            self.node_mut(dot.node).firsts.push(dot.position, reference);
        }
        if let Some(dot) = by
            && self.exempt(slot) != Some(dot.node)
        {
            // Others always need a landing after a change; its own node does if it must cover the entry too.
            self.node_mut(dot.node).news = true;
        }
        self.queue(slot);
    }

    pub(crate) fn standing(&self, transaction: &Transaction, slot: u32) -> Standing {
        let entry = self.window.get(slot);
        if entry.has_lost(transaction.dot) {
            return Standing::Lost;
        }
        if !entry.marks.has(Mark::Decided) {
            Standing::First
        } else if entry.dot() == transaction.dot {
            // An entry that began from a TRUNCATE of this very transaction has not been won yet.
            match entry.is_untouched_truncate() {
                true => Standing::Seen,
                false => Standing::Same,
            }
        } else if self.had_seen(transaction, entry) || entry.was_beaten(entry.dot()) {
            // After a slot went back, a loser stands for what had beaten it, which every node has settled on.
            Standing::Seen
        } else {
            Standing::Rival
        }
    }

    fn had_seen(&self, transaction: &Transaction, entry: &Entry<I>) -> bool {
        if entry.node == transaction.dot.node {
            return true;
        }
        #[cfg(test)]
        if self.broken(crate::hub::Broken::HeldException) {
            return transaction.cover.contains(entry.dot());
        }
        // While a TRUNCATE is held, no key of its table has seen it, unless it was delivered by itself.
        let Dot { node, position } = transaction.dot;
        let delivered = |w: &Write| w.node == node && w.current && w.sure && w.position <= position;
        let of_truncate = (entry.is_untouched_truncate() && !entry.writes.iter().any(delivered))
            .then(|| self.truncate_of(entry.key.table()))
            .flatten();
        let inherited = of_truncate.map_or(&[][..], |t| t.spans());
        let spans = entry.spans().iter().chain(inherited);
        Span::seen(spans, transaction.dot, entry.dot(), &transaction.cover)
    }

    /// Who wins. A decision that was made before is looked up: on this key, or on the key's partner in a key change,
    /// since both halves have one fate.
    pub(crate) fn verdict(&mut self, transaction: &Transaction, slot: u32, op: Op) -> Verdict {
        let entry = self.window.get(slot);
        let canonical = Contender { dot: entry.dot(), stamp: entry.stamp(), op: entry.marks.op() };
        let stamp = transaction.stamp();
        let challenger = Contender { dot: transaction.dot, stamp, op };
        let table = entry.key.table();
        let partners = entry.half().map_or(&[][..], |h| &h.partners);
        let partner_entries = partners.iter().filter_map(|p| self.window.find(p)).map(|s| self.window.get(s));
        // Two truncates meet on every key of their table, with one outcome.
        let truncates =
            (op == Op::Truncate && entry.marks.op() == Op::Truncate).then(|| self.truncate_of(table)).flatten();
        let mut entries = std::iter::once(entry).chain(partner_entries).chain(truncates);
        if let Some(won) = entries.find_map(|e| e.kept(challenger.dot, canonical.dot)) {
            let why = Cow::Borrowed("decided before");
            return Verdict { challenger_wins: won, policy: Cow::Borrowed("kept"), why };
        }
        self.policies.decide(table, &challenger, &canonical)
    }
}

impl Transaction {
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { time: self.time, node: self.dot.node }
    }
}
