//! The transactions that settle keys. They count as the node's own.

use super::differences::Key;
use super::{Case, KIND, Mark, Place, Settled, Settling, Verdict, count};
use crate::connect::FaultClass;
use crate::lifecycle::LifecycleError;
use crate::lifecycle::error::On;
use crate::lifecycle::locks::{Attempts, is_lock_timeout, set_lock_timeout};
use crate::link::{self, MergeDecision};
use crate::sql::{self, Ident};
use std::collections::HashSet;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

const DOING: &str = "settling rows";

impl Settling {
    /// Says which keys were not what they had been when they were read.
    pub(super) async fn write<'k>(
        &self,
        place: usize,
        cases: &[&Case<'k>],
        marks: &[Mark],
        sum: &mut Settled,
    ) -> Result<Vec<&'k Key>, LifecycleError> {
        let (mut again, mut waiting) = (Vec::new(), vec![cases]);
        while let Some(some) = waiting.pop().filter(|some| !some.is_empty()) {
            match self.patiently(place, some, marks).await {
                Ok(done) => {
                    for (at, case) in some.iter().enumerate() {
                        match done.contains(&at) {
                            true => count(sum, case.verdict),
                            false => again.push(case.key),
                        }
                    }
                }
                Err(error) if is_about_a_row(&error) && some.len() > 1 => {
                    let (first, second) = some.split_at(some.len() / 2);
                    waiting.extend([second, first]);
                }
                Err(error) if is_about_a_row(&error) => {
                    sum.refused += 1;
                    sum.refused_why.get_or_insert_with(|| error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(again)
    }

    /// As often as it takes to get in between the application's transactions. Where it does not, the keys are read
    /// again.
    async fn patiently(
        &self,
        place: usize,
        cases: &[&Case<'_>],
        marks: &[Mark],
    ) -> Result<HashSet<usize>, LifecycleError> {
        let at = &self.places[place];
        let mut attempts = Attempts::new();
        loop {
            let error = match self.at_once(at, cases, marks).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            at.writer.client.batch_execute("ROLLBACK").await.on(&at.name, DOING)?;
            if !is_lock_timeout(&error) {
                return Err(error);
            }
            if !attempts.again().await {
                return Ok(HashSet::new());
            }
        }
    }

    async fn at_once(
        &self,
        place: &Place,
        cases: &[&Case<'_>],
        marks: &[Mark],
    ) -> Result<HashSet<usize>, LifecycleError> {
        let client = &place.writer.client;
        let role = if place.replica_role { "; SET LOCAL session_replication_role = replica" } else { "" };
        // On disk: what tells that a key is to be settled may be forgotten next.
        let begin = format!("BEGIN; SET LOCAL synchronous_commit = local; {}{role}", set_lock_timeout());
        client.batch_execute(&begin).await.on(&place.name, DOING)?;
        let mut done = HashSet::new();
        for gone in [false, true] {
            let of: Vec<usize> =
                (0..cases.len()).filter(|at| matches!(cases[*at].verdict, Verdict::Gone { .. }) == gone).collect();
            if !of.is_empty() {
                done.extend(self.statement(place, cases, &of, gone).await?);
            }
        }
        // The state of another place stands: what this one holds of the key is older.
        let number = self.number_of(place);
        for case in done.iter().map(|at| cases[*at]).filter(|case| matches!(case.verdict, Verdict::Gone { .. })) {
            if self.known.is_held(number, &case.bytes) {
                link::delete_held(client, self.id, &case.bytes).await.on(&place.name, DOING)?;
            }
        }
        let decisions = |at: &usize| self.decisions(cases[*at], marks);
        let decisions: Vec<MergeDecision> = done.iter().flat_map(decisions).collect();
        let inserted = link::insert_merge_decisions(client, self.id, (KIND, &self.policy), &decisions).await;
        inserted.on(&place.name, DOING)?;
        client.batch_execute("COMMIT").await.on(&place.name, DOING)?;
        Ok(done)
    }

    fn number_of(&self, place: &Place) -> usize {
        self.places.iter().position(|other| other.number == place.number).unwrap_or_default()
    }

    /// Of keys that are as they should be, what a place holds that is older.
    pub(super) async fn forget_stale<'c, 'k: 'c>(
        &self,
        cases: impl Iterator<Item = &'c Case<'k>>,
    ) -> Result<(), LifecycleError> {
        for case in cases {
            for (_, place) in self.places.iter().enumerate().filter(|(at, _)| self.known.is_stale(*at, &case.bytes)) {
                forget_held(&place.writer.client, self.id, &case.bytes).await.on(&place.name, DOING)?;
            }
        }
        Ok(())
    }

    /// Which of them were written.
    async fn statement(
        &self,
        place: &Place,
        cases: &[&Case<'_>],
        of: &[usize],
        gone: bool,
    ) -> Result<Vec<usize>, LifecycleError> {
        let number = self.number_of(place);
        let key = place.shape.key_columns();
        let texts: Vec<Vec<&str>> = of.iter().map(|at| self.texts(number, cases[*at].key)).collect();
        let mut values: Vec<Vec<&str>> =
            (0..key.len()).map(|column| texts.iter().map(|texts| texts[column]).collect()).collect();
        let version = |at: &usize| cases[*at].rows[number].as_ref().map_or("", |row| row.version.as_str());
        values.push(of.iter().map(version).collect());
        let parameters: Vec<&(dyn ToSql + Sync)> = values.iter().map(|values| values as _).collect();
        let query = match gone {
            true => sql::remove(&place.shape.name, &key),
            false => sql::touch(&place.shape.name, &key, &touched(place)?),
        };
        let rows = place.writer.client.query(&query, &parameters).await.on(&place.name, DOING)?;
        let number_of = |row: &tokio_postgres::Row| usize::try_from(row.get::<_, i64>(0) - 1).ok();
        Ok(rows.iter().filter_map(number_of).filter_map(|at| of.get(at).copied()).collect())
    }
}

/// On disk when it returns.
async fn forget_held(client: &Client, table: i32, key_bytes: &[u8]) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("BEGIN; SET LOCAL synchronous_commit = local").await?;
    link::delete_held(client, table, key_bytes).await?;
    client.batch_execute("COMMIT").await
}

/// A column that an UPDATE may set to what it is: not of the key, if there is another.
fn touched(place: &Place) -> Result<Ident, LifecycleError> {
    let shape = &place.shape;
    let mut columns: Vec<_> = shape.written_columns().filter(|column| !shape.written(column).is_fixed).collect();
    columns.sort_by_key(|column| shape.is_key(&column.name));
    columns.first().map(|column| column.name.clone()).ok_or_else(|| {
        LifecycleError::refused(
            format!("node {}: {} has no column that an UPDATE may set", place.name, shape.name.plain()),
            "insert the missing rows on the other nodes by hand",
        )
    })
}

fn is_about_a_row(error: &LifecycleError) -> bool {
    error.sqlstate().is_some_and(|state| FaultClass::of_sqlstate(state) == FaultClass::RowRejected)
}
