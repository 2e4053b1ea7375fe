//! What follows from a judgement: the canonical, who is owed it, and what is recorded.

use std::borrow::Cow;

use crate::change::{Op, State};
use crate::decided::Made;
use crate::decision::{Decision, Kind, Side};
use crate::hub::Hub;
use crate::judge::Transaction;
use crate::key::{Dot, NodeId, NodeSet, Position};
use crate::policy::Verdict;
use crate::window::{Mark, Write};

impl<I: Clone> Hub<I> {
    /// The change had seen the canonical, if there was one, and replaces it. Its stamp is raised above what it
    /// replaces, so that who wins later does not depend on a slow clock.
    pub(crate) fn win(&mut self, transaction: &Transaction, slot: u32, op: Op, state: State<I>) {
        let entry = self.window.get(slot);
        let mut stamp = transaction.stamp();
        if entry.marks.has(Mark::Decided) {
            stamp = stamp.raised_above(entry.stamp());
            let winner = Side { dot: transaction.dot, stamp, op, state: state.clone() };
            self.record_written_over(slot, winner);
        }
        self.enthrone(slot, Side { dot: transaction.dot, stamp, op, state });
    }

    /// The change had not seen the canonical and beats it.
    pub(crate) fn defeat(&mut self, transaction: &Transaction, slot: u32, op: Op, state: State<I>, verdict: Verdict) {
        let winner = Side { dot: transaction.dot, stamp: transaction.stamp(), op, state };
        let loser = self.window.get(slot).side();
        let kind = Kind::of(op, loser.op);
        let half = self.window.get_mut(slot).extra.as_mut().and_then(|x| x.half.take());
        self.record(slot, kind, winner.clone(), loser.clone(), verdict.policy, verdict.why);
        if let Some(half) = half {
            self.forfeit_all(&half.partners, loser.dot, &winner);
        }
        self.enthrone(slot, winner);
    }

    /// The change had not seen the canonical and is beaten by it: its own node is owed the canonical.
    pub(crate) fn lose(&mut self, transaction: &Transaction, slot: u32, op: Op, state: State<I>, verdict: Verdict) {
        let loser = Side { dot: transaction.dot, stamp: transaction.stamp(), op, state };
        let winner = self.window.get(slot).side();
        let kind = Kind::of(op, winner.op);
        self.record(slot, kind, winner, loser, verdict.policy, verdict.why);
        self.owe(slot, NodeSet::only(transaction.dot.node));
    }

    /// All nodes but the change's own are owed it; its own too if a delivery overwrote it there, or if a held record
    /// of the key stands there and must go.
    pub(crate) fn enthrone(&mut self, slot: u32, winner: Side<I>) {
        let Dot { node, position } = winner.dot;
        let others = self.all().without(node);
        let overwritten = self.is_overwritten(slot, winner.dot);
        let entry = self.window.get_mut(slot);
        entry.become_canonical(winner.dot, winner.stamp, winner.op, winner.state);
        let own = overwritten || entry.is_held_at(node);
        // Of a TRUNCATE, other keys of its table need them.
        if !entry.key.is_whole_table() {
            entry.writes.retain(|w| w.node != node || w.position > position);
        }
        self.owe(slot, others);
        if own {
            self.owe(slot, NodeSet::only(node));
        } else {
            self.no_longer_owe(slot, node);
        }
    }

    /// Whether a landing wrote the key on the change's node after it.
    fn is_overwritten(&self, slot: u32, dot: Dot) -> bool {
        #[cfg(test)]
        if self.broken(crate::hub::Broken::Overwritten) {
            return false;
        }
        let entry = self.window.get(slot);
        let truncate = self.truncate_of(entry.key.table());
        entry.written_after(dot.node, dot.position) || truncate.is_some_and(|t| t.written_after(dot.node, dot.position))
    }

    /// The canonical is of the winner's node, but not what the winner was written over.
    fn record_written_over(&mut self, slot: u32, winner: Side<I>) {
        let entry = self.window.get(slot);
        // What a key change left behind when it lost is recorded as its loser already, and so is what stands, after a
        // slot went back, for the acknowledged change that had beaten it.
        if entry.node != winner.dot.node
            || entry.has_lost(entry.dot())
            || self.overriding_write(slot, winner.dot.position).is_none()
        {
            return;
        }
        let loser = entry.side();
        let why = Cow::Borrowed("written over a delivered row, not over the change before it on the same node");
        self.record(slot, Kind::WrittenOverDelivery, winner, loser, Cow::Borrowed("order"), why);
    }

    /// The last landing between the canonical and a later change of its node, if it wrote something else.
    fn overriding_write(&self, slot: u32, position: Position) -> Option<Write> {
        #[cfg(test)]
        if self.broken(crate::hub::Broken::OverrideRecord) {
            return None;
        }
        let entry = self.window.get(slot);
        let own = entry.write_between(entry.node, entry.position, position);
        // A TRUNCATE leaves a deleted row as it was.
        let truncate = self.truncate_of(entry.key.table()).filter(|_| entry.state.is_present());
        let truncated = truncate.and_then(|t| t.write_between(entry.node, entry.position, position));
        let same = truncate.is_some_and(|t| t.dot() == entry.dot());
        let truncated = truncated.map(|w| Write { current: w.current && same, ..w });
        // A landing that truncates writes the present rows again: of one position, the row counts.
        let last = match (own, truncated) {
            (Some(own), Some(truncated)) if truncated.position > own.position => Some(truncated),
            (own, truncated) => own.or(truncated),
        };
        last.filter(|w| !w.current)
    }

    /// The last landing on the node that wrote something else over the canonical, if that is the node's own.
    pub(crate) fn overwritten_by(&self, slot: u32, node: NodeId) -> Option<Position> {
        let own = self.window.get(slot).node == node;
        let write = own.then(|| self.overriding_write(slot, Position(u64::MAX))).flatten();
        write.map(|w| w.position)
    }

    /// Records a decision, unless this pair was decided on this key before.
    pub(crate) fn record(
        &mut self,
        slot: u32,
        kind: Kind,
        winner: Side<I>,
        loser: Side<I>,
        policy: Cow<'static, str>,
        why: Cow<'static, str>,
    ) {
        let entry = self.window.get(slot);
        let forfeit = kind == Kind::KeyChange;
        if entry.is_recorded(winner.dot, loser.dot, forfeit) {
            if !forfeit {
                self.beat_here_too(slot, winner, loser.dot);
            }
            return;
        }
        let (winning, losing) = (winner.dot, loser.dot);
        let number = self.log.push(Decision { key: entry.key.clone(), kind, winner, loser, policy, why });
        let made = Made { winner: winning, loser: losing, forfeit, number };
        self.window.get_mut(slot).extra().decisions.push(made);
    }

    /// Who beat a key change on its other key beats what it fell back to here: from now on the decision says that. Where
    /// it stayed a forfeit, a recovery would take the fallback for unbeaten.
    fn beat_here_too(&mut self, slot: u32, winner: Side<I>, loser: Dot) {
        let made = self.window.get_mut(slot).extra().decisions.confirm(winner.dot, loser);
        // Both are of one transaction, so that no node has been told yet.
        if let Some(decision) = made.and_then(|number| self.log.get_mut(number)) {
            decision.kind = Kind::of(winner.op, decision.loser.op);
            decision.winner = winner;
        }
    }

    /// A later change of the transaction whose earlier one is canonical.
    pub(crate) fn replace_own(&mut self, transaction: &Transaction, slot: u32, state: State<I>) {
        let entry = self.window.get_mut(slot);
        let op = entry.marks.op().then(&state);
        entry.marks.set_op(op);
        entry.state = state;
        let side = entry.side();
        let numbers: Vec<u64> = entry.won_by(transaction.dot).map(|d| d.number).collect();
        for number in numbers {
            if let Some(decision) = self.log.get_mut(number) {
                (decision.winner.op, decision.winner.state) = (side.op, side.state.clone());
            }
        }
    }

    /// A later change of the transaction whose earlier one lost: by the same decision.
    pub(crate) fn replace_lost(&mut self, transaction: &Transaction, slot: u32, state: State<I>) {
        for made in self.window.get(slot).lost_by(transaction.dot) {
            let number = made.number;
            if let Some(decision) = self.log.get_mut(number) {
                decision.loser.op = decision.loser.op.then(&state);
                decision.loser.state = state.clone();
            }
        }
    }
}
