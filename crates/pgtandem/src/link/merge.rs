//! `pgtandem.merge` and `pgtandem.merged_row`: what a merge did here, as long as it can be undone.

use std::time::SystemTime;
use tokio_postgres::{Error, GenericClient};

/// The merge of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeRow {
    pub table_id: i32,
    pub copied: i64,
    pub overwritten: i64,
    /// That it wrote, in the order in which they are hashed.
    pub columns: Vec<String>,
    /// When it last wrote something here.
    pub last_at: SystemTime,
    pub confirmed_at: Option<SystemTime>,
}

/// A row that it inserted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedRow {
    pub key: Vec<String>,
    pub hash: i64,
}

/// Counts what one transaction of a merge wrote.
pub async fn note_merged(
    client: &impl GenericClient,
    table_id: i32,
    copied: u64,
    overwritten: u64,
    columns: &[&str],
) -> Result<(), Error> {
    const QUERY: &str = "
        INSERT INTO pgtandem.merge AS m (table_id, copied, overwritten, columns) VALUES ($1, $2, $3, $4)
        ON CONFLICT (table_id) DO UPDATE SET copied = m.copied + excluded.copied,
            overwritten = m.overwritten + excluded.overwritten, columns = excluded.columns,
            last_at = excluded.last_at, confirmed_at = NULL";
    client.execute(QUERY, &[&table_id, &copied.cast_signed(), &overwritten.cast_signed(), &columns]).await?;
    Ok(())
}

pub async fn list_merges(client: &impl GenericClient) -> Result<Vec<MergeRow>, Error> {
    const QUERY: &str = "SELECT table_id, copied, overwritten, columns, last_at, confirmed_at FROM pgtandem.merge
                         ORDER BY table_id";
    let rows = client.query(QUERY, &[]).await?;
    let all = rows.iter().map(|row| MergeRow {
        table_id: row.get(0),
        copied: row.get(1),
        overwritten: row.get(2),
        columns: row.get(3),
        last_at: row.get(4),
        confirmed_at: row.get(5),
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
        DELETE FROM pgtandem.merged_row AS r USING pgtandem.merge AS m
        WHERE m.table_id = r.table_id AND m.confirmed_at IS NOT NULL";
    client.execute(CONFIRM, &[&older_than_days]).await?;
    client.execute(FORGET, &[]).await?;
    Ok(())
}

pub async fn delete_merge(client: &impl GenericClient, table_id: i32) -> Result<(), Error> {
    client.execute("DELETE FROM pgtandem.merged_row WHERE table_id = $1", &[&table_id]).await?;
    client.execute("DELETE FROM pgtandem.merge WHERE table_id = $1", &[&table_id]).await?;
    Ok(())
}

/// The first `count` of the table whose keys come after `after`.
pub async fn list_merged_rows(
    client: &impl GenericClient,
    table_id: i32,
    after: &[String],
    count: i64,
) -> Result<Vec<MergedRow>, Error> {
    const QUERY: &str =
        "SELECT key, hash FROM pgtandem.merged_row WHERE table_id = $1 AND key > $2 ORDER BY key LIMIT $3";
    let rows = client.query(QUERY, &[&table_id, &after, &count]).await?;
    Ok(rows.iter().map(|row| MergedRow { key: row.get(0), hash: row.get(1) }).collect())
}

/// `keys`: the texts of each, as one JSON array of arrays.
pub async fn delete_merged_rows(
    client: &impl GenericClient,
    table_id: i32,
    keys: &serde_json::Value,
) -> Result<(), Error> {
    const QUERY: &str = "
        DELETE FROM pgtandem.merged_row WHERE table_id = $1 AND key IN (
            SELECT ARRAY(SELECT e.text FROM pg_catalog.jsonb_array_elements_text(k.key) WITH ORDINALITY AS e(text, place)
                         ORDER BY e.place)
            FROM pg_catalog.jsonb_array_elements($2::jsonb) AS k(key))";
    client.execute(QUERY, &[&table_id, keys]).await?;
    Ok(())
}
