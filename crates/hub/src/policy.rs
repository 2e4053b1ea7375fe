//! Who wins a conflict. Any choice converges, even a coin's, because it is made once and kept.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::change::Op;
use crate::key::{Dot, NodeId, Stamp, TableId};

/// One side of a conflict.
#[derive(Clone, Copy, Debug)]
pub struct Contender {
    pub dot: Dot,
    pub stamp: Stamp,
    pub op: Op,
}

#[derive(Clone, Debug)]
pub struct Verdict {
    pub challenger_wins: bool,
    /// The policy's name as the configuration writes it.
    pub policy: Cow<'static, str>,
    pub why: Cow<'static, str>,
}

/// Decides conflicts. `challenger` is the change being judged, `canonical` what stood until now.
pub trait Policies: Send {
    fn decide(&mut self, table: TableId, challenger: &Contender, canonical: &Contender) -> Verdict;
}

/// The larger stamp wins; its node number breaks ties.
#[derive(Clone, Copy, Debug, Default)]
pub struct Newest;

impl Policies for Newest {
    fn decide(&mut self, _: TableId, challenger: &Contender, canonical: &Contender) -> Verdict {
        let why = match challenger.stamp.time.cmp(&canonical.stamp.time) {
            std::cmp::Ordering::Equal => "committed at the same microsecond; the higher node number wins",
            _ => "committed later",
        };
        Verdict { challenger_wins: challenger.stamp > canonical.stamp, policy: "newest".into(), why: why.into() }
    }
}

/// The change of one node wins over any other node's; between others the newest.
#[derive(Clone, Debug)]
pub struct Prefer {
    pub node: NodeId,
    pub name: Cow<'static, str>,
}

impl Policies for Prefer {
    fn decide(&mut self, table: TableId, challenger: &Contender, canonical: &Contender) -> Verdict {
        let preferred = challenger.dot.node == self.node;
        if preferred == (canonical.dot.node == self.node) {
            return Newest.decide(table, challenger, canonical);
        }
        Verdict { challenger_wins: preferred, policy: self.name.clone(), why: "written on the preferred node".into() }
    }
}

/// A policy per table; `Newest` where none is set.
#[derive(Default)]
pub struct PerTable {
    tables: HashMap<TableId, Box<dyn Policies>>,
}

impl PerTable {
    pub fn set(&mut self, table: TableId, policy: impl Policies + 'static) {
        self.tables.insert(table, Box::new(policy));
    }
}

impl Policies for PerTable {
    fn decide(&mut self, table: TableId, challenger: &Contender, canonical: &Contender) -> Verdict {
        match self.tables.get_mut(&table) {
            Some(policy) => policy.decide(table, challenger, canonical),
            None => Newest.decide(table, challenger, canonical),
        }
    }
}
