//! The delivery for when something in it was refused: part by part behind savepoints, so that one row that the target
//! rejects is held and everything else goes on. Slow, and rare.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use hub::{Delivery, DeliveryRow, DeliveryTruncate, Key, Position, State};

use super::batch::{is_partial, next_batch};
use super::error::DeliverError;
use super::placement::{Form, Placed, Placement};
use super::record::{Held, decisions_json, next_decisions};
use super::session::{Landing, LandingId, Target};
use super::trust::Trust;
use crate::capture::Image;
use crate::sql::{self, Ident};

/// What PostgreSQL says of a table that is not there.
const UNDEFINED_TABLE: &str = "42P01";

/// Deletes that found no row.
type Missed = Mutex<Vec<Key>>;

/// Rows that the target rejected together, and what it said.
struct Rejected<'a> {
    rows: Vec<Placed<'a>>,
    error: DeliverError,
}

impl Rejected<'_> {
    fn held(&self) -> impl Iterator<Item = Held> {
        let rows = self.rows.iter().filter(|placed| !matches!(placed.form, Form::Move(_)));
        rows.map(|placed| Held {
            key: placed.row.key.clone(),
            reason: self.error.to_string(),
            sqlstate: self.error.sqlstate(),
        })
    }
}

impl Target {
    pub(super) async fn deliver_carefully(
        &mut self,
        id: LandingId,
        delivery: &Delivery<Image>,
    ) -> Result<Landing, DeliverError> {
        let written = self.write_carefully(id, delivery).await;
        if written.is_err() {
            // The session may be inside a transaction; if it is gone there is nothing to roll back.
            drop(self.client.batch_execute("ROLLBACK").await);
        }
        written
    }

    async fn write_carefully(&mut self, id: LandingId, delivery: &Delivery<Image>) -> Result<Landing, DeliverError> {
        let placement = Placement::new(&delivery.rows, is_whole, &self.tables, &self.shapes, Trust::Nothing);
        let placed: Vec<_> = placement.rows(0).collect();
        let (placed, misfits) = self.prepare_what_fits(&placed).await?;
        self.client.batch_execute("BEGIN").await?;
        let before = self.open(id, delivery).await?;
        let missed = Mutex::new(Vec::new());
        for key in &delivery.released {
            self.forget(key).await?;
        }
        let mut held = self.truncate_carefully(delivery).await?;
        held.extend(delivery.rows.iter().filter(|row| row.hold).map(paused));
        held.extend(misfits);
        held.extend(delivery.rows.iter().filter(|row| !row.hold && is_partial(row)).map(incomplete));
        held.extend(self.write_units(&placed, &missed).await?);
        let refused: HashSet<&Key> = held.iter().map(|held| &held.key).collect();
        let mut decisions = &delivery.decisions[..];
        while let Some(some) = next_decisions(&mut decisions) {
            let json = decisions_json(some, &self.shapes, &self.tables)?;
            self.client.execute(&self.fixed.decide, &[&json]).await?;
            self.answers.fetch_add(1, Ordering::Relaxed);
        }
        let mut position = Position(0);
        self.land(id, delivery, &held, &mut position).await?;
        for row in delivery.rows.iter().chain(&truncates(delivery)) {
            if refused.contains(&row.key) {
                let why = held.iter().find(|held| held.key == row.key).expect("just looked up");
                self.hold(id, row, why, &delivery.cover).await?;
            } else if row.was_held {
                self.release(&row.key, id).await?;
            }
        }
        let carried_out = |truncate: &&DeliveryTruncate| !refused.contains(&Key::whole_table(truncate.table));
        self.sweep_held(delivery.truncates.iter().filter(carried_out), id).await?;
        let durable = self.commit().await?;
        Ok(Landing { position, durable, before, missed: missed.into_inner().unwrap_or_default(), held })
    }

    /// Sets apart the rows of tables that are gone or have lost a column: they wait, the others go on.
    async fn prepare_what_fits<'a>(
        &mut self,
        placed: &[Placed<'a>],
    ) -> Result<(Vec<Placed<'a>>, Vec<Held>), DeliverError> {
        let (mut fitting, mut misfits): (Vec<Placed<'a>>, Vec<Held>) = (Vec::new(), Vec::new());
        for run in placed.chunk_by(|a, b| a.form == b.form) {
            match self.prepare(&[run[0].form]).await {
                Ok(()) => fitting.extend(run),
                Err(error) if error.is_about_shape() => {
                    let held = |placed: &Placed<'_>| Held {
                        key: placed.row.key.clone(),
                        reason: error.to_string(),
                        sqlstate: Some(error.sqlstate().unwrap_or_else(|| UNDEFINED_TABLE.to_owned())),
                    };
                    misfits.extend(run.iter().map(held));
                }
                Err(error) => return Err(error),
            }
        }
        // The halves of a key change stand or fall together, also when they come in different forms.
        let apart: HashSet<Key> = misfits.iter().map(|held| held.key.clone()).collect();
        let (with_them, fitting): (Vec<_>, Vec<_>) =
            fitting.into_iter().partition(|placed| placed.row.pair.as_ref().is_some_and(|pair| apart.contains(pair)));
        for placed in with_them {
            let partner = misfits.iter().find(|held| Some(&held.key) == placed.row.pair.as_ref());
            let (reason, sqlstate) =
                partner.map(|held| (held.reason.clone(), held.sqlstate.clone())).unwrap_or_default();
            misfits.push(Held { key: placed.row.key.clone(), reason, sqlstate });
        }
        Ok((fitting, misfits))
    }

    /// TRUNCATE, or, where an unlinked table refers to one of the tables, DELETE of all rows; what is refused is held.
    async fn truncate_carefully(&self, delivery: &Delivery<Image>) -> Result<Vec<Held>, DeliverError> {
        let all = truncates(delivery);
        let mut held: Vec<Held> = all.iter().filter(|row| row.hold).map(paused).collect();
        let Some(text) = self.truncate_text(delivery) else { return Ok(held) };
        if self.attempt(&Missed::default(), async { Ok(self.client.batch_execute(&text).await?) }).await?.is_ok() {
            return Ok(held);
        }
        for row in all.iter().filter(|row| !row.hold) {
            let Some(table) = self.tables.get(&row.key.table()) else { continue };
            let text = sql::delete_all(&table.name);
            if let Err(error) =
                self.attempt(&Missed::default(), async { Ok(self.client.batch_execute(&text).await?) }).await?
            {
                held.push(Held { key: row.key.clone(), reason: error.to_string(), sqlstate: error.sqlstate() });
            }
        }
        Ok(held)
    }

    /// Writes all rows; what is left over is rejected. The halves of a key change stand or fall together.
    async fn write_units(&self, placed: &[Placed<'_>], missed: &Missed) -> Result<Vec<Held>, DeliverError> {
        let (paired, single): (Vec<_>, Vec<_>) = placed.iter().copied().partition(|placed| placed.row.pair.is_some());
        let mut rejected = Vec::new();
        for run in single.chunk_by(|a, b| a.form == b.form) {
            self.write_part(run, &mut rejected, missed).await?;
        }
        for unit in pairs(&paired) {
            if let Err(error) = self.attempt(missed, self.write_rows(&unit, missed)).await? {
                rejected.push(Rejected { rows: unit, error });
            }
        }
        self.write_rejected_again(rejected, missed).await
    }

    /// Halves what is refused until single rows are left.
    async fn write_part<'a>(
        &self,
        part: &[Placed<'a>],
        rejected: &mut Vec<Rejected<'a>>,
        missed: &Missed,
    ) -> Result<(), DeliverError> {
        let mut parts = vec![part];
        while let Some(part) = parts.pop() {
            let Err(error) = self.attempt(missed, self.write_rows(part, missed)).await? else { continue };
            if error.asks_for_reinsert() && self.try_reinsert(part, missed).await? {
                continue;
            }
            if part.len() == 1 || self.is_hopeless(&error, part, missed).await? {
                rejected.push(Rejected { rows: part.to_vec(), error });
            } else {
                let (left, right) = part.split_at(part.len() / 2);
                parts.extend([right, left]);
            }
        }
        Ok(())
    }

    /// When the table itself is not what it was there is no use in trying every row.
    async fn is_hopeless(
        &self,
        error: &DeliverError,
        part: &[Placed<'_>],
        missed: &Missed,
    ) -> Result<bool, DeliverError> {
        if !error.is_about_table() {
            return Ok(false);
        }
        self.stale.store(true, Ordering::Relaxed);
        let first = self.attempt(missed, self.write_rows(&part[..1], missed)).await?;
        Ok(first.is_err_and(|error| error.is_about_table()))
    }

    /// Rows refused one by one may be accepted together: two that swap a unique value, or a row whose value another
    /// one gave up later in the same delivery. Those are tried as often as it helps some.
    async fn write_rejected_again(
        &self,
        mut rejected: Vec<Rejected<'_>>,
        missed: &Missed,
    ) -> Result<Vec<Held>, DeliverError> {
        let all: Vec<Placed<'_>> = rejected.iter().flat_map(|rejected| rejected.rows.iter().copied()).collect();
        if all.is_empty() || self.try_reinsert(&all, missed).await? {
            return Ok(Vec::new());
        }
        loop {
            let before = rejected.len();
            let mut left = Vec::new();
            // Values often move along a row of keys: whoever comes last has to go first.
            for unit in rejected.into_iter().rev() {
                match self.attempt(missed, self.write_rows(&unit.rows, missed)).await? {
                    Ok(()) => {}
                    Err(error) => left.push(Rejected { error, ..unit }),
                }
            }
            if left.is_empty() || left.len() == before {
                return self.without_impossible_keys(left, missed).await;
            }
            rejected = left;
        }
    }

    /// A key that the column's type cannot hold here is not here: there is nothing to delete, and the row that takes
    /// another key has none to give up.
    async fn without_impossible_keys(
        &self,
        rejected: Vec<Rejected<'_>>,
        missed: &Missed,
    ) -> Result<Vec<Held>, DeliverError> {
        let mut held = Vec::new();
        for unit in &rejected {
            let mut possible = Vec::new();
            for placed in &unit.rows {
                if !self.is_impossible(placed, &unit.error, missed).await? {
                    possible.push(*placed);
                }
            }
            let settled = possible.len() < unit.rows.len()
                && self.attempt(missed, self.write_rows(&possible, missed)).await?.is_ok();
            if !settled {
                held.extend(unit.held());
            }
        }
        Ok(held)
    }

    async fn is_impossible(
        &self,
        placed: &Placed<'_>,
        error: &DeliverError,
        missed: &Missed,
    ) -> Result<bool, DeliverError> {
        // Class 22, data exceptions: what a text is cast to has no such value.
        let (Form::Delete(id) | Form::Move(id), true) =
            (placed.form, error.sqlstate().is_some_and(|state| state.starts_with("22")))
        else {
            return Ok(false);
        };
        let key = self.tables[&id].key_columns();
        let values = key_parameters(std::slice::from_ref(placed), key.len());
        let parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = values.iter().map(|v| v as _).collect();
        let probe = sql::probe_values(&key);
        let read = async { Ok(self.client.execute(&probe, &parameters).await.map(drop)?) };
        Ok(self.attempt(missed, read).await?.is_err())
    }

    async fn write_rows(&self, rows: &[Placed<'_>], missed: &Missed) -> Result<(), DeliverError> {
        let mut written = 0;
        while let Some(batch) = next_batch(rows[written..].iter().copied(), &self.forms)? {
            written += batch.rows.len();
            for step in self.steps(&batch) {
                self.take_step(&batch, step, missed).await?;
                self.answers.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Where foreign keys are enforced, deleting a row that others refer to would delete or change them, too.
    async fn try_reinsert(&self, rows: &[Placed<'_>], missed: &Missed) -> Result<bool, DeliverError> {
        let is_referred_to = |placed: &Placed<'_>| {
            let table = self.tables.get(&placed.row.key.table());
            table.is_some_and(|table| !table.referrers.is_empty())
        };
        if rows.iter().any(is_referred_to) {
            return Ok(false);
        }
        Ok(self.attempt(missed, self.reinsert(rows, missed)).await?.is_ok())
    }

    /// Deletes the rows first and then writes them, so that no row is in another one's way. Columns that only this
    /// node has are put back.
    async fn reinsert(&self, rows: &[Placed<'_>], missed: &Missed) -> Result<(), DeliverError> {
        let mut put_back = Vec::new();
        for run in rows.chunk_by(|a, b| a.form == b.form) {
            let Form::Upsert(id, shape) = run[0].form else { continue };
            let table = &self.tables[&id];
            let key = table.key_columns();
            let own = table.own_columns(&self.shapes.get(shape));
            let values = key_parameters(run, key.len());
            let parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = values.iter().map(|v| v as _).collect();
            if own.is_empty() {
                self.client.execute(&sql::delete(&table.name, &key), &parameters).await?;
                continue;
            }
            let stash = Ident::new(format!("pgtandem_stash_{}", self.stashes.fetch_add(1, Ordering::Relaxed)));
            let [create, fill] = sql::stash(&table.name, &key, &stash);
            self.client.batch_execute(&create).await?;
            self.client.execute(&fill, &parameters).await?;
            put_back.push(sql::unstash(&table.name, &key, &own, &stash));
        }
        self.write_rows(rows, missed).await?;
        for text in put_back {
            self.client.batch_execute(&text).await?;
        }
        Ok(())
    }

    /// Runs `work` behind a savepoint: `Ok(Err)` when rows were refused, `Err` when the delivery itself cannot go on.
    async fn attempt(
        &self,
        missed: &Missed,
        work: impl Future<Output = Result<(), DeliverError>>,
    ) -> Result<Result<(), DeliverError>, DeliverError> {
        let before = missed.lock().expect("nobody panics while it is locked").len();
        self.client.batch_execute("SAVEPOINT part; SET CONSTRAINTS ALL DEFERRED").await?;
        let done = async {
            work.await?;
            // What would be refused at COMMIT would take everything else with it.
            Ok::<_, DeliverError>(self.client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?)
        };
        match done.await {
            Ok(()) => {
                self.client.batch_execute("RELEASE SAVEPOINT part").await?;
                Ok(Ok(()))
            }
            Err(error) if error.is_about_rows() || error.is_about_shape() => {
                self.client.batch_execute("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part").await?;
                missed.lock().expect("nobody panics while it is locked").truncate(before);
                Ok(Err(error))
            }
            Err(error) => Err(error),
        }
    }
}

fn is_whole(row: &DeliveryRow<Image>) -> bool {
    !row.hold && !is_partial(row)
}

/// A delivery's truncates as rows: what is held of one is stored under the key of the whole table.
fn truncates(delivery: &Delivery<Image>) -> Vec<DeliveryRow<Image>> {
    delivery.truncates.iter().map(DeliveryRow::of_truncate).collect()
}

/// Why a key of a paused table is held.
pub const PAUSED: &str = "the table is paused";

fn paused(row: &DeliveryRow<Image>) -> Held {
    Held { key: row.key.clone(), reason: PAUSED.to_owned(), sqlstate: None }
}

fn incomplete(row: &DeliveryRow<Image>) -> Held {
    let reason = "a large value that the change left alone is not known: the table's REPLICA IDENTITY is not FULL on the \
                  node it was made on, and the row is gone there";
    Held { key: row.key.clone(), reason: reason.to_owned(), sqlstate: None }
}

fn key_parameters(rows: &[Placed<'_>], parts: usize) -> Vec<super::arrays::TextArray> {
    let mut arrays: Vec<_> = (0..parts).map(|_| super::arrays::TextArray::default()).collect();
    for placed in rows {
        for (raw, array) in crate::capture::key::raw_parts(placed.row.key.bytes()).zip(&mut arrays) {
            array.push_raw(raw);
        }
    }
    arrays
}

/// Rows that belong together; a half whose partner is not in the delivery stands alone.
fn pairs<'a>(rows: &[Placed<'a>]) -> Vec<Vec<Placed<'a>>> {
    let mut units: Vec<Vec<Placed<'a>>> = Vec::new();
    // Both of a unit's keys lead to it.
    let mut unit_of: HashMap<&Key, usize> = HashMap::new();
    for placed in rows {
        let keys = || std::iter::once(&placed.row.key).chain(&placed.row.pair);
        let known = keys().find_map(|key| unit_of.get(key).copied());
        let at = known.unwrap_or_else(|| {
            units.push(Vec::new());
            units.len() - 1
        });
        for key in keys() {
            unit_of.entry(key).or_insert(at);
        }
        units[at].push(*placed);
    }
    for unit in &mut units {
        unit.sort_by_key(|placed| matches!(placed.row.state, State::Present(_)));
    }
    units
}
