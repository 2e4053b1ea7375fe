//! Where ids of a table stand on one node: in foreign keys, and in what the configuration names beside them.

use super::candidates::candidates;
use crate::catalog::{ForeignKey, PlainColumn, TableShape, read_all_foreign_keys, read_plain_columns};
use crate::config::{Matching, Reference};
use crate::lifecycle::error::On;
use crate::lifecycle::{LifecycleError, NodeSurvey, OpenNode};
use crate::link::TableState;
use crate::sql::{Holder, Ident, QualifiedName, Spot};

const DOING: &str = "looking for what refers to a table";

/// All of them.
#[derive(Debug, Default)]
pub(in crate::lifecycle) struct References {
    /// In other tables.
    pub holders: Vec<Holder>,
    /// In the table itself.
    pub own: Vec<Spot>,
    /// Tables in which no foreign key keeps an old id from being written anew.
    pub unguarded: Vec<QualifiedName>,
}

/// One column, and whether a foreign key leads to it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub reference: Reference,
    guarded: bool,
}

/// Refuses what could not be followed to its end, and what is not said yet.
pub(in crate::lifecycle) async fn find(
    node: &OpenNode,
    survey: &NodeSurvey,
    shape: &TableShape,
    matching: &Matching,
) -> Result<References, LifecycleError> {
    let names = [shape.name.name.as_str(), shape.name.name.own_str()];
    // All else is of this node alone.
    let shape = &shape.own();
    let (foreign_keys, columns) = read(node).await?;
    let places = places(shape, &foreign_keys, &matching.references);
    for reference in &matching.references {
        require_known(node, reference, &columns)?;
    }
    let known: Vec<&Reference> = places.iter().map(|place| &place.reference).chain(&matching.dismiss).collect();
    let unknown = candidates(node, shape, &names, &columns, &known).await?;
    if !unknown.is_empty() {
        return Err(refuse_unknown(node, shape, matching, &unknown));
    }
    for place in &places {
        let table = &place.reference.table;
        if *table != shape.name && is_one_already(survey, table) {
            let what = format!(
                "{} on {}: rows of {}, which is linked already, refer to it, and would have to be renumbered on every node",
                shape.name.plain(),
                node.name,
                table.plain()
            );
            let remedy = format!(
                "take {} out of the configuration, run `pgtandem up`, and link both together; or make the ids fit by hand",
                table.plain()
            );
            return Err(LifecycleError::refused(what, remedy));
        }
        if columns.iter().any(|column| column.table == *table && !column.writable) {
            let what = format!(
                "node {}: {} refers to {}, and we may not write it",
                node.name,
                table.plain(),
                shape.name.plain()
            );
            let us = Ident::new(survey.role.name.as_str());
            return Err(LifecycleError::refused(what, format!("GRANT SELECT, UPDATE ON {table} TO {us}")));
        }
    }
    Ok(gather(shape, &places, &columns))
}

/// What is written to it as ours would not reach the other nodes: its rows are the same on all of them.
fn is_one_already(survey: &NodeSurvey, table: &QualifiedName) -> bool {
    let copies = || survey.link.iter().flat_map(|link| &link.copies);
    let is_filled = |id: i32| copies().any(|copy| copy.object == id.to_string());
    let mut linked = survey.link.iter().flat_map(|link| &link.tables);
    let linked = linked.find(|linked| linked.name.own() == *table);
    linked.is_some_and(|linked| linked.state == TableState::Live || is_filled(linked.id))
}

/// As [`find`], where it was agreed to before.
pub(in crate::lifecycle) async fn resolve(
    node: &OpenNode,
    shape: &TableShape,
    named: &[Reference],
) -> Result<References, LifecycleError> {
    let shape = &shape.own();
    let (foreign_keys, columns) = read(node).await?;
    Ok(gather(shape, &places(shape, &foreign_keys, named), &columns))
}

async fn read(node: &OpenNode) -> Result<(Vec<ForeignKey>, Vec<PlainColumn>), LifecycleError> {
    let foreign_keys = read_all_foreign_keys(node.client()).await.on(&node.name, DOING)?;
    Ok((foreign_keys, read_plain_columns(node.client()).await.on(&node.name, DOING)?))
}

/// What the foreign keys lead to, from the key and from the columns that are named.
fn places(shape: &TableShape, foreign_keys: &[ForeignKey], named: &[Reference]) -> Vec<Place> {
    let plain = |table: &QualifiedName, column: &Ident| Reference {
        table: table.clone(),
        column: column.clone(),
        path: Vec::new(),
        conditions: Vec::new(),
    };
    let mut places: Vec<Place> =
        named.iter().map(|reference| Place { reference: reference.clone(), guarded: false }).collect();
    let mut reached = vec![(shape.name.clone(), shape.primary_key[0].clone())];
    let whole = named.iter().filter(|reference| reference.path.is_empty() && reference.conditions.is_empty());
    reached.extend(whole.map(|reference| (reference.table.clone(), reference.column.clone())));
    let mut at = 0;
    while let Some((table, column)) = reached.get(at).cloned() {
        at += 1;
        for key in foreign_keys.iter().filter(|key| key.referenced == table) {
            let pairs = key.columns.iter().zip(&key.referenced_columns);
            for (from, _) in pairs.filter(|(_, to)| **to == column) {
                let next = (key.table.clone(), from.clone());
                if reached.contains(&next) {
                    continue;
                }
                // What is named needs no other entry.
                let reference = plain(&next.0, &next.1);
                match places.iter_mut().find(|place| place.reference.covers(&reference)) {
                    Some(place) => place.guarded = true,
                    None => places.push(Place { reference, guarded: true }),
                }
                reached.push(next);
            }
        }
    }
    places
}

fn require_known(node: &OpenNode, reference: &Reference, columns: &[PlainColumn]) -> Result<(), LifecycleError> {
    let column = columns.iter().find(|column| column.table == reference.table && column.name == reference.column);
    let what = match column {
        None => format!("there is no column for ids at {reference} (of numbers, texts, uuids or jsonb)"),
        Some(column) if column.is_jsonb && reference.path.is_empty() => {
            format!("{reference} is jsonb: which key of it holds the id is not said")
        }
        Some(column) if !column.is_jsonb && !reference.path.is_empty() => {
            format!("{}.{} is not jsonb", reference.table.plain(), reference.column.as_str())
        }
        Some(_) => return Ok(()),
    };
    Err(LifecycleError::refused(
        format!("node {}: {what}", node.name),
        "correct `references` in pgtandem.toml: \"orders.product_id\", or \"events.payload -> 'product_id'\"",
    ))
}

fn gather(shape: &TableShape, places: &[Place], columns: &[PlainColumn]) -> References {
    let key = &shape.primary_key[0];
    let key_type = shape.column(key).map_or("pg_catalog.int8", |column| column.cast_type.as_str());
    let mut found = References::default();
    for Place { reference, guarded } in places {
        let Reference { table, column, path, conditions } = reference;
        let known = columns.iter().find(|known| known.table == *table && known.name == *column);
        let is_text = known.is_some_and(|known| known.category == 'S');
        let spot = Spot {
            column: column.clone(),
            cast_type: known.map_or(key_type, |known| known.cast_type.as_str()).to_owned(),
            compared_as: if is_text { "pg_catalog.text" } else { key_type }.to_owned(),
            path: path.clone(),
            conditions: if conditions.is_empty() { Vec::new() } else { vec![conditions.clone()] },
        };
        let spots = if *table == shape.name {
            &mut found.own
        } else {
            let at = found.holders.iter().position(|holder| holder.table == *table).unwrap_or_else(|| {
                found.holders.push(Holder { table: table.clone(), spots: Vec::new() });
                found.holders.len() - 1
            });
            &mut found.holders[at].spots
        };
        // The same column in rows of several kinds is one place.
        match spots.iter_mut().find(|other| other.column == spot.column && other.path == spot.path) {
            Some(other) if other.conditions.is_empty() => {}
            Some(other) if spot.conditions.is_empty() => other.conditions.clear(),
            Some(other) => other.conditions.extend(spot.conditions),
            None => spots.push(spot),
        }
        if !guarded && !found.unguarded.contains(table) {
            found.unguarded.push(table.clone());
        }
    }
    found
}

/// With the lines that the configuration needs.
fn refuse_unknown(node: &OpenNode, shape: &TableShape, matching: &Matching, unknown: &[Reference]) -> LifecycleError {
    let quoted = |reference: &Reference| {
        let text = reference.to_string();
        // A basic string of TOML: backslashes and quotes are escaped.
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    };
    let all: Vec<String> = matching.references.iter().chain(unknown).map(quoted).collect();
    let list: String = unknown.iter().map(|reference| format!("\n  {reference}")).collect();
    LifecycleError::refused(
        format!(
            "{}: before its rows get other ids on {}, say of what looks like ids of them whether it is:{list}",
            shape.name.plain(),
            node.name
        ),
        format!(
            "look at them, and write below the table's name in pgtandem.toml (docs/merging.md):\n\
             \n  references = [{}]\n  dismiss = []   # what only looks so is moved here\n\nand run it again",
            all.join(", ")
        ),
    )
}

impl References {
    /// For people.
    pub fn shown(&self, table: &QualifiedName) -> Vec<String> {
        let own = Holder { table: table.clone(), spots: self.own.clone() };
        let shown = |holder: &Holder| {
            let spots = holder.spots.iter().flat_map(|spot| {
                let conditions: Vec<Vec<(Ident, String)>> =
                    if spot.conditions.is_empty() { vec![Vec::new()] } else { spot.conditions.clone() };
                let of = conditions.into_iter().map(|conditions| Reference {
                    table: holder.table.clone(),
                    column: spot.column.clone(),
                    path: spot.path.clone(),
                    conditions,
                });
                of.map(|reference| reference.to_string()).collect::<Vec<_>>()
            });
            spots.collect::<Vec<_>>()
        };
        std::iter::once(&own).chain(&self.holders).flat_map(shown).collect()
    }
}
