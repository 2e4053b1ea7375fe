//! Key changes: an UPDATE of the primary key is a delete and an insert with one fate.
//!
//! If one half loses, the other forfeits: the new key becomes absent, or the old key keeps its row with the new values,
//! unless a rival holds it. Both are recorded, so that recovery comes to the same outcome. Usually two keys belong
//! together; when one transaction moves rows in a ring, all keys of the ring do.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::change::{Op, State};
use crate::decision::{Kind, Side};
use crate::hub::Hub;
use crate::judge::{Standing, Transaction};
use crate::key::{Dot, Key};
use crate::policy::Verdict;

/// The canonical is part of a key change; usually one of two halves, more when one transaction moves rows in a ring.
#[derive(Clone, Debug)]
pub struct Half<I> {
    pub partners: SmallVec<[Key; 1]>,
    /// What the key becomes when a partner loses.
    pub fallback: State<I>,
}

/// One key of a key change, about to be judged.
struct Part<I> {
    slot: u32,
    standing: Standing,
    op: Op,
    state: State<I>,
    fallback: State<I>,
    verdict: Option<Verdict>,
}

impl<I: Clone> Part<I> {
    fn loses(&self) -> bool {
        self.standing == Standing::Lost || self.verdict.as_ref().is_some_and(|v| !v.challenger_wins)
    }
}

impl<I: Clone> Hub<I> {
    pub(crate) fn judge_key_change(&mut self, transaction: &Transaction, from: &Key, to: &Key, image: I, under_old: I) {
        let (old, new) = (self.open(transaction, from), self.open(transaction, to));
        let mut old = self.part(transaction, old, Op::Delete, State::Absent, State::Present(under_old));
        let mut new = self.part(transaction, new, Op::Insert, State::Present(image), State::Absent);
        old.verdict = self.part_verdict(transaction, &old);
        new.verdict = match &old.verdict {
            // The same rival on both keys beats both or neither.
            Some(verdict) if new.standing == Standing::Rival && self.same_rival(&old, &new) => Some(verdict.clone()),
            _ => self.part_verdict(transaction, &new),
        };
        #[cfg(test)]
        if self.broken(crate::hub::Broken::Pairing) {
            self.part_wins_or_loses_alone(transaction, old);
            return self.part_wins_or_loses_alone(transaction, new);
        }
        if !old.loses() && !new.loses() {
            let slots = (old.slot, new.slot);
            let fallbacks = (old.fallback.clone(), new.fallback.clone());
            self.part_wins(transaction, old);
            self.part_wins(transaction, new);
            self.join(transaction.dot, slots.0, to, fallbacks.0);
            self.join(transaction.dot, slots.1, from, fallbacks.1);
            return;
        }
        let cause = self.window.get(if old.loses() { old.slot } else { new.slot }).side();
        self.part_forfeits(transaction, old, &cause);
        self.part_forfeits(transaction, new, &cause);
    }

    fn part(&self, transaction: &Transaction, slot: u32, op: Op, state: State<I>, fallback: State<I>) -> Part<I> {
        Part { slot, standing: self.standing(transaction, slot), op, state, fallback, verdict: None }
    }

    fn part_verdict(&mut self, transaction: &Transaction, part: &Part<I>) -> Option<Verdict> {
        (part.standing == Standing::Rival).then(|| self.verdict(transaction, part.slot, part.op))
    }

    /// Where the canonical of the entry is part of a key change: the other keys on which it stands.
    pub(crate) fn other_halves(&self, slot: u32) -> SmallVec<[u32; 1]> {
        let entry = self.window.get(slot);
        let partners = entry.half().map_or(&[][..], |h| &h.partners);
        let found = partners.iter().filter_map(|p| self.window.find(p));
        found
            .filter(|p| {
                let partner = self.window.get(*p);
                partner.dot() == entry.dot() && partner.half().is_some()
            })
            .collect()
    }

    fn same_rival(&self, one: &Part<I>, other: &Part<I>) -> bool {
        self.window.get(one.slot).dot() == self.window.get(other.slot).dot()
    }

    fn part_wins(&mut self, transaction: &Transaction, part: Part<I>) {
        match (part.standing, part.verdict) {
            (Standing::Same, _) => self.replace_own(transaction, part.slot, part.state),
            (Standing::Rival, Some(verdict)) => self.defeat(transaction, part.slot, part.op, part.state, verdict),
            _ => self.win(transaction, part.slot, part.op, part.state),
        }
    }

    #[cfg(test)]
    fn part_wins_or_loses_alone(&mut self, transaction: &Transaction, part: Part<I>) {
        match part.standing {
            Standing::Lost => self.replace_lost(transaction, part.slot, part.state),
            Standing::Rival if part.loses() => {
                let verdict = part.verdict.expect("a rival was judged");
                self.lose(transaction, part.slot, part.op, part.state, verdict);
            }
            _ => self.part_wins(transaction, part),
        }
    }

    /// The canonical of `slot` belongs together with `partner`. The fallback is what was there before the transaction
    /// first moved the key.
    fn join(&mut self, dot: Dot, slot: u32, partner: &Key, fallback: State<I>) {
        let entry = self.window.get_mut(slot);
        debug_assert_eq!(entry.dot(), dot);
        let half = entry.extra().half.get_or_insert(Half { partners: Default::default(), fallback });
        if !half.partners.contains(partner) {
            half.partners.push(partner.clone());
        }
        entry.bind(partner);
    }

    /// A part of a key change that lost: by its own rival, or because another part did.
    fn part_forfeits(&mut self, transaction: &Transaction, part: Part<I>, cause: &Side<I>) {
        match part.standing {
            Standing::Lost => self.replace_lost(transaction, part.slot, part.state),
            Standing::Rival => {
                let own = part.verdict.filter(|v| !v.challenger_wins);
                let verdict = own.unwrap_or(Verdict {
                    challenger_wins: false,
                    policy: Cow::Borrowed("key change"),
                    why: Cow::Borrowed("the other half of the key change lost"),
                });
                self.lose(transaction, part.slot, part.op, part.state, verdict);
            }
            Standing::Same => {
                self.replace_own(transaction, part.slot, part.state);
                let entry = self.window.get_mut(part.slot);
                entry.extra().half.get_or_insert(Half { partners: Default::default(), fallback: part.fallback });
                self.forfeit(part.slot, transaction.dot, cause);
            }
            Standing::First | Standing::Seen => {
                self.win(transaction, part.slot, part.op, part.state);
                let half = Half { partners: Default::default(), fallback: part.fallback };
                self.window.get_mut(part.slot).extra().half = Some(half);
                self.forfeit(part.slot, transaction.dot, cause);
            }
        }
    }

    pub(crate) fn forfeit_all(&mut self, keys: &[Key], dot: Dot, cause: &Side<I>) {
        #[cfg(test)]
        if self.broken(crate::hub::Broken::Pairing) {
            return;
        }
        for key in keys {
            // A partner that has retired was seen by everyone, so nothing can have beaten the change.
            if let Some(slot) = self.window.find(key) {
                self.forfeit(slot, dot, cause);
            }
        }
    }

    /// The canonical of `slot`, if it still is the key change `dot`, falls back, since `cause` beat it on another key.
    /// It keeps its dot: who had seen the key change wins over its fallback as over itself.
    pub(crate) fn forfeit(&mut self, slot: u32, dot: Dot, cause: &Side<I>) {
        let entry = self.window.get_mut(slot);
        // After a slot went back, a change may stand for the acknowledged one that had beaten it.
        if entry.dot() != dot || entry.was_beaten(dot) {
            return;
        }
        let Some(half) = entry.extra.as_mut().and_then(|x| x.half.take()) else {
            return;
        };
        let loser = entry.side();
        let op = if half.fallback.is_present() { Op::Update } else { Op::Delete };
        entry.become_canonical(dot, loser.stamp, op, half.fallback.clone());
        let winner = Side { state: half.fallback, ..cause.clone() };
        let why = Cow::Borrowed("the other half of the key change lost");
        self.record(slot, Kind::KeyChange, winner, loser, Cow::Borrowed("key change"), why);
        self.touch(slot, None);
        self.spread_news(None);
        self.owe(slot, self.all());
        self.forfeit_all(&half.partners, dot, cause);
    }
}

#[cfg(test)]
mod tests {
    use crate::{Change, Hub, Kind, Micros, NodeId, Op, Position, Prefer, State, TableId};

    use super::Key;

    /// One transaction deletes both keys between which another had moved a row. It beats the key change on one of them,
    /// and what that falls back to on the other: a forfeit alone would leave the fallback unbeaten after a restart.
    #[test]
    fn who_beats_both_halves_is_recorded_on_both() {
        let [one, two] = [1, 2].map(|key| Key::new(TableId(1), [key]));
        for deleted in [[&one, &two], [&two, &one]] {
            let policy = Prefer { node: NodeId(0), name: "prefer".into() };
            let mut hub: Hub<u8> = Hub::new(2, Box::new(policy));
            let moved = Change::KeyChange { from: one.clone(), to: two.clone(), image: 1, image_under_old_key: 1 };
            hub.judge(NodeId(1), Position(5), Micros(1), [moved]);
            let delete = |key: &Key| Change::Row { key: key.clone(), op: Op::Delete, state: State::Absent };
            hub.judge(NodeId(0), Position(5), Micros(2), deleted.map(delete));
            let decisions = hub.cut(NodeId(1)).expect("its change lost").decisions;
            let of = |key: &Key| decisions.iter().filter(|d| d.key == *key).map(|d| d.kind).collect::<Vec<_>>();
            assert_eq!((of(&one), of(&two)), (vec![Kind::DeleteDelete], vec![Kind::InsertDelete]));
        }
    }
}
