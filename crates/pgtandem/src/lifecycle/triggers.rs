//! Triggers that somebody has made to write to the other database: put out of action while linked, for `down` to restore.

use super::error::On;
use super::{LifecycleError, OpenNode, locks};
use crate::link::{self, RestoreKind};
use crate::sql::{self, Ident, QualifiedName};
use serde_json::json;

/// Saved first: between the two a kill leaves a record of something that did not happen, which does no harm.
pub(super) async fn retire(node: &OpenNode, table: &QualifiedName, trigger: &Ident) -> Result<(), LifecycleError> {
    const DOING: &str = "disabling a trigger";
    const FIRING: &str = "SELECT t.tgenabled::text FROM pg_catalog.pg_trigger t
                          WHERE t.tgrelid = pg_catalog.to_regclass($1::text) AND t.tgname = $2";
    let saved = async {
        let found = node.client().query_opt(FIRING, &[&table.to_string(), &trigger.as_str()]).await?;
        let Some(row) = found else { return Ok(()) };
        let before = json!({
            "schema": table.schema.as_str(),
            "table": table.name.as_str(),
            "trigger": trigger.as_str(),
            "firing": row.get::<_, &str>(0),
        });
        let object = format!("{trigger} on {table}");
        link::save_restore(node.client(), RestoreKind::Trigger, &object, &before, None).await
    };
    saved.await.on(&node.name, DOING)?;
    locks::in_short_transaction(node, DOING, table, &[sql::disable_trigger(table, trigger)]).await
}

/// The table's, as they were; one that is gone, or was enabled by somebody since, is left.
pub(super) async fn restore(node: &OpenNode, table: &QualifiedName) -> Result<(), LifecycleError> {
    const DOING: &str = "restoring a trigger";
    const DISABLED: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgenabled = 'D'
                            AND t.tgrelid = pg_catalog.to_regclass($1::text) AND t.tgname = $2)";
    let client = node.client();
    let all = link::list_restore(client, RestoreKind::Trigger).await.on(&node.name, DOING)?;
    for saved in all {
        let text = |field: &str| saved.before[field].as_str().unwrap_or_default().to_owned();
        if text("schema") != table.schema.as_str() || text("table") != table.name.as_str() {
            continue;
        }
        let trigger = Ident::new(text("trigger"));
        let disabled = client.query_one(DISABLED, &[&table.to_string(), &trigger.as_str()]).await;
        if disabled.on(&node.name, DOING)?.get(0) {
            let statement = sql::enable_trigger(table, &trigger, &text("firing"));
            locks::in_short_transaction(node, DOING, table, &[statement]).await?;
        }
        link::delete_restore(client, RestoreKind::Trigger, &saved.object).await.on(&node.name, DOING)?;
    }
    Ok(())
}
