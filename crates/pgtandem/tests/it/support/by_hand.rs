//! What `pgtandem up --yes` and `pgtandem run` will do, until they do it.

use std::ffi::OsString;
use std::path::Path;

use pgtandem::cluster::Session;

use super::fleet::Node;

const SCHEMA: &str = include_str!("../../../sql/schema.sql");

/// The arguments that start the hub.
pub fn run(config: &Path) -> Vec<OsString> {
    vec![config.into()]
}

/// Links tables that are equal on all nodes.
#[track_caller]
pub fn link(nodes: &[Node], tables: &[String]) {
    for (number, node) in nodes.iter().enumerate() {
        install(nodes, number, node, tables);
    }
}

#[track_caller]
fn install(nodes: &[Node], number: usize, node: &Node, tables: &[String]) {
    let session = node.own_session();
    let run = |sql: String| session.run(sql).unwrap_or_else(|e| panic!("{e}"));
    let slot = format!("pgtandem_{}", node.database());
    run(SCHEMA.to_owned());
    run(format!(
        "INSERT INTO pgtandem.node (number, name, incarnation, system_identifier, database_oid, slot, publication,
                                    secret, schema_version)
         SELECT {number}, '{name}', gen_random_uuid(), (SELECT system_identifier::text FROM pg_control_system()), oid,
                '{slot}', 'pgtandem', gen_random_uuid(), 1
         FROM pg_database WHERE datname = current_database()",
        name = node.name(),
    ));
    for (number, peer) in nodes.iter().enumerate() {
        run(format!("INSERT INTO pgtandem.peer VALUES ({number}, '{}', gen_random_uuid())", peer.name()));
    }
    for table in tables {
        keep_whole_rows(&session, table);
    }
    run(format!("CREATE PUBLICATION pgtandem FOR TABLE {} WITH (publish_via_partition_root)", tables.join(", ")));
    run(format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    for (id, table) in (1..).zip(tables) {
        run(format!(
            "INSERT INTO pgtandem.linked_table (id, schema_name, table_name, relid, resolve, ids, columns,
                                                start_position, state)
             SELECT {id}, n.nspname, c.relname, c.oid, 'newest', 'keep',
                    (SELECT array_agg(attname::text) FROM pg_attribute
                     WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''),
                    (SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'), 'live'
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = '{table}'::regclass"
        ));
    }
}

/// REPLICA IDENTITY FULL where values may be stored out of line.
fn keep_whole_rows(session: &Session, table: &str) {
    let leaves = format!(
        "SELECT c.oid::regclass FROM pg_class c
         WHERE c.reltoastrelid <> 0 AND (c.oid = '{table}'::regclass
               OR c.oid IN (SELECT relid FROM pg_partition_tree('{table}') WHERE isleaf))"
    );
    for leaf in session.run(leaves).unwrap_or_else(|e| panic!("{e}")).lines() {
        session.run(format!("ALTER TABLE {leaf} REPLICA IDENTITY FULL")).unwrap_or_else(|e| panic!("{e}"));
    }
}
