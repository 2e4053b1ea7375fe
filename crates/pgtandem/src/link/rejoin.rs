//! A node that is brought back under its old number: what was known of its positions is forgotten.

use super::nodes::TIMELINE;
use super::{NodeRow, Sight, slot_name};
use crate::config::Capture;
use tokio_postgres::{Client, Error};
use uuid::Uuid;

/// On every node: nothing of what the node wrote is known to have arrived. What a node holds of it came before all that
/// is judged from now on (as when tables are merged: too little seen is the safe side).
pub async fn forget_positions_of(client: &Client, number: i16, incarnation: Uuid) -> Result<(), Error> {
    let place = number + 1;
    client
        .batch_execute(&format!(
            "BEGIN;
             UPDATE pgtandem.landing SET cover[{place}] = '0/0' WHERE pg_catalog.cardinality(cover) >= {place};
             UPDATE pgtandem.held SET cover[{place}] = '0/0' WHERE pg_catalog.cardinality(cover) >= {place};
             UPDATE pgtandem.held SET reflects[{place}] = '0/0' WHERE pg_catalog.cardinality(reflects) >= {place};
             UPDATE pgtandem.held SET source_position = '0/1' WHERE source_node = {number};
             UPDATE pgtandem.peer SET incarnation = '{incarnation}' WHERE number = {number};
             -- Direct mode: what was sent in its former life, by either, comes too late.
             DO $$ BEGIN IF pg_catalog.to_regclass('pgtandem.taking') IS NOT NULL THEN
                 UPDATE pgtandem.taking SET own = '{incarnation}', peer = '{incarnation}', newest = 0; END IF; END $$;
             COMMIT"
        ))
        .await
}

/// On the node itself: it is the database that it is now, whatever it was a copy of.
///
/// What it held is found by the comparison. Its ids are interleaved anew, above all that there are.
pub async fn begin_anew(client: &Client, node: &NodeRow, known: &[Sight]) -> Result<NodeRow, Error> {
    let identity = format!(
        "UPDATE pgtandem.node SET incarnation = $1, slot = $2, secret = $3, timeline = {TIMELINE},
        system_identifier = (SELECT system_identifier::text FROM pg_catalog.pg_control_system()),
        database_oid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"
    );
    const REST: &str = "
        UPDATE pgtandem.linked_table SET start_position = '0/0',
            relid = coalesce(pg_catalog.to_regclass(pg_catalog.format('%I.%I', own_schema, own_name))::oid, relid);
        UPDATE pgtandem.restore SET after = NULL WHERE kind = 'sequence';
        DELETE FROM pgtandem.held";
    const WAL: &str = "UPDATE pgtandem.landing SET acknowledged = '0/0', wrote = NULL,
        position = least(position, pg_catalog.pg_current_wal_insert_lsn())";
    const OUTBOX: &str =
        "TRUNCATE pgtandem.outbox_0, pgtandem.outbox_1, pgtandem.outbox_2; DELETE FROM pgtandem.outbox_read;
        DELETE FROM pgtandem.landing; UPDATE pgtandem.outbox_acknowledged SET position = '0/0';
        -- Direct mode: nothing in the outbox, nothing that waits.
        DO $$ BEGIN IF pg_catalog.to_regclass('pgtandem.queued') IS NOT NULL THEN DELETE FROM pgtandem.queued;
            UPDATE pgtandem.sent SET outcome = 'l' WHERE outcome IN ('q', 'w', 'r'); END IF; END $$";
    let incarnation = Uuid::new_v4();
    let slot = slot_name(&node.name, incarnation);
    let secret = Uuid::new_v4();
    let beat = known.iter().map(|sight| sight.beat(node.number)).max().unwrap_or_default();
    client.batch_execute("BEGIN").await?;
    client.execute(&identity, &[&incarnation, &slot, &secret]).await?;
    client.batch_execute(REST).await?;
    client.batch_execute(if node.capture == Capture::Wal { WAL } else { OUTBOX }).await?;
    super::write_pulses(client, &[node.number], &[beat]).await?;
    client.batch_execute("COMMIT").await?;
    Ok(NodeRow { incarnation, slot, secret, ..node.clone() })
}

/// Linked tables whose changes no trigger captures any more.
pub async fn uncaptured(client: &Client) -> Result<Vec<String>, Error> {
    const QUERY: &str = "
        SELECT pg_catalog.format('%s.%s', t.schema_name, t.table_name)
        FROM pgtandem.linked_table t JOIN pg_catalog.pg_class c ON c.oid = t.relid
        WHERE t.state = 'live' AND pg_catalog.to_regclass('pgtandem.outbox_read') IS NOT NULL
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid
                          WHERE g.tgrelid = t.relid AND p.pronamespace = pg_catalog.to_regnamespace('pgtandem')
                            AND p.proname !~ '^mirror_' AND g.tgenabled <> 'D')
        ORDER BY t.id";
    Ok(client.query(QUERY, &[]).await?.iter().map(|row| row.get(0)).collect())
}
