//! `pgtandem.merge` and `pgtandem.merged_rows`: what a merge did here, as long as it can be undone.

use crate::sql::Spelling;
use std::time::SystemTime;
use tokio_postgres::types::Json;
use tokio_postgres::{Error, GenericClient};

/// The merge of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeRow {
    pub table_id: i32,
    pub copied: i64,
    pub overwritten: i64,
    /// When it last wrote something here.
    pub last_at: SystemTime,
    pub confirmed_at: Option<SystemTime>,
}

/// A row that it inserted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedRow {
    /// Of the columns and in the order of [`Spelling::key`].
    pub key: Vec<String>,
    /// Of its spelling as it was written.
    pub hash: i64,
}

/// Rows that it inserted in one transaction, or what is left of them.
#[derive(Debug, Clone)]
pub struct MergedRows {
    pub id: i64,
    pub spelling: Spelling,
    pub rows: Vec<MergedRow>,
}

/// So many are kept in one row of `pgtandem.merged_rows`.
pub const MERGED_ROWS: usize = 4096;

/// Rows that are to be kept, packed.
#[derive(Debug, Default)]
pub struct PackedRows {
    packed: Vec<Vec<u8>>,
    /// How many are in the last one.
    last: usize,
}

impl PackedRows {
    pub fn push<'k>(&mut self, hash: i64, key: impl Iterator<Item = &'k str>) {
        if self.packed.is_empty() || self.last == MERGED_ROWS {
            self.packed.push(Vec::new());
            self.last = 0;
        }
        self.last += 1;
        let Some(bytes) = self.packed.last_mut() else { return };
        bytes.extend_from_slice(&hash.to_be_bytes());
        for text in key {
            bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.packed.len().saturating_sub(1) * MERGED_ROWS + self.last
    }
}

/// `width`: how many columns the key has. Ends where the bytes are not what [`PackedRows`] makes.
fn unpack(mut bytes: &[u8], width: usize) -> Vec<MergedRow> {
    let mut rows = Vec::new();
    while let Some((hash, mut rest)) = bytes.split_first_chunk::<8>() {
        let mut key = Vec::with_capacity(width);
        for _ in 0..width {
            let Some((length, after)) = rest.split_first_chunk::<4>() else { return rows };
            let Some((text, after)) = after.split_at_checked(u32::from_be_bytes(*length) as usize) else { return rows };
            key.push(String::from_utf8_lossy(text).into_owned());
            rest = after;
        }
        rows.push(MergedRow { key, hash: i64::from_be_bytes(*hash) });
        bytes = rest;
    }
    rows
}

/// Counts what one transaction of a merge wrote.
pub async fn note_merged(
    client: &impl GenericClient,
    table_id: i32,
    copied: u64,
    overwritten: u64,
) -> Result<(), Error> {
    const QUERY: &str = "
        INSERT INTO pgtandem.merge AS m (table_id, copied, overwritten) VALUES ($1, $2, $3)
        ON CONFLICT (table_id) DO UPDATE SET copied = m.copied + excluded.copied,
            overwritten = m.overwritten + excluded.overwritten, last_at = excluded.last_at, confirmed_at = NULL";
    client.execute(QUERY, &[&table_id, &copied.cast_signed(), &overwritten.cast_signed()]).await?;
    Ok(())
}

pub async fn list_merges(client: &impl GenericClient) -> Result<Vec<MergeRow>, Error> {
    const QUERY: &str = "SELECT table_id, copied, overwritten, last_at, confirmed_at FROM pgtandem.merge
                         ORDER BY table_id";
    let rows = client.query(QUERY, &[]).await?;
    let all = rows.iter().map(|row| MergeRow {
        table_id: row.get(0),
        copied: row.get(1),
        overwritten: row.get(2),
        last_at: row.get(3),
        confirmed_at: row.get(4),
    });
    Ok(all.collect())
}

/// They stay from now on, and what only undoing them needs goes: all, or those of tables that have been linked for more
/// than so many days.
pub async fn confirm_merges(client: &impl GenericClient, older_than_days: Option<f64>) -> Result<(), Error> {
    const CONFIRM: &str = "
        UPDATE pgtandem.merge AS m SET confirmed_at = pg_catalog.clock_timestamp()
        WHERE m.confirmed_at IS NULL AND ($1::float8 IS NULL OR EXISTS (
            SELECT FROM pgtandem.linked_table AS t WHERE t.id = m.table_id AND t.state = 'live'
              AND t.linked_at < pg_catalog.now() - $1 * interval '1 day'))";
    const FORGET: &str = "
        DELETE FROM pgtandem.merged_rows AS r USING pgtandem.merge AS m
        WHERE m.table_id = r.table_id AND m.confirmed_at IS NOT NULL";
    client.execute(CONFIRM, &[&older_than_days]).await?;
    client.execute(FORGET, &[]).await?;
    Ok(())
}

pub async fn delete_merge(client: &impl GenericClient, table_id: i32) -> Result<(), Error> {
    client.execute("DELETE FROM pgtandem.merged_rows WHERE table_id = $1", &[&table_id]).await?;
    client.execute("DELETE FROM pgtandem.merge WHERE table_id = $1", &[&table_id]).await?;
    Ok(())
}

/// In the transaction that inserted them.
pub async fn insert_merged_rows(
    client: &impl GenericClient,
    table_id: i32,
    spelling: &Spelling,
    rows: &PackedRows,
) -> Result<(), Error> {
    const QUERY: &str = "INSERT INTO pgtandem.merged_rows (table_id, spelling, rows)
                         SELECT $1, $2, r.rows FROM unnest($3::bytea[]) AS r(rows)";
    if rows.is_empty() {
        return Ok(());
    }
    client.execute(QUERY, &[&table_id, &Json(spelling), &rows.packed]).await?;
    Ok(())
}

/// The last ones of the table that were inserted before those with the number `before`.
pub async fn read_merged_rows(
    client: &impl GenericClient,
    table_id: i32,
    before: i64,
) -> Result<Option<MergedRows>, Error> {
    const QUERY: &str = "SELECT id, spelling, rows FROM pgtandem.merged_rows WHERE table_id = $1 AND id < $2
                         ORDER BY id DESC LIMIT 1";
    let Some(row) = client.query_opt(QUERY, &[&table_id, &before]).await? else { return Ok(None) };
    let Json(spelling) = row.try_get::<_, Json<Spelling>>(1)?;
    let rows = unpack(row.get(2), spelling.key.len());
    Ok(Some(MergedRows { id: row.get(0), spelling, rows }))
}

/// Only these are left; none: the record goes.
pub async fn keep_merged_rows<'r>(
    client: &impl GenericClient,
    id: i64,
    rows: impl Iterator<Item = &'r MergedRow>,
) -> Result<(), Error> {
    let mut left = PackedRows::default();
    for row in rows {
        left.push(row.hash, row.key.iter().map(String::as_str));
    }
    match left.packed.as_slice() {
        [] => client.execute("DELETE FROM pgtandem.merged_rows WHERE id = $1", &[&id]).await?,
        all => client.execute("UPDATE pgtandem.merged_rows SET rows = $2 WHERE id = $1", &[&id, &all.concat()]).await?,
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_rows_are_read_as_they_were() {
        let row = |hash, key: [&str; 2]| MergedRow { key: key.map(str::to_owned).to_vec(), hash };
        let rows = [row(-1, ["", "ü\\\""]), row(i64::MAX, ["2", "\n"])];
        let mut packed = PackedRows::default();
        for row in &rows {
            packed.push(row.hash, row.key.iter().map(String::as_str));
        }
        assert_eq!(unpack(&packed.packed[0], 2), rows);
        assert_eq!(unpack(&packed.packed[0][..19], 2), rows[..0]);
    }

    #[test]
    fn packed_rows_come_in_portions() {
        let mut packed = PackedRows::default();
        for hash in 0..=MERGED_ROWS {
            packed.push(hash as i64, ["1"].into_iter());
        }
        let portions: Vec<usize> = packed.packed.iter().map(|bytes| unpack(bytes, 1).len()).collect();
        assert_eq!(portions, [MERGED_ROWS, 1]);
    }
}
