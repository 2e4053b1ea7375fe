//! The simulation's part for nodes with trigger capture: open transactions, reads, crashes of a server.

use rand::Rng;

use super::database::{Database, Image, Transaction, Write};
use super::outbox::{Outbox, Piece};
use super::run::Simulation;
use crate::hub::Broken;
use crate::{Boundary, BoundaryKind, Cover, Delivery, Dot, Key, NodeId, Position};

impl Simulation {
    /// What survives if the server crashes now.
    pub fn flush(&mut self, index: usize) {
        if self.databases[index].outbox.is_some() {
            self.flushed[index] = Some(Box::new(self.databases[index].clone()));
        }
    }

    /// Something happens on a server with trigger capture.
    pub fn serve(&mut self, index: usize) -> Result<(), String> {
        let count = self.databases[index].outbox_mut().open.len();
        match self.rng.random_range(0..100) {
            0..45 if count > 0 => {
                let at = self.rng.random_range(0..count);
                self.commit_open(index, at);
            }
            45..50 if count > 0 => {
                let at = self.rng.random_range(0..count);
                self.databases[index].rollback(at);
            }
            50..60 if count > 0 => {
                let at = self.rng.random_range(0..count);
                let writes = self.writes();
                self.databases[index].begin(writes, Some(at));
            }
            60..90 if !self.down[index] => drop(self.read(index)?),
            90..96 => self.flush(index),
            96.. if self.shape.crash => self.crash_server(index),
            _ => {}
        }
        Ok(())
    }

    /// A short transaction, or one that stays open.
    pub fn begin(&mut self, index: usize, writes: Vec<Write>) {
        let began = self.databases[index].begin(writes, None);
        if began && self.rng.random_bool(0.6) {
            let at = self.databases[index].outbox_mut().open.len() - 1;
            self.commit_open(index, at);
        }
    }

    fn commit_open(&mut self, index: usize, at: usize) {
        let open = self.databases[index].outbox_mut().open[at].clone();
        self.databases[index].commit_open(at, self.now);
        self.note(|| format!("node {index} commits {open:?}"));
        if self.rng.random() {
            self.flush(index);
        }
    }

    pub fn end_open(&mut self, index: usize) {
        while self.databases[index].outbox.as_ref().is_some_and(|outbox| !outbox.open.is_empty()) {
            self.commit_open(index, 0);
        }
    }

    /// Between a delete that found nothing and the landing.
    pub fn write_in_gap(&mut self, index: usize, key: &Key) {
        let write = vec![Write::Put(key.clone())];
        let Some(outbox) = &self.databases[index].outbox else {
            return self.commit(index, &write);
        };
        if !outbox.open.is_empty() && self.rng.random() {
            let at = self.rng.random_range(0..outbox.open.len());
            self.commit_open(index, at);
        } else if self.databases[index].begin(write, None) {
            let at = self.databases[index].outbox_mut().open.len() - 1;
            self.commit_open(index, at);
        }
    }

    /// Whether a row of the delivery is locked by an open transaction.
    pub fn waits_for_lock(&self, delivery: &Delivery<Image>) -> bool {
        let database = &self.databases[usize::from(delivery.node.0)];
        let missed = database.missed_deletes(delivery);
        let held = |key: &Key| database.refused.contains(key);
        let rows = delivery.rows.iter().filter(|r| !r.hold && !held(&r.key));
        let mut rows = rows.map(|r| (r.key.clone(), missed.contains(&r.key)));
        let mut truncates = delivery.truncates.iter().filter(|t| !t.hold).map(|t| Key::whole_table(t.table));
        rows.any(|(key, missed)| database.is_locked(&key, missed))
            || truncates.any(|key| database.is_locked(&key, false))
    }

    /// A boundary of a delivery.
    pub fn mark_landing(&mut self, index: usize) -> Vec<Boundary> {
        let broken = self.broken.filter(|rule| *rule != Broken::Visible);
        let database = &mut self.databases[index];
        let has_outbox = database.outbox.is_some();
        has_outbox.then(|| database.mark(BoundaryKind::Landing, broken)).into_iter().collect()
    }

    /// Reads the outbox: what is new waits to be judged. Reading records what it saw, on disk.
    fn read(&mut self, index: usize) -> Result<bool, String> {
        if let Some(Piece::Rest { after, read }) = self.pending[index].back() {
            let (after, read) = (*after, *read);
            self.pending[index].pop_back();
            self.take_piece(index, after, read);
            return self.no_fault();
        }
        let Some((position, any)) = self.databases[index].read(self.broken) else {
            return Ok(false);
        };
        let before = self.pending[index].back().map(Piece::position);
        let after = before.unwrap_or_default().max(self.hub.judged(NodeId(index as u8)));
        self.take_piece(index, after, position);
        if (any || !self.durable_deliveries) && self.broken != Some(Broken::Flushed) {
            self.flush(index);
        }
        self.no_fault()
    }

    /// Takes some of what a read has seen; the rest when it is asked for.
    fn take_piece(&mut self, index: usize, after: Position, read: Position) {
        let mut pieces = self.databases[index].read_pieces(after, self.broken);
        let most = self.rng.random_range(1..=3);
        let is_rest = pieces.len() > most;
        pieces.truncate(most);
        self.keep_names(&pieces);
        self.note(|| {
            let taken = pieces.iter().map(|t| (t.position.0, t.identity.position.0));
            format!("of read {} of node {index}: {:?}", read.0, taken.collect::<Vec<_>>())
        });
        let last = pieces.last().map_or(after, |t| t.position);
        let pieces = self.without_landed(pieces);
        self.pending[index].extend(pieces);
        self.pending[index].push_back(if is_rest { Piece::Rest { after: last, read } } else { Piece::Passed(read) });
    }

    /// What has landed on the other side without an answer is left out.
    fn without_landed(&self, pieces: Vec<Transaction>) -> Vec<Piece> {
        let landed = |t: &Transaction| self.landed_unanswered.contains(&t.identity);
        pieces.into_iter().filter(|t| !landed(t)).map(Piece::Transaction).collect()
    }

    /// A change has one position for ever, whoever reads it.
    fn keep_names(&mut self, pieces: &[Transaction]) {
        for Transaction { position, identity, .. } in pieces {
            let dot = Dot { node: identity.node, position: *position };
            let known = self.names.iter().find(|(_, known)| *known == identity).map(|(known, _)| *known);
            if known.is_some_and(|known| known != dot) {
                self.fault = Some(format!("{identity:?} moved from {known:?} to {dot:?}"));
            }
            self.names.insert(dot, *identity);
        }
    }

    fn no_fault(&mut self) -> Result<bool, String> {
        self.fault.take().map_or(Ok(true), Err)
    }

    pub fn judge_outboxed(&mut self, node: NodeId) -> Result<bool, String> {
        let index = usize::from(node.0);
        let Some(piece) = self.pending[index].pop_front() else {
            return self.read(index);
        };
        self.note(|| format!("judge {:?} of node {index}", piece.position()));
        match piece {
            Piece::Transaction(transaction) => {
                let Transaction { position, time, changes, .. } = transaction;
                if position <= self.hub.judged(node) {
                    return Err(format!(
                        "node {index}: {position:?} comes too late, {:?} is judged",
                        self.hub.judged(node)
                    ));
                }
                self.hub.judge(node, position, time, changes);
            }
            Piece::Passed(position) => self.hub.advance(node, Position(position.0 + 1)),
            Piece::Rest { after, read } => self.take_piece(index, after, read),
        }
        self.no_fault()
    }

    /// The server restarts with what was on disk; the hub goes on unless a landing is lost.
    fn crash_server(&mut self, index: usize) {
        let node = NodeId(index as u8);
        let flying = self.flying[index].take();
        let mut landed = None;
        if let Some(delivery) = &flying
            && !self.waits_for_lock(delivery)
            && self.rng.random()
        {
            landed = Some(self.commit_delivery(delivery));
        }
        let before: Database = (**self.flushed[index].as_ref().expect("flushed at the start")).clone();
        self.databases[index] = before;
        self.databases[index].restart();
        self.flush(index);
        self.note(|| format!("the server of node {index} crashes"));
        self.crashes += 1;
        let last = self.databases[index].landings.last().map(|l| l.position);
        let found = landed.as_ref().filter(|l| Some(l.position) == last).cloned();
        let deletes = flying.as_ref().is_some_and(|d| d.rows.iter().any(|r| !r.state.is_present()));
        if last < self.told[index] || (found.is_some() && deletes) || self.rng.random_bool(0.2) {
            return self.crash();
        }
        match found {
            Some(landed) => {
                self.told[index] = last;
                self.hub.landed(node, landed);
            }
            None if flying.is_some() => self.hub.failed(node),
            None => {}
        }
        self.go_on_above(index, self.hub.judged(node));
        self.reload(index, self.hub.judged(node));
    }

    fn go_on_above(&mut self, index: usize, known: Position) {
        if self.broken != Some(Broken::Onward) {
            self.databases[index].go_on_above(known);
        }
    }

    /// A capture begins anew: what was recorded as read and not judged comes first.
    fn reload(&mut self, index: usize, judged: Position) {
        if self.broken == Some(Broken::Recorded) {
            self.databases[index].outbox_mut().join_reads();
        }
        self.databases[index].outbox_mut().begin_capture();
        self.pending[index].clear();
        let last = self.databases[index].outbox.as_ref().and_then(Outbox::last_read);
        if let Some(read) = last.filter(|read| *read > judged) {
            self.take_piece(index, judged, read);
        }
    }

    /// Whoever recovers finds out from where each outbox is needed, and what is known of it elsewhere.
    pub fn restart_captures(&mut self) {
        let covers: Vec<Cover> = self.databases.iter().flat_map(|d| &d.landings).map(|l| l.cover.clone()).collect();
        for index in 0..self.databases.len() {
            let database = &self.databases[index];
            self.told[index] = database.landings.last().map(|l| l.position);
            let Some(outbox) = &database.outbox else { continue };
            let noted = database.landings.iter().map(|l| l.acknowledged).max().unwrap_or_default();
            self.acknowledged[index] = outbox.acknowledged.max(noted);
            let known = covers.iter().map(|cover| cover.of(database.node)).max().unwrap_or_default();
            self.go_on_above(index, known.max(self.acknowledged[index]));
            self.reload(index, self.acknowledged[index]);
        }
    }

    /// What recovery is to be told; the rest stays to be judged.
    pub fn already_judged(&mut self, index: usize, reach: Position) -> Vec<Transaction> {
        let log = &self.databases[index].log;
        if self.databases[index].outbox.is_none() {
            return log.iter().take_while(|t| t.position <= reach).cloned().collect();
        }
        let mut told = Vec::new();
        while self.pending[index].front().is_some_and(|piece| piece.position() <= reach) {
            let Some(piece) = self.pending[index].pop_front() else { break };
            match piece {
                Piece::Transaction(transaction) => told.push(transaction),
                Piece::Passed(_) => {}
                Piece::Rest { after, read } => self.take_piece(index, after, read),
            }
        }
        told
    }
}

impl Piece {
    pub fn position(&self) -> Position {
        match self {
            Piece::Transaction(transaction) => transaction.position,
            Piece::Passed(position) | Piece::Rest { after: position, .. } => *position,
        }
    }
}
