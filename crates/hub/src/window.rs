//! The window: every key some node may not have settled on yet, with its canonical state.
//!
//! Entries live in pieces of a slab and are found by key through a hash table of slot numbers. A slot's generation
//! tells a queued reference to an entry from one to its predecessor in the same slot.

use std::hash::BuildHasher;

use crate::change::{Op, State};
use crate::decided::{Decided, Made};
use crate::decision::Side;
use crate::hold::Span;
use crate::key::{Dot, Key, NodeId, NodeSet, Position, Stamp, TableId};
use crate::key_change::Half;
use hashbrown::{DefaultHashBuilder, HashTable};
use smallvec::SmallVec;

/// The canonical state of a key and what is known of it on each node.
#[derive(Debug)]
pub(crate) struct Entry<I> {
    pub key: Key,
    pub state: State<I>,
    pub position: Position,
    pub stamp_time: i64,
    /// The sequence of the last transaction that changed this key, or of what else makes every node need a landing.
    pub touched: u64,
    /// Landings that wrote this key: per node the last one behind its judged position and all after that.
    pub writes: Writes,
    pub extra: Option<Box<Extra<I>>>,
    pub generation: u32,
    /// Nodes whose row may differ from the canonical.
    pub owed: NodeSet,
    /// Nodes to which a delivery of this key is in flight.
    pub flying: NodeSet,
    /// Of those, where what flies is no longer the canonical.
    pub outdated: NodeSet,
    /// Nodes that changed the key since it entered the window (or since it was last acknowledged as held).
    pub sources: NodeSet,
    pub ever_owed: NodeSet,
    pub node: NodeId,
    pub marks: Marks,
}

/// A landing wrote the key on `node`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub position: Position,
    pub node: NodeId,
    /// It wrote what is the canonical now.
    pub current: bool,
    /// False if it is only possible that it wrote the key, after a recovery: a row is put back to be sure, but no
    /// override is recorded.
    pub sure: bool,
}

/// Mostly none or one: small enough for millions.
#[derive(Debug, Default)]
pub(crate) enum Writes {
    #[default]
    None,
    One(Write),
    #[expect(clippy::box_collection, reason = "two words less than a vector")]
    Many(Box<Vec<Write>>),
}

impl Writes {
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Write> {
        match self {
            Writes::None => [].iter(),
            Writes::One(write) => std::slice::from_ref(write).iter(),
            Writes::Many(writes) => writes.iter(),
        }
    }

    pub(crate) fn push(&mut self, write: Write) {
        match self {
            Writes::None => *self = Writes::One(write),
            Writes::One(first) => *self = Writes::Many(Box::new(vec![*first, write])),
            Writes::Many(writes) => writes.push(write),
        }
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&Write) -> bool) {
        match self {
            Writes::None => {}
            Writes::One(write) if keep(write) => {}
            Writes::One(_) => *self = Writes::None,
            Writes::Many(writes) => writes.retain(keep),
        }
    }

    fn outdate(&mut self) {
        match self {
            Writes::None => {}
            Writes::One(write) => write.current = false,
            Writes::Many(writes) => writes.iter_mut().for_each(|write| write.current = false),
        }
    }
}

/// The canonical's operation and what is true of the entry, in one byte: a window holds millions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Marks(u8);

impl Write {
    /// It wrote something else than the canonical.
    pub(crate) fn other(node: NodeId, position: Position) -> Write {
        Write { position, node, current: false, sure: true }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    /// It has a canonical; false only between an entry's making and its first change.
    Decided = 1,
    /// It stands in a retire queue.
    Queued = 2,
    /// Touched since it was queued.
    Again = 4,
    /// It began from an unretired TRUNCATE of its table, which must not retire before it.
    Derived = 8,
    /// It came into the window by an INSERT.
    Inserted = 64,
}

const OPS: [Op; 4] = [Op::Insert, Op::Update, Op::Delete, Op::Truncate];

impl Marks {
    pub(crate) fn has(self, mark: Mark) -> bool {
        self.0 & mark as u8 != 0
    }

    pub(crate) fn set(&mut self, mark: Mark, on: bool) {
        self.0 = if on { self.0 | mark as u8 } else { self.0 & !(mark as u8) };
    }

    pub(crate) fn op(self) -> Op {
        OPS[usize::from(self.0 >> 4 & 3)]
    }

    pub(crate) fn set_op(&mut self, op: Op) {
        let number = OPS.iter().position(|o| *o == op).unwrap_or_default();
        self.0 = self.0 & !0x30 | (number as u8) << 4;
    }
}

/// What few entries have.
#[derive(Debug)]
pub(crate) struct Extra<I> {
    pub decisions: Decided,
    pub spans: Vec<Span>,
    /// Set while the canonical is part of a key change.
    pub half: Option<Half<I>>,
    /// The other keys of key changes since it entered the window: they retire together.
    pub bound: Vec<Key>,
    /// For a TRUNCATE: how many entries began from it.
    pub dependents: usize,
}

impl<I> Default for Extra<I> {
    fn default() -> Self {
        Extra { decisions: Decided::default(), spans: Vec::new(), half: None, bound: Vec::new(), dependents: 0 }
    }
}

impl<I> Entry<I> {
    pub(crate) fn undecided(key: Key, generation: u32) -> Entry<I> {
        Entry {
            key,
            state: State::Absent,
            position: Position(0),
            stamp_time: 0,
            touched: 0,
            writes: Writes::default(),
            extra: None,
            generation,
            owed: NodeSet::default(),
            flying: NodeSet::default(),
            outdated: NodeSet::default(),
            sources: NodeSet::default(),
            ever_owed: NodeSet::default(),
            node: NodeId(0),
            marks: Marks::default(),
        }
    }

    /// What lands from now on, or has landed until now, is something else.
    pub(crate) fn become_canonical(&mut self, dot: Dot, stamp: Stamp, op: Op, state: State<I>) {
        (self.node, self.position) = (dot.node, dot.position);
        debug_assert_eq!(stamp.node, dot.node, "a stamp names its change's node");
        self.stamp_time = stamp.time.0;
        self.state = state;
        self.marks.set_op(op);
        self.marks.set(Mark::Decided, true);
        self.outdated = self.flying;
        self.writes.outdate();
        if let Some(extra) = &mut self.extra {
            extra.half = None;
        }
    }

    pub(crate) fn dot(&self) -> Dot {
        Dot { node: self.node, position: self.position }
    }

    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { time: crate::key::Micros(self.stamp_time), node: self.node }
    }

    /// It began from a TRUNCATE, and nothing has won it since.
    pub(crate) fn is_untouched_truncate(&self) -> bool {
        self.marks.has(Mark::Derived) && self.marks.op() == Op::Truncate
    }

    pub(crate) fn side(&self) -> Side<I>
    where
        I: Clone,
    {
        Side { dot: self.dot(), stamp: self.stamp(), op: self.marks.op(), state: self.state.clone() }
    }

    pub(crate) fn extra(&mut self) -> &mut Extra<I> {
        self.extra.get_or_insert_default()
    }

    pub(crate) fn bound(&self) -> &[Key] {
        self.extra.as_ref().map_or(&[], |x| &x.bound)
    }

    pub(crate) fn bind(&mut self, partner: &Key) {
        if !self.bound().contains(partner) {
            self.extra().bound.push(partner.clone());
        }
    }

    pub(crate) fn half(&self) -> Option<&Half<I>> {
        self.extra.as_ref()?.half.as_ref()
    }

    pub(crate) fn spans(&self) -> &[Span] {
        self.extra.as_ref().map_or(&[], |x| &x.spans)
    }

    /// The kept decision about these two, if there is one: whether `challenger` won. Who beat a key change on its other
    /// key also beats what it fell back to here, unless a decision about this key says otherwise.
    pub(crate) fn kept(&self, challenger: Dot, other: Dot) -> Option<bool> {
        let lost = self.lost_by(challenger).filter(|d| d.winner == other);
        let won = self.lost_by(other).filter(|d| d.winner == challenger);
        let mut about: SmallVec<[&Made; 2]> = lost.chain(won).collect();
        // As they were made: all stand in one slice.
        about.sort_by_key(|made| std::ptr::from_ref(*made));
        let first = about.first()?;
        let decided = if first.forfeit { about.iter().find(|d| !d.forfeit).unwrap_or(first) } else { first };
        Some(decided.winner == challenger)
    }

    /// Whether recording this would say nothing new. Who loses to a change here may have beaten it on its other key.
    pub(crate) fn is_recorded(&self, winner: Dot, loser: Dot, forfeit: bool) -> bool {
        let decided_here = |d: &Made| !forfeit && !d.forfeit && d.winner == loser;
        self.lost_by(loser).any(|d| d.winner == winner) || self.lost_by(winner).any(decided_here)
    }

    pub(crate) fn decisions(&self) -> &[Made] {
        self.extra.as_ref().map_or(&[], |x| x.decisions.all())
    }

    /// The decisions that name the change as their loser.
    pub(crate) fn lost_by(&self, dot: Dot) -> impl Iterator<Item = &Made> {
        self.extra.iter().flat_map(move |x| x.decisions.lost_by(dot))
    }

    /// The decisions that name the change as their winner.
    pub(crate) fn won_by(&self, dot: Dot) -> impl Iterator<Item = &Made> {
        self.extra.iter().flat_map(move |x| x.decisions.won_by(dot))
    }

    /// A decision about this key names the change as its loser.
    pub(crate) fn has_lost(&self, dot: Dot) -> bool {
        self.lost_by(dot).next().is_some()
    }

    /// Another change of this key beat it.
    pub(crate) fn was_beaten(&self, dot: Dot) -> bool {
        self.lost_by(dot).any(|d| !d.forfeit)
    }

    /// A decision about this key names the change as its winner.
    pub(crate) fn has_won(&self, dot: Dot) -> bool {
        self.won_by(dot).any(|d| !d.forfeit)
    }

    /// A change that had not seen it beat it, in a decision that is not on any node yet.
    pub(crate) fn lost_just_now(&self, dot: Dot) -> bool {
        let mut lost = self.lost_by(dot).filter(|d| d.number != Made::KEPT && !d.forfeit);
        lost.any(|d| d.winner.node != dot.node)
    }

    /// It was part of a key change that lost on another key.
    pub(crate) fn has_forfeited(&self, dot: Dot) -> bool {
        self.lost_by(dot).any(|d| d.forfeit)
    }

    /// The last landing on `node` that wrote this key after `after` and not after `upto`.
    pub(crate) fn write_between(&self, node: NodeId, after: Position, upto: Position) -> Option<Write> {
        let between = |w: &&Write| w.sure && w.node == node && w.position > after && w.position <= upto;
        self.writes.iter().filter(between).max_by_key(|w| w.position).copied()
    }

    pub(crate) fn written_after(&self, node: NodeId, position: Position) -> bool {
        self.writes.iter().any(|w| w.node == node && w.position > position)
    }
}

/// A reference to an entry that knows when the entry is gone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct SlotRef {
    pub slot: u32,
    pub generation: u32,
}

const PIECE: usize = 1024;

#[derive(Debug)]
pub(crate) struct Window<I> {
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    pieces: Vec<Vec<Option<Entry<I>>>>,
    free: Vec<u32>,
    /// Generations go on across the entries of a slot.
    generation: u32,
}

impl<I> Window<I> {
    pub(crate) fn new() -> Window<I> {
        Window {
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            pieces: Vec::new(),
            free: Vec::new(),
            generation: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn get(&self, slot: u32) -> &Entry<I> {
        self.slot(slot).expect("slot in use")
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> &mut Entry<I> {
        self.pieces[slot as usize / PIECE][slot as usize % PIECE].as_mut().expect("slot in use")
    }

    fn slot(&self, slot: u32) -> Option<&Entry<I>> {
        self.pieces.get(slot as usize / PIECE)?.get(slot as usize % PIECE)?.as_ref()
    }

    /// The entry, unless it has retired since.
    pub(crate) fn live(&self, reference: SlotRef) -> Option<&Entry<I>> {
        self.slot(reference.slot).filter(|e| e.generation == reference.generation)
    }

    pub(crate) fn find(&self, key: &Key) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.table.find(hash, |slot| self.get(*slot).key == *key).copied()
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        let all = (0..self.pieces.len() * PIECE).map(|s| s as u32);
        all.filter(|s| self.pieces[*s as usize / PIECE].get(*s as usize % PIECE).is_some_and(Option::is_some))
    }

    /// The rows of a table that are in the window, not the entry of its TRUNCATE.
    pub(crate) fn slots_of(&self, table: TableId) -> Vec<u32> {
        let of_table = |s: &u32| self.get(*s).key.table() == table && !self.get(*s).key.is_whole_table();
        self.slots().filter(of_table).collect()
    }

    /// The slot of the key's entry, and whether it was made by this call.
    pub(crate) fn find_or_make(&mut self, key: &Key, make: impl FnOnce(Key, u32) -> Entry<I>) -> (u32, bool) {
        let hash = self.hasher.hash_one(key);
        let pieces = &self.pieces;
        let at = |slot: u32| pieces[slot as usize / PIECE][slot as usize % PIECE].as_ref().expect("slot in use");
        let found = self.table.entry(hash, |slot| at(*slot).key == *key, |slot| self.hasher.hash_one(&at(*slot).key));
        match found {
            hashbrown::hash_table::Entry::Occupied(there) => (*there.get(), false),
            hashbrown::hash_table::Entry::Vacant(vacant) => {
                let slot = match self.free.last() {
                    Some(slot) => *slot,
                    None => pieces.last().map_or(0, |p| (pieces.len() - 1) * PIECE + p.len()) as u32,
                };
                vacant.insert(slot);
                self.generation = self.generation.wrapping_add(1);
                let entry = make(key.clone(), self.generation);
                self.put(slot, entry);
                (slot, true)
            }
        }
    }

    fn put(&mut self, slot: u32, entry: Entry<I>) {
        if self.free.pop().is_some() {
            self.pieces[slot as usize / PIECE][slot as usize % PIECE] = Some(entry);
            return;
        }
        if self.pieces.last().is_none_or(|p| p.len() == PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        self.pieces.last_mut().expect("just made").push(Some(entry));
    }

    /// Makes every reference to this entry that was queued before invalid.
    pub(crate) fn renew(&mut self, slot: u32) {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        self.get_mut(slot).generation = generation;
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Entry<I> {
        let hash = self.hasher.hash_one(&self.get(slot).key);
        let found = self.table.find_entry(hash, |s| *s == slot).expect("every entry is in the table");
        found.remove();
        self.free.push(slot);
        self.pieces[slot as usize / PIECE][slot as usize % PIECE].take().expect("slot in use")
    }

    /// Gives memory back once the window is empty. Slots are renumbered; old references fail by their generation.
    pub(crate) fn trim(&mut self) {
        if self.table.is_empty() && self.pieces.len() > 1 {
            self.pieces = Vec::new();
            self.free = Vec::new();
            self.table = HashTable::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::DeliveryRow;

    /// A window, and the delivery of one transaction, hold millions of these: an image here is one word.
    #[test]
    fn what_there_are_millions_of_is_small() {
        type Image = std::sync::Arc<(u64, u64)>;
        let sizes = (size_of::<Key>(), size_of::<Writes>(), size_of::<Entry<Image>>(), size_of::<DeliveryRow<Image>>());
        assert_eq!(sizes, (24, 16, 96, 40));
        assert_eq!(size_of::<Option<Entry<Image>>>(), size_of::<Entry<Image>>());
    }
}
