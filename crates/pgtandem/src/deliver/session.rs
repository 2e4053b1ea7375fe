//! A target: one session on a node, its prepared statements, and the set-wise delivery.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::SinkExt;
use hub::{Delivery, DeliveryRow, Key, Landed, NodeId, Position};
use tokio_postgres::types::{PgLsn, ToSql};
use tokio_postgres::{Client, SimpleQueryMessage, Statement};

use super::batch::{Batch, PreparedForms, is_partial, next_batch};
use super::error::DeliverError;
use super::patience::Patience;
use super::pipeline::Pipeline;
use super::placement::{Form, Placement};
use super::record;
use super::target::TargetTables;
use super::trust::{Experience, Trust};
use crate::capture::{Image, Shapes};
use crate::config::Capture;
use crate::sql;

/// Number of a landing on its node; ours to choose, so that its outcome can be asked for after a lost answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LandingId(pub i64);

/// What a committed delivery did.
#[derive(Debug, Default)]
pub struct Landing {
    pub position: Position,
    /// See [`hub::Landed::durable`].
    pub durable: Position,
    /// The node's position before the first statement that wrote.
    pub before: Position,
    /// Deletes that found no row, and so locked nothing.
    pub missed: Vec<Key>,
    pub held: Vec<record::Held>,
}

/// A node as deliveries see it.
pub struct Target {
    pub node: NodeId,
    pub node_name: String,
    pub client: Client,
    pub tables: TargetTables,
    pub shapes: Shapes,
    /// Of the session on the server.
    pub pid: i32,
    pub(super) epoch: i64,
    capture: Capture,
    /// Neither the application's triggers nor foreign keys act on what is delivered.
    pub is_replica: bool,
    patience: Patience,
    experience: Arc<Mutex<Experience>>,
    /// Grows while a delivery gets on, however long it takes.
    pub answers: Arc<AtomicU64>,
    /// Deliveries in a row that found a table other than it was.
    misshapen: u32,
    pub(super) forms: PreparedForms,
    pub(super) fixed: Fixed,
    /// Temporary tables made so far; their names must differ within a transaction.
    pub(super) stashes: AtomicU32,
    /// A statement failed as it does when the tables are not what they were: they should be read again.
    pub(super) stale: AtomicBool,
    folded_at: Instant,
}

/// Under which terms a session delivers.
pub struct TargetRole {
    pub epoch: i64,
    /// Says what a position is.
    pub capture: Capture,
    pub pid: i32,
    pub patience: Patience,
    pub experience: Arc<Mutex<Experience>>,
    pub is_replica: bool,
}

/// One statement of those that write a batch; the number is its place in [`Prepared`].
///
/// [`Prepared`]: super::batch::Prepared
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Before(usize),
    Write,
    After(usize),
}

/// The statements that every delivery uses.
pub(super) struct Fixed {
    open: Statement,
    pub(super) land: Statement,
    pub(super) decide: Statement,
    pub(super) hold: Statement,
    pub(super) release: Statement,
    pub(super) sweep: Statement,
    pub(super) forget: Statement,
    pub(super) fold: Statement,
}

impl Target {
    /// # Errors
    /// When the schema `pgtandem` is not what this version expects, or the connection is lost.
    pub async fn new(
        node: NodeId,
        node_name: String,
        client: Client,
        tables: TargetTables,
        shapes: Shapes,
        role: TargetRole,
    ) -> Result<Self, DeliverError> {
        let fixed = Fixed {
            open: client.prepare(record::open(role.capture)).await?,
            land: client.prepare(record::land(role.capture)).await?,
            decide: client.prepare(record::DECIDE).await?,
            hold: client.prepare(record::HOLD).await?,
            release: client.prepare(record::RELEASE).await?,
            sweep: client.prepare(record::SWEEP).await?,
            forget: client.prepare(record::FORGET).await?,
            fold: client.prepare(record::FOLD).await?,
        };
        Ok(Self {
            node,
            node_name,
            client,
            tables,
            shapes,
            pid: role.pid,
            epoch: role.epoch,
            capture: role.capture,
            is_replica: role.is_replica,
            patience: role.patience,
            experience: role.experience,
            answers: Arc::default(),
            misshapen: 0,
            forms: HashMap::new(),
            fixed,
            stashes: AtomicU32::new(0),
            stale: AtomicBool::new(false),
            folded_at: Instant::now(),
        })
    }

    /// The tables changed: everything prepared for them is stale.
    pub fn replace_tables(&mut self, tables: TargetTables) {
        self.tables = tables;
        self.forms.clear();
        self.stale.store(false, Ordering::Relaxed);
    }

    /// Whether the tables should be read again before the next delivery.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    /// Writes a whole delivery in one transaction, set-wise and pipelined.
    ///
    /// # Errors
    /// Nothing was written, unless the error says that the outcome is unknown.
    pub async fn deliver(&mut self, id: LandingId, delivery: &Delivery<Image>) -> Result<Landing, DeliverError> {
        if let Some(text) = self.patience.change() {
            self.client.batch_execute(&text).await?;
        }
        let done = self.deliver_somehow(id, delivery).await;
        self.patience.learn(done.as_ref().err());
        self.misshapen = match &done {
            Err(error) if error.is_about_shape() => self.misshapen + 1,
            _ => 0,
        };
        done
    }

    async fn deliver_somehow(&mut self, id: LandingId, delivery: &Delivery<Image>) -> Result<Landing, DeliverError> {
        let simple = delivery.released.is_empty()
            && delivery.rows.iter().all(|row| !row.hold && !row.was_held && !is_partial(row))
            && delivery.truncates.iter().all(|truncate| !truncate.hold && !truncate.was_held);
        if !simple {
            return self.deliver_carefully(id, delivery).await;
        }
        match self.deliver_trusting(id, delivery).await {
            Err(error) if error.is_about_rows() => self.deliver_carefully(id, delivery).await,
            // The tables have been read anew and still do not take it: a trigger's SQL is broken, say, or a table is
            // gone. Whose keys it concerns is found out; all others go on.
            Err(error) if error.is_about_shape() && self.misshapen > 0 => self.deliver_carefully(id, delivery).await,
            done => done,
        }
    }

    /// Writes the rows as they are expected to be met, and if that fails, whatever is there.
    async fn deliver_trusting(&mut self, id: LandingId, delivery: &Delivery<Image>) -> Result<Landing, DeliverError> {
        let mut trust = self.experience().trust();
        let done = self.deliver_at_once(id, delivery, &mut trust).await;
        if trust == Trust::Nothing {
            return done;
        }
        match done {
            Ok(landing) => {
                self.experience().was_right();
                Ok(landing)
            }
            Err(error) => {
                if error.may_come_of_trust() || error.is_outcome_unknown() {
                    self.experience().was_surprised();
                }
                if !error.may_come_of_trust() {
                    return Err(error);
                }
                tracing::debug!(node = %self.node_name, "rows were not met as expected: {error}");
                trust = Trust::Nothing;
                self.deliver_at_once(id, delivery, &mut trust).await
            }
        }
    }

    fn experience(&self) -> MutexGuard<'_, Experience> {
        self.experience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `trust` becomes `Nothing` where nothing came of it.
    async fn deliver_at_once(
        &mut self,
        id: LandingId,
        delivery: &Delivery<Image>,
        trust: &mut Trust,
    ) -> Result<Landing, DeliverError> {
        let placement = Placement::new(&delivery.rows, every, &self.tables, &self.shapes, *trust);
        let forms = placement.forms();
        if !forms.iter().any(|form| matches!(form, Form::Update(..) | Form::Insert(..))) {
            *trust = Trust::Nothing;
        }
        self.prepare(&forms).await?;
        let truncate = self.truncate_text(delivery);
        let fold = self.fold_due(delivery);
        let this = &*self;
        let (mut before, mut position, mut durable) = (Position(0), Position(0), Position(0));
        let missed = Mutex::new(Vec::new());
        {
            let mut pipeline = Pipeline::new(&this.answers);
            pipeline.send(this.client.batch_execute("BEGIN")).await;
            pipeline.send(async { this.open(id, delivery).await.map(|position| before = position) }).await;
            if let Some(truncate) = &truncate {
                pipeline.send(this.client.batch_execute(truncate)).await;
            }
            let mut written = 0;
            while let Some(batch) = next_batch(placement.rows(written), &this.forms)? {
                written += batch.rows.len();
                if pipeline.has_failed() {
                    break;
                }
                let (missed, batch) = (&missed, Arc::new(batch));
                for step in this.steps(&batch) {
                    // A COPY that does not even begin, because the transaction has failed already, leaves the session
                    // one answer ahead: the library has asked for it twice.
                    if matches!((batch.form, step), (Form::Insert(..), Step::Write)) && !pipeline.catch_up().await {
                        break;
                    }
                    let batch = Arc::clone(&batch);
                    pipeline.send(async move { this.take_step(&batch, step, missed).await }).await;
                }
            }
            drop(placement);
            let mut decisions = &delivery.decisions[..];
            while let Some(some) = record::next_decisions(&mut decisions)
                && !pipeline.has_failed()
            {
                let json = record::decisions_json(some, &this.shapes, &this.tables)?;
                let decide = async move { this.client.execute(&this.fixed.decide, &[&json]).await.map(drop) };
                pipeline.send(decide).await;
            }
            pipeline.send(this.land(id, delivery, &[], &mut position)).await;
            if truncate.is_some() {
                pipeline.send(this.sweep_held(delivery.truncates.iter(), id)).await;
            }
            if let Some(below) = &fold {
                pipeline.send(async { this.client.execute(&this.fixed.fold, &[below]).await.map(drop) }).await;
            }
            pipeline.send(async { this.commit().await.map(|end| durable = end) }).await;
            pipeline.finish().await
        }
        .map_err(DeliverError::from)
        .map(|()| Landing {
            position,
            durable,
            before,
            missed: missed.into_inner().unwrap_or_default(),
            held: Vec::new(),
        })
    }

    /// Says how far the node's WAL goes then: the commit is in it, though not yet on disk. (Positions of an outbox are read in
    /// transactions that wait for the disk.)
    pub(super) async fn commit(&self) -> Result<Position, tokio_postgres::Error> {
        if self.capture == Capture::Trigger {
            return self.client.batch_execute("COMMIT").await.map(|()| Position(0));
        }
        let answer = self.client.simple_query("COMMIT; SELECT pg_catalog.pg_current_wal_insert_lsn()").await?;
        let end = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse::<PgLsn>().ok(),
            _ => None,
        });
        Ok(Position(end.map_or(0, u64::from)))
    }

    /// Opens the delivery; says where the node stands before anything is written.
    pub(super) async fn open(
        &self,
        id: LandingId,
        delivery: &Delivery<Image>,
    ) -> Result<Position, tokio_postgres::Error> {
        let deletes = delivery.rows.iter().any(|row| !row.state.is_present());
        let parameters: [&(dyn ToSql + Sync); 3] = [&self.epoch, &id.0, &deletes];
        let parameters = match self.capture {
            Capture::Wal => &parameters[..2],
            Capture::Trigger => &parameters[..],
        };
        let row = self.client.query_one(&self.fixed.open, parameters).await?;
        row.try_get::<_, PgLsn>(1).map(|position| Position(position.into()))
    }

    /// The statements that write a batch, in order.
    pub(super) fn steps(&self, batch: &Batch<'_>) -> Vec<Step> {
        let prepared = &self.forms[&batch.form];
        let before = (0..prepared.before.len()).map(Step::Before);
        let after = (0..prepared.after.len()).map(Step::After);
        before.chain([Step::Write]).chain(after).collect()
    }

    /// Keys whose delete found no row are added to `missed`.
    pub(super) async fn take_step(
        &self,
        batch: &Batch<'_>,
        step: Step,
        missed: &Mutex<Vec<Key>>,
    ) -> Result<(), tokio_postgres::Error> {
        let prepared = &self.forms[&batch.form];
        let key = prepared.key.iter().map(|at| &batch.parameters[*at] as &(dyn ToSql + Sync)).collect::<Vec<_>>();
        match step {
            Step::Before(at) => self.client.execute(&prepared.before[at], &key).await.map(drop),
            Step::After(at) => self.client.execute(&prepared.after[at], &key).await.map(drop),
            Step::Write => self.write(batch, missed).await,
        }
    }

    async fn write(&self, batch: &Batch<'_>, missed: &Mutex<Vec<Key>>) -> Result<(), tokio_postgres::Error> {
        let parameters: Vec<&(dyn ToSql + Sync)> = batch.parameters.iter().map(|array| array as _).collect();
        let statement = &self.forms[&batch.form].statement;
        match batch.form {
            Form::Upsert(..) | Form::Update(..) | Form::Move(_) => {
                self.client.execute(statement, &parameters).await.map(drop)
            }
            Form::Insert(..) => {
                let mut copy = std::pin::pin!(self.client.copy_in::<_, Bytes>(statement).await?);
                copy.send(batch.copy.clone()).await?;
                copy.finish().await.map(drop)
            }
            Form::Delete(_) => {
                let found = self.client.query(statement, &parameters).await?;
                if found.len() < batch.rows.len() {
                    let found: HashSet<i64> = found.iter().map(|row| row.get(0)).collect();
                    let rows = (1..).zip(&batch.rows).filter(|(number, _)| !found.contains(number));
                    let mut missed = missed.lock().expect("nobody panics while it is locked");
                    missed.extend(rows.map(|(_, placed)| placed.row.key.clone()));
                }
                Ok(())
            }
        }
    }

    pub(super) async fn land(
        &self,
        id: LandingId,
        delivery: &Delivery<Image>,
        held: &[record::Held],
        position: &mut Position,
    ) -> Result<(), tokio_postgres::Error> {
        let cover: Vec<PgLsn> = delivery.cover.0.iter().map(|position| PgLsn::from(position.0)).collect();
        let acknowledged = PgLsn::from(delivery.acknowledged.0);
        let rows = i32::try_from(delivery.rows.len()).unwrap_or(i32::MAX);
        let held = held.iter().map(|held| held.key.clone()).collect();
        let nowhere = Position(0);
        let landed = Landed { position: nowhere, durable: nowhere, held, missed: Vec::new(), before: nowhere };
        let wrote = delivery.wrote(&landed);
        let wrote = wrote.hashes().map(record::Hashes);
        let parameters: [&(dyn ToSql + Sync); 6] = [&id.0, &self.epoch, &cover, &acknowledged, &rows, &wrote];
        let row = self.client.query_one(&self.fixed.land, &parameters).await?;
        *position = Position(row.try_get::<_, PgLsn>(0)?.into());
        Ok(())
    }

    /// Once a second the landings that nobody needs any more go with a delivery.
    fn fold_due(&mut self, delivery: &Delivery<Image>) -> Option<PgLsn> {
        let below = delivery.fold_below?;
        if self.folded_at.elapsed() < Duration::from_secs(1) {
            return None;
        }
        self.folded_at = Instant::now();
        Some(PgLsn::from(below.0))
    }

    pub(super) fn truncate_text(&self, delivery: &Delivery<Image>) -> Option<String> {
        let due = delivery.truncates.iter().filter(|truncate| !truncate.hold);
        let names: Vec<_> = due.filter_map(|t| self.tables.get(&t.table)).map(|table| &table.name).collect();
        (!names.is_empty()).then(|| sql::truncate(names))
    }

    /// Whether a landing is there: what became of a delivery whose answer was lost.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn find_landing(client: &Client, id: LandingId) -> Result<Option<Position>, tokio_postgres::Error> {
        let row = client.query_opt("SELECT position FROM pgtandem.landing WHERE id = $1", &[&id.0]).await?;
        row.map(|row| row.try_get::<_, PgLsn>(0).map(|position| Position(position.into()))).transpose()
    }
}

fn every(_: &DeliveryRow<Image>) -> bool {
    true
}
