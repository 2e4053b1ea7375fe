//! What trigger capture keeps on a node beside the rest: `sql/outbox.sql`.

use super::held::BEFORE_ALL;
use hub::Position;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Error, GenericClient};

const OUTBOX: &str = include_str!("../../sql/outbox.sql");
const CAPTURE: &str = include_str!("../../sql/capture.sql");
/// Where direct mode has something besides.
const SINGLE: &str = "    -- {single}\n";

/// The text that makes the outbox.
#[must_use]
pub fn outbox_sql() -> String {
    format!("{OUTBOX}\n{}", capture_sql(""))
}

/// The text that makes, or makes anew, the function by which a row comes into it.
pub(super) fn capture_sql(single: &str) -> String {
    CAPTURE.replace(SINGLE, single)
}

/// Makes the outbox in the schema that is there. To be run in a transaction.
pub async fn install_outbox(client: &impl GenericClient) -> Result<(), Error> {
    client.batch_execute(&outbox_sql()).await
}

/// Oids of the tables whose changes go into the outbox.
pub async fn read_captured(client: &impl GenericClient) -> Result<Vec<u32>, Error> {
    const QUERY: &str = "
        SELECT DISTINCT t.tgrelid FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
        WHERE p.pronamespace = pg_catalog.to_regnamespace('pgtandem') AND p.proname !~ '^mirror_' AND NOT t.tgisinternal AND t.tgparentid = 0";
    Ok(client.query(QUERY, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Up to where nothing of the node's changes is needed any more; at first, [`BEFORE_ALL`].
pub async fn read_acknowledged(client: &impl GenericClient) -> Result<Position, Error> {
    let row = client.query_one("SELECT position FROM pgtandem.outbox_acknowledged", &[]).await?;
    Ok(Position(u64::from(row.get::<_, PgLsn>(0)).max(BEFORE_ALL)))
}

/// Positions go on above what is known of the node elsewhere: a crash of its server may have set the sequence back.
pub async fn go_on_above(client: &impl GenericClient, known: Position) -> Result<(), Error> {
    const QUERY: &str = "SELECT pg_catalog.setval('pgtandem.outbox_position', $1 - o.last_value + 1)
                         FROM pgtandem.outbox_position AS s, pgtandem.outbox_id AS o
                         WHERE s.last_value + o.last_value <= $1";
    let known = i64::try_from(known.0).unwrap_or(i64::MAX - 1);
    client.query(QUERY, &[&known]).await.map(drop)
}

/// Records a read of all that is there, on disk: its position, and the snapshot that it was taken with. The next capture
/// begins with it, so all that is there now lies before it, and not somewhere before a later one.
pub async fn record_read(client: &impl GenericClient) -> Result<(Position, String), Error> {
    const RECORD: &str = "
        INSERT INTO pgtandem.outbox_read SELECT m.at, m.snapshot, m.drawn FROM pgtandem.begin_read() AS m
        RETURNING position, snapshot::text";
    client.batch_execute("BEGIN; SET LOCAL synchronous_commit = local").await?;
    let row = client.query_one(RECORD, &[]).await?;
    client.batch_execute("COMMIT").await?;
    Ok((Position(row.get::<_, PgLsn>(0).into()), row.get(1)))
}

/// How full the outbox is.
#[derive(Debug, Clone, Copy)]
pub struct OutboxView {
    /// Changes that are still needed.
    pub length: i64,
    pub bytes: i64,
}

/// Of a row `o` of the outbox.
pub(super) const IS_NEEDED: &str = "
    NOT coalesce((SELECT pg_catalog.pg_visible_in_snapshot(o.xid, r.snapshot) AND o.id <= r.drawn
                  FROM pgtandem.outbox_read r, pgtandem.outbox_acknowledged a
                  WHERE r.position <= a.position ORDER BY r.position DESC LIMIT 1), false)";

pub async fn outbox_view(client: &impl GenericClient) -> Result<OutboxView, Error> {
    let query = format!(
        "SELECT (SELECT pg_catalog.count(*) FROM pgtandem.outbox o WHERE {IS_NEEDED}),
               pg_catalog.pg_total_relation_size('pgtandem.outbox_0')
               + pg_catalog.pg_total_relation_size('pgtandem.outbox_1')
               + pg_catalog.pg_total_relation_size('pgtandem.outbox_2')"
    );
    let row = client.query_one(&query, &[]).await?;
    Ok(OutboxView { length: row.get(0), bytes: row.get(1) })
}
