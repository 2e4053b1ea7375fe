//! A simulated database: rows, a log of committed transactions, and what a delivery leaves behind.
//!
//! Beside each row it keeps which change wrote it, so that the oracles know what every write was written over.

use std::collections::{BTreeMap, BTreeSet};

use super::outbox::Outbox;
use crate::{
    Boundary, Change, Cover, Decision, Delivery, DeliveryRow, Dot, HeldRecord, Key, Landed, Micros, NodeId, Op,
    Position, State, TableId, Wrote,
};

pub const TABLES: u32 = 2;

/// A row's image: the change that wrote it, which of its transaction's versions, and whether it is what is left of a
/// key change that lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Image {
    pub dot: Dot,
    pub version: u32,
    pub under_old_key: bool,
}

#[derive(Clone, Debug)]
pub struct Transaction {
    /// Zero until an outbox is read.
    pub position: Position,
    /// What the oracles call it: of an outbox, its last number.
    pub identity: Dot,
    pub time: Micros,
    pub changes: Vec<Change<Image>>,
    pub keys: BTreeSet<Key>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell {
    pub image: Option<Image>,
    pub dot: Option<Dot>,
}

const EMPTY: Cell = Cell { image: None, dot: None };

#[derive(Clone, Debug)]
pub struct LandingRow {
    pub position: Position,
    pub cover: Cover,
    pub acknowledged: Position,
    pub wrote: Wrote,
    /// Of a node with an outbox: where the delivery began to delete, and where it landed.
    pub marks: Vec<Boundary>,
}

/// What the oracles call the changes that the hub knows by their positions.
pub type Names = BTreeMap<Dot, Dot>;

pub fn name(names: &Names, dot: Dot) -> Dot {
    names.get(&dot).copied().unwrap_or(dot)
}

#[derive(Clone)]
pub struct Database {
    pub node: NodeId,
    /// Of a node with trigger capture.
    pub outbox: Option<Outbox>,
    pub position: Position,
    pub skew: i64,
    pub cells: BTreeMap<Key, Cell>,
    pub log: Vec<Transaction>,
    pub landings: Vec<LandingRow>,
    pub decisions: Vec<Decision<Image>>,
    pub held: BTreeMap<Key, HeldRecord<Image>>,
    /// Keys that cannot be written here at the moment.
    pub refused: BTreeSet<Key>,
    /// Keys without a row, and the TRUNCATE that found none.
    pub idle: BTreeSet<(Key, Dot)>,
    /// What each write was written over.
    pub parents: BTreeMap<(Key, Dot), Option<Dot>>,
    /// Deletes under a delivered TRUNCATE, and those of them that the application has then written over.
    pub deleted_twice: BTreeMap<Key, Vec<Dot>>,
    pub also_seen: BTreeSet<(Key, Dot)>,
    pub all_keys: Vec<Key>,
}

/// What the application does in one transaction.
#[derive(Clone, Debug)]
pub enum Write {
    Put(Key),
    Delete(Key),
    Move(Key, Key),
    Truncate(TableId),
}

impl Database {
    pub fn cell(&self, key: &Key) -> Cell {
        self.cells.get(key).copied().unwrap_or(EMPTY)
    }

    /// Commits an application's transaction.
    pub fn commit(&mut self, writes: &[Write], gap: u64, now: i64) -> Option<Position> {
        let position = Position(self.position.0 + gap);
        let dot = Dot { node: self.node, position };
        let (changes, keys) = self.apply(writes, dot);
        if changes.is_empty() {
            return None;
        }
        self.position = position;
        self.log.push(Transaction { position, identity: dot, time: Micros(now + self.skew), changes, keys });
        Some(position)
    }

    /// Carries out a transaction's statements.
    pub fn apply(&mut self, writes: &[Write], dot: Dot) -> (Vec<Change<Image>>, BTreeSet<Key>) {
        let mut changes = Vec::new();
        let mut keys = BTreeSet::new();
        for (version, write) in writes.iter().enumerate() {
            let image = Image { dot, version: version as u32, under_old_key: false };
            match write {
                Write::Put(key) => {
                    let op = if self.cell(key).image.is_some() { Op::Update } else { Op::Insert };
                    self.write(key, dot, Some(image), &mut keys);
                    changes.push(Change::Row { key: key.clone(), op, state: State::Present(image) });
                }
                Write::Delete(key) if self.cell(key).image.is_some() => {
                    self.write(key, dot, None, &mut keys);
                    changes.push(Change::Row { key: key.clone(), op: Op::Delete, state: State::Absent });
                }
                Write::Move(from, to) if self.cell(from).image.is_some() && self.cell(to).image.is_none() => {
                    self.write(from, dot, None, &mut keys);
                    self.write(to, dot, Some(image), &mut keys);
                    let image_under_old_key = Image { under_old_key: true, ..image };
                    changes.push(Change::KeyChange { from: from.clone(), to: to.clone(), image, image_under_old_key });
                }
                Write::Truncate(table) => {
                    self.note_swept(*table, dot);
                    let of_table = self.all_keys.iter().filter(|k| k.table() == *table).cloned();
                    for key in of_table.collect::<Vec<_>>() {
                        self.write(&key, dot, None, &mut keys);
                    }
                    changes.push(Change::Truncate { tables: vec![*table] });
                }
                Write::Delete(_) | Write::Move(..) => {}
            }
        }
        (changes, keys)
    }

    /// A TRUNCATE does nothing to a key that has no row: there nothing can be lost.
    fn note_swept(&mut self, table: TableId, dot: Dot) {
        let absent = |k: &&Key| k.table() == table && self.cell(k).image.is_none();
        let idle = self.all_keys.iter().filter(absent).map(|k| (k.clone(), dot));
        let idle: Vec<(Key, Dot)> = idle.collect();
        self.idle.extend(idle);
    }

    fn write(&mut self, key: &Key, dot: Dot, image: Option<Image>, keys: &mut BTreeSet<Key>) {
        let before = self.cell(key);
        if keys.insert(key.clone()) {
            self.parents.insert((key.clone(), dot), before.dot);
            if before.image.is_none() {
                let earlier = self.deleted_twice.remove(key).unwrap_or_default();
                self.also_seen.extend(earlier.into_iter().map(|dot| (key.clone(), dot)));
            }
        }
        self.cells.insert(key.clone(), Cell { image, dot: Some(dot) });
    }

    /// Deletes of the delivery that hit no row: they lock nothing.
    pub fn missed_deletes(&self, delivery: &Delivery<Image>) -> Vec<Key> {
        let absent = delivery.rows.iter().filter(|r| !r.hold && !r.key.is_whole_table() && !r.state.is_present());
        absent
            .filter(|r| r.pair.is_none() && !self.refused.contains(&r.key))
            .map(|r| r.key.clone())
            .filter(|k| !delivery.truncates.iter().any(|t| t.table == k.table()))
            .filter(|k| self.cell(k).image.is_none())
            .collect()
    }

    /// The delivery commits, but for deletes that found nothing: they were sent at `before`.
    pub fn land(
        &mut self,
        delivery: &Delivery<Image>,
        swept: &BTreeMap<Key, Option<Dot>>,
        missed: Vec<Key>,
        before_deletes: Position,
        marks: Vec<Boundary>,
        names: &Names,
    ) -> Landed {
        let position = marks.last().map_or(Position(self.position.0 + 1), |mark| mark.position);
        let before = self.landings.last().map_or(Cover::nothing(delivery.cover.0.len()), |l| l.cover.clone());
        for key in &delivery.released {
            self.held.remove(key);
        }
        let mut held = self.land_truncates(delivery, swept, position, names);
        let refused_truncates = held.clone();
        let swept_now = |table| {
            let carried_out = !refused_truncates.contains(&Key::whole_table(table));
            carried_out && delivery.truncates.iter().any(|t| t.table == table)
        };
        // A delete behind a TRUNCATE finds no row, so nothing can refuse it.
        let refused = |row: &DeliveryRow<Image>| {
            self.refused.contains(&row.key) && (row.state.is_present() || !swept_now(row.key.table()))
        };
        let mut hold: BTreeSet<Key> =
            delivery.rows.iter().filter(|r| r.hold || refused(r)).map(|r| r.key.clone()).collect();
        loop {
            let pairs = delivery.rows.iter().filter(|r| r.pair.as_ref().is_some_and(|p| hold.contains(p)));
            let more: Vec<Key> = pairs.map(|r| r.key.clone()).filter(|k| !hold.contains(k)).collect();
            if more.is_empty() {
                break;
            }
            hold.extend(more);
        }
        for row in &delivery.rows {
            if hold.contains(&row.key) {
                let record = HeldRecord {
                    node: self.node,
                    key: row.key.clone(),
                    state: row.state.clone(),
                    dot: row.dot,
                    stamp: row.stamp,
                    half: row.half.clone(),
                    since: position,
                    cover: before.clone(),
                    reflects: delivery.cover.clone(),
                    overwritten: row.overwritten,
                    released: None,
                    earlier: Vec::new(),
                };
                self.hold(record, row.was_held);
                held.push(row.key.clone());
                continue;
            }
            if let Some(record) = self.held.get_mut(&row.key) {
                record.released.get_or_insert(position);
            }
            if !missed.contains(&row.key) {
                let image = match row.state {
                    State::Present(image) => Some(image),
                    State::Absent => None,
                };
                self.deleted_twice.remove(&row.key);
                self.cells.insert(row.key.clone(), Cell { image, dot: Some(name(names, row.dot)) });
            }
        }
        for truncate in delivery.truncates.iter().filter(|t| swept_now(t.table)) {
            let waiting = self.held.values_mut().filter(|r| r.key.table() == truncate.table && r.released.is_none());
            for record in waiting {
                record.swept(position, truncate.dot);
                // Who finds it swept has not seen what waits, also if the same transaction wrote it.
                let waits = |cell: &&mut Cell| cell.dot == Some(name(names, record.dot));
                if let Some(cell) = self.cells.get_mut(&record.key).filter(waits) {
                    cell.dot = None;
                }
            }
        }
        for decision in &delivery.decisions {
            let same = |d: &Decision<Image>| {
                d.key == decision.key && d.winner.dot == decision.winner.dot && d.loser.dot == decision.loser.dot
            };
            if !self.decisions.iter().any(same) {
                self.decisions.push(decision.clone());
            }
        }
        let landed = Landed { position, durable: position, held, missed, before: before_deletes };
        self.landings.push(LandingRow {
            position,
            cover: delivery.cover.clone(),
            acknowledged: delivery.acknowledged,
            wrote: {
                let hashes = delivery.wrote(&landed).hashes().map(<[u64]>::to_vec);
                let bytes = hashes.map(|h| h.into_iter().flat_map(u64::to_le_bytes).collect::<Vec<_>>());
                Wrote::from_bytes(bytes.as_deref())
            },
            marks,
        });
        landed
    }

    fn land_truncates(
        &mut self,
        delivery: &Delivery<Image>,
        swept: &BTreeMap<Key, Option<Dot>>,
        position: Position,
        names: &Names,
    ) -> Vec<Key> {
        let mut held = Vec::new();
        for truncate in &delivery.truncates {
            let whole = Key::whole_table(truncate.table);
            if truncate.hold || self.refused.contains(&whole) {
                let before = self.landings.last().map_or(Cover::nothing(delivery.cover.0.len()), |l| l.cover.clone());
                let record = HeldRecord {
                    node: self.node,
                    key: whole.clone(),
                    state: State::Absent,
                    dot: truncate.dot,
                    stamp: truncate.stamp,
                    half: None,
                    since: position,
                    cover: before,
                    reflects: delivery.cover.clone(),
                    overwritten: None,
                    released: None,
                    earlier: Vec::new(),
                };
                self.hold(record, truncate.was_held);
                held.push(whole);
                continue;
            }
            if let Some(record) = self.held.get_mut(&whole) {
                record.released.get_or_insert(position);
            }
            for key in self.all_keys.iter().filter(|k| k.table() == truncate.table) {
                let dot = swept.get(key).copied().unwrap_or(Some(name(names, truncate.dot)));
                let before = self.cells.insert(key.clone(), Cell { image: None, dot });
                // Who finds no row finds what both deletes left.
                if let Some(Cell { image: None, dot: Some(before) }) = before {
                    self.deleted_twice.entry(key.clone()).or_default().push(before);
                }
            }
        }
        held
    }

    fn hold(&mut self, mut record: HeldRecord<Image>, was_held: bool) {
        if let Some(before) = self.held.remove(&record.key).filter(|_| was_held) {
            record.replaces(before);
        }
        self.held.insert(record.key.clone(), record);
    }

    pub fn fold(&mut self, below: Position) {
        self.landings.retain(|l| l.position >= below);
    }
}
