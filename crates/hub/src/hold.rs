//! Held keys: what a target could not write is stored there whole, and waits.
//!
//! A held key counts as covered, so its source can be acknowledged: the record on the target is durable. But a local
//! change there had seen no more of the key than when it was first held. The entry stays in the window until the key
//! is written there and that landing has been passed; only then may the record be deleted ([`Delivery::released`]).
//!
//! [`Delivery::released`]: crate::Delivery::released

use crate::change::State;
use crate::cover::Cover;
use crate::delivery::Landed;
use crate::hub::Hub;
use crate::key::{Dot, Key, NodeId, NodeSet, Position, Stamp, TableId};
use crate::key_change::Half;
use crate::window::{Entry, Write};

/// The key was held on `node`: a local change there in this span had seen `cover` of it and no more.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub node: NodeId,
    pub from: Position,
    /// The landing that released it.
    pub until: Option<Position>,
    pub cover: Cover,
    /// Not held: a delete that found no row here, at `from`; a change until its landing had seen the landing's cover.
    pub early: bool,
}

impl Span {
    pub(crate) fn early(node: NodeId, landed: &Landed, cover: Cover) -> Span {
        Span { node, from: landed.before, until: Some(landed.position), cover, early: true }
    }

    /// Whether a change had seen another node's, given what the landings before it cover and where the key is an
    /// exception to that.
    pub(crate) fn seen<'a>(spans: impl Iterator<Item = &'a Span>, change: Dot, other: Dot, cover: &Cover) -> bool {
        let mut held = false;
        for span in spans.filter(|s| s.contains(change)) {
            match (span.early, span.cover.contains(other)) {
                (true, true) => return true,
                (false, false) => held = true,
                _ => {}
            }
        }
        !held && cover.contains(other)
    }

    pub(crate) fn contains(&self, change: Dot) -> bool {
        self.node == change.node
            && self.from <= change.position
            && self.until.is_none_or(|until| change.position < until)
    }

    fn is_open_at(&self, node: NodeId) -> bool {
        self.node == node && self.until.is_none()
    }
}

/// A held key as its target stores it.
#[derive(Clone, Debug)]
pub struct HeldRecord<I> {
    /// The target.
    pub node: NodeId,
    pub key: Key,
    pub state: State<I>,
    pub dot: Dot,
    pub stamp: Stamp,
    /// As [`DeliveryRow::half`](crate::DeliveryRow::half) was.
    pub half: Option<Half<I>>,
    /// The landing that first held it, or the last that swept away what stood in its place.
    pub since: Position,
    /// What the target had seen of the key then: of a key that was swept only the TRUNCATE.
    pub cover: Cover,
    /// The cover of the delivery that stored the record, or last replaced its row.
    pub reflects: Cover,
    /// As [`DeliveryRow::overwritten`](crate::DeliveryRow::overwritten) was, or the landing of a TRUNCATE that swept it since.
    pub overwritten: Option<Position>,
    /// The landing that wrote the key after all, if one did.
    pub released: Option<Position>,
    /// The times it was held before that, as long as changes of that time may not be judged yet.
    pub earlier: Vec<HeldBefore>,
}

/// A change on the target at or after `since` and before `until` had seen `cover` of the key and no more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldBefore {
    pub since: Position,
    pub until: Position,
    pub cover: Cover,
}

impl<I> HeldRecord<I> {
    /// The key is held once more, by this record, instead of `before`: what was known of the time until now stays.
    pub fn replaces(&mut self, before: HeldRecord<I>) {
        self.earlier = before.earlier;
        match before.released {
            None => (self.since, self.cover) = (before.since, before.cover),
            Some(until) => {
                self.earlier.push(HeldBefore { since: before.since, until, cover: before.cover });
            }
        }
    }

    /// A TRUNCATE that landed at `position` swept what stood in the held row's place.
    pub fn swept(&mut self, position: Position, by: Dot) {
        let swept = Cover::swept(self.cover.0.len(), by, self.dot);
        let cover = std::mem::replace(&mut self.cover, swept);
        let since = std::mem::replace(&mut self.since, position);
        self.earlier.push(HeldBefore { since, until: position, cover });
        self.overwritten = Some(position);
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        let span =
            |from, until, cover: &Cover| Span { node: self.node, from, until, cover: cover.clone(), early: false };
        let earlier = self.earlier.iter().map(|e| span(e.since, Some(e.until), &e.cover));
        earlier.chain([span(self.since, self.released, &self.cover)]).collect()
    }
}

impl<I: Clone> Hub<I> {
    /// Rows of the table are stored on the node instead of written, until [`Hub::resume`].
    pub fn pause(&mut self, table: TableId, node: NodeId) {
        self.paused.insert((table, node));
    }

    /// The table's held keys on the node are owed to it again.
    pub fn resume(&mut self, table: TableId, node: NodeId) {
        self.paused.remove(&(table, node));
        let slots: Vec<u32> = self.window.slots().collect();
        let held = slots.into_iter().filter(|s| self.window.get(*s).key.table() == table);
        for slot in held.collect::<Vec<_>>() {
            self.retry(slot, node);
        }
    }

    /// The key, held on the node, is owed to it again.
    pub fn retry_held(&mut self, node: NodeId, key: &Key) {
        if let Some(slot) = self.window.find(key) {
            self.retry(slot, node);
        }
    }

    /// Both halves of a key change: one may not be written where the other waits.
    fn retry(&mut self, slot: u32, node: NodeId) {
        self.retry_alone(slot, node);
        for other in self.other_halves(slot) {
            self.retry_alone(other, node);
        }
    }

    fn retry_alone(&mut self, slot: u32, node: NodeId) {
        if !self.window.get(slot).is_held_at(node) {
            return;
        }
        // The key may not retire before the landing that writes it is passed: as after a change, all nodes land anew.
        self.sequence += 1;
        self.touch(slot, None);
        let key = &self.window.get(slot).key;
        if key.is_whole_table() {
            // It will sweep every key of its table.
            for swept in self.window.slots_of(key.table()) {
                self.touch(swept, None);
            }
        }
        self.spread_news(None);
        self.owe(slot, NodeSet::only(node));
    }

    /// The keys held on a node.
    pub fn held(&self, node: NodeId) -> impl Iterator<Item = &Key> + '_ {
        let held = self.window.slots().map(|s| self.window.get(s));
        held.filter(move |e| e.is_held_at(node)).map(|e| &e.key)
    }

    /// The delivery at `position` stored the key as held. If it truncated the table, the row is gone all the same.
    pub(crate) fn hold(&mut self, slot: u32, node: NodeId, position: Position, before: &Cover, swept_by: Option<Dot>) {
        let entry = self.window.get_mut(slot);
        if !entry.flying.contains(node) {
            return;
        }
        entry.flying.remove(node);
        entry.outdated.remove(node);
        if !entry.is_held_at(node) {
            entry.open_span(node, position, before.clone());
        }
        if let Some(by) = swept_by {
            entry.sweep_held(node, position, by, before.0.len());
        }
        self.queue(slot);
    }
}

impl<I> Entry<I> {
    pub(crate) fn is_held_at(&self, node: NodeId) -> bool {
        self.spans().iter().any(|s| s.is_open_at(node))
    }

    pub(crate) fn is_held(&self) -> bool {
        self.spans().iter().any(|s| s.until.is_none())
    }

    /// Whether a local change yet to be acknowledged can lie in a span of the key on the node: then the record of the key,
    /// if it is held anew, must keep that span, since the change may be read again.
    pub(crate) fn unpassed_span(&self, node: NodeId, acknowledged: Position) -> bool {
        self.spans()
            .iter()
            .filter(|s| s.node == node && !s.early)
            .any(|s| s.until.is_none_or(|until| until.just_below() > acknowledged))
    }

    pub(crate) fn open_span(&mut self, node: NodeId, from: Position, cover: Cover) {
        self.extra().spans.push(Span { node, from, until: None, cover, early: false });
    }

    /// A TRUNCATE swept what stood in the held row's place. Who writes there from now on has seen nothing of the key but
    /// the TRUNCATE, even if the very row that is held had stood there before.
    pub(crate) fn sweep_held(&mut self, node: NodeId, position: Position, by: Dot, nodes: usize) {
        self.writes.push(Write::other(node, position));
        if self.close_span(node, position) {
            let cover = Cover::swept(nodes, by, self.dot());
            self.open_span(node, position, cover);
        }
    }

    /// A delete that found nothing on the node landed.
    pub(crate) fn add_early(&mut self, span: Span, judged: Position) {
        let passed = |s: &Span| {
            let until = s.until.filter(|_| s.early && s.node == span.node);
            until.is_some_and(|until| until.just_below() <= judged)
        };
        self.extra().spans.retain(|s| !passed(s));
        self.extra().spans.push(span);
    }

    /// Whether there was an open one.
    pub(crate) fn close_span(&mut self, node: NodeId, position: Position) -> bool {
        let spans = self.extra.as_mut().map(|x| x.spans.as_mut_slice()).unwrap_or_default();
        let open = spans.iter_mut().find(|s| s.is_open_at(node));
        open.map(|span| span.until = Some(position)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Change, Landing, Micros, Newest, Op, Recovery, Wrote};

    const TABLE: TableId = TableId(1);

    fn cover(positions: [u64; 2]) -> Cover {
        Cover(positions.map(Position).into_iter().collect())
    }

    fn dot(node: u8, position: u64) -> Dot {
        Dot { node: NodeId(node), position: Position(position) }
    }

    fn record(since: u64, seen: [u64; 2], released: Option<u64>) -> HeldRecord<u8> {
        HeldRecord {
            node: NodeId(1),
            key: Key::new(TABLE, [1]),
            state: State::Present(1),
            dot: dot(0, 3),
            stamp: Stamp { time: Micros(1), node: NodeId(0) },
            half: None,
            since: Position(since),
            cover: cover(seen),
            reflects: cover([3, 4]),
            overwritten: None,
            released: released.map(Position),
            earlier: Vec::new(),
        }
    }

    /// Held at 5, written at 10, held again at 15; then the hub restarts, and judges a change written at `position`.
    fn conflicts_of_a_change_at(position: u64) -> usize {
        let mut held = record(15, [3, 4], None);
        held.replaces(record(5, [0, 0], Some(10)));
        let landing = |position, cover| Landing { position: Position(position), cover, wrote: Wrote::keys([]) };
        let on_target = vec![landing(5, cover([3, 4])), landing(10, cover([3, 4])), landing(15, cover([3, 4]))];
        let starts = vec![Position(3), Position(4)];
        let mut hub = Recovery::new(starts, vec![Vec::new(), on_target], [], [held], Box::new(Newest)).finish();
        let write = Change::Row { key: Key::new(TABLE, [1]), op: Op::Update, state: State::Present(2) };
        hub.judge(NodeId(1), Position(position), Micros(2), [write]);
        hub.cut(NodeId(0)).expect("something was judged").decisions.len()
    }

    #[test]
    fn only_a_change_written_while_the_key_was_held_had_not_seen_it() {
        assert_eq!(conflicts_of_a_change_at(7), 1);
        assert_eq!(conflicts_of_a_change_at(12), 0);
    }

    #[test]
    fn a_record_held_again_before_its_release_keeps_what_was_seen_first() {
        let mut held = record(15, [3, 4], None);
        held.replaces(record(5, [0, 0], None));
        assert_eq!((held.since, held.cover, held.earlier), (Position(5), cover([0, 0]), vec![]));
    }

    /// Of the row that waits nothing is seen any more, even if it had stood there.
    #[test]
    fn who_writes_over_a_swept_row_has_seen_the_truncate_alone() {
        let mut other = record(5, [3, 4], None);
        other.swept(Position(9), dot(1, 8));
        assert_eq!((other.since, other.cover, other.overwritten), (Position(9), cover([0, 8]), Some(Position(9))));
        assert_eq!(other.earlier, [HeldBefore { since: Position(5), until: Position(9), cover: cover([3, 4]) }]);
        let mut of_same_transaction = record(5, [3, 4], None);
        of_same_transaction.swept(Position(9), dot(0, 3));
        assert_eq!(of_same_transaction.cover, cover([2, 0]));
    }

    /// Both halves of a key change (key 1 became key 2) were held at 5. A later change of key 1 was written there at
    /// `released`, and is acknowledged. After a restart a change of the target beats the half that waits.
    fn rows_owed_when_the_other_half_loses(released: Option<u64>) -> Vec<Key> {
        let half = |key: u8, partner: u8, state, fallback, released| HeldRecord {
            key: Key::new(TABLE, [key]),
            state,
            half: Some(Half { partners: [Key::new(TABLE, [partner])].into_iter().collect(), fallback }),
            ..record(5, [0, 0], released)
        };
        let held = [
            half(1, 2, State::Absent, State::Present(9), released),
            half(2, 1, State::Present(9), State::Absent, None),
        ];
        let wrote = [5, 7].map(|at| Landing { position: Position(at), cover: cover([4, 4]), wrote: Wrote::keys([]) });
        let landings = vec![Vec::new(), wrote.to_vec()];
        let starts = vec![Position(4), Position(4)];
        let mut hub = Recovery::new(starts, landings, [], held, Box::new(Newest)).finish();
        let write = Change::Row { key: Key::new(TABLE, [2]), op: Op::Update, state: State::Present(2) };
        hub.judge(NodeId(1), Position(9), Micros(2), [write]);
        let rows = hub.cut(NodeId(0)).expect("a conflict was decided").rows;
        rows.into_iter().map(|row| row.key).collect()
    }

    #[test]
    fn a_half_over_which_a_later_change_was_written_does_not_fall_back() {
        let [one, two] = [1, 2].map(|key| Key::new(TABLE, [key]));
        assert_eq!(rows_owed_when_the_other_half_loses(None), [one, two.clone()]);
        assert_eq!(rows_owed_when_the_other_half_loses(Some(7)), [two]);
    }
}
