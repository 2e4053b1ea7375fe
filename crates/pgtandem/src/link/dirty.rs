//! `pgtandem.left_behind` and `pgtandem.dirty_key`: what is kept for a peer that is away for long.

use std::time::SystemTime;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Error, GenericClient};

/// More keys of a table than this are kept as the table: then all of it is compared.
const MOST_KEYS: i64 = 1_000_000;

/// A key that has changed; no bytes: any of the table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DirtyKey {
    pub table_id: i32,
    pub key_bytes: Vec<u8>,
}

/// The peer this node keeps only keys for.
#[derive(Debug, Clone)]
pub struct LeftBehind {
    pub node: i16,
    pub since: SystemTime,
    /// By node: of which changes it is known that the peer has them, or that their keys are noted.
    pub cover: Option<Vec<PgLsn>>,
}

pub async fn read_left_behind(client: &impl GenericClient) -> Result<Option<LeftBehind>, Error> {
    let row = client.query_opt("SELECT node, since, cover FROM pgtandem.left_behind LIMIT 1", &[]).await?;
    Ok(row.map(|row| LeftBehind { node: row.get(0), since: row.get(1), cover: row.get(2) }))
}

pub async fn leave_behind(client: &impl GenericClient, node: i16) -> Result<(), Error> {
    let query = "INSERT INTO pgtandem.left_behind (node) VALUES ($1) ON CONFLICT DO NOTHING";
    client.execute(query, &[&node]).await.map(drop)
}

pub async fn count_dirty_keys(client: &impl GenericClient) -> Result<i64, Error> {
    Ok(client.query_one("SELECT pg_catalog.count(*) FROM pgtandem.dirty_key", &[]).await?.get(0))
}

/// On this node's disk when it returns.
pub async fn add_dirty_keys(client: &Client, by: i16, keys: &[DirtyKey]) -> Result<(), Error> {
    client.batch_execute("BEGIN; SET LOCAL synchronous_commit = local").await?;
    insert_keys(client, by, keys).await?;
    keep_tables_for_keys(client, by).await?;
    client.batch_execute("COMMIT").await
}

/// What stands for a delivery to the peer that was left behind.
#[derive(Debug)]
pub struct Noted<'a> {
    pub peer: i16,
    /// By who has changed them.
    pub keys: &'a [(i16, Vec<DirtyKey>)],
    pub cover: &'a [PgLsn],
    /// Whether to look for tables of which there are too many keys, which takes a while.
    pub count: bool,
}

/// On this node's disk when it returns. False: another hub has taken over, and nothing was written.
pub async fn note_delivery(client: &Client, epoch: i64, noted: &Noted<'_>) -> Result<bool, Error> {
    const FENCE: &str = "SELECT FROM pgtandem.epoch WHERE epoch = $1 FOR SHARE";
    const COVER: &str = "INSERT INTO pgtandem.left_behind (node, cover) VALUES ($1, $2)
                         ON CONFLICT (node) DO UPDATE SET cover = excluded.cover";
    client.batch_execute("BEGIN; SET LOCAL synchronous_commit = local").await?;
    if client.query_opt(FENCE, &[&epoch]).await?.is_none() {
        client.batch_execute("ROLLBACK").await?;
        return Ok(false);
    }
    for (by, keys) in noted.keys {
        insert_keys(client, *by, keys).await?;
        if noted.count {
            keep_tables_for_keys(client, *by).await?;
        }
    }
    client.execute(COVER, &[&noted.peer, &noted.cover]).await?;
    client.batch_execute("COMMIT").await?;
    Ok(true)
}

async fn insert_keys(client: &Client, by: i16, keys: &[DirtyKey]) -> Result<(), Error> {
    const ADD: &str = "
        INSERT INTO pgtandem.dirty_key (table_id, key_bytes, changed_by)
        SELECT k.table_id, k.key_bytes, $3 FROM unnest($1::int4[], $2::bytea[]) AS k (table_id, key_bytes)
        WHERE NOT EXISTS (SELECT FROM pgtandem.dirty_key d
                          WHERE d.table_id = k.table_id AND d.key_bytes = '' AND d.changed_by = $3)
        ON CONFLICT DO NOTHING";
    let tables: Vec<i32> = keys.iter().map(|key| key.table_id).collect();
    let bytes: Vec<&[u8]> = keys.iter().map(|key| key.key_bytes.as_slice()).collect();
    client.execute(ADD, &[&tables, &bytes, &by]).await.map(drop)
}

/// A table of which there are too many keys stands for them.
async fn keep_tables_for_keys(client: &Client, by: i16) -> Result<(), Error> {
    const FULL: &str = "SELECT table_id FROM pgtandem.dirty_key WHERE changed_by = $1 GROUP BY table_id
                        HAVING pg_catalog.count(*) > $2";
    const WHOLE: &str = "
        WITH gone AS (DELETE FROM pgtandem.dirty_key WHERE changed_by = $1 AND table_id = $2 AND key_bytes <> '')
        INSERT INTO pgtandem.dirty_key (table_id, key_bytes, changed_by) VALUES ($2, '', $1) ON CONFLICT DO NOTHING";
    for row in client.query(FULL, &[&by, &MOST_KEYS]).await? {
        client.execute(WHOLE, &[&by, &row.get::<_, i32>(0)]).await?;
    }
    Ok(())
}

/// With who has changed each.
pub async fn read_dirty_keys(client: &impl GenericClient, table_id: i32) -> Result<Vec<(Vec<u8>, Vec<i16>)>, Error> {
    const QUERY: &str = "SELECT key_bytes, pg_catalog.array_agg(changed_by) FROM pgtandem.dirty_key
                         WHERE table_id = $1 GROUP BY key_bytes";
    Ok(client.query(QUERY, &[&table_id]).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// They are settled.
pub async fn forget_left_behind(client: &impl GenericClient) -> Result<(), Error> {
    // In one statement: keys that stayed alone would count as changed the next time a peer is left behind.
    const QUERY: &str = "WITH keys AS (DELETE FROM pgtandem.dirty_key) DELETE FROM pgtandem.left_behind";
    client.execute(QUERY, &[]).await.map(drop)
}
