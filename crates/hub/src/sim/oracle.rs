//! What must hold, whatever happened.
//!
//! - converged: at rest every node holds the same rows, nothing is held, the window is empty, all is acknowledged.
//! - not lost: the surviving write is not an ancestor of another (ancestor: was overwritten by it, directly or not).
//! - recorded: every write that does not survive was overwritten knowingly, or lost one recorded decision, which every
//!   node keeps. No decision is recorded between a write and its ancestor.
//!   (Left out: a TRUNCATE that is held across a crash. Which keys of its table had been delivered by themselves is only
//!   in landings, and those may be folded: about one schedule in a million records too much, while the above holds.)
//! - one fate: if one half of a key change lost, the other does not stand.
//! - whole: a delivery carries a source transaction's winning keys all together.

use std::collections::{BTreeMap, BTreeSet};

use super::database::{Image, Transaction};
use super::run::Simulation;
use crate::{Change, Decision, Delivery, Dot, Key, Kind, State};

type Parents = BTreeMap<(Key, Dot), Option<Dot>>;

impl Simulation {
    pub fn check_at_rest(&self) -> Result<(), String> {
        self.check_converged()?;
        let parents: Parents = self.databases.iter().flat_map(|d| d.parents.clone()).collect();
        self.check_not_lost(&parents)?;
        if self.truncate_held_across_crash {
            return Ok(());
        }
        self.check_key_changes()?;
        self.check_recorded(&parents)?;
        self.check_decisions(&parents)
    }

    fn check_converged(&self) -> Result<(), String> {
        for key in &self.databases[0].all_keys {
            let images: Vec<Option<Image>> = self.databases.iter().map(|d| d.cell(key).image).collect();
            if images.iter().any(|i| *i != images[0]) {
                return Err(format!("{key:?}: not converged {images:?}"));
            }
        }
        if self.hub.window_len() > 0 {
            return Err(format!("at rest {} keys are still in the window", self.hub.window_len()));
        }
        for database in &self.databases {
            if !database.held.is_empty() {
                return Err(format!("node {}: held records left {:?}", database.node.0, database.held));
            }
            let acknowledged = self.hub.acknowledged(database.node);
            if database.log.iter().any(|t| t.position > acknowledged || t.position.0 == 0) {
                return Err(format!("node {}: not all acknowledged", database.node.0));
            }
        }
        Ok(())
    }

    /// Who wrote what the nodes hold. Of absent rows there may be several: a TRUNCATE also sweeps what was deleted.
    fn survivors(&self, key: &Key) -> BTreeSet<Dot> {
        self.databases.iter().filter_map(|d| d.cell(key).dot).collect()
    }

    fn check_not_lost(&self, parents: &Parents) -> Result<(), String> {
        for key in &self.databases[0].all_keys {
            let present = self.databases[0].cell(key).image.is_some();
            for survivor in self.survivors(key) {
                for (_, dot) in parents.keys().filter(|(k, _)| k == key) {
                    if present && is_ancestor(parents, key, survivor, *dot) {
                        return Err(format!("{key:?}: lost, {survivor:?} survives but {dot:?} was written over it"));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_recorded(&self, parents: &Parents) -> Result<(), String> {
        let overwritten: BTreeSet<(&Key, Dot)> = parents.iter().filter_map(|((k, _), p)| Some((k, (*p)?))).collect();
        for (key, dot) in parents.keys() {
            if self.survivors(key).contains(dot) || overwritten.contains(&(key, *dot)) {
                continue;
            }
            let entry = (key.clone(), *dot);
            if self.databases.iter().any(|d| d.also_seen.contains(&entry)) {
                continue;
            }
            let idle = &self.databases[usize::from(dot.node.0)].idle;
            if idle.contains(&(key.clone(), *dot)) {
                continue;
            }
            let whole = Key::whole_table(key.table());
            let lost = |d: &&Decision<Image>| (d.key == *key || d.key == whole) && self.name(d.loser.dot) == *dot;
            if !self.databases[0].decisions.iter().any(|d| lost(&d)) {
                return Err(format!("{key:?}: {dot:?} was overridden unknowingly and nothing is recorded"));
            }
        }
        Ok(())
    }

    /// If one half of a key change lost, the other does not stand.
    fn check_key_changes(&self) -> Result<(), String> {
        for database in &self.databases {
            for transaction in &database.log {
                let dot = transaction.identity;
                for (from, to) in lone_moves(transaction) {
                    let lost = |key: &Key| {
                        let conflict =
                            |d: &&Decision<Image>| d.winner.dot.node != dot.node && d.kind != Kind::KeyChange;
                        let about = |d: &&Decision<Image>| d.key == *key && self.name(d.loser.dot) == dot;
                        self.databases[0].decisions.iter().filter(about).any(|d| conflict(&d))
                    };
                    let (old, new) = (self.databases[0].cell(from), self.databases[0].cell(to));
                    if lost(from) && new.image.is_some_and(|i| i.dot == dot) {
                        return Err(format!("{dot:?} lost {from:?} but stands at {to:?}"));
                    }
                    if lost(to) && !lost(from) && old.dot == Some(dot) && old.image.is_none() {
                        return Err(format!("{dot:?} lost {to:?} but {from:?} is gone"));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_decisions(&self, parents: &Parents) -> Result<(), String> {
        let mut losers = BTreeSet::new();
        for decision in &self.databases[0].decisions {
            let (winner, loser) = (self.name(decision.winner.dot), self.name(decision.loser.dot));
            let key = &decision.key;
            // A key change that lost on another key stands here as its fallback, which may lose once more.
            if !losers.insert((key, loser, decision.kind == Kind::KeyChange)) {
                return Err(format!("{key:?}: {loser:?} lost twice"));
            }
            let related = is_ancestor(parents, key, loser, winner) || is_ancestor(parents, key, winner, loser);
            if related && decision.kind != Kind::KeyChange {
                return Err(format!("{key:?}: recorded though one was written over the other: {decision:?}"));
            }
        }
        for database in &self.databases {
            if self.crashes == 0 && database.decisions.len() != self.databases[0].decisions.len() {
                return Err(format!("node {} does not keep all decisions", database.node.0));
            }
        }
        Ok(())
    }

    /// Of every transaction the delivery covers for the first time, each key on which it is canonical is in it.
    pub fn check_whole(&self, delivery: &Delivery<Image>) -> Result<(), String> {
        let target = &self.databases[usize::from(delivery.node.0)];
        let before = target.landings.last().map(|l| l.cover.clone());
        for database in self.databases.iter().filter(|d| d.node != delivery.node) {
            let covered = before.as_ref().map(|c| c.of(database.node)).unwrap_or_default();
            let upto = delivery.cover.of(database.node);
            let new = database.log.iter().filter(|t| t.position > covered && t.position <= upto);
            for transaction in new {
                let dot = Dot { node: database.node, position: transaction.position };
                for key in &transaction.keys {
                    self.check_key_in(delivery, key, dot)?;
                }
            }
        }
        let beyond = delivery.rows.iter().find(|r| !delivery.cover.contains(r.dot));
        beyond.map_or(Ok(()), |r| Err(format!("{:?}: a row beyond the cover, {:?}", r.key, r.dot)))
    }

    fn check_key_in(&self, delivery: &Delivery<Image>, key: &Key, dot: Dot) -> Result<(), String> {
        let Some(slot) = self.hub.window.find(key) else {
            return Ok(());
        };
        let entry = self.hub.window.get(slot);
        let swept = delivery.truncates.iter().any(|t| t.table == key.table()) && entry.state == State::Absent;
        // What the target truncated itself is gone there as well.
        let truncate = self.hub.truncate_of(key.table());
        let own = truncate.is_some_and(|t| t.sources.contains(delivery.node));
        let swept = swept || own && entry.is_untouched_truncate();
        if entry.dot() == dot && !swept && !delivery.rows.iter().any(|r| r.key == *key) {
            return Err(format!("{key:?}: delivery to {:?} covers {dot:?} without this key", delivery.node));
        }
        Ok(())
    }
}

/// The key changes of a transaction whose keys it touches only once.
fn lone_moves(transaction: &Transaction) -> Vec<(&Key, &Key)> {
    let keys = |change: &Change<Image>| match change {
        Change::Row { key, .. } => vec![key.clone()],
        Change::KeyChange { from, to, .. } => vec![from.clone(), to.clone()],
        Change::Truncate { tables } => tables.iter().map(|t| Key::whole_table(*t)).collect(),
    };
    let touched: Vec<Key> = transaction.changes.iter().flat_map(keys).collect();
    let once = |key: &Key| touched.iter().filter(|k| *k == key).count() == 1;
    let truncated = |key: &Key| touched.contains(&Key::whole_table(key.table()));
    let moves = transaction.changes.iter().filter_map(|change| match change {
        Change::KeyChange { from, to, .. } => Some((from, to)),
        _ => None,
    });
    moves.filter(|(from, to)| once(from) && once(to) && !truncated(from)).collect()
}

/// Whether `later` was written over `earlier`, directly or not.
fn is_ancestor(parents: &Parents, key: &Key, earlier: Dot, later: Dot) -> bool {
    let mut at = later;
    while let Some(Some(parent)) = parents.get(&(key.clone(), at)) {
        if *parent == earlier {
            return true;
        }
        at = *parent;
    }
    false
}
