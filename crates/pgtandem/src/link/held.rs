//! `pgtandem.held`: what waits.

use serde_json::Value;
use std::time::SystemTime;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Error, GenericClient, Row};

/// Where a row stands that was there before any change that is judged: below every position a node may be acknowledged
/// at, so that a hub does not wait to read it, and after 0/0, so that it is no part of an empty cover.
pub const BEFORE_ALL: u64 = 1;

/// A change this node cannot take yet.
#[derive(Debug, Clone)]
pub struct Held {
    pub table_id: i32,
    pub key_bytes: Vec<u8>,
    pub key: Value,
    pub source_node: i16,
    pub source_position: PgLsn,
    pub stamp: SystemTime,
    pub stamp_node: i16,
    /// None: the key is to be deleted.
    pub row: Option<Value>,
    /// What this node had seen of the key when it was first held; index: node number.
    pub cover: Vec<PgLsn>,
    pub partner_key: Option<Vec<u8>>,
    pub reason: String,
    pub sqlstate: Option<String>,
    pub held_since: SystemTime,
    pub last_tried: Option<SystemTime>,
}

/// Oldest first.
pub async fn list_held(client: &impl GenericClient) -> Result<Vec<Held>, Error> {
    const QUERY: &str = "
        SELECT table_id, key_bytes, key, source_node, source_position, stamp, stamp_node, row, cover, partner_key,
               reason, sqlstate, held_since, last_tried
        FROM pgtandem.held ORDER BY held_since, table_id, key_bytes";
    Ok(client.query(QUERY, &[]).await?.iter().map(held).collect())
}

/// Of one table: keys whose row is not what it should be; no bytes: all.
pub async fn list_held_keys(client: &impl GenericClient, table_id: i32) -> Result<Vec<Vec<u8>>, Error> {
    const QUERY: &str = "SELECT key_bytes FROM pgtandem.held WHERE table_id = $1 AND released IS NULL";
    Ok(client.query(QUERY, &[&table_id]).await?.iter().map(|row| row.get(0)).collect())
}

fn held(row: &Row) -> Held {
    Held {
        table_id: row.get("table_id"),
        key_bytes: row.get("key_bytes"),
        key: row.get("key"),
        source_node: row.get("source_node"),
        source_position: row.get("source_position"),
        stamp: row.get("stamp"),
        stamp_node: row.get("stamp_node"),
        row: row.get("row"),
        cover: row.get("cover"),
        partner_key: row.get("partner_key"),
        reason: row.get("reason"),
        sqlstate: row.get("sqlstate"),
        held_since: row.get("held_since"),
        last_tried: row.get("last_tried"),
    }
}

/// A newer change to a held key takes the place of the older one, but what the node had seen of the key, and since
/// when it is held, stays. `held_since` of the argument is not used.
pub async fn insert_held(client: &impl GenericClient, held: &Held) -> Result<(), Error> {
    const QUERY: &str = "
        INSERT INTO pgtandem.held AS h (table_id, key_bytes, key, source_node, source_position, stamp, stamp_node, row,
                                        cover, partner_key, reason, sqlstate, last_tried)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
        ON CONFLICT (table_id, key_bytes) DO UPDATE SET
            source_node = excluded.source_node, source_position = excluded.source_position, stamp = excluded.stamp,
            stamp_node = excluded.stamp_node, row = excluded.row, partner_key = excluded.partner_key,
            reason = excluded.reason, sqlstate = excluded.sqlstate, last_tried = excluded.last_tried";
    client
        .execute(
            QUERY,
            &[
                &held.table_id,
                &held.key_bytes,
                &held.key,
                &held.source_node,
                &held.source_position,
                &held.stamp,
                &held.stamp_node,
                &held.row,
                &held.cover,
                &held.partner_key,
                &held.reason,
                &held.sqlstate,
                &held.last_tried,
            ],
        )
        .await?;
    Ok(())
}

pub async fn delete_held(client: &impl GenericClient, table_id: i32, key_bytes: &[u8]) -> Result<(), Error> {
    const QUERY: &str = "DELETE FROM pgtandem.held WHERE table_id = $1 AND key_bytes = $2";
    client.execute(QUERY, &[&table_id, &key_bytes]).await?;
    Ok(())
}

/// Of a table that is not live, so that no hub has written any: what an `up` that did not end has left.
pub async fn delete_held_of_table(client: &impl GenericClient, table_id: i32) -> Result<(), Error> {
    client.execute("DELETE FROM pgtandem.held WHERE table_id = $1", &[&table_id]).await.map(drop)
}
