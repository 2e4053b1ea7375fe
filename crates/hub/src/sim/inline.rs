//! The simulation's part for direct mode: a transaction that is written on the other node as well before it commits, and
//! that the hub never hears of.
//!
//! That is allowed only for quiet keys: no change of theirs waits in an outbox on either side, no open transaction has
//! their locks, and no row of their table is held. Sometimes the answer of the other node is lost: then the transaction
//! is in the outbox as well, and whoever reads it finds out that it has landed and leaves it out.
//!
//! Both commit at one moment here: between the two the row is locked where it commits last, so nothing can tell.

use rand::Rng;

use super::database::{Cell, Write};
use super::run::Simulation;
use crate::hub::Broken;
use crate::{Dot, Key, Micros, Outboxed};

impl Simulation {
    /// False: it was not to be written directly, and is to be committed like any other.
    pub fn write_inline(&mut self, index: usize, writes: &[Write]) -> Result<bool, String> {
        let peer = 1 - index;
        let keys = self.keys_of(writes);
        let locked = |key: &Key| self.databases.iter().any(|d| d.is_locked(key, false));
        if keys.iter().any(locked) || keys.iter().any(|key| self.databases[peer].refused.contains(key)) {
            return Ok(false);
        }
        if self.broken != Some(Broken::Quiet) && !keys.iter().all(|key| self.is_quiet(key)) {
            return Ok(false);
        }
        let unequal = keys.iter().find(|k| self.databases[0].cell(k).image != self.databases[1].cell(k).image);
        if let Some(key) = unequal.filter(|_| self.broken.is_none()) {
            return Err(format!("{key:?} is quiet, and not the same on both sides"));
        }
        let database = &mut self.databases[index];
        let (xid, last) = database.outbox_mut().draw(writes.len() as u64);
        let identity = Dot { node: database.node, position: crate::Position(last) };
        let (changes, keys) = database.apply(writes, identity);
        if changes.is_empty() {
            return Ok(true);
        }
        for key in &keys {
            let cell = self.databases[index].cell(key);
            self.arrive(peer, key, cell, identity);
        }
        let unanswered = self.rng.random_bool(0.3);
        self.note(|| format!("node {index} commits {writes:?} directly, unanswered: {unanswered}"));
        if unanswered {
            let database = &mut self.databases[index];
            let time = Micros(self.now + database.skew);
            database.log.push(super::database::Transaction {
                position: crate::Position(0),
                identity,
                time,
                changes,
                keys,
            });
            database.outbox_mut().keep(Outboxed { xid, last }, identity);
            if self.broken != Some(Broken::Unanswered) {
                self.landed_unanswered.insert(identity);
            }
        }
        // Neither side forgets it.
        self.flush(index);
        self.flush(peer);
        Ok(true)
    }

    /// Whoever finds no row there finds what both deletes left.
    fn arrive(&mut self, peer: usize, key: &Key, cell: Cell, by: Dot) {
        let database = &mut self.databases[peer];
        let before = database.cell(key);
        let earlier = database.deleted_twice.remove(key).unwrap_or_default();
        if before.image.is_none() {
            database.also_seen.extend(earlier.into_iter().chain(before.dot).map(|dot| (key.clone(), dot)));
            if cell.image.is_none() {
                database.idle.insert((key.clone(), by));
            }
        }
        database.cells.insert(key.clone(), cell);
    }

    fn keys_of(&self, writes: &[Write]) -> Vec<Key> {
        let keys = |write: &Write| match write {
            Write::Put(key) | Write::Delete(key) => vec![key.clone()],
            Write::Move(from, to) => vec![from.clone(), to.clone()],
            Write::Truncate(table) => {
                self.databases[0].all_keys.iter().filter(|k| k.table() == *table).cloned().collect()
            }
        };
        writes.iter().flat_map(keys).collect()
    }

    /// Nobody has anything to say about the key any more.
    fn is_quiet(&self, key: &Key) -> bool {
        self.databases.iter().all(|database| {
            let waits = |dot: &Dot| database.log.iter().any(|t| t.identity == *dot && t.keys.contains(key));
            let held = database.held.keys().any(|held| held.table() == key.table());
            let mut waiting = database.outbox.iter().flat_map(|outbox| outbox.waiting());
            !held && !waiting.any(|dot| waits(&dot))
        })
    }
}
