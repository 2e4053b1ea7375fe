//! Recovery after any restart, from the databases alone and without reading rows.

use crate::change::Change;
use crate::cover::Landing;
use crate::decision::Kept;
use crate::hold::HeldRecord;
use crate::hub::Hub;
use crate::key::{Micros, NodeId, Position};
use crate::policy::Policies;

/// Per node, how far its changes can have had an effect: recovery reads the changes in (start, reach].
pub fn reach(starts: &[Position], landings: &[Vec<Landing>]) -> Vec<Position> {
    let covered = |node: NodeId| {
        landings
            .iter()
            .flatten()
            .map(|l| l.cover.of(node))
            .max()
            .unwrap_or_default()
    };
    starts
        .iter()
        .enumerate()
        .map(|(node, start)| (*start).max(covered(NodeId(node as u8))))
        .collect()
}

/// Builds the hub that goes on where the last one stopped.
pub struct Recovery<I> {
    _hub: Hub<I>,
}

impl<I: Clone> Recovery<I> {
    /// `starts`: per node its acknowledged position. `landings`: per node the landings it holds.
    /// `decisions`: what any node holds about keys that may still be in the window. `held`: the held records.
    pub fn new(
        starts: Vec<Position>,
        landings: Vec<Vec<Landing>>,
        decisions: impl IntoIterator<Item = Kept>,
        held: impl IntoIterator<Item = HeldRecord<I>>,
        policies: Box<dyn Policies>,
    ) -> Recovery<I> {
        let _ = (
            landings,
            decisions.into_iter().count(),
            held.into_iter().count(),
        );
        Recovery {
            _hub: Hub::new(starts.len(), policies),
        }
    }

    /// Changes of the node after this position are not recovery's: they are judged afterwards.
    pub fn reach(&self, _node: NodeId) -> Position {
        unimplemented!("next commit")
    }

    /// A change of a transaction of the node in (start, reach], in the node's order. Others are ignored.
    pub fn change(
        &mut self,
        _node: NodeId,
        _position: Position,
        _time: Micros,
        _change: Change<I>,
    ) {
        unimplemented!("next commit")
    }

    pub fn finish(self) -> Hub<I> {
        unimplemented!("next commit")
    }
}
