//! `pgtandem.node` and `pgtandem.peer`: who is in the link.

use std::cmp::Ordering;

use crate::config::Capture;
use tokio_postgres::{Error, GenericClient};
use uuid::Uuid;

use super::SCHEMA_VERSION;

/// What is written when a node joins.
#[derive(Debug, Clone)]
pub struct NewNode {
    pub number: i16,
    pub name: String,
    pub incarnation: Uuid,
    pub slot: String,
    pub publication: String,
    pub secret: Uuid,
    pub slot_count: i16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    pub number: i16,
    pub name: String,
    pub incarnation: Uuid,
    pub system_identifier: String,
    pub database_oid: u32,
    pub slot: String,
    pub publication: String,
    pub secret: Uuid,
    pub slot_count: i16,
    pub schema_version: i32,
    /// By what is installed.
    pub capture: Capture,
}

/// The schema `pgtandem` on a node is not the one this program knows: nothing else of it may be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherVersion {
    pub what: String,
    pub remedy: String,
}

impl NodeRow {
    #[must_use]
    pub fn other_version(&self) -> Option<OtherVersion> {
        let found = self.schema_version;
        let (who, remedy) = match found.cmp(&SCHEMA_VERSION) {
            Ordering::Equal => return None,
            Ordering::Greater => ("a newer", "use that version of pgtandem"),
            Ordering::Less => {
                ("an older", "run `pgtandem down`, then `pgtandem up`: tables that are equal are linked as they are")
            }
        };
        let what =
            format!("{who} pgtandem has linked this node (schema version {found}; this one is {SCHEMA_VERSION})");
        Some(OtherVersion { what, remedy: remedy.to_owned() })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub number: i16,
    pub name: String,
    pub incarnation: Uuid,
}

/// Slot names may hold lower-case letters, digits and underscores only, 63 of them. The incarnation keeps apart
/// two databases of one server, which share their slots' names.
pub fn slot_name(node: &str, incarnation: Uuid) -> String {
    let name: String = node
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '_' })
        .take(40)
        .collect();
    let incarnation = incarnation.simple().to_string();
    format!("pgtandem_{name}_{}", &incarnation[..8])
}

/// That the server writes now. Its files' names begin with it.
pub(super) const TIMELINE: &str =
    "('x' || pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::bit(32)::int4";

/// Whether the server was neither promoted nor restored from its archive since the node was linked.
pub async fn is_on_its_timeline(client: &impl GenericClient) -> Result<bool, Error> {
    let query = format!("SELECT timeline = {TIMELINE} FROM pgtandem.node");
    Ok(client.query_one(&query, &[]).await?.get(0))
}

pub(super) async fn insert_node(client: &impl GenericClient, node: &NewNode) -> Result<(), Error> {
    let query = format!(
        "INSERT INTO pgtandem.node (number, name, incarnation, slot, publication, secret, slot_count, schema_version,
                                   system_identifier, database_oid, timeline)
        SELECT $1, $2, $3, $4, $5, $6, $7, $8, c.system_identifier::text, d.oid, {TIMELINE}
        FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d
        WHERE d.datname = pg_catalog.current_database()"
    );
    let NewNode { number, name, incarnation, slot, publication, secret, slot_count } = node;
    client
        .execute(&query, &[number, name, incarnation, slot, publication, secret, slot_count, &SCHEMA_VERSION])
        .await?;
    Ok(())
}

/// None: the schema is there, but `up` was interrupted before it said who the node is.
pub async fn read_node(client: &impl GenericClient) -> Result<Option<NodeRow>, Error> {
    const QUERY: &str = "SELECT number, name, incarnation, system_identifier, database_oid, slot, publication, secret,
                                slot_count, schema_version,
                                pg_catalog.to_regclass('pgtandem.outbox_read') IS NOT NULL FROM pgtandem.node";
    Ok(client.query_opt(QUERY, &[]).await?.map(|row| NodeRow {
        number: row.get(0),
        name: row.get(1),
        incarnation: row.get(2),
        system_identifier: row.get(3),
        database_oid: row.get(4),
        slot: row.get(5),
        publication: row.get(6),
        secret: row.get(7),
        slot_count: row.get(8),
        schema_version: row.get(9),
        capture: if row.get(10) { Capture::Trigger } else { Capture::Wal },
    }))
}

/// Whether the row was written on this server, in this database. A copy carries it along.
pub async fn is_where_it_was_linked(client: &impl GenericClient, node: &NodeRow) -> Result<bool, Error> {
    const QUERY: &str = "SELECT c.system_identifier::text, d.oid
                         FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d
                         WHERE d.datname = pg_catalog.current_database()";
    let row = client.query_one(QUERY, &[]).await?;
    Ok(row.get::<_, String>(0) == node.system_identifier && row.get::<_, u32>(1) == node.database_oid)
}

/// Those that are in the link, in the order of their numbers.
pub async fn read_peers(client: &impl GenericClient) -> Result<Vec<Peer>, Error> {
    const QUERY: &str = "SELECT number, name, incarnation FROM pgtandem.peer WHERE left_at IS NULL ORDER BY number";
    let rows = client.query(QUERY, &[]).await?;
    Ok(rows.iter().map(|row| Peer { number: row.get(0), name: row.get(1), incarnation: row.get(2) }).collect())
}

/// The highest number that was ever given.
pub async fn read_last_number(client: &impl GenericClient) -> Result<Option<i16>, Error> {
    Ok(client.query_one("SELECT pg_catalog.max(number) FROM pgtandem.peer", &[]).await?.get(0))
}

pub async fn insert_peer(client: &impl GenericClient, peer: &Peer) -> Result<(), Error> {
    const QUERY: &str =
        "INSERT INTO pgtandem.peer (number, name, incarnation) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    client.execute(QUERY, &[&peer.number, &peer.name, &peer.incarnation]).await?;
    Ok(())
}

/// The node leaves the link, as far as this one is concerned.
pub async fn set_left(client: &impl GenericClient, incarnation: Uuid) -> Result<(), Error> {
    const QUERY: &str = "UPDATE pgtandem.peer SET left_at = pg_catalog.clock_timestamp()
                         WHERE incarnation = $1 AND left_at IS NULL";
    client.execute(QUERY, &[&incarnation]).await?;
    Ok(())
}

pub async fn set_slot_count(client: &impl GenericClient, slot_count: i16) -> Result<(), Error> {
    client.execute("UPDATE pgtandem.node SET slot_count = $1", &[&slot_count]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_have_names_a_server_takes() {
        let incarnation = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(slot_name("New-Shop", incarnation), "pgtandem_new_shop_01234567");
        assert!(slot_name(&"ü".repeat(200), incarnation).len() <= 63);
    }
}
