//! Names of things: nodes, positions, tables, keys, and what identifies a change.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// A node's stable small number, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u8);

impl NodeId {
    pub const MAX_NODES: usize = 16;

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A point in one node's order of changes. Positions of different nodes say nothing about each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position(pub u64);

impl Position {
    pub(crate) fn just_below(self) -> Position {
        Position(self.0.saturating_sub(1))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TableId(pub u32);

/// Commit time in microseconds since 2000-01-01, as PostgreSQL sends it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Micros(pub i64);

/// Which change: all changes of one source transaction to one key share a dot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Dot {
    pub node: NodeId,
    pub position: Position,
}

/// What the default policy compares. Raised above the stamp of what the change had seen, so that a slow clock
/// cannot make a later change lose to an earlier one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stamp {
    pub time: Micros,
    pub node: NodeId,
}

impl Stamp {
    pub(crate) fn raised_above(self, seen: Stamp) -> Stamp {
        Stamp { time: Micros(self.time.0.max(seen.time.0.saturating_add(1))), node: self.node }
    }
}

/// A table and the bytes of its primary-key values. Cheap to clone.
///
/// Empty bytes name the whole table: that is how a TRUNCATE lives in the window. No row has an empty key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Repr);

/// A window holds millions of keys, and most are a number or two: those need no memory of their own. Bytes that fit are
/// never shared, so that equal keys look the same.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    Inline { table: TableId, len: u8, bytes: [u8; Key::INLINE] },
    Shared { table: TableId, bytes: Arc<[u8]> },
}

impl Key {
    /// As much as leaves a key three words.
    const INLINE: usize = 18;

    pub fn new(table: TableId, bytes: impl AsRef<[u8]>) -> Key {
        let bytes = bytes.as_ref();
        if bytes.len() > Key::INLINE {
            return Key(Repr::Shared { table, bytes: bytes.into() });
        }
        let mut inline = [0; Key::INLINE];
        inline[..bytes.len()].copy_from_slice(bytes);
        Key(Repr::Inline { table, len: bytes.len() as u8, bytes: inline })
    }

    /// The key that stands for every row of a table.
    pub fn whole_table(table: TableId) -> Key {
        Key::new(table, [])
    }

    pub fn is_whole_table(&self) -> bool {
        self.bytes().is_empty()
    }

    pub fn table(&self) -> TableId {
        match self.0 {
            Repr::Inline { table, .. } | Repr::Shared { table, .. } => table,
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes, .. } => &bytes[..usize::from(*len)],
            Repr::Shared { bytes, .. } => bytes,
        }
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        (self.table(), self.bytes()).cmp(&(other.table(), other.bytes()))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.table().0)?;
        if self.is_whole_table() {
            return f.write_str("*");
        }
        self.bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// A set of nodes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct NodeSet(u16);

impl NodeSet {
    pub(crate) fn all(nodes: usize) -> NodeSet {
        NodeSet(((1u32 << nodes) - 1) as u16)
    }

    pub(crate) fn only(node: NodeId) -> NodeSet {
        NodeSet(1 << node.0)
    }

    pub(crate) fn contains(self, node: NodeId) -> bool {
        self.0 & (1 << node.0) != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn insert(&mut self, node: NodeId) {
        self.0 |= 1 << node.0;
    }

    pub(crate) fn remove(&mut self, node: NodeId) {
        self.0 &= !(1 << node.0);
    }

    pub(crate) fn union(self, other: NodeSet) -> NodeSet {
        NodeSet(self.0 | other.0)
    }

    pub(crate) fn without(self, node: NodeId) -> NodeSet {
        NodeSet(self.0 & !(1 << node.0))
    }

    /// Its node, if it has exactly one.
    pub(crate) fn sole(self) -> Option<NodeId> {
        (self.0.count_ones() == 1).then(|| NodeId(self.0.trailing_zeros() as u8))
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = NodeId> {
        (0..NodeId::MAX_NODES as u8).map(NodeId).filter(move |n| self.contains(*n))
    }
}
