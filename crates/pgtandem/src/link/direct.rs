//! What direct mode keeps on a node: `sql/direct.sql`, `direct_outbox.sql` and `direct_arrival.sql`.

use tokio_postgres::{Error, GenericClient, Row};

use crate::sql::{DBLINK, Ident};

const SQL: &str = concat!(
    include_str!("../../sql/direct_outbox.sql"),
    include_str!("../../sql/direct_arrival.sql"),
    include_str!("../../sql/direct.sql")
);

/// The text that makes it.
#[must_use]
pub fn direct_sql(dblink_schema: &Ident) -> String {
    SQL.replace(DBLINK, &dblink_schema.to_string())
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
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectTableFacts {
    pub id: i32,
    /// The table has the columns it had when this was made.
    pub fits: bool,
    /// The peer's columns then, in its order.
    pub arriving: Vec<String>,
}

/// None: the node's changes are only streamed.
pub async fn read_direct(client: &impl GenericClient) -> Result<Option<DirectFacts>, Error> {
    const THERE: &str = "SELECT pg_catalog.to_regclass('pgtandem.direct') IS NOT NULL";
    const QUERY: &str = "SELECT d.peer, d.server, d.wait_ms, d.own FROM pgtandem.direct d";
    const TABLES: &str = "
        SELECT t.table_id, coalesce(c.relnatts = t.natts, false),
               ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                     WHERE a.attrelid = pg_catalog.to_regclass('pgtandem.arrival_' || t.table_id)
                       AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
        FROM pgtandem.direct_table t JOIN pgtandem.linked_table l ON l.id = t.table_id
        LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relid ORDER BY t.table_id";
    if !client.query_one(THERE, &[]).await?.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = client.query_opt(QUERY, &[]).await?;
    let tables = client.query(TABLES, &[]).await?;
    let facts = |row: &Row| DirectTableFacts { id: row.get(0), fits: row.get(1), arriving: row.get(2) };
    Ok(row.map(|row| DirectFacts {
        peer: row.get(0),
        server: row.get(1),
        wait_ms: row.get(2),
        own: row.get(3),
        tables: tables.iter().map(facts).collect(),
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
