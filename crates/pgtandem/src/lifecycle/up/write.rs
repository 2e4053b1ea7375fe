//! One batch of merged rows on one node.

use super::merge::{Counts, Merge, Place, Write};
use super::own;
use crate::compare::ComparedRow;
use crate::connect::FaultClass;
use crate::lifecycle::LifecycleError;
use crate::lifecycle::error::On;
use crate::lifecycle::locks::{Attempts, busy, is_lock_timeout, set_lock_timeout};
use crate::link::{self, Contender, MergeDecision, PackedRows};
use crate::sql::{self, Ident};
use serde_json::{Map, Value as Json};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

pub(super) const DOING: &str = "merging rows";
/// So many rows are locked in one transaction at most, for some hundredths of a second. Of those that were not there nobody
/// waits for one.
const OVERWRITTEN_AT_ONCE: usize = 1000;
/// Behind savepoints each row is a round trip.
const ONE_BY_ONE: usize = 50;
/// Of a batch with such a row.
pub(super) const PARTS: usize = 8;

/// What came of a transaction.
pub(super) enum Outcome {
    Done(Counts),
    /// Some row is not what it was, or is refused.
    NotAll,
}

impl Merge<'_> {
    /// In transactions that are marked as ours, so that nothing of it travels back: set-wise, or where that does not
    /// go, row by row.
    pub(super) async fn write(&self, place: usize, writes: &[Write<'_>]) -> Result<Counts, LifecycleError> {
        let locks_some = writes.iter().any(|write| write.standing.is_some());
        let at_once = if locks_some { OVERWRITTEN_AT_ONCE } else { writes.len().max(1) };
        let (mut sum, mut waiting) = (Counts::default(), writes.chunks(at_once).rev().collect::<Vec<_>>());
        while let Some(some) = waiting.pop().filter(|some| !some.is_empty()) {
            let counts = match self.patiently(place, is_about_a_row, async || self.at_once(place, some).await).await? {
                Outcome::Done(counts) => counts,
                // One of a thousand should not make them all slow.
                Outcome::NotAll if some.len() > ONE_BY_ONE => {
                    waiting.extend(some.chunks(some.len().div_ceil(PARTS)).rev());
                    continue;
                }
                Outcome::NotAll => {
                    match self.patiently(place, |_| false, async || self.one_by_one(place, some).await).await? {
                        Outcome::Done(counts) => counts,
                        Outcome::NotAll => continue,
                    }
                }
            };
            sum.add(counts);
        }
        Ok(sum)
    }

    /// As often as it takes to get in between the application's transactions. `is_for_parts`: of an error that smaller
    /// attempts have to deal with.
    pub(super) async fn patiently(
        &self,
        place: usize,
        is_for_parts: impl Fn(&LifecycleError) -> bool,
        attempt: impl AsyncFn() -> Result<Outcome, LifecycleError>,
    ) -> Result<Outcome, LifecycleError> {
        let Place { writer, shape, .. } = &self.places[place];
        let mut attempts = Attempts::new();
        loop {
            let outcome = attempt().await;
            let Err(error) = outcome else { return outcome };
            writer.client().batch_execute("ROLLBACK").await.on(&writer.name, DOING)?;
            if is_for_parts(&error) {
                return Ok(Outcome::NotAll);
            }
            if !is_lock_timeout(&error) {
                return Err(error);
            }
            if !attempts.again().await {
                return Err(busy(writer, DOING, &shape.name).await);
            }
        }
    }

    pub(super) async fn begin(&self, place: usize) -> Result<(), LifecycleError> {
        let Place { writer, replica_role, .. } = &self.places[place];
        // What a crash of the server loses of this is lost together with our session, before anybody relies on it: see
        // `flush`.
        own::begin(writer, *replica_role, &[&set_lock_timeout(), "SET LOCAL synchronous_commit = off"], DOING).await
    }

    /// All that was written is on the node's disk when it returns. In the session that wrote it: should the server have
    /// crashed since, this fails, and the rows will be compared again. What a delivery begins with is in the WAL already,
    /// or the commit would not be waited for.
    pub(super) async fn flush(&self, place: usize) -> Result<(), LifecycleError> {
        let Place { writer, replica_role, .. } = &self.places[place];
        own::begin(writer, *replica_role, &["SET LOCAL synchronous_commit = local"], DOING).await?;
        writer.client().batch_execute("COMMIT").await.on(&writer.name, DOING)
    }

    async fn at_once(&self, place: usize, writes: &[Write<'_>]) -> Result<Outcome, LifecycleError> {
        let Place { writer, .. } = &self.places[place];
        let (client, node) = (writer.client(), writer.name.as_str());
        let (losing, missing): (Vec<&Write<'_>>, Vec<&Write<'_>>) =
            writes.iter().partition(|write| write.standing.is_some());
        self.begin(place).await?;
        let mut kept = PackedRows::default();
        let inserted = self.insert(place, &missing, &mut kept).await.on(node, DOING)?;
        let updated = self.overwrite(place, &losing).await.on(node, DOING)?;
        if inserted < missing.len() as u64 || updated < losing.len() as u64 {
            client.batch_execute("ROLLBACK").await.on(node, DOING)?;
            return Ok(Outcome::NotAll);
        }
        let decisions: Vec<MergeDecision> = losing.iter().filter_map(|write| self.decision(place, write)).collect();
        let counts = Counts { copied: inserted, overwritten: updated, held: 0 };
        self.commit(place, &kept, &decisions, counts).await?;
        Ok(Outcome::Done(counts))
    }

    /// What cannot be written now is held, and the hub judges it as it does every conflict.
    async fn one_by_one(&self, place: usize, writes: &[Write<'_>]) -> Result<Outcome, LifecycleError> {
        let Place { writer, .. } = &self.places[place];
        let (client, node) = (writer.client(), writer.name.as_str());
        let (mut counts, mut decisions, mut kept) = (Counts::default(), Vec::new(), PackedRows::default());
        self.begin(place).await?;
        for write in writes {
            client.batch_execute("SAVEPOINT row").await.on(node, DOING)?;
            let written = match write.standing {
                Some(_) => self.overwrite(place, &[write]).await,
                None => self.insert(place, &[write], &mut kept).await,
            };
            let refused = match written.on(node, DOING) {
                Ok(1) => None,
                Ok(_) => Some(not_there(write)),
                Err(error) if is_about_a_row(&error) => {
                    client.batch_execute("ROLLBACK TO SAVEPOINT row").await.on(node, DOING)?;
                    let state = error.sqlstate().unwrap_or(sql::NOT_WRITTEN).to_owned();
                    Some((error.without_node(node), state))
                }
                Err(error) => return Err(error),
            };
            client.batch_execute("RELEASE SAVEPOINT row").await.on(node, DOING)?;
            match refused {
                None => {
                    counts.copied += u64::from(write.standing.is_none());
                    counts.overwritten += u64::from(write.standing.is_some());
                    decisions.extend(self.decision(place, write));
                }
                Some((reason, sqlstate)) => {
                    self.hold(client, node, write, reason, sqlstate).await?;
                    counts.held += 1;
                }
            }
        }
        self.commit(place, &kept, &decisions, counts).await?;
        Ok(Outcome::Done(counts))
    }

    async fn hold(
        &self,
        client: &Client,
        node: &str,
        write: &Write<'_>,
        reason: String,
        sqlstate: String,
    ) -> Result<(), LifecycleError> {
        let key = self.key(write.from, write.row);
        let held = self.origin(write.from).held(&key, self.json(write.row), reason, Some(sqlstate));
        link::insert_held(client, &held).await.on(node, DOING)
    }

    /// With what undoing it will need. `kept`: what was inserted.
    pub(super) async fn commit(
        &self,
        place: usize,
        kept: &PackedRows,
        decisions: &[MergeDecision],
        counts: Counts,
    ) -> Result<(), LifecycleError> {
        let Place { writer, .. } = &self.places[place];
        let (client, node) = (writer.client(), writer.name.as_str());
        link::note_merged(client, self.id, counts.copied, counts.overwritten).await.on(node, DOING)?;
        link::insert_merged_rows(client, self.id, &self.subject.spelling(), kept).await.on(node, DOING)?;
        link::insert_merge_decisions(client, self.id, (link::MERGE, &self.policy), decisions).await.on(node, DOING)?;
        client.batch_execute("COMMIT").await.on(node, DOING)
    }

    /// `kept`: gets what was inserted.
    async fn insert(
        &self,
        place: usize,
        writes: &[&Write<'_>],
        kept: &mut PackedRows,
    ) -> Result<u64, tokio_postgres::Error> {
        if writes.is_empty() {
            return Ok(0);
        }
        let Place { writer, shape, columns, .. } = &self.places[place];
        let values = self.values(writes);
        let parameters: Vec<&(dyn ToSql + Sync)> = values.iter().map(|values| values as _).collect();
        let key: Vec<Ident> = self.subject.key.iter().map(|at| columns[*at].name.clone()).collect();
        let query = sql::insert_missing(&shape.name, columns, &key, &self.subject.spelling_hash(place));
        let inserted = writer.client().query(&query, &parameters).await?;
        for row in &inserted {
            kept.push(row.get(1), row.get::<_, Vec<&str>>(0).into_iter());
        }
        Ok(inserted.len() as u64)
    }

    async fn overwrite(&self, place: usize, writes: &[&Write<'_>]) -> Result<u64, tokio_postgres::Error> {
        if writes.is_empty() {
            return Ok(0);
        }
        let Place { writer, shape, columns, .. } = &self.places[place];
        let mut values = self.values(writes);
        values.push(writes.iter().map(|write| write.standing.map(|row| row.version.as_str())).collect());
        let parameters: Vec<&(dyn ToSql + Sync)> = values.iter().map(|values| values as _).collect();
        writer.client().execute(&sql::overwrite(&shape.name, columns), &parameters).await
    }

    /// Column by column.
    fn values<'r>(&self, writes: &[&Write<'r>]) -> Vec<Vec<Option<&'r str>>> {
        let column = |at: usize| writes.iter().map(|write| write.row.values[at].as_deref()).collect();
        (0..self.subject.columns.len()).map(column).collect()
    }

    /// None: nothing was overwritten.
    fn decision(&self, place: usize, write: &Write<'_>) -> Option<MergeDecision> {
        let standing = write.standing?;
        let (from, here) = (&self.places[write.from], &self.places[place]);
        let origin = self.origin(write.from);
        let key_bytes = origin.key_bytes(&self.key(write.from, write.row));
        let contender = |place: usize, row: &ComparedRow| {
            let origin = self.origin(place);
            Contender {
                node: origin.number,
                position: origin.position(),
                stamp: origin.taken_at,
                row: Some(self.json(row)),
            }
        };
        Some(MergeDecision {
            key: origin.key_json(&key_bytes),
            key_bytes,
            winner: contender(write.from, write.row),
            loser: contender(place, standing),
            why: self.winner.why((&from.name, write.row), (&here.name, standing), self.subject),
        })
    }

    fn json(&self, row: &ComparedRow) -> Json {
        let value = |value: &Option<String>| value.clone().map_or(Json::Null, Json::String);
        let columns = self.subject.columns.iter().zip(&row.values);
        Json::Object(columns.map(|(name, of)| (name.as_str().to_owned(), value(of))).collect::<Map<_, _>>())
    }
}

/// Reason and SQLSTATE of a row that was not written though nothing was wrong with it.
fn not_there(write: &Write<'_>) -> (String, String) {
    let (reason, sqlstate) = match write.standing {
        Some(_) => ("the row was written or deleted here while the tables were merged", sql::NOT_WRITTEN),
        None => ("the row, or a unique value of it, was there already when the tables were merged", "23505"),
    };
    (reason.to_owned(), sqlstate.to_owned())
}

pub(super) fn is_about_a_row(error: &LifecycleError) -> bool {
    error.sqlstate().is_some_and(|state| FaultClass::of_sqlstate(state) == FaultClass::RowRejected)
}
