//! Recovery after any restart, from the databases alone and without reading rows.
//!
//! Only changes that some landing covers can have had an effect. Their keys return to the window: canonical is the
//! change that no other had seen and no kept decision beat. If some node does not cover all changes of a key, every
//! node is owed its canonical, since a delivery may have been lost with the old hub. Any past landing may have written
//! any key. From there on the streams are judged as always.
//!
//! What the old hub had decided but never delivered is gone, and may be decided differently: nobody knew it.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::change::{Change, Op, State};
use crate::cover::{Cover, Landing};
use crate::decided::Made;
use crate::decision::{Kept, Kind};
use crate::hold::{HeldRecord, Span};
use crate::hub::Hub;
use crate::judge::Transaction;
use crate::key::{Dot, Key, Micros, NodeId, Position, TableId};
use crate::key_change::Half;
use crate::past::{Causality, History, Past};
use crate::policy::{Policies, Verdict};
use crate::window::{Entry, SlotRef, Write};
use crate::wrote::Touch;

/// Per node, how far its changes can have had an effect: recovery reads the changes in (start, reach].
pub fn reach(starts: &[Position], landings: &[Vec<Landing>]) -> Vec<Position> {
    let covered = |node: NodeId| landings.iter().flatten().map(|l| l.cover.of(node)).max().unwrap_or_default();
    starts.iter().enumerate().map(|(node, start)| (*start).max(covered(NodeId(node as u8)))).collect()
}

/// Builds the hub that goes on where the last one stopped.
pub struct Recovery<I> {
    hub: Hub<I>,
    starts: Vec<Position>,
    reach: Vec<Position>,
    /// Per node in order, each cover joined with those before.
    landings: Vec<Vec<Landing>>,
    numbers: HashMap<Key, usize>,
    histories: Vec<(Key, History<I>)>,
    truncates: HashMap<TableId, Vec<Past<I>>>,
    decisions: HashMap<Key, Vec<Made>>,
    spans: HashMap<Key, Vec<Span>>,
    overwritten: HashMap<Key, Vec<(Dot, Position)>>,
}

impl<I: Clone> Recovery<I> {
    /// `starts`: per node its acknowledged position. `landings`: per node the landings it holds, in any order.
    /// `decisions`: what any node holds about changes after its node's start; more does no harm.
    /// `held`: the held records of all nodes.
    pub fn new(
        starts: Vec<Position>,
        mut landings: Vec<Vec<Landing>>,
        decisions: impl IntoIterator<Item = Kept>,
        held: impl IntoIterator<Item = HeldRecord<I>>,
        policies: Box<dyn Policies>,
    ) -> Recovery<I> {
        assert_eq!(starts.len(), landings.len(), "landings of every node");
        for of_node in &mut landings {
            of_node.sort_by_key(|l| l.position);
            let mut sum = Cover::nothing(starts.len());
            for landing in of_node {
                sum.join(&landing.cover);
                landing.cover = sum.clone();
            }
        }
        let mut recovery = Recovery {
            hub: Hub::new(starts.len(), policies),
            reach: reach(&starts, &landings),
            starts,
            landings,
            numbers: HashMap::new(),
            histories: Vec::new(),
            truncates: HashMap::new(),
            decisions: HashMap::new(),
            spans: HashMap::new(),
            overwritten: HashMap::new(),
        };
        for kept in decisions {
            let Kept { key, winner, loser, forfeit } = kept;
            let of_key = recovery.decisions.entry(key).or_default();
            if !of_key.iter().any(|d| d.winner == winner && d.loser == loser) {
                of_key.push(Made { winner, loser, forfeit, number: Made::KEPT });
            }
        }
        recovery.take_records(held.into_iter().collect());
        recovery
    }

    /// A held record says what was canonical when all that it reflects had been judged, whether or not its change is
    /// read again: of what it stands for a part may be, and a part acknowledged.
    fn take_records(&mut self, mut records: Vec<HeldRecord<I>>) {
        // Covers only grow from one delivery to the next, whatever their targets: the newest record reflects most.
        let reflected = |r: &HeldRecord<I>| r.reflects.0.iter().map(|p| u128::from(p.0)).sum::<u128>();
        records.sort_by_key(|r| std::cmp::Reverse((reflected(r), r.released.is_none())));
        self.part_the_superseded(&mut records);
        for record in records {
            self.spans.entry(record.key.clone()).or_default().extend(record.spans());
            let landings = &self.landings[record.node.index()];
            // What was written there after a release was written over the released row: only a release that is not
            // folded, and a later one, leaves anything in between that may be read.
            let listed = |at: Position| landings.iter().any(|l| l.position == at);
            let counts = |by: &Position| record.released.is_none_or(|at| at > *by && listed(at));
            let own = record.dot.node == record.node;
            if let Some(position) = record.overwritten.filter(|by| own && counts(by)) {
                self.overwritten.entry(record.key.clone()).or_default().push((record.dot, position));
            }
            let will_be_read = record.dot.position > self.starts[record.dot.node.index()];
            let history = self.history(&record.key);
            if history.from_record.is_some() {
                continue;
            }
            history.from_record = Some((record.dot, record.reflects));
            if will_be_read {
                continue;
            }
            let truncate = record.key.is_whole_table();
            let op = match &record.state {
                State::Present(_) => Op::Update,
                State::Absent if truncate => Op::Truncate,
                State::Absent => Op::Delete,
            };
            let past = Past { dot: record.dot, time: record.stamp.time, op, state: record.state, half: record.half };
            history.bind(&past);
            history.changes.push(past.clone());
            if truncate {
                self.truncates.entry(record.key.table()).or_default().push(past);
            }
        }
    }

    /// Halves of a key change that a node held are written there together. Of one that was written while another waited,
    /// a later change was, which may have been acknowledged since: the record is a half no more, and must not fall back
    /// when the other loses. (If it has lost itself, it was its fallback that was written.)
    fn part_the_superseded(&self, records: &mut [HeldRecord<I>]) {
        let halves = records.iter().filter(|r| r.half.is_some());
        let released: HashMap<(NodeId, Key, Dot), Option<Position>> =
            halves.map(|r| ((r.node, r.key.clone(), r.dot), r.released)).collect();
        for record in records {
            let (Some(half), Some(at)) = (&record.half, record.released) else { continue };
            let until = |partner: &Key| released.get(&(record.node, partner.clone(), record.dot));
            let waited_longer = |until: &Option<Position>| until.is_none_or(|until| at < until);
            let forfeited = |made: &Made| made.forfeit && made.loser == record.dot;
            if half.partners.iter().filter_map(until).any(waited_longer)
                && !self.decisions.get(&record.key).is_some_and(|of_key| of_key.iter().any(forfeited))
            {
                record.half = None;
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn break_rule(&mut self, broken: Option<crate::hub::Broken>) {
        self.hub.broken = broken;
    }

    /// Changes of the node after this position are not recovery's: they are judged afterwards.
    pub fn reach(&self, node: NodeId) -> Position {
        self.reach[node.index()]
    }

    /// A change of a transaction of the node in (start, reach], in the node's order. Others are ignored.
    pub fn change(&mut self, node: NodeId, position: Position, time: Micros, change: Change<I>) {
        if position <= self.starts[node.index()] || position > self.reach[node.index()] {
            return;
        }
        let dot = Dot { node, position };
        match change {
            Change::Row { key, op, state } => self.push(&key, Past { dot, time, op, state, half: None }),
            Change::KeyChange { from, to, image, image_under_old_key } => {
                let half = |partner: &Key, fallback| {
                    Some(Half { partners: [partner.clone()].into_iter().collect(), fallback })
                };
                let old_half = half(&to, State::Present(image_under_old_key));
                let new_half = half(&from, State::Absent);
                self.push(&from, Past { dot, time, op: Op::Delete, state: State::Absent, half: old_half });
                self.push(&to, Past { dot, time, op: Op::Insert, state: State::Present(image), half: new_half });
            }
            Change::Truncate { tables } => {
                for table in tables {
                    let past = Past { dot, time, op: Op::Truncate, state: State::Absent, half: None };
                    self.push(&Key::whole_table(table), past.clone());
                    self.truncate_keys(&past, table);
                    self.truncates.entry(table).or_default().push(past);
                }
            }
        }
    }

    /// Keys of the same node that are known by now; those of other nodes and later ones get theirs in `finish`.
    fn truncate_keys(&mut self, past: &Past<I>, table: TableId) {
        let landings = &self.landings[past.dot.node.index()];
        for (key, history) in &mut self.histories {
            if key.table() == table && !key.is_whole_table() {
                history.push(key, past.clone(), landings);
            }
        }
    }

    fn push(&mut self, key: &Key, past: Past<I>) {
        let number = self.number(key);
        let landings = &self.landings[past.dot.node.index()];
        self.histories[number].1.push(key, past, landings);
    }

    fn history(&mut self, key: &Key) -> &mut History<I> {
        let number = self.number(key);
        &mut self.histories[number].1
    }

    fn number(&mut self, key: &Key) -> usize {
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        self.histories.push((key.clone(), History::default()));
        self.numbers.insert(key.clone(), self.histories.len() - 1);
        self.histories.len() - 1
    }

    pub fn finish(mut self) -> Hub<I> {
        self.hub.sequence = 1;
        self.open_nodes();
        let histories = std::mem::take(&mut self.histories);
        // Truncates first: entries of their tables begin from them.
        let (whole, rows): (Vec<_>, Vec<_>) = histories.into_iter().partition(|(key, _)| key.is_whole_table());
        let mut firsts = vec![Vec::new(); self.starts.len()];
        let mut forfeits = Vec::new();
        for (key, history) in whole.into_iter().chain(rows) {
            self.recover_key(key, history, &mut firsts, &mut forfeits);
        }
        for (index, mut of_node) in firsts.into_iter().enumerate() {
            of_node.sort_unstable();
            for (position, entry) in of_node {
                self.hub.nodes[index].firsts.push(position, entry);
            }
        }
        for (cause, partners, dot) in forfeits {
            if let Some(slot) = self.hub.window.find(&cause) {
                let cause = self.hub.window.get(slot).side();
                self.hub.forfeit_all(&partners, dot, &cause);
            }
        }
        self.hub.spread_news(None);
        self.hub
    }

    fn open_nodes(&mut self) {
        for (index, landings) in self.landings.iter().enumerate() {
            let node = &mut self.hub.nodes[index];
            for landing in landings {
                node.landings.push(landing.position, landing.position, landing.cover.clone(), 0);
            }
            node.judged = self.reach[index];
            node.landings.pass(node.judged);
        }
    }

    fn recover_key(
        &mut self,
        key: Key,
        mut history: History<I>,
        firsts: &mut [Vec<(Position, SlotRef)>],
        forfeits: &mut Vec<(Key, Vec<Key>, Dot)>,
    ) {
        self.add_truncates(&key, &mut history);
        let spans = self.spans.get(&key).cloned().unwrap_or_default();
        let table_spans = self.spans.get(&Key::whole_table(key.table())).cloned().unwrap_or_default();
        let overwritten = self.overwritten.remove(&key).unwrap_or_default();
        let truncates = self.truncates.get(&key.table()).into_iter().flatten();
        // A transaction may write the key behind its TRUNCATE: then that is what it did to the key.
        let written = |dot: Dot| history.changes.iter().any(|c| c.dot == dot && c.op != Op::Truncate);
        let truncates: Vec<Dot> = truncates.map(|t| t.dot).filter(|t| !written(*t)).collect();
        let kept = self.decisions.remove(&key).unwrap_or_default();
        let truncated = kept.iter().filter(|d| truncates.contains(&d.winner)).copied().collect::<Vec<_>>();
        if history.changes.is_empty() {
            return;
        }
        let (slot, _) = self.hub.window.find_or_make(&key, Entry::undecided);
        self.hub.derive_from_truncate(slot);
        let entry = self.hub.window.get_mut(slot);
        if !spans.is_empty() || !kept.is_empty() {
            entry.extra().spans = spans.clone();
            entry.extra().decisions = kept.into_iter().collect();
        }
        let landings = std::mem::take(&mut self.landings);
        let causality = Causality {
            key: &key,
            landings: &landings,
            spans: &spans,
            table_spans: &table_spans,
            truncates: &truncates,
            truncated: &truncated,
            overwritten: &overwritten,
            record: history.from_record.as_ref(),
            broken: self.hub.seen_is_broken(),
        };
        causality.raise(&mut history.changes);
        self.choose(slot, &causality, &history);
        self.record_overwritten(slot, &causality, &history);
        self.write_marks(slot, &causality);
        self.owe_uncovered(slot, &history, &landings);
        self.landings = landings;
        let entry = self.hub.window.get_mut(slot);
        history.bound.iter().for_each(|partner| entry.bind(partner));
        entry.touched = self.hub.sequence;
        let reference = SlotRef { slot, generation: entry.generation };
        for dot in &history.firsts {
            entry.sources.insert(dot.node);
            firsts[dot.node.index()].push((dot.position, reference));
        }
        // Whether it was ever owed to its own node is not known.
        entry.ever_owed = crate::key::NodeSet::all(self.starts.len());
        self.hub.queue(slot);
        self.note_forfeits(slot, key, history, forfeits);
    }

    /// Truncates of the table that are not in the history yet.
    fn add_truncates(&self, key: &Key, history: &mut History<I>) {
        if key.is_whole_table() {
            return;
        }
        for past in self.truncates.get(&key.table()).into_iter().flatten() {
            if history.changes.iter().any(|c| c.dot == past.dot) {
                continue;
            }
            let after =
                history.changes.iter().any(|c| c.dot.node == past.dot.node && c.dot.position > past.dot.position);
            if after {
                // Its own node wrote the key again: it was overwritten knowingly, or stands before all of this.
                continue;
            }
            let acknowledged = past.dot.position <= self.starts[past.dot.node.index()];
            if acknowledged {
                history.changes.push(past.clone());
            } else {
                history.push(key, past.clone(), &self.landings[past.dot.node.index()]);
            }
        }
    }

    /// The canonical: no other change had seen it, and no kept decision beat it.
    fn choose(&mut self, slot: u32, causality: &Causality<'_>, history: &History<I>) {
        let nodes = (0..self.starts.len()).map(|n| NodeId(n as u8));
        let lasts: Vec<&Past<I>> = nodes.filter_map(|n| history.last_of(n)).collect();
        let unseen = |c: &&&Past<I>| !lasts.iter().any(|d| causality.had_seen(d.dot, c.dot));
        let unseen: Vec<&Past<I>> = lasts.iter().filter(unseen).copied().collect();
        let is_loser = |c: &Past<I>| self.was_beaten(slot, c, causality, history);
        let mut newest: Vec<&Past<I>> = unseen.iter().copied().filter(|c| !is_loser(c)).collect();
        if newest.is_empty() {
            // A slot went back to before its acknowledged position: what beat these was acknowledged on its own node
            // and is everywhere. Nothing is left to decide.
            newest = unseen.into_iter().max_by_key(|c| c.stamp()).into_iter().collect();
        }
        let mut candidates = newest.into_iter();
        let Some(first) = candidates.next() else {
            return;
        };
        self.crown(slot, first);
        for challenger in candidates {
            let transaction =
                Transaction { dot: challenger.dot, time: challenger.time, cover: Cover::nothing(self.starts.len()) };
            let verdict = self.hub.verdict(&transaction, slot, challenger.op);
            let canonical = self.hub.window.get(slot).side();
            let kind = Kind::of(challenger.op, canonical.op);
            let Verdict { challenger_wins, policy, why } = verdict;
            if challenger_wins {
                self.hub.record(slot, kind, challenger.side(), canonical, policy, why);
                self.crown(slot, challenger);
            } else {
                self.hub.record(slot, kind, canonical, challenger.side(), policy, why);
            }
        }
        self.fall_back_if_forfeited(slot);
    }

    /// By a change of the key, or, as a TRUNCATE, by another of the table that stood for both when the key came into the
    /// window: the loser knew nothing of the key, or the winner met there what it did not know.
    fn was_beaten(&self, slot: u32, past: &Past<I>, causality: &Causality<'_>, history: &History<I>) -> bool {
        let (entry, dot) = (self.hub.window.get(slot), past.dot);
        if entry.was_beaten(dot) {
            return true;
        }
        let swept = past.op == Op::Truncate && !entry.key.is_whole_table();
        let Some(table) = self.hub.truncate_of(entry.key.table()).filter(|t| swept && t.was_beaten(dot)) else {
            return false;
        };
        let decisions = entry.decisions();
        // What it replaced: what it had seen, and what that had beaten.
        let mut beaten: Vec<Dot> = Vec::new();
        let replaced = |other: Dot, beaten: &[Dot]| causality.had_seen(dot, other) || beaten.contains(&other);
        while let Some(next) =
            decisions.iter().find(|d| !d.forfeit && !beaten.contains(&d.loser) && replaced(d.winner, &beaten))
        {
            beaten.push(next.loser);
        }
        let unknown = |other: Dot| other != dot && !replaced(other, &beaten);
        // Earlier TRUNCATEs are nothing that one could know of the key.
        let truncates = self.truncates.get(&entry.key.table()).into_iter().flatten().map(|t| t.dot);
        let of_key = |other: Dot| {
            !truncates.clone().any(|t| t == other)
                || history.changes.iter().any(|c| c.dot == other && c.op != Op::Truncate)
        };
        let stood_for_both = |by: Dot| {
            let met = |d: &Made| d.winner == by && unknown(d.loser) || d.loser == by && unknown(d.winner);
            let known = history.changes.iter().map(|c| c.dot).chain(history.firsts.iter().copied());
            decisions.iter().any(met) || known.filter(|c| of_key(*c)).all(|c| c == dot || unknown(c))
        };
        let mut lost = table.lost_by(dot);
        !entry.has_won(dot) && lost.any(|d| stood_for_both(d.winner))
    }

    fn crown(&mut self, slot: u32, past: &Past<I>) {
        let entry = self.hub.window.get_mut(slot);
        entry.become_canonical(past.dot, past.stamp(), past.op, past.state.clone());
        if past.half.is_some() {
            entry.extra().half = past.half.clone();
        }
    }

    /// A kept decision says that another part of the canonical key change lost.
    fn fall_back_if_forfeited(&mut self, slot: u32) {
        let entry = self.hub.window.get_mut(slot);
        if entry.half().is_none() || !entry.has_forfeited(entry.dot()) {
            return;
        }
        let half = entry.extra().half.take().expect("just seen");
        let op = if half.fallback.is_present() { Op::Update } else { Op::Delete };
        entry.marks.set_op(op);
        entry.state = half.fallback;
    }

    /// Changes that a delivery overwrote before they were judged, and the next change of their node was written over:
    /// nobody knew them.
    fn record_overwritten(&mut self, slot: u32, causality: &Causality<'_>, history: &History<I>) {
        #[cfg(test)]
        if self.hub.broken(crate::hub::Broken::OverrideRecord) {
            return;
        }
        let changes = &history.changes;
        for change in changes {
            let later =
                changes.iter().filter(|c| c.dot.node == change.dot.node && c.dot.position > change.dot.position);
            let Some(next) = later.min_by_key(|c| c.dot.position) else {
                continue;
            };
            if !self.hub.window.get(slot).has_lost(change.dot)
                && causality.overwritten_unjudged(changes, change, next.dot.position)
            {
                let why = Cow::Borrowed("written over a delivered row, not over the change before it on the same node");
                let (winner, loser) = (next.side(), change.side());
                self.hub.record(slot, Kind::WrittenOverDelivery, winner, loser, Cow::Borrowed("order"), why);
            }
        }
    }

    /// The landings that wrote the key, or may have. Of those that all changes judged from now on lie behind of, the
    /// last one is enough.
    fn write_marks(&mut self, slot: u32, causality: &Causality<'_>) {
        let entry = self.hub.window.get(slot);
        let mut writes = Vec::new();
        for (index, landings) in causality.landings.iter().enumerate() {
            let node = NodeId(index as u8);
            let touched = landings.iter().map(|l| (l, l.wrote.what(&entry.key)));
            let wrote: Vec<_> = touched.filter(|(_, t)| *t != Touch::Nothing).collect();
            let passed = wrote.partition_point(|(l, _)| l.position <= self.reach[index]);
            for (landing, touch) in &wrote[passed.saturating_sub(1)..] {
                // What is canonical was not written by a TRUNCATE that swept the key while its row was held.
                let held = entry.state.is_present() && causality.was_held_at(node, landing.position);
                let lacking = *touch == Touch::Swept && held;
                writes.push(Write {
                    position: landing.position,
                    node,
                    current: landing.cover.contains(entry.dot()) && !lacking,
                    sure: *touch != Touch::Unknown,
                });
            }
        }
        let noted = causality.overwritten.iter().filter(|(dot, _)| *dot == entry.dot());
        let noted = noted.map(|(dot, position)| Write::other(dot.node, *position));
        let known = |w: &Write| writes.iter().any(|k: &Write| (k.node, k.position) == (w.node, w.position));
        let noted: Vec<Write> = noted.filter(|w| !known(w)).collect();
        let entry = self.hub.window.get_mut(slot);
        writes.into_iter().chain(noted).for_each(|write| entry.writes.push(write));
        #[cfg(test)]
        if self.hub.broken(crate::hub::Broken::Overwritten) {
            self.hub.window.get_mut(slot).writes.retain(|_| false);
        }
    }

    fn owe_uncovered(&mut self, slot: u32, history: &History<I>, landings: &[Vec<Landing>]) {
        let nodes = || (0..self.starts.len()).map(|n| NodeId(n as u8));
        let covers = |node: NodeId, dot: Dot| {
            let acknowledged = dot.position <= self.starts[dot.node.index()];
            acknowledged || landings[node.index()].last().is_some_and(|l| l.cover.contains(dot))
        };
        let entry = self.hub.window.get(slot);
        // A key change that lost on another key was undone here by the change that beat it there.
        let causes = entry.decisions().iter().filter(|d| d.forfeit).map(|d| d.winner);
        let lasts = nodes().filter_map(|n| history.last_of(n)).map(|c| c.dot);
        let mut dots = lasts.chain(causes);
        let owed: Vec<NodeId> = if entry.key.is_whole_table() {
            // A node that has carried out a TRUNCATE is not to lose what was written there since.
            let others = |n: NodeId| history.changes.iter().map(|c| c.dot).filter(move |d| d.node != n);
            nodes().filter(|n| others(*n).any(|dot| !covers(*n, dot))).collect()
        } else if self.hub.covered_is_broken() || dots.any(|dot| nodes().any(|n| !covers(n, dot))) {
            nodes().collect()
        } else {
            Vec::new()
        };
        for node in owed {
            self.hub.owe(slot, crate::key::NodeSet::only(node));
        }
    }

    /// Parts of key changes that lost here take their partners with them. Those that lost before the restart did so then.
    fn note_forfeits(&self, slot: u32, key: Key, history: History<I>, forfeits: &mut Vec<(Key, Vec<Key>, Dot)>) {
        let entry = self.hub.window.get(slot);
        for past in history.changes {
            if let Some(half) = past.half
                && entry.lost_just_now(past.dot)
            {
                forfeits.push((key.clone(), half.partners.to_vec(), past.dot));
            }
        }
    }
}
