//! `conflicts undo`: the row that lost a conflict is put back.
//!
//! It is written on one node as that node's application would write it: triggers and constraints have their say, and
//! capture reads it like any other change. It has seen what it replaces, so it wins everywhere.

use std::collections::HashSet;

use futures::future::join_all;
use serde_json::{Map, Value as Json};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::error::On;
use super::{LifecycleError, OpenNode, open_nodes};
use crate::catalog::{TableShape, read_tables};
use crate::config::Config;
use crate::link;
use crate::observe::{Conflict, Side};
use crate::sql::{self, QualifiedName, WrittenColumn};

/// What came of it.
#[derive(Debug)]
pub struct Undone {
    /// Where it was written; from there it is delivered.
    pub node: String,
    /// Nodes that could not be asked whether the row is still the one that won.
    pub away: Vec<String>,
}

/// One node with the table as it is there.
struct Place {
    node: OpenNode,
    shape: TableShape,
}

/// Puts back the row that lost. Unless `force`, only where the row that won still stands, on every node that is
/// reached.
///
/// # Errors
/// When it is refused, with the reason; when no node can be reached; when the write fails.
pub async fn undo(config: &Config, conflict: &Conflict, force: bool) -> Result<Undone, LifecycleError> {
    let name = can_be_undone(conflict, force)?;
    let (mut places, away) = places(config, name).await?;
    for place in places.iter().filter(|_| !force) {
        let stands =
            standing(place.node.client(), conflict, &place.shape, false).await.on(&place.node.name, READING)?;
        refuse_changed(conflict, &place.node.name, stands.as_ref())?;
    }
    let first = places.iter().position(|place| place.node.name == conflict.winner.node).unwrap_or_default();
    places.swap(0, first);
    let known = places.iter().flat_map(|place| place.shape.written_columns());
    let known: HashSet<String> = known.map(|column| column.name.as_str().to_owned()).collect();
    write(&places[0], conflict, &known, force).await?;
    for place in &places[1..] {
        link::set_undone(place.node.client(), &conflict.name).await.on(&place.node.name, "keeping note of it")?;
    }
    Ok(Undone { node: places[0].node.name.clone(), away })
}

const READING: &str = "reading the row";

fn can_be_undone(conflict: &Conflict, force: bool) -> Result<&QualifiedName, LifecycleError> {
    let Some(name) = &conflict.linked_as else {
        return Err(LifecycleError::refused(
            format!("the conflict was in {}", conflict.table),
            "put the row back by hand",
        ));
    };
    if conflict.key.as_object().is_none_or(Map::is_empty) {
        return Err(LifecycleError::refused("a TRUNCATE is recorded without its rows", "put them back from a backup"));
    }
    if conflict.kind == hub::Kind::KeyChange.word() {
        let what = "the change gave a row another key and lost on both: one of its halves makes no whole";
        return Err(LifecycleError::refused(what, "change the row's key by hand"));
    }
    if let (Some(at), false) = (conflict.undone_at, force) {
        let what = format!("the row that lost was put back already, at {at}");
        return Err(LifecycleError::refused(what, "to put it back once more, add --force"));
    }
    let unknown = |(_, value): &(&String, &Json)| value.is_object();
    if let Some((column, _)) = values(&conflict.loser).and_then(|row| row.iter().find(unknown)) {
        let what = format!("of the row that lost, the large value of {column} is not known");
        return Err(LifecycleError::refused(what, "put the row back by hand"));
    }
    Ok(name)
}

fn values(side: &Side) -> Option<&Map<String, Json>> {
    side.row.as_ref().and_then(Json::as_object)
}

/// The nodes that are reached, and the names of those that are not.
async fn places(config: &Config, name: &QualifiedName) -> Result<(Vec<Place>, Vec<String>), LifecycleError> {
    let (mut places, mut away, mut why) = (Vec::new(), Vec::new(), Vec::new());
    for (wanted, node) in config.nodes.iter().zip(open_nodes(config).await.nodes) {
        match node {
            Ok(node) => places.push(node),
            Err(error) => {
                away.push(wanted.name.clone());
                why.push(error);
            }
        }
    }
    if places.is_empty() {
        return Err(LifecycleError::Several(why));
    }
    let shapes = join_all(places.iter().map(async |node| shape_of(node, config, name).await)).await;
    let found = places.into_iter().zip(shapes).map(|(node, shape)| {
        let shape = shape.on(&node.name, "reading the table")?;
        let gone = || LifecycleError::refused(format!("{}: {} is gone", node.name, name.plain()), "make it again");
        Ok(Place { shape: shape.ok_or_else(gone)?, node })
    });
    Ok((found.collect::<Result<_, LifecycleError>>()?, away))
}

async fn shape_of(
    node: &OpenNode,
    config: &Config,
    name: &QualifiedName,
) -> Result<Option<TableShape>, tokio_postgres::Error> {
    let linked = link::read_linked_tables(node.client()).await?.into_iter().find(|table| table.name == *name);
    let naming = linked.map_or_else(|| config.naming(&node.name, name), |table| table.naming);
    Ok(read_tables(node.client(), &[naming]).await?.pop())
}

/// The row under the conflict's key as it stands, as texts; `None` if there is none.
async fn standing(
    client: &Client,
    conflict: &Conflict,
    shape: &TableShape,
    locked: bool,
) -> Result<Option<Map<String, Json>>, tokio_postgres::Error> {
    let (key, parameters) = key_of(conflict, shape);
    let columns: Vec<_> = shape.written_columns().map(|column| column.name.clone()).collect();
    let mut query = sql::select_values(&shape.name, &key, &columns);
    if locked {
        query.push_str(" FOR UPDATE OF t");
    }
    let parameters: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|value| value as _).collect();
    let row = client.query_opt(&query, &parameters).await?;
    let value =
        |row: &tokio_postgres::Row, at: usize| row.get::<_, Option<String>>(at).map_or(Json::Null, Json::String);
    Ok(row.map(|row| (0..).zip(&columns).map(|(at, name)| (name.as_str().to_owned(), value(&row, at))).collect()))
}

fn key_of(conflict: &Conflict, shape: &TableShape) -> (Vec<WrittenColumn>, Vec<Option<String>>) {
    let key: Vec<WrittenColumn> = shape.key_columns();
    let value = |column: &WrittenColumn| conflict.key.get(column.name.as_str())?.as_str().map(str::to_owned);
    let values = key.iter().map(value).collect();
    (key, values)
}

/// Refuses unless what stands is what won. Columns that only the node has do not count.
fn refuse_changed(conflict: &Conflict, node: &str, stands: Option<&Map<String, Json>>) -> Result<(), LifecycleError> {
    let won = values(&conflict.winner);
    let say = |value: &Json| value.as_str().map_or_else(|| "NULL".to_owned(), str::to_owned);
    let change = match (won, stands) {
        (None, None) => return Ok(()),
        (None, Some(_)) => "the row was deleted then, and is there now".to_owned(),
        (Some(_), None) => "the row is gone".to_owned(),
        (Some(won), Some(stands)) => {
            let differs = |(name, value): &(&String, &Json)| {
                !value.is_object() && stands.get(*name).is_some_and(|now| now != *value)
            };
            let Some((name, value)) = won.iter().find(differs) else { return Ok(()) };
            format!("{name} is {}, not {}", say(&stands[name]), say(value))
        }
    };
    Err(LifecycleError::refused(
        format!("the row has changed on {node} since the conflict was decided: {change}"),
        "look at it, and if the row that lost is to take its place, add --force",
    ))
}

/// `known`: columns of any node.
async fn write(place: &Place, conflict: &Conflict, known: &HashSet<String>, force: bool) -> Result<(), LifecycleError> {
    let node = place.node.name.as_str();
    // A session that ends before its COMMIT leaves nothing.
    let session = place.node.as_an_application().await?;
    let client = &session.client;
    client.batch_execute("BEGIN; SET LOCAL lock_timeout = '10s'").await.on(node, "beginning")?;
    let stands = standing(client, conflict, &place.shape, true).await.on(node, READING)?;
    if !force {
        refuse_changed(conflict, node, stands.as_ref())?;
    }
    let (text, parameters) = statement(place, conflict, known)?;
    let parameters: Vec<Vec<Option<&str>>> = parameters.into_iter().map(|value| vec![value]).collect();
    let parameters: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|array| array as _).collect();
    client.execute(&text, &parameters).await.on(node, "writing the row that lost")?;
    link::set_undone(client, &conflict.name).await.on(node, "keeping note of it")?;
    client.batch_execute("COMMIT").await.on(node, "writing the row that lost")
}

/// What makes the row what it was when it lost, and its parameters. What only the node that lost has stays there.
fn statement<'c>(
    place: &Place,
    conflict: &'c Conflict,
    known: &HashSet<String>,
) -> Result<(String, Vec<Option<&'c str>>), LifecycleError> {
    let shape = &place.shape;
    let Some(row) = values(&conflict.loser) else {
        let key = shape.key_columns();
        let value = |column: &WrittenColumn| conflict.key.get(column.name.as_str()).and_then(Json::as_str);
        let parameters = key.iter().map(value).collect();
        return Ok((sql::delete(&shape.name, &key), parameters));
    };
    let written: Vec<WrittenColumn> = shape.written_columns().map(|column| shape.written(column)).collect();
    if let Some(gone) = row.keys().find(|name| !known.contains(*name)) {
        let node = &place.node.name;
        let what = format!("{node}: the row that lost has a column {gone}, which {} no longer has", shape.name.plain());
        return Err(LifecycleError::refused(what, "put the row back by hand"));
    }
    let columns: Vec<WrittenColumn> =
        written.into_iter().filter(|column| row.contains_key(column.name.as_str())).collect();
    let parameters = columns.iter().map(|column| row[column.name.as_str()].as_str()).collect();
    Ok((sql::upsert(&shape.name, &columns, false), parameters))
}
