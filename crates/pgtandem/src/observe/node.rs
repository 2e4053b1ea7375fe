//! One node's side of the link.

use std::time::SystemTime;

use serde_json::Value as Json;
use tokio_postgres::{Client, Error};

use super::observer::Away;
use crate::config::Capture;
use crate::link::{self, DirectView, Installed, LOCK_KEY, LinkedTable, NodeRow, OutboxView, RestoreKind, Sight};

/// How many held keys of a table are shown one by one.
const EXAMPLES: i64 = 5;

/// What a node says of itself and of the link.
#[derive(Debug, Clone)]
pub struct NodeView {
    pub server_version: String,
    pub in_recovery: bool,
    /// None: pgtandem is not installed here.
    pub link: Option<LinkView>,
}

#[derive(Debug, Clone)]
pub struct LinkView {
    pub node: NodeRow,
    /// None: its slot is gone, or it has an outbox.
    pub slot: Option<SlotView>,
    pub outbox: Option<OutboxView>,
    /// None: its changes are only streamed.
    pub direct: Option<DirectView>,
    pub tables: Vec<TableView>,
    pub held: Vec<HeldHere>,
    pub decided: Vec<DecidedTable>,
    /// None: no hub has worked here yet.
    pub hub: Option<HubRow>,
    pub lock: Option<LockHolder>,
    /// Hubs that wait for the lock.
    pub hubs_waiting: i64,
    /// It is not the database that was linked, but a copy of it.
    pub is_copy: bool,
    /// `pgtandem rejoin` has begun to bring it back.
    pub rejoining: bool,
    pub sight: Sight,
    pub left_behind: Option<LeftView>,
}

/// A peer for which this node keeps only the keys that change.
#[derive(Debug, Clone)]
pub struct LeftView {
    pub name: String,
    pub since: SystemTime,
    pub keys: i64,
}

#[derive(Debug, Clone)]
pub struct SlotView {
    pub name: String,
    /// WAL written since what every other node has.
    pub behind_bytes: i64,
    /// WAL the server keeps for the slot.
    pub retained_bytes: i64,
    /// `lost`: the server has removed WAL the slot still needs.
    pub wal_status: Option<String>,
    pub active: bool,
}

#[derive(Debug, Clone)]
pub struct TableView {
    pub linked: LinkedTable,
    /// As the statistics have it.
    pub rows: i64,
    /// Its name now; none: it was dropped.
    pub name_now: Option<String>,
}

/// Keys of one table that this node holds.
#[derive(Debug, Clone)]
pub struct HeldHere {
    pub table_id: i32,
    pub count: i64,
    pub oldest: SystemTime,
    pub examples: Vec<HeldKey>,
}

#[derive(Debug, Clone)]
pub struct HeldKey {
    pub key: Json,
    pub reason: String,
    pub sqlstate: Option<String>,
    pub since: SystemTime,
}

#[derive(Debug, Clone)]
pub struct DecidedTable {
    pub table_id: i32,
    pub count: i64,
    pub last: SystemTime,
}

/// The node's `pgtandem.hub_status`.
#[derive(Debug, Clone)]
pub struct HubRow {
    pub epoch: i64,
    pub holder: String,
    pub started_at: SystemTime,
    /// None: the hub ended in good order.
    pub seen_at: Option<SystemTime>,
    /// By the node's own clock.
    pub seen_seconds_ago: Option<f64>,
    pub state: Json,
}

/// Whose session holds the node's lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    pub application: String,
    pub pid: i32,
}

/// # Errors
/// When the connection is lost, the role may not read what belongs to pgtandem, or another version has made it.
pub async fn view(client: &Client) -> Result<NodeView, Away> {
    let (server_version, in_recovery, node) = node_row(client).await.map_err(|error| Away::of_sql(&error))?;
    if let Some(other) = node.as_ref().and_then(NodeRow::other_version) {
        return Err(Away { reason: other.what, remedy: Some(other.remedy) });
    }
    let link = match node {
        Some(node) => Some(link_view(client, node).await.map_err(|error| Away::of_sql(&error))?),
        None => None,
    };
    Ok(NodeView { server_version, in_recovery, link })
}

async fn node_row(client: &Client) -> Result<(String, bool, Option<NodeRow>), Error> {
    const SERVER: &str = "SELECT pg_catalog.current_setting('server_version'), pg_catalog.pg_is_in_recovery()";
    let (server, installed) = tokio::try_join!(client.query_one(SERVER, &[]), link::is_installed(client))?;
    let node = match installed {
        Installed::Yes => link::read_node(client).await?,
        Installed::No | Installed::Foreign => None,
    };
    Ok((server.get(0), server.get(1), node))
}

async fn link_view(client: &Client, node: NodeRow) -> Result<LinkView, Error> {
    let (slot, tables, held, decided, hub, (lock, hubs_waiting)) = tokio::try_join!(
        slot_view(client, &node.slot),
        table_views(client),
        held_here(client),
        decided_tables(client),
        hub_row(client),
        lock_holder(client),
    )?;
    let outbox = match node.capture {
        Capture::Wal => None,
        Capture::Trigger => Some(link::outbox_view(client).await?),
    };
    let direct = link::direct_view(client).await?;
    let is_copy = !link::is_where_it_was_linked(client, &node).await?;
    let rejoining = link::read_restore(client, RestoreKind::Rejoin, "node").await?.is_some();
    let sight = link::read_sight(client).await?;
    let left_behind = left_view(client).await?;
    Ok(LinkView {
        node,
        slot,
        outbox,
        direct,
        tables,
        held,
        decided,
        hub,
        lock,
        hubs_waiting,
        is_copy,
        rejoining,
        sight,
        left_behind,
    })
}

async fn left_view(client: &Client) -> Result<Option<LeftView>, Error> {
    let Some(left) = link::read_left_behind(client).await? else { return Ok(None) };
    let peers = link::read_peers(client).await?;
    let name = peers.into_iter().find(|peer| peer.number == left.node).map(|peer| peer.name).unwrap_or_default();
    Ok(Some(LeftView { name, since: left.since, keys: link::count_dirty_keys(client).await? }))
}

async fn slot_view(client: &Client, name: &str) -> Result<Option<SlotView>, Error> {
    const QUERY: &str = "
        SELECT (n.lsn - s.confirmed_flush_lsn)::bigint, (n.lsn - s.restart_lsn)::bigint, s.wal_status, s.active
        FROM pg_catalog.pg_replication_slots s,
             (SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                          ELSE pg_catalog.pg_current_wal_lsn() END) AS n (lsn)
        WHERE s.slot_name = $1 AND s.database = pg_catalog.current_database()";
    let row = client.query_opt(QUERY, &[&name]).await?;
    Ok(row.map(|row| SlotView {
        name: name.to_owned(),
        behind_bytes: row.get::<_, Option<i64>>(0).unwrap_or_default().max(0),
        retained_bytes: row.get::<_, Option<i64>>(1).unwrap_or_default().max(0),
        wal_status: row.get(2),
        active: row.get(3),
    }))
}

async fn table_views(client: &Client) -> Result<Vec<TableView>, Error> {
    // Partitions hold the rows of a partitioned table. The counters know what came after the last ANALYZE; they start
    // at nothing after a crash, when the catalog knows better.
    const QUERY: &str = "
        SELECT t.id,
               (SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c
                JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = t.relid)::text,
               (SELECT pg_catalog.sum(CASE WHEN s.n_live_tup > 0 THEN s.n_live_tup ELSE greatest(c.reltuples, 0) END)
                FROM (SELECT t.relid UNION SELECT p.relid FROM pg_catalog.pg_partition_tree(t.relid) p) AS own (oid)
                JOIN pg_catalog.pg_class c ON c.oid = own.oid
                LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = own.oid)::bigint
        FROM pgtandem.linked_table t";
    let (linked, rows) = tokio::try_join!(link::read_linked_tables(client), client.query(QUERY, &[]))?;
    let views = linked.into_iter().map(|linked| {
        let row = rows.iter().find(|row| row.get::<_, i32>(0) == linked.id);
        TableView {
            rows: row.and_then(|row| row.get::<_, Option<i64>>(2)).unwrap_or_default(),
            name_now: row.and_then(|row| row.get(1)),
            linked,
        }
    });
    Ok(views.collect())
}

async fn held_here(client: &Client) -> Result<Vec<HeldHere>, Error> {
    const COUNTS: &str = "
        SELECT table_id, pg_catalog.count(*), pg_catalog.min(held_since) FROM pgtandem.held
        WHERE released IS NULL GROUP BY table_id ORDER BY table_id";
    const KEYS: &str = "
        SELECT table_id, key, reason, sqlstate, held_since
        FROM (SELECT h.*, pg_catalog.row_number() OVER (PARTITION BY table_id ORDER BY held_since, key_bytes) AS number
              FROM pgtandem.held h WHERE released IS NULL) AS numbered
        WHERE number <= $1 ORDER BY table_id, number";
    let (counts, keys) = tokio::try_join!(client.query(COUNTS, &[]), client.query(KEYS, &[&EXAMPLES]))?;
    let held = counts.iter().map(|row| {
        let table_id: i32 = row.get(0);
        let examples = keys.iter().filter(|key| key.get::<_, i32>(0) == table_id).map(|key| HeldKey {
            key: key.get(1),
            reason: key.get(2),
            sqlstate: key.get(3),
            since: key.get(4),
        });
        HeldHere { table_id, count: row.get(1), oldest: row.get(2), examples: examples.collect() }
    });
    Ok(held.collect())
}

async fn decided_tables(client: &Client) -> Result<Vec<DecidedTable>, Error> {
    const QUERY: &str = "SELECT table_id, pg_catalog.count(*), pg_catalog.max(decided_at)
                         FROM pgtandem.decision GROUP BY table_id ORDER BY table_id";
    let rows = client.query(QUERY, &[]).await?;
    Ok(rows.iter().map(|row| DecidedTable { table_id: row.get(0), count: row.get(1), last: row.get(2) }).collect())
}

async fn hub_row(client: &Client) -> Result<Option<HubRow>, Error> {
    const QUERY: &str = "
        SELECT epoch, holder, started_at, seen_at,
               extract(epoch FROM pg_catalog.clock_timestamp() - seen_at)::double precision, state
        FROM pgtandem.hub_status WHERE epoch IS NOT NULL";
    let row = client.query_opt(QUERY, &[]).await?;
    Ok(row.map(|row| HubRow {
        epoch: row.get(0),
        holder: row.get::<_, Option<String>>(1).unwrap_or_default(),
        started_at: row.get::<_, Option<SystemTime>>(2).unwrap_or(SystemTime::UNIX_EPOCH),
        seen_at: row.get(3),
        seen_seconds_ago: row.get(4),
        state: row.get::<_, Option<Json>>(5).unwrap_or(Json::Null),
    }))
}

async fn lock_holder(client: &Client) -> Result<(Option<LockHolder>, i64), Error> {
    let query = format!(
        "SELECT a.application_name, a.pid, l.granted
         FROM pg_catalog.pg_locks l
         JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
         JOIN pg_catalog.pg_database d ON d.oid = l.database
         WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND d.datname = pg_catalog.current_database()
           AND ((l.classid::bigint << 32) | l.objid::bigint) = {LOCK_KEY}"
    );
    let rows = client.query(&query, &[]).await?;
    let mut holder = None;
    let mut waiting = 0;
    for row in &rows {
        let application: Option<String> = row.get(0);
        if row.get(2) {
            holder = Some(LockHolder { application: application.unwrap_or_default(), pid: row.get(1) });
        } else if application.as_deref() == Some(HUB_APPLICATION) {
            waiting += 1;
        }
    }
    Ok((holder, waiting))
}

/// What `pg_stat_activity` calls the session with which a hub holds a node's lock.
pub const HUB_APPLICATION: &str = "pgtandem hub";
