//! The hub's state and what can be asked of it.
//!
//! Invariants:
//! - `owed_count` of a node is the number of entries whose `owed` names it; each of them has a reference in `owed`.
//! - An entry whose `flying` names a node is in that node's flight, and stays in the window until it lands or fails.
//! - `firsts` of a node is in order of position and holds, for each entry whose `sources` names the node, its first.
//! - A node's `passed` is the sequence at which the last landing behind its judged position was cut.

use std::collections::HashSet;

use crate::cover::{Cover, Landings};
use crate::decision::Log;
use crate::fifo::Fifo;
use crate::firsts::Firsts;
use crate::key::{Dot, NodeId, NodeSet, Position, TableId};
use crate::policy::Policies;
use crate::window::{SlotRef, Window};

/// Decides what is canonical and says what every node is owed.
pub struct Hub<I> {
    pub(crate) window: Window<I>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) policies: Box<dyn Policies>,
    pub(crate) log: Log<I>,
    /// Counts judged transactions.
    pub(crate) sequence: u64,
    /// What may retire: by the one node that need not cover it, and last those that all must.
    pub(crate) retiring: Vec<Fifo<SlotRef>>,
    pub(crate) paused: HashSet<(TableId, NodeId)>,
    /// Something that waited for others to settle was queued while retiring.
    pub(crate) woken: bool,
    /// How many TRUNCATEs are in the window.
    pub(crate) truncates: usize,
    #[cfg(test)]
    pub(crate) broken: Option<Broken>,
}

/// One node as the hub sees it.
pub(crate) struct Node {
    pub judged: Position,
    pub landings: Landings,
    pub passed: u64,
    pub owed: Fifo<SlotRef>,
    pub owed_count: usize,
    /// Another node's change was judged since the last landing here: it must be covered, rows or not.
    pub news: bool,
    pub flight: Option<Flight>,
    pub firsts: Firsts,
    /// The first decision this node has yet to write down.
    pub next_decision: u64,
    /// Held records on this node whose keys have retired.
    pub released: Vec<crate::key::Key>,
}

/// A delivery whose outcome is not known yet.
pub(crate) struct Flight {
    pub slots: Vec<u32>,
    /// Absent entries that a TRUNCATE in the delivery sweeps.
    pub swept: Vec<u32>,
    /// Entries held on the target, whose row a TRUNCATE in the delivery sweeps.
    pub uncovered: Vec<u32>,
    /// The tables it truncates, unless the target refuses.
    pub truncated: Vec<(TableId, Dot)>,
    pub cover: Cover,
    pub sequence: u64,
    pub decisions_end: u64,
    pub released: Vec<crate::key::Key>,
}

impl Flight {
    /// The TRUNCATE of the table that it carries out, unless the target refuses.
    pub(crate) fn swept_by(&self, table: TableId) -> Option<Dot> {
        self.truncated.iter().find(|(t, _)| *t == table).map(|(_, dot)| *dot)
    }
}

/// A rule switched off, to see the oracles fail without it.
#[cfg(test)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Broken {
    Ack,
    Passed,
    Seen,
    Landing,
    Covered,
    Overwritten,
    Decisions,
    Pairing,
    Truncate,
    HeldException,
    Released,
    OverrideRecord,
    TruncatedRows,
    Visible,
    Drawn,
    Flushed,
    Parted,
    Recorded,
    Onward,
    Quiet,
    Unanswered,
}

impl<I: Clone> Hub<I> {
    /// A hub over `nodes` databases whose linked tables are equal and of which nothing has been judged yet.
    pub fn new(nodes: usize, policies: Box<dyn Policies>) -> Hub<I> {
        assert!((1..=NodeId::MAX_NODES).contains(&nodes), "a hub joins 1 to {} nodes, not {nodes}", NodeId::MAX_NODES);
        Hub {
            window: Window::new(),
            nodes: (0..nodes).map(|_| Node::new(nodes)).collect(),
            policies,
            log: Log::new(),
            sequence: 0,
            retiring: (0..=nodes).map(|_| Fifo::new()).collect(),
            paused: HashSet::new(),
            woken: false,
            truncates: 0,
            #[cfg(test)]
            broken: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn broken(&self, rule: Broken) -> bool {
        self.broken == Some(rule)
    }

    pub(crate) fn seen_is_broken(&self) -> bool {
        #[cfg(test)]
        return self.broken(Broken::Seen);
        #[cfg(not(test))]
        false
    }

    pub(crate) fn covered_is_broken(&self) -> bool {
        #[cfg(test)]
        return self.broken(Broken::Covered);
        #[cfg(not(test))]
        false
    }

    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn all(&self) -> NodeSet {
        NodeSet::all(self.nodes.len())
    }

    pub(crate) fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node.index()]
    }

    pub(crate) fn node_mut(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[node.index()]
    }

    /// False while a delivery to the node is in flight: its landing position is not known yet.
    pub fn may_judge(&self, node: NodeId) -> bool {
        self.node(node).flight.is_none()
    }

    /// Everything of the node up to here, inclusive, has been judged.
    pub fn judged(&self, node: NodeId) -> Position {
        self.node(node).judged
    }

    /// Nothing of the node up to here, inclusive, is needed again: slot feedback. Grows with [`Hub::retire`].
    pub fn acknowledged(&self, node: NodeId) -> Position {
        let node = self.node(node);
        #[cfg(test)]
        if self.broken(Broken::Ack) {
            return node.judged;
        }
        node.firsts.front().map_or(node.judged, |(first, _)| first.just_below())
    }

    /// Whether all that `source` changed up to `position`, inclusive, has landed on `node`, or lost before it could.
    pub fn has_landed(&self, source: NodeId, position: Position, node: NodeId) -> bool {
        let at = self.node(node);
        let is_at_rest = || at.flight.is_none() && !self.has_news(node);
        self.judged(source) >= position && (at.landings.last_cover().of(source) >= position || is_at_rest())
    }

    /// Landing rows of the node with a position below this one may be deleted.
    pub fn fold_below(&mut self, node: NodeId) -> Option<Position> {
        let acknowledged = self.acknowledged(node);
        self.node_mut(node).landings.fold(acknowledged)
    }

    /// How many keys the node is owed.
    pub fn owed(&self, node: NodeId) -> usize {
        self.node(node).owed_count
    }

    /// Whether the node needs a landing, perhaps without rows. Those can be batched.
    pub fn has_news(&self, node: NodeId) -> bool {
        let node = self.node(node);
        node.news || node.owed_count > 0 || node.next_decision < self.log.end() || !node.released.is_empty()
    }

    /// How many keys are in the window.
    pub fn window_len(&self) -> usize {
        self.window.len()
    }

    /// Every node but `node` needs a landing that covers what was just judged.
    pub(crate) fn spread_news(&mut self, except: Option<NodeId>) {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            node.news |= except.is_none_or(|e| e.index() != index);
        }
    }

    pub(crate) fn owe(&mut self, slot: u32, nodes: NodeSet) {
        let entry = self.window.get_mut(slot);
        for node in nodes.iter() {
            if !entry.owed.contains(node) {
                entry.owed.insert(node);
                let state = &mut self.nodes[node.index()];
                state.owed_count += 1;
                state.owed.push(SlotRef { slot, generation: entry.generation });
            }
        }
        entry.ever_owed = entry.ever_owed.union(nodes);
    }

    pub(crate) fn no_longer_owe(&mut self, slot: u32, node: NodeId) {
        let entry = self.window.get_mut(slot);
        if !entry.owed.contains(node) {
            return;
        }
        entry.owed.remove(node);
        let state = &mut self.nodes[node.index()];
        state.owed_count -= 1;
        if state.owed.len() > 2 * state.owed_count + 64 {
            let window = &self.window;
            // One reference an entry is enough: those that came back stand here twice.
            let mut seen = HashSet::new();
            state.owed.retain(|r| window.live(*r).is_some_and(|e| e.owed.contains(node)) && seen.insert(r.slot));
        }
    }
}

impl Node {
    pub(crate) fn new(nodes: usize) -> Node {
        Node {
            judged: Position(0),
            landings: Landings::new(nodes),
            passed: 0,
            owed: Fifo::new(),
            owed_count: 0,
            news: false,
            flight: None,
            firsts: Firsts::new(),
            next_decision: 0,
            released: Vec::new(),
        }
    }
}
