//! Two filled tables that differ become one.
//!
//! The rows are those of snapshots at known positions, and what the nodes change from there on is judged by the hub. So
//! a row may be overwritten only while it is still the version that was compared; of any other one it is for the hub to
//! say what becomes of it.

use super::clash::Origin;
use super::lacking::Lacking;
use super::snapshot::Snapshot;
use super::{Progress, Work};
use crate::catalog::{Column, TableShape};
use crate::compare::{ComparedRow, Side, Subject, read_whole};
use crate::config::Merge as Policy;
use crate::lifecycle::error::On;
use crate::lifecycle::settle::differences::{Differences, Key};
use crate::lifecycle::settle::winner::Winner;
use crate::lifecycle::{LifecycleError, OpenNode};
use crate::link;
use crate::sql::{Ident, QualifiedName, WrittenColumn};
use futures::future::{try_join, try_join_all};
use std::cell::Cell;

/// So many keys are read and written at a time, at most.
const MOST_KEYS: usize = 4000;
/// Fewer where rows are large: about so many bytes of them are in memory, twice.
const BATCH_BYTES: usize = 8 << 20;
pub(super) const FIRST_BATCH: usize = 64;

/// One of the nodes whose rows become the same.
pub(super) struct Place {
    pub name: String,
    /// Sees the snapshot.
    pub reader: OpenNode,
    pub writer: OpenNode,
    pub shape: TableShape,
    /// The compared columns as this node's table has them.
    pub columns: Vec<WrittenColumn>,
    pub snapshot: Known,
    pub replica_role: bool,
}

/// What else is known of the node's rows.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub number: i16,
    pub position: tokio_postgres::types::PgLsn,
    pub taken_at: std::time::SystemTime,
}

/// One table.
pub(super) struct Merge<'a> {
    pub id: i32,
    pub subject: &'a Subject,
    pub places: Vec<Place>,
    pub winner: Winner,
    /// As the decisions tell it.
    pub policy: String,
    /// How many node numbers there are.
    pub numbers: i16,
}

/// What became of one node's rows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub copied: u64,
    pub overwritten: u64,
    /// Left to the hub.
    pub held: u64,
}

impl Counts {
    pub fn add(&mut self, others: Self) {
        self.copied += others.copied;
        self.overwritten += others.overwritten;
        self.held += others.held;
    }
}

/// One row that a node is to get.
pub(super) struct Write<'r> {
    /// The place whose row it is.
    pub from: usize,
    pub row: &'r ComparedRow,
    /// What it replaces.
    pub standing: Option<&'r ComparedRow>,
}

/// How far it is.
pub(super) struct Watched<'a> {
    progress: &'a dyn Progress,
    table: &'a QualifiedName,
    total: u64,
    done: Cell<u64>,
}

impl Watched<'_> {
    pub fn add(&self, keys: u64) {
        self.done.set(self.done.get() + keys);
        self.progress.rows(self.table, self.done.get(), self.total);
    }
}

/// Some keys as all places have them, and whose row wins.
#[derive(Default)]
pub(super) struct Batch {
    rows: Vec<Vec<Option<ComparedRow>>>,
    winners: Vec<Option<usize>>,
}

impl Batch {
    /// How many keys the next one may have.
    fn next_count(&self) -> usize {
        let values = self.rows.iter().flatten().flatten().flat_map(|row| row.values.iter().flatten());
        let bytes: usize = values.map(String::len).sum();
        (BATCH_BYTES / (bytes / self.rows.len().max(1)).max(1)).clamp(1, MOST_KEYS)
    }
}

impl Work<'_> {
    /// `sessions`: as they were compared. Every node's `start_position` is durable by now.
    pub(super) async fn merge(
        &self,
        (id, table): (i32, &QualifiedName),
        sessions: Vec<(usize, OpenNode)>,
        subject: &Subject,
        mut differences: Differences<'_>,
        (policy, by): (&Policy, &Ident),
    ) -> Result<(), LifecycleError> {
        // What an `up` that did not end has left to the hub is in the rows that were compared now.
        try_join_all(sessions.iter().map(|(node, session)| async move {
            let client = self.nodes[*node].client();
            link::delete_held_of_table(client, id).await.on(&session.name, "forgetting an interrupted merge")
        }))
        .await?;
        let lacking = differences.take_missing()?.into_iter().map(|(way, rows)| {
            let snapshot = &self.snapshots()[sessions[way.from].0];
            async move { Ok(Lacking { way, rows, reader: snapshot.session().await? }) }
        });
        let lacking = try_join_all(lacking.collect::<Vec<_>>());
        let places = sessions.into_iter().map(|(node, reader)| self.place(node, table, reader, subject));
        let (lacking, places) = try_join(lacking, try_join_all(places)).await?;
        let names: Vec<&str> = places.iter().map(|place| place.name.as_str()).collect();
        let shapes = places.iter().filter_map(|place| place.shape.column(by));
        let winner = Winner::new(policy, by, &names, subject, &shapes.collect::<Vec<&Column>>())?;
        let policy = match winner {
            Winner::Newest { .. } => format!("merge = {policy} by {}", by.as_str()),
            _ => format!("merge = {policy}"),
        };
        let numbers = self.numbers();
        let merge = Merge { id, subject, places, winner, policy, numbers };
        let counts = merge.run(table, lacking, differences, self.progress).await?;
        self.progress.merged(table, &in_words(&merge, &counts));
        Ok(())
    }

    async fn place(
        &self,
        node: usize,
        table: &QualifiedName,
        reader: OpenNode,
        subject: &Subject,
    ) -> Result<Place, LifecycleError> {
        let shape = self.shape(node, table).cloned().ok_or_else(|| {
            LifecycleError::refused(format!("node {}: {} is gone", reader.name, table.plain()), "make it again")
        })?;
        let columns = subject.columns.iter().filter_map(|name| shape.column(name)).map(|column| shape.written(column));
        let snapshot: &Snapshot = &self.snapshots()[node];
        Ok(Place {
            name: reader.name.clone(),
            columns: columns.collect(),
            writer: self.nodes[node].another().await?,
            snapshot: Known {
                number: self.plan.identities[node].number,
                position: snapshot.position,
                taken_at: snapshot.taken_at,
            },
            replica_role: self.surveys[node].role.may_set_replication_role,
            reader,
            shape,
        })
    }
}

impl Merge<'_> {
    async fn run(
        &self,
        table: &QualifiedName,
        lacking: Vec<Lacking>,
        differences: Differences<'_>,
        progress: &dyn Progress,
    ) -> Result<Vec<Counts>, LifecycleError> {
        let total = differences.keys;
        let mut keys = differences.into_keys()?;
        let watched = Watched { progress, table, total, done: Cell::new(0) };
        let mut counts = self.copy_missing(lacking, &watched).await?;
        let mut batch = self.read(keys.next(FIRST_BATCH)?).await?;
        while !batch.rows.is_empty() {
            // While one is written the next is read.
            let next = keys.next(batch.next_count())?;
            let (written, next) = try_join(self.write_all(&batch), self.read(next)).await?;
            for (sum, counts) in counts.iter_mut().zip(written) {
                sum.add(counts);
            }
            watched.add(batch.rows.len() as u64);
            batch = next;
        }
        try_join_all((0..self.places.len()).map(|place| self.flush(place))).await?;
        Ok(counts)
    }

    pub(super) async fn read(&self, keys: Vec<Key>) -> Result<Batch, LifecycleError> {
        if keys.is_empty() {
            return Ok(Batch::default());
        }
        let sides: Vec<Side<'_>> =
            self.places.iter().map(|place| Side { name: &place.name, client: place.reader.client() }).collect();
        let rows = read_whole(&sides, self.subject, &keys).await?;
        let winners = self.winner.choose(&rows, self.subject, sides[0]).await?;
        Ok(Batch { rows, winners })
    }

    async fn write_all(&self, batch: &Batch) -> Result<Vec<Counts>, LifecycleError> {
        let writes = self.writes(batch);
        try_join_all(writes.iter().enumerate().map(|(place, writes)| self.write(place, writes))).await
    }

    /// What each place is to get.
    pub(super) fn writes<'r>(&self, batch: &'r Batch) -> Vec<Vec<Write<'r>>> {
        let mut writes: Vec<Vec<Write<'_>>> = self.places.iter().map(|_| Vec::new()).collect();
        for (rows, winner) in batch.rows.iter().zip(&batch.winners) {
            let Some((from, row)) = winner.and_then(|from| Some((from, rows[from].as_ref()?))) else { continue };
            for (place, standing) in rows.iter().enumerate() {
                if standing.as_ref().is_none_or(|standing| !standing.is_same(row, self.subject)) {
                    writes[place].push(Write { from, row, standing: standing.as_ref() });
                }
            }
        }
        writes
    }

    /// A node's rows as others are told of them.
    pub(super) fn origin(&self, place: usize) -> Origin<'_> {
        let Place { shape, snapshot, .. } = &self.places[place];
        Origin {
            id: self.id,
            shape,
            number: snapshot.number,
            start: snapshot.position,
            taken_at: snapshot.taken_at,
            numbers: self.numbers,
        }
    }

    /// The key as the place whose row it is spells it, in the order of the primary key there.
    pub(super) fn key<'r>(&self, place: usize, row: &'r ComparedRow) -> Vec<&'r str> {
        let column = |name: &Ident| self.subject.columns.iter().position(|of| of == name);
        let key = self.places[place].shape.primary_key.iter().filter_map(column);
        key.map(|at| row.values[at].as_deref().unwrap_or_default()).collect()
    }
}

fn in_words(merge: &Merge<'_>, counts: &[Counts]) -> String {
    let of = |what: &str, preposition: &str, count: fn(&Counts) -> u64| {
        let some = merge.places.iter().zip(counts).filter(|(_, counts)| count(counts) > 0);
        let each = some.enumerate().map(|(at, (place, counts))| {
            let what = if at == 0 { what } else { "" };
            format!("{}{what} {preposition} {}", count(counts), place.name)
        });
        let each: Vec<String> = each.collect();
        (!each.is_empty()).then(|| each.join(", "))
    };
    let parts = [
        of(" rows copied", "to", |counts| counts.copied),
        of(" overwritten", "on", |counts| counts.overwritten),
        of(" refused, or written meanwhile, which `pgtandem run` will judge,", "on", |counts| counts.held),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "nothing to merge".to_owned() } else { parts.join("; ") }
}
