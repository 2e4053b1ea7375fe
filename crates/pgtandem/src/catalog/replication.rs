//! Publications and replication slots.

use crate::sql::QualifiedName;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Error, GenericClient};

#[derive(Debug, Clone)]
pub struct Publication {
    /// In the order of their names.
    pub tables: Vec<QualifiedName>,
    pub via_partition_root: bool,
    /// Inserts, updates, deletes and truncates, all four.
    pub everything: bool,
    pub owner: String,
}

pub async fn read_publication(client: &impl GenericClient, name: &str) -> Result<Option<Publication>, Error> {
    const PUBLICATION: &str = "
        SELECT oid, pubviaroot, pubinsert AND pubupdate AND pubdelete AND pubtruncate, pg_catalog.pg_get_userbyid(pubowner)::text
        FROM pg_catalog.pg_publication WHERE pubname = $1";
    const TABLES: &str = "
        SELECT n.nspname::text, c.relname::text
        FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE r.prpubid = $1 ORDER BY 1, 2";
    let Some(row) = client.query_opt(PUBLICATION, &[&name]).await? else {
        return Ok(None);
    };
    let tables = client.query(TABLES, &[&row.get::<_, u32>(0)]).await?;
    Ok(Some(Publication {
        tables: tables.iter().map(|row| QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1))).collect(),
        via_partition_root: row.get(1),
        everything: row.get(2),
        owner: row.get(3),
    }))
}

#[derive(Debug, Clone)]
pub struct Slot {
    pub name: String,
    pub plugin: Option<String>,
    pub database: Option<String>,
    /// The sessions that read from it, or from a copy of it what was missed.
    pub readers: Vec<i32>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    pub confirmed_flush: Option<PgLsn>,
}

pub async fn read_slot(client: &impl GenericClient, name: &str) -> Result<Option<Slot>, Error> {
    const QUERY: &str = "
        SELECT slot_name::text, plugin::text, database::text, wal_status, confirmed_flush_lsn,
               ARRAY(SELECT r.active_pid FROM pg_catalog.pg_replication_slots AS r
                     WHERE r.active_pid IS NOT NULL
                       AND (r.slot_name = s.slot_name
                            OR r.temporary AND r.slot_name LIKE 'pgtandem\\_backlog\\_%' AND r.database = s.database))
        FROM pg_catalog.pg_replication_slots AS s WHERE slot_name = $1";
    Ok(client.query_opt(QUERY, &[&name]).await?.map(|row| Slot {
        name: row.get(0),
        plugin: row.get(1),
        database: row.get(2),
        wal_status: row.get(3),
        confirmed_flush: row.get(4),
        readers: row.get(5),
    }))
}
