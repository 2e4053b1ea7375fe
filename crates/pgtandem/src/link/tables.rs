//! `pgtandem.linked_table`: what is kept the same.

use crate::config::Ids;
use crate::sql::{Ident, Naming, QualifiedName};
use serde_json::{Map, Value as Json};
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Error, GenericClient, Row};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedTable {
    /// The same on all nodes.
    pub id: i32,
    pub name: QualifiedName,
    /// What this node calls it and its columns.
    pub naming: Naming,
    pub relid: u32,
    /// `newest` or `prefer:NODE`.
    pub resolve: String,
    pub ids: Ids,
    /// Of this node's table when it was linked, or when it last fitted its peers'.
    pub columns: Vec<String>,
    /// Changes of this node that committed before it are not judged.
    pub start_position: PgLsn,
    pub state: TableState,
    pub linked_at: Option<std::time::SystemTime>,
    pub paused_by: Option<PausedBy>,
    pub pause_reason: Option<String>,
}

/// Durable. Set by `up`: `Linking` before it touches the table's rows, `Live` on all nodes once they are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableState {
    Linking,
    Live,
}

/// Durable. `User` is set and taken back by `pause` and `resume`, `Drift` by the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PausedBy {
    User,
    Drift,
}

impl PausedBy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Drift => "drift",
        }
    }
}

/// In the order of their ids.
pub async fn read_linked_tables(client: &impl GenericClient) -> Result<Vec<LinkedTable>, Error> {
    const QUERY: &str =
        // `down` reads links of older versions, too, which called everything the same on all nodes.
        "SELECT id, schema_name, table_name,
                coalesce(pg_catalog.to_jsonb(t) ->> 'own_schema', schema_name) AS own_schema,
                coalesce(pg_catalog.to_jsonb(t) ->> 'own_name', table_name) AS own_name,
                coalesce(pg_catalog.to_jsonb(t) -> 'own_columns', '{}') AS own_columns,
                relid, resolve, ids, columns, start_position, state, linked_at, paused_by, pause_reason
         FROM pgtandem.linked_table t ORDER BY id";
    Ok(client.query(QUERY, &[]).await?.iter().map(linked_table).collect())
}

fn linked_table(row: &Row) -> LinkedTable {
    let naming = naming(row);
    LinkedTable {
        id: row.get("id"),
        name: naming.table.clone(),
        naming,
        relid: row.get("relid"),
        resolve: row.get("resolve"),
        ids: match row.get("ids") {
            "interleave" => Ids::Interleave,
            "mirror" => Ids::Mirror,
            _ => Ids::Keep,
        },
        columns: row.get("columns"),
        start_position: row.get("start_position"),
        state: match row.get("state") {
            "live" => TableState::Live,
            _ => TableState::Linking,
        },
        linked_at: row.get("linked_at"),
        paused_by: row.get::<_, Option<&str>>("paused_by").map(|by| match by {
            "drift" => PausedBy::Drift,
            _ => PausedBy::User,
        }),
        pause_reason: row.get("pause_reason"),
    }
}

fn naming(row: &Row) -> Naming {
    let name = |schema, name| QualifiedName::new(row.get::<_, &str>(schema), row.get::<_, &str>(name));
    let columns: Json = row.get("own_columns");
    let renamed = columns.as_object().into_iter().flatten();
    let renamed = renamed.filter_map(|(name, own)| Some(Ident::called(name.as_str(), own.as_str()?)));
    Naming::new(name("schema_name", "table_name").called(&name("own_schema", "own_name")), renamed.collect())
}

/// As `own_columns` keeps them.
pub fn renamed_columns(naming: &Naming) -> Json {
    let pair = |column: &Ident| (column.as_str().to_owned(), Json::from(column.own_str()));
    Json::Object(naming.columns().iter().map(pair).collect::<Map<_, _>>())
}

/// The highest id that any table has or had: decisions tell tables by it, so none is given twice.
pub async fn read_last_table_id(client: &impl GenericClient) -> Result<i32, Error> {
    const QUERY: &str = "SELECT coalesce(pg_catalog.max(id), 0) FROM (SELECT id FROM pgtandem.linked_table
                         UNION ALL SELECT table_id FROM pgtandem.decision) AS used";
    Ok(client.query_one(QUERY, &[]).await?.get(0))
}

/// Always begins as `Linking`; [`set_live`] ends that.
pub async fn insert_linked_table(client: &impl GenericClient, table: &LinkedTable) -> Result<(), Error> {
    const QUERY: &str = "
        INSERT INTO pgtandem.linked_table (id, schema_name, table_name, relid, resolve, ids, columns, start_position,
                                           own_schema, own_name, own_columns, state)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'linking')";
    let QualifiedName { schema, name } = &table.naming.table;
    client
        .execute(
            QUERY,
            &[
                &table.id,
                &schema.as_str(),
                &name.as_str(),
                &table.relid,
                &table.resolve,
                &table.ids.to_string(),
                &table.columns,
                &table.start_position,
                &schema.own_str(),
                &name.own_str(),
                &renamed_columns(&table.naming),
            ],
        )
        .await?;
    Ok(())
}

pub async fn set_columns(client: &impl GenericClient, id: i32, columns: &[String]) -> Result<(), Error> {
    client.execute("UPDATE pgtandem.linked_table SET columns = $2 WHERE id = $1", &[&id, &columns]).await?;
    Ok(())
}

pub async fn set_start_position(client: &impl GenericClient, id: i32, position: PgLsn) -> Result<(), Error> {
    client.execute("UPDATE pgtandem.linked_table SET start_position = $2 WHERE id = $1", &[&id, &position]).await?;
    Ok(())
}

pub async fn set_live(client: &impl GenericClient, id: i32) -> Result<(), Error> {
    const QUERY: &str = "UPDATE pgtandem.linked_table SET state = 'live', linked_at = pg_catalog.clock_timestamp()
                         WHERE id = $1 AND state <> 'live'";
    client.execute(QUERY, &[&id]).await?;
    Ok(())
}

/// Back to what it was before its rows were made the same.
pub async fn set_linking(client: &impl GenericClient, id: i32) -> Result<(), Error> {
    const QUERY: &str = "UPDATE pgtandem.linked_table SET state = 'linking', linked_at = NULL, start_position = '0/0'
                         WHERE id = $1";
    client.execute(QUERY, &[&id]).await?;
    Ok(())
}

pub async fn set_policy(client: &impl GenericClient, id: i32, resolve: &str, ids: Ids) -> Result<(), Error> {
    const QUERY: &str = "UPDATE pgtandem.linked_table SET resolve = $2, ids = $3 WHERE id = $1";
    client.execute(QUERY, &[&id, &resolve, &ids.to_string()]).await?;
    Ok(())
}

/// `None` ends the pause.
pub async fn set_paused(client: &impl GenericClient, id: i32, paused: Option<(PausedBy, &str)>) -> Result<(), Error> {
    const QUERY: &str = "UPDATE pgtandem.linked_table SET paused_by = $2, pause_reason = $3 WHERE id = $1";
    let (by, reason) = (paused.map(|(by, _)| by.as_str()), paused.map(|(_, reason)| reason));
    client.execute(QUERY, &[&id, &by, &reason]).await?;
    Ok(())
}

/// With everything that is kept about it, but for the decisions: those are history.
pub async fn delete_linked_table(client: &impl GenericClient, id: i32) -> Result<(), Error> {
    client.execute("DELETE FROM pgtandem.held WHERE table_id = $1", &[&id]).await?;
    for table in ["merged_rows", "merge", "renumbered"] {
        client.execute(&format!("DELETE FROM pgtandem.{table} WHERE table_id = $1"), &[&id]).await?;
    }
    client.execute("DELETE FROM pgtandem.linked_table WHERE id = $1", &[&id]).await?;
    Ok(())
}
