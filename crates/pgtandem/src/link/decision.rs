//! `pgtandem.decision`: what was decided.

use serde_json::Value;
use std::time::SystemTime;
use tokio_postgres::types::{PgLsn, ToSql};
use tokio_postgres::{Error, GenericClient, Row};

/// A conflict that was decided.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The same on every node, and never another one's: what a person calls it.
    pub name: String,
    pub table_id: i32,
    pub key: Value,
    pub key_bytes: Vec<u8>,
    pub winner_node: i16,
    pub winner_position: PgLsn,
    pub loser_node: i16,
    pub loser_position: PgLsn,
    pub winner_stamp: SystemTime,
    pub loser_stamp: SystemTime,
    pub kind: String,
    /// None: the row is deleted.
    pub winner_row: Option<Value>,
    pub loser_row: Option<Value>,
    pub policy: String,
    pub why: String,
    pub decided_at: SystemTime,
    /// When the row that lost was put back, if it was.
    pub undone_at: Option<SystemTime>,
}

#[derive(Debug, Clone, Default)]
pub struct DecisionFilter {
    pub table_id: Option<i32>,
    pub since: Option<SystemTime>,
    /// How its name begins.
    pub name: Option<String>,
    pub limit: Option<i64>,
}

/// Numbers differ from node to node, what was decided does not.
const NAME: &str = "pg_catalog.left(pg_catalog.md5(pg_catalog.concat_ws('/', table_id, \
    pg_catalog.encode(key_bytes, 'hex'), winner_node, winner_position, loser_node, loser_position)), 8)";

/// Newest first.
pub async fn list_decisions(client: &impl GenericClient, filter: &DecisionFilter) -> Result<Vec<Decision>, Error> {
    let query = format!(
        "SELECT {NAME} AS name, table_id, key, key_bytes, winner_node, winner_position, loser_node, loser_position, \
                winner_stamp, loser_stamp, kind, winner_row, loser_row, policy, why, decided_at, undone_at \
         FROM pgtandem.decision \
         WHERE ($1::int IS NULL OR table_id = $1) AND ($2::timestamptz IS NULL OR decided_at >= $2) \
           AND ($3::text IS NULL OR pg_catalog.starts_with({NAME}, $3)) \
         ORDER BY decided_at DESC, id DESC LIMIT $4"
    );
    let parameters: [&(dyn ToSql + Sync); 4] = [&filter.table_id, &filter.since, &filter.name, &filter.limit];
    let rows = client.query(&query, &parameters).await?;
    Ok(rows.iter().map(decision).collect())
}

fn decision(row: &Row) -> Decision {
    Decision {
        name: row.get("name"),
        table_id: row.get("table_id"),
        key: row.get("key"),
        key_bytes: row.get("key_bytes"),
        winner_node: row.get("winner_node"),
        winner_position: row.get("winner_position"),
        loser_node: row.get("loser_node"),
        loser_position: row.get("loser_position"),
        winner_stamp: row.get("winner_stamp"),
        loser_stamp: row.get("loser_stamp"),
        kind: row.get("kind"),
        winner_row: row.get("winner_row"),
        loser_row: row.get("loser_row"),
        policy: row.get("policy"),
        why: row.get("why"),
        decided_at: row.get("decided_at"),
        undone_at: row.get("undone_at"),
    }
}

/// A row that was overwritten because it was not the same everywhere: when filled tables were made one, or at a repair.
#[derive(Debug, Clone)]
pub struct MergeDecision {
    pub key: Value,
    pub key_bytes: Vec<u8>,
    pub winner: Contender,
    pub loser: Contender,
    pub why: String,
}

/// One of the two rows.
#[derive(Debug, Clone)]
pub struct Contender {
    pub node: i16,
    /// Just below the first change of the node that is judged.
    pub position: PgLsn,
    /// When the row was read.
    pub stamp: SystemTime,
    /// None: there was none.
    pub row: Option<Value>,
}

/// What [`MergeDecision`]s of `up` are called in the table.
pub const MERGE: &str = "merge";
/// And those of what came later: `repair`, and a node that was brought back.
pub const REPAIR: &str = "repair";

pub async fn insert_merge_decisions(
    client: &impl GenericClient,
    table_id: i32,
    (kind, policy): (&str, &str),
    decisions: &[MergeDecision],
) -> Result<(), Error> {
    const QUERY: &str = "
        INSERT INTO pgtandem.decision (table_id, key, key_bytes, winner_node, winner_position, loser_node, loser_position,
                                       winner_stamp, loser_stamp, kind, winner_row, loser_row, policy, why)
        SELECT $1, d.key, d.key_bytes, d.winner_node, d.winner_position, d.loser_node, d.loser_position,
               d.winner_stamp, d.loser_stamp, $2, d.winner_row, d.loser_row, $3, d.why
        FROM unnest($4::jsonb[], $5::bytea[], $6::int2[], $7::pg_lsn[], $8::int2[], $9::pg_lsn[], $10::timestamptz[],
                    $11::timestamptz[], $12::jsonb[], $13::jsonb[], $14::text[])
             AS d(key, key_bytes, winner_node, winner_position, loser_node, loser_position, winner_stamp, loser_stamp,
                  winner_row, loser_row, why)
        ON CONFLICT DO NOTHING";
    fn all<'a, T>(of: &'a [MergeDecision], part: impl Fn(&'a MergeDecision) -> T) -> Vec<T> {
        of.iter().map(part).collect()
    }
    if decisions.is_empty() {
        return Ok(());
    }
    client
        .execute(
            QUERY,
            &[
                &table_id,
                &kind,
                &policy,
                &all(decisions, |d| &d.key),
                &all(decisions, |d| d.key_bytes.as_slice()),
                &all(decisions, |d| d.winner.node),
                &all(decisions, |d| d.winner.position),
                &all(decisions, |d| d.loser.node),
                &all(decisions, |d| d.loser.position),
                &all(decisions, |d| d.winner.stamp),
                &all(decisions, |d| d.loser.stamp),
                &all(decisions, |d| &d.winner.row),
                &all(decisions, |d| &d.loser.row),
                &all(decisions, |d| d.why.as_str()),
            ],
        )
        .await
        .map(drop)
}

/// Those of the table's rows that lost on this node and were not put back, the last first, numbered below `before`.
pub async fn list_merge_decisions(
    client: &impl GenericClient,
    table_id: i32,
    node: i16,
    before: i64,
    count: i64,
) -> Result<Vec<(i64, Decision)>, Error> {
    let query = format!(
        "SELECT {NAME} AS name, table_id, key, key_bytes, winner_node, winner_position, loser_node, loser_position, \
                winner_stamp, loser_stamp, kind, winner_row, loser_row, policy, why, decided_at, undone_at, id \
         FROM pgtandem.decision \
         WHERE table_id = $1 AND loser_node = $2 AND kind = $3 AND undone_at IS NULL AND id < $4 \
         ORDER BY id DESC LIMIT $5"
    );
    let rows = client.query(&query, &[&table_id, &node, &MERGE, &before, &count]).await?;
    Ok(rows.iter().map(|row| (row.get("id"), decision(row))).collect())
}

/// How many rows that lost on this node are kept, whether they were put back or not.
pub async fn count_merge_decisions(client: &impl GenericClient, table_id: i32, node: i16) -> Result<i64, Error> {
    const QUERY: &str = "SELECT pg_catalog.count(*) FROM pgtandem.decision
                         WHERE table_id = $1 AND loser_node = $2 AND kind = $3";
    Ok(client.query_one(QUERY, &[&table_id, &node, &MERGE]).await?.get(0))
}

/// By their numbers on this node.
pub async fn set_decisions_undone(client: &impl GenericClient, ids: &[i64]) -> Result<(), Error> {
    const QUERY: &str = "UPDATE pgtandem.decision SET undone_at = pg_catalog.clock_timestamp() WHERE id = ANY ($1)";
    client.execute(QUERY, &[&ids]).await.map(drop)
}

pub async fn count_decisions(client: &impl GenericClient) -> Result<i64, Error> {
    Ok(client.query_one("SELECT pg_catalog.count(*) FROM pgtandem.decision", &[]).await?.get(0))
}

/// Keeps note that the row that lost was put back.
pub async fn set_undone(client: &impl GenericClient, name: &str) -> Result<(), Error> {
    let query = format!("UPDATE pgtandem.decision SET undone_at = pg_catalog.clock_timestamp() WHERE {NAME} = $1");
    client.execute(&query, &[&name]).await.map(drop)
}

/// Drops what is older than `keep_days`, and the oldest while all take more than `keep_bytes`; but nothing that might be
/// looked up again: of each node, by number, only changes up to the position in `settled`. Says how many went.
pub async fn prune_decisions(
    client: &impl GenericClient,
    keep_days: f64,
    keep_bytes: i64,
    settled: &[PgLsn],
) -> Result<u64, Error> {
    // Looking at all of them is worth it only if some may go.
    const WORTH_IT: &str = "
        SELECT pg_catalog.pg_table_size('pgtandem.decision') > $2
            OR coalesce((SELECT decided_at < pg_catalog.now() - $1 * interval '1 day'
                         FROM pgtandem.decision ORDER BY id LIMIT 1), false)";
    const PRUNE: &str = "
        DELETE FROM pgtandem.decision AS d
        USING (SELECT id, pg_catalog.sum(pg_catalog.pg_column_size(k.*)) OVER (ORDER BY decided_at DESC, id DESC) AS bytes
               FROM pgtandem.decision AS k) AS kept
        WHERE d.id = kept.id
          AND (d.decided_at < pg_catalog.now() - $1 * interval '1 day' OR kept.bytes > $2)
          AND coalesce(d.winner_position <= ($3::pg_lsn[])[d.winner_node + 1], true)
          AND coalesce(d.loser_position <= ($3::pg_lsn[])[d.loser_node + 1], true)";
    if !client.query_one(WORTH_IT, &[&keep_days, &keep_bytes]).await?.get::<_, bool>(0) {
        return Ok(0);
    }
    client.execute(PRUNE, &[&keep_days, &keep_bytes, &settled]).await
}

/// Writes decisions of one node down on another, unless they are there. `which`: a condition, whose parameter `$1` is.
pub async fn copy_decisions(
    from: &impl GenericClient,
    to: &impl GenericClient,
    which: &str,
    parameter: &(dyn ToSql + Sync),
) -> Result<(), Error> {
    const COLUMNS: &str = "table_id, key, key_bytes, winner_node, winner_position, loser_node, loser_position, \
        winner_stamp, loser_stamp, kind, winner_row, loser_row, policy, why, decided_at";
    let read = format!(
        "SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(d)) FROM (SELECT {COLUMNS} FROM pgtandem.decision \
         WHERE {which} ORDER BY id) AS d"
    );
    let write = format!(
        "INSERT INTO pgtandem.decision ({COLUMNS}) SELECT {COLUMNS} \
         FROM pg_catalog.jsonb_populate_recordset(NULL::pgtandem.decision, $1) ON CONFLICT DO NOTHING"
    );
    let rows: Option<Value> = from.query_one(&read, &[parameter]).await?.get(0);
    if rows.is_some() {
        to.execute(&write, &[&rows]).await?;
    }
    Ok(())
}
