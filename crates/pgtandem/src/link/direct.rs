//! What direct mode keeps on a node: `sql/direct.sql`, `direct_outbox.sql`, `capture_single.sql`, `direct_arrival.sql`,
//! `direct_queue.sql`, `direct_ask.sql`, `direct_single.sql`, `set_back.sql` and `mirror.sql`.

use std::time::SystemTime;

use tokio_postgres::{Error, GenericClient, Row};

use super::outbox::{IS_NEEDED, capture_sql};
use crate::sql::{DBLINK, Ident};

/// `direct.sql` comes last (but for `capture.sql`): it ends with who may use all this.
const SQL: &str = concat!(
    include_str!("../../sql/direct_outbox.sql"),
    include_str!("../../sql/direct_arrival.sql"),
    include_str!("../../sql/set_back.sql"),
    include_str!("../../sql/mirror.sql"),
    include_str!("../../sql/direct_queue.sql"),
    include_str!("../../sql/direct_ask.sql"),
    include_str!("../../sql/direct_single.sql"),
    include_str!("../../sql/direct.sql")
);

/// What `capture.sql` has besides.
const CAPTURE_SINGLE: &str = include_str!("../../sql/capture_single.sql");

/// The text that makes it.
#[must_use]
pub fn direct_sql(dblink_schema: &Ident) -> String {
    format!("{SQL}\n{}", capture_sql(CAPTURE_SINGLE)).replace(DBLINK, &dblink_schema.to_string())
}

/// How a node delivers directly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectFacts {
    pub peer: String,
    pub server: String,
    /// One that leads to the node itself.
    pub own: Option<String>,
    pub wait_ms: i32,
    /// Linked tables whose changes may go directly.
    pub tables: Vec<DirectTableFacts>,
    /// Ids of the linked tables whose inserts move the sequences of both nodes.
    pub mirrored: Vec<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectTableFacts {
    pub id: i32,
    /// The table has the columns it had when this was made.
    pub fits: bool,
    /// The peer's columns then, in its order.
    pub arriving: Vec<String>,
}

async fn is_direct(client: &impl GenericClient) -> Result<bool, Error> {
    const THERE: &str = "SELECT pg_catalog.to_regclass('pgtandem.direct') IS NOT NULL";
    Ok(client.query_one(THERE, &[]).await?.get(0))
}

/// None: the node's changes are only streamed.
pub async fn read_direct(client: &impl GenericClient) -> Result<Option<DirectFacts>, Error> {
    const QUERY: &str = "SELECT d.peer, d.server, d.wait_ms, d.own FROM pgtandem.direct d";
    const TABLES: &str = "
        SELECT t.table_id, coalesce(c.relnatts = t.natts, false),
               ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                     WHERE a.attrelid = pg_catalog.to_regclass('pgtandem.arrival_' || t.table_id)
                       AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
        FROM pgtandem.direct_table t JOIN pgtandem.linked_table l ON l.id = t.table_id
        LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relid ORDER BY t.table_id";
    const MIRRORED: &str = "
        SELECT l.id FROM pgtandem.linked_table l JOIN pg_catalog.pg_trigger t ON t.tgrelid = l.relid
        WHERE t.tgfoid = pg_catalog.to_regproc('pgtandem.mirror_' || l.id) AND t.tgenabled = 'A'";
    if !is_direct(client).await? {
        return Ok(None);
    }
    let row = client.query_opt(QUERY, &[]).await?;
    let tables = client.query(TABLES, &[]).await?;
    let mirrored = client.query(MIRRORED, &[]).await?;
    let facts = |row: &Row| DirectTableFacts { id: row.get(0), fits: row.get(1), arriving: row.get(2) };
    Ok(row.map(|row| DirectFacts {
        peer: row.get(0),
        server: row.get(1),
        wait_ms: row.get(2),
        own: row.get(3),
        tables: tables.iter().map(facts).collect(),
        mirrored: mirrored.iter().map(|row| row.get(0)).collect(),
    }))
}

/// Makes it in the schema that is there. To be run in a transaction.
pub async fn install_direct(
    client: &impl GenericClient,
    dblink_schema: &Ident,
    peer: &str,
    server: &Ident,
    own: Option<&Ident>,
    wait_ms: i32,
) -> Result<(), Error> {
    client.batch_execute(&direct_sql(dblink_schema)).await?;
    const INSERT: &str = "INSERT INTO pgtandem.direct (peer, server, wait_ms, own) VALUES ($1, $2, $3, $4)";
    client.execute(INSERT, &[&peer, &server.as_str(), &wait_ms, &own.map(Ident::as_str)]).await?;
    Ok(())
}

/// What waits on a node that delivers directly, and whether it asks its peer.
#[derive(Debug, Clone)]
pub struct DirectView {
    pub peer: String,
    pub queued_changes: i64,
    pub queued_transactions: i64,
    /// When the oldest of them was written.
    pub queued_since: Option<SystemTime>,
    /// Until then the peer is not asked. None: it is.
    pub open_until: Option<SystemTime>,
    /// What the peer's last fault was.
    pub open_why: Option<String>,
    /// Transactions that the peer was sent and has not answered.
    pub in_doubt: i64,
    /// Of the peer's transactions, which may still turn out to have failed there.
    pub receipts: i64,
}

/// None: the node's changes are only streamed.
pub async fn direct_view(client: &impl GenericClient) -> Result<Option<DirectView>, Error> {
    if !is_direct(client).await? {
        return Ok(None);
    }
    let query = format!(
        "SELECT d.peer, q.changes, q.transactions, q.since,
                (SELECT pg_catalog.to_timestamp(least(s.last_value, 100000000000000) / 1000.0)
                 FROM pgtandem.direct_closed_until s WHERE s.last_value > 0),
                (SELECT t.what FROM pgtandem.direct_trouble t ORDER BY t.at DESC LIMIT 1),
                (SELECT pg_catalog.count(*) FROM pgtandem.sent s WHERE s.outcome = '?'),
                (SELECT pg_catalog.count(*) FROM pgtandem.receipt r WHERE NOT r.refused)
         FROM pgtandem.direct d, (SELECT pg_catalog.count(*) AS changes, pg_catalog.count(DISTINCT o.xid) AS transactions,
                                         pg_catalog.min(o.at) AS since FROM pgtandem.outbox o WHERE {IS_NEEDED}) q"
    );
    Ok(client.query_opt(&query, &[]).await?.as_ref().map(view))
}

fn view(row: &Row) -> DirectView {
    let open_until: Option<SystemTime> = row.get(4);
    DirectView {
        peer: row.get(0),
        queued_changes: row.get(1),
        queued_transactions: row.get(2),
        queued_since: row.get(3),
        open_why: open_until.and(row.get(5)),
        open_until,
        in_doubt: row.get(6),
        receipts: row.get(7),
    }
}
