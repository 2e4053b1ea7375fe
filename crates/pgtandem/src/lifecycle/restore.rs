//! Giving the application's objects back what `up` changed on them.

use super::error::On;
use super::interleave::{SequenceAfter, SequenceBefore};
use super::{LifecycleError, OpenNode, locks};
use crate::catalog::{ReplicaIdentity, read_publication};
use crate::link::{self, Restore, RestoreKind};
use crate::sql::{self, Ident, QualifiedName};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::Client;

/// Saved before a replica identity is changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct IdentityBefore {
    /// Of the table that holds the rows: it finds it again if it has been renamed.
    relid: u32,
    /// The linked table, which may be the partitioned one above.
    schema: String,
    table: String,
    /// What stands after REPLICA IDENTITY.
    identity: String,
}

pub(super) fn identity_before(root: &QualifiedName, relid: u32, identity: &ReplicaIdentity) -> Value {
    let before = IdentityBefore {
        relid,
        schema: root.schema.as_str().to_owned(),
        table: root.name.as_str().to_owned(),
        identity: identity.sql(),
    };
    serde_json::to_value(before).unwrap_or_default()
}

/// Takes one table out of the link on one node. May be repeated.
pub(super) async fn unlink_table(node: &OpenNode, id: i32, table: &QualifiedName) -> Result<(), LifecycleError> {
    const DOING: &str = "taking a table out of the link";
    let client = node.client();
    let publication = read_publication(client, link::PUBLICATION).await.on(&node.name, DOING)?;
    if publication.is_some_and(|publication| publication.tables.contains(&table.own())) {
        let statement = sql::drop_from_publication(&Ident::new(link::PUBLICATION), table);
        locks::in_short_transaction(node, DOING, table, &[statement]).await?;
    }
    let captured = link::read_captured(client).await.on(&node.name, DOING)?;
    if !captured.is_empty() && exists(client, table).await.on(&node.name, DOING)? {
        locks::in_short_transaction(node, DOING, table, &sql::drop_capture(table)).await?;
    }
    super::direct::remove_table(node, id, table).await?;
    restore_table(node, table).await?;
    let work = async {
        link::delete_restore(client, RestoreKind::Copy, &id.to_string()).await?;
        link::delete_restore(client, RestoreKind::Renumber, &id.to_string()).await?;
        link::delete_linked_table(client, id).await
    };
    work.await.on(&node.name, DOING)
}

/// Its replica identity (and its partitions') and sequences, as saved. What is gone or was changed by others is left.
pub(super) async fn restore_table(node: &OpenNode, table: &QualifiedName) -> Result<(), LifecycleError> {
    let is_its = |saved: &Restore| {
        let text = |field: &str| saved.before[field].as_str().map(str::to_owned);
        text("schema").as_deref() == Some(table.schema.as_str())
            && text("table").as_deref() == Some(table.name.as_str())
    };
    super::triggers::restore(node, table).await?;
    for saved in list(node, RestoreKind::ReplicaIdentity).await?.iter().filter(|saved| is_its(saved)) {
        restore_identity(node, saved).await?;
    }
    for saved in list(node, RestoreKind::Sequence).await?.iter().filter(|saved| is_its(saved)) {
        restore_sequence(node, saved).await?;
    }
    Ok(())
}

pub(super) async fn exists(client: &Client, table: &QualifiedName) -> Result<bool, tokio_postgres::Error> {
    const QUERY: &str = "SELECT pg_catalog.to_regclass($1::text) IS NOT NULL";
    Ok(client.query_one(QUERY, &[&table.to_string()]).await?.get(0))
}

async fn list(node: &OpenNode, kind: RestoreKind) -> Result<Vec<Restore>, LifecycleError> {
    link::list_restore(node.client(), kind).await.on(&node.name, "reading what was before")
}

async fn restore_identity(node: &OpenNode, saved: &Restore) -> Result<(), LifecycleError> {
    const DOING: &str = "restoring a replica identity";
    let client = node.client();
    let before: IdentityBefore = parse(node, saved, &saved.before)?;
    if let Some(name) = name_of(client, before.relid).await.on(&node.name, DOING)? {
        let ours = saved.after.as_ref().and_then(Value::as_str).unwrap_or("FULL");
        let now = identity_now(client, before.relid).await.on(&node.name, DOING)?;
        if now == ours {
            let statement = sql::alter_replica_identity(&name, &before.identity);
            locks::in_short_transaction(node, DOING, &name, &[statement]).await?;
        }
    }
    link::delete_restore(client, RestoreKind::ReplicaIdentity, &saved.object).await.on(&node.name, DOING)
}

async fn identity_now(client: &Client, relid: u32) -> Result<String, tokio_postgres::Error> {
    const QUERY: &str =
        "SELECT CASE relreplident WHEN 'f' THEN 'FULL' WHEN 'd' THEN 'DEFAULT' WHEN 'n' THEN 'NOTHING' ELSE 'INDEX' END
                         FROM pg_catalog.pg_class WHERE oid = $1";
    Ok(client.query_one(QUERY, &[&relid]).await?.get(0))
}

async fn restore_sequence(node: &OpenNode, saved: &Restore) -> Result<(), LifecycleError> {
    const DOING: &str = "restoring a sequence";
    let client = node.client();
    let before: SequenceBefore = parse(node, saved, &saved.before)?;
    let after: SequenceAfter = parse(node, saved, saved.after.as_ref().unwrap_or(&Value::Null))?;
    let sequence = name_of(client, before.oid).await.on(&node.name, DOING)?;
    if let Some(sequence) = sequence {
        let highest = highest_value(client, &before).await.on(&node.name, DOING)?;
        let mut attempts = locks::Attempts::new();
        while let Err(error) = try_restore_sequence(node, &sequence, &before, &after, highest).await {
            client.batch_execute("ROLLBACK").await.on(&node.name, DOING)?;
            if !locks::is_lock_timeout(&error) {
                return Err(error);
            }
            if !attempts.again().await {
                return Err(locks::busy(node, DOING, &sequence).await);
            }
        }
    }
    link::delete_restore(client, RestoreKind::Sequence, &saved.object).await.on(&node.name, DOING)
}

async fn try_restore_sequence(
    node: &OpenNode,
    sequence: &QualifiedName,
    before: &SequenceBefore,
    after: &SequenceAfter,
    highest: Option<i64>,
) -> Result<(), LifecycleError> {
    let client = node.client();
    let work = async {
        let script = format!("BEGIN; {}; {}", locks::set_lock_timeout(), before.options.alter(sequence, None));
        client.batch_execute(&script).await?;
        let row = client.query_one(&sql::sequence_state(sequence), &[]).await?;
        let (value, is_called) = value_after(before, after, (row.get(0), row.get(1)), highest);
        client.batch_execute(&format!("{}; COMMIT", sql::set_value(sequence, value, is_called))).await
    };
    work.await.on(&node.name, "restoring a sequence")
}

/// Where the sequence goes on: where it was, if it has not been used since and no row of a peer's lies above; never
/// at or below an id that is there.
fn value_after(before: &SequenceBefore, after: &SequenceAfter, now: (i64, bool), highest: Option<i64>) -> (i64, bool) {
    let untouched = now == (after.restart, false);
    let (value, is_called) = if untouched { (before.last_value, before.is_called) } else { now };
    let Some(highest) = highest else {
        return (value, is_called);
    };
    let is_above = value > highest || (value == highest && is_called);
    if is_above {
        return (value, is_called);
    }
    // An application that takes ids in blocks expects them where its steps fall.
    let step = before.options.increment.max(1);
    let missing = (before.options.start - highest).rem_euclid(step);
    (highest.saturating_add(missing).clamp(before.options.min, before.options.max), true)
}

async fn highest_value(client: &Client, before: &SequenceBefore) -> Result<Option<i64>, tokio_postgres::Error> {
    let Some(table) = name_of(client, before.relid).await? else {
        return Ok(None);
    };
    const COLUMN: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute
                                         WHERE attrelid = $1 AND attname = $2 AND NOT attisdropped)";
    if !client.query_one(COLUMN, &[&before.relid, &before.column]).await?.get::<_, bool>(0) {
        return Ok(None);
    }
    let query = sql::highest_value(&table, &Ident::new(before.column.as_str()));
    Ok(client.query_one(&query, &[]).await?.get(0))
}

/// What a relation is called now.
async fn name_of(client: &Client, oid: u32) -> Result<Option<QualifiedName>, tokio_postgres::Error> {
    const QUERY: &str = "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c
                         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";
    let row = client.query_opt(QUERY, &[&oid]).await?;
    Ok(row.map(|row| QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1))))
}

fn parse<T: for<'a> Deserialize<'a>>(node: &OpenNode, saved: &Restore, value: &Value) -> Result<T, LifecycleError> {
    serde_json::from_value(value.clone()).map_err(|error| {
        LifecycleError::refused(
            format!("node {}: what pgtandem.restore keeps of {} cannot be read: {error}", node.name, saved.object),
            "restore it by hand, delete its row from pgtandem.restore, and run the command again",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::Pattern;
    use crate::sql::SequenceOptions;

    fn restored(increment: i64, last: (i64, bool), now: (i64, bool), highest: Option<i64>) -> (i64, bool) {
        let options = SequenceOptions { increment, start: 1, min: 1, max: 1000, cache: 1, cycle: false };
        let before = SequenceBefore {
            oid: 1,
            relid: 2,
            schema: String::new(),
            table: String::new(),
            column: String::new(),
            options: options.clone(),
            last_value: last.0,
            is_called: last.1,
        };
        let pattern = Pattern { step: increment, slots: 4, offset: 0 };
        value_after(&before, &SequenceAfter { options, pattern, restart: 12 }, now, highest)
    }

    #[test]
    fn an_unused_sequence_is_as_it_was() {
        assert_eq!(restored(1, (1, false), (12, false), None), (1, false));
        assert_eq!(restored(1, (9, true), (12, false), Some(9)), (9, true));
    }

    #[test]
    fn no_id_is_given_twice() {
        assert_eq!(restored(1, (9, true), (12, true), Some(12)), (12, true));
        assert_eq!(restored(1, (9, true), (12, true), Some(40)), (40, true));
        assert_eq!(restored(1, (1, false), (12, false), Some(3)), (3, true));
        assert_eq!(restored(50, (101, true), (12, false), Some(160)), (201, true));
    }
}
