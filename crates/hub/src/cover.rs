//! Covers and landings: what a node's rows reflect, and since when.
//!
//! A cover says, per source node, up to which position (inclusive) its changes are reflected. The covers of one node's
//! landings only grow, so "what had a change at this position seen" is a binary search.
//!
//! Of a landing and a local change to a row the landing wrote: position < landing's came before it, >= came after.

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::key::{Dot, NodeId, Position};
use crate::wrote::Wrote;

/// Index = node number.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cover(pub SmallVec<[Position; 4]>);

impl Cover {
    pub fn nothing(nodes: usize) -> Cover {
        Cover(SmallVec::from_elem(Position(0), nodes))
    }

    /// What is seen of a key whose row was swept by a TRUNCATE while `held` waits: the TRUNCATE, and no more.
    pub fn swept(nodes: usize, by: Dot, held: Dot) -> Cover {
        let mut cover = Cover::nothing(nodes);
        // Of one transaction, what waits was written behind its TRUNCATE.
        cover.0[by.node.index()] = if by == held { by.position.just_below() } else { by.position };
        cover
    }

    pub fn of(&self, node: NodeId) -> Position {
        self.0.get(node.index()).copied().unwrap_or_default()
    }

    pub fn contains(&self, dot: Dot) -> bool {
        self.of(dot.node) >= dot.position
    }

    pub(crate) fn join(&mut self, other: &Cover) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = (*mine).max(*theirs);
        }
    }
}

/// The durable record of a delivery on its target.
#[derive(Clone, Debug)]
pub struct Landing {
    pub position: Position,
    pub cover: Cover,
    pub wrote: Wrote,
}

/// One node's landings as far as they still matter.
#[derive(Debug)]
pub(crate) struct Landings {
    /// Before the first of `recent`: everything that had landed earlier.
    recent: VecDeque<Recent>,
    /// Positions of the rows in the node's landing table that must be kept; pruned by `fold`.
    kept: VecDeque<Position>,
    nothing: Cover,
}

#[derive(Debug)]
struct Recent {
    position: Position,
    cover: Cover,
    /// From here on it can no longer be lost: see [`crate::Landed::durable`].
    durable: Position,
    /// How much had been judged when the delivery was cut.
    sequence: u64,
}

impl Landings {
    pub(crate) fn new(nodes: usize) -> Landings {
        Landings { recent: VecDeque::new(), kept: VecDeque::new(), nothing: Cover::nothing(nodes) }
    }

    pub(crate) fn push(&mut self, position: Position, durable: Position, cover: Cover, sequence: u64) {
        self.kept.push_back(position);
        self.recent.push_back(Recent { position, durable, cover, sequence });
    }

    /// What a change of this node at `position` had seen.
    pub(crate) fn cover_before(&self, position: Position) -> &Cover {
        let after = self.recent.partition_point(|r| r.position <= position);
        match after.checked_sub(1) {
            Some(last) => &self.recent[last].cover,
            None => &self.nothing,
        }
    }

    /// What is reflected by now.
    pub(crate) fn last_cover(&self) -> &Cover {
        self.recent.back().map_or(&self.nothing, |last| &last.cover)
    }

    /// Every local change up to `judged` has been judged: drops the landings behind it but for the last, and returns
    /// the sequence at which the last one was cut that can no longer be lost.
    pub(crate) fn pass(&mut self, judged: Position) -> Option<u64> {
        let durable = self.recent.iter().take_while(|r| r.durable.just_below() <= judged).last().map(|r| r.sequence);
        while self.recent.len() > 1 && self.recent[1].position.just_below() <= judged {
            self.recent.pop_front();
        }
        durable
    }

    /// The position of the newest landing at or below `acknowledged`: recovery needs it and the later ones only.
    pub(crate) fn fold(&mut self, acknowledged: Position) -> Option<Position> {
        while self.kept.len() > 1 && self.kept[1] <= acknowledged {
            self.kept.pop_front();
        }
        self.kept.front().copied().filter(|p| *p <= acknowledged)
    }
}

#[cfg(test)]
mod tests {
    use super::{Cover, Landings};
    use crate::Position;

    #[test]
    fn a_landing_counts_once_its_commit_has_been_passed() {
        let mut landings = Landings::new(1);
        landings.push(Position(10), Position(20), Cover::nothing(1), 1);
        assert_eq!(landings.pass(Position(18)), None, "its row has been passed, its commit may be lost yet");
        assert_eq!(landings.pass(Position(19)), Some(1));
        landings.push(Position(30), Position(40), Cover::nothing(1), 2);
        assert_eq!(landings.pass(Position(35)), Some(1), "the one before is none the worse for it");
        assert_eq!(landings.pass(Position(39)), Some(2));
    }
}
