//! Rows that a node lacks go straight from one server's COPY into the other's.
//!
//! Where one of them cannot be written, because the application has something of its own there or a constraint refuses it,
//! ever smaller parts are tried, and the last of them row by row.

use super::copy::{goes_binary, pump};
use super::merge::{Counts, FIRST_BATCH, Merge, Place, Watched};
use super::write::{DOING, Outcome, PARTS, is_about_a_row};
use crate::catalog::{Column, Trigger, TriggerFiring};
use crate::lifecycle::error::On;
use crate::lifecycle::locks::is_lock_timeout;
use crate::lifecycle::settle::missing::{MissingBatch, MissingKeys, MissingRows, Way};
use crate::lifecycle::settle::winner::Winner;
use crate::lifecycle::{LifecycleError, OpenNode};
use crate::link::PackedRows;
use crate::sql::{self, Ident, WrittenColumn};
use futures::future::try_join_all;
use std::fmt::Write as _;
use tokio_postgres::types::ToSql;

/// So many rows are written in one transaction, for some tenths of a second: the application waits for it only where it
/// inserts one of their keys itself.
const ROWS_AT_ONCE: usize = 1 << 15;
/// Fewer where keys are long.
const KEY_BYTES: usize = 2 << 20;
/// From so few on a part is read and written key by key.
const FEW: usize = 500;
/// Keys of one integer are told by bits as long as they are not further apart than that on average.
const SPREAD: u64 = 64;

/// What goes one way, and the session that sees the snapshot it is read from.
pub(super) struct Lacking {
    pub way: Way,
    pub rows: MissingRows,
    pub reader: OpenNode,
}

impl Merge<'_> {
    /// Every node gets what it lacks, all at a time.
    pub(super) async fn copy_missing(
        &self,
        lacking: Vec<Lacking>,
        watched: &Watched<'_>,
    ) -> Result<Vec<Counts>, LifecycleError> {
        let mut by_place: Vec<Vec<Lacking>> = self.places.iter().map(|_| Vec::new()).collect();
        for one in lacking {
            by_place[one.way.to].push(one);
        }
        let fill = |all: Vec<Lacking>| async move {
            let mut sum = Counts::default();
            for mut one in all {
                loop {
                    let batch = one.rows.next(ROWS_AT_ONCE, KEY_BYTES)?;
                    if batch.len() == 0 {
                        break;
                    }
                    let keys = batch.len() as u64;
                    sum.add(self.copy_or_write(&one, batch).await?);
                    watched.add(keys);
                }
            }
            Ok(sum)
        };
        try_join_all(by_place.into_iter().map(fill)).await
    }

    async fn copy_or_write(&self, lacking: &Lacking, batch: MissingBatch) -> Result<Counts, LifecycleError> {
        // What one row keeps from being written is not tried again as a whole: it would all be copied once more.
        let is_for_parts = |error: &LifecycleError| is_about_a_row(error) || is_lock_timeout(error);
        let (mut sum, mut waiting) = (Counts::default(), vec![batch]);
        while let Some(some) = waiting.pop() {
            let to = lacking.way.to;
            match self.patiently(to, is_for_parts, async || self.copy_some(lacking, &some).await).await? {
                Outcome::Done(counts) => sum.add(counts),
                Outcome::NotAll if some.len() > FEW => {
                    waiting.extend(some.split(some.len().div_ceil(PARTS)).into_iter().rev())
                }
                Outcome::NotAll => sum.add(self.write_missing(to, &some).await?),
            }
        }
        Ok(sum)
    }

    /// In one transaction, with the note of what was written.
    async fn copy_some(&self, lacking: &Lacking, batch: &MissingBatch) -> Result<Outcome, LifecycleError> {
        let Way { from, to } = lacking.way;
        let (source, target) = (&self.places[from], &self.places[to]);
        let node = target.writer.name.as_str();
        let names =
            |columns: &[WrittenColumn]| columns.iter().map(|column| column.name.clone()).collect::<Vec<Ident>>();
        let (read, written) = (names(&source.columns), names(&target.columns));
        let binary = goes_binary((&source.shape, &read), (&target.shape, &written));
        let query = self.copy_out(from, batch, &read, binary);
        let into = sql::copy_in(&target.shape.name, &written, binary);
        self.begin(to).await?;
        let copied = pump((&lacking.reader, &query), (&target.writer, &into), DOING, |_| {}).await?;
        if copied != batch.len() as u64 {
            target.writer.client().batch_execute("ROLLBACK").await.on(node, DOING)?;
            return Ok(Outcome::NotAll);
        }
        let rows = match self.may_become_others(&lacking.way) {
            true => self.read_back(to, batch).await?,
            false => packed(batch),
        };
        if rows.len() != batch.len() {
            target.writer.client().batch_execute("ROLLBACK").await.on(node, DOING)?;
            return Ok(Outcome::NotAll);
        }
        let counts = Counts { copied, ..Counts::default() };
        self.commit(to, &rows, &[], counts).await?;
        Ok(Outcome::Done(counts))
    }

    /// Whether what is written may not have the hash that was compared.
    fn may_become_others(&self, way: &Way) -> bool {
        let (source, target) = (&self.places[way.from], &self.places[way.to]);
        let fires = |trigger: &Trigger| match trigger.firing {
            TriggerFiring::Always => true,
            TriggerFiring::Replica => target.replica_role,
            TriggerFiring::Origin => !target.replica_role,
            TriggerFiring::Disabled => false,
        };
        // A domain, or what a type is made of, may have other modifiers there though it is called the same.
        let is_made_of_others = |column: &Column| {
            !column.is_builtin() && (matches!(column.type_kind, 'd' | 'c') || matches!(column.category, 'A' | 'R'))
        };
        let has_such = |place: &Place| {
            place.columns.iter().filter_map(|column| place.shape.column(&column.name)).any(is_made_of_others)
        };
        target.shape.triggers.iter().any(fires) || has_such(source) || has_such(target) || self.is_of_another(way)
    }

    /// The hashes are those of the first node that has the row, which need not be the one whose row is copied: nor then need
    /// the spelling be the same.
    fn is_of_another(&self, way: &Way) -> bool {
        let preferred = matches!(self.winner, Winner::First { preferred } if preferred == Some(way.from));
        preferred && way.from > 0 && self.places.len() > 2 && !self.subject.is_spelled_as_compared()
    }

    /// What stands there now of what was just written: no more than there were keys.
    async fn read_back(&self, to: usize, batch: &MissingBatch) -> Result<PackedRows, LifecycleError> {
        let Place { writer, shape, columns, .. } = &self.places[to];
        let key: Vec<WrittenColumn> = self.subject.key.iter().map(|at| columns[*at].clone()).collect();
        let texts = column_by_column(batch, key.len());
        let parameters: Vec<&(dyn ToSql + Sync)> = texts.iter().map(|texts| texts as _).collect();
        let query = sql::hashes_of(&shape.name, &key, &self.subject.spelling_hash(to));
        let mut rows = PackedRows::default();
        for row in writer.client().query(&query, &parameters).await.on(&writer.name, DOING)? {
            rows.push(row.get(1), row.get::<_, Vec<&str>>(0).into_iter());
        }
        Ok(rows)
    }

    fn copy_out(&self, from: usize, batch: &MissingBatch, columns: &[Ident], binary: bool) -> String {
        let source = &self.places[from];
        let key: Vec<WrittenColumn> = self.subject.key.iter().map(|at| source.columns[*at].clone()).collect();
        if let MissingKeys::Integers(keys) = &batch.keys
            && let Some((first, bits)) = bits_of(keys)
        {
            return sql::copy_integers_out(&source.shape.name, columns, (&key[0].name, first, &bits), binary);
        }
        let texts = column_by_column(batch, key.len());
        let texts: Vec<Vec<&str>> = texts.iter().map(|texts| texts.iter().map(String::as_str).collect()).collect();
        sql::copy_keys_out(&source.shape.name, columns, &key, &texts, binary)
    }

    /// What cannot be written is held.
    async fn write_missing(&self, to: usize, batch: &MissingBatch) -> Result<Counts, LifecycleError> {
        let mut sum = Counts::default();
        for some in batch.split(FIRST_BATCH) {
            let keys = (0..some.len()).map(|at| vec![some.texts(at); self.places.len()]).collect();
            let rows = self.read(keys).await?;
            sum.add(self.write(to, &self.writes(&rows)[to]).await?);
        }
        Ok(sum)
    }
}

fn column_by_column(batch: &MissingBatch, width: usize) -> Vec<Vec<String>> {
    let mut columns = vec![Vec::with_capacity(batch.len()); width];
    for at in 0..batch.len() {
        for (column, text) in columns.iter_mut().zip(batch.texts(at)) {
            column.push(text);
        }
    }
    columns
}

fn packed(batch: &MissingBatch) -> PackedRows {
    let (mut rows, mut text) = (PackedRows::default(), String::new());
    for (at, spelling) in batch.spellings.iter().enumerate() {
        match &batch.keys {
            MissingKeys::Integers(keys) => {
                text.clear();
                let _ = write!(text, "{}", keys[at]);
                rows.push(*spelling, std::iter::once(text.as_str()));
            }
            MissingKeys::Texts(keys) => rows.push(*spelling, keys[at].iter().map(String::as_str)),
        }
    }
    rows
}

/// The first key, and a bit for each from there on; none: they are too far apart.
fn bits_of(keys: &[i64]) -> Option<(i64, Vec<u8>)> {
    let (first, last) = (*keys.iter().min()?, *keys.iter().max()?);
    let span = last.abs_diff(first).checked_add(1)?;
    if span > SPREAD * keys.len() as u64 {
        return None;
    }
    let mut bits = vec![0_u8; usize::try_from(span.div_ceil(8)).ok()?];
    for key in keys {
        let at = usize::try_from(key.abs_diff(first)).ok()?;
        bits[at / 8] |= 1 << (at % 8);
    }
    Some((first, bits))
}

#[cfg(test)]
mod tests {
    use super::bits_of;

    #[test]
    fn keys_that_are_close_together_are_bits() {
        assert_eq!(bits_of(&[-3, 5, -2]), Some((-3, vec![0b11, 0b1])));
        assert_eq!(bits_of(&[i64::MIN, i64::MAX]), None);
        assert_eq!(bits_of(&[0, 129]), None);
    }
}
