//! Whether a table's shapes on two nodes still fit. If not, the table is paused towards the node that cannot take all
//! of its rows; other tables go on.

use std::collections::BTreeSet;

use crate::catalog::{Column, TableShape};
use crate::sql::Ident;

/// A table on one node: as it is now, and which columns it had when it was linked (or last fitted).
pub struct Side<'a> {
    pub node: &'a str,
    pub shape: &'a TableShape,
    pub linked_columns: &'a BTreeSet<String>,
}

/// Why rows of `source` cannot be written whole on `target`; `None` when they can.
///
/// A column that only one node had when the table was linked is that node's own. One that came later must be on both.
#[must_use]
pub fn misfit(source: &Side<'_>, target: &Side<'_>) -> Option<String> {
    for column in source.shape.written_columns() {
        let name = column.name.as_str();
        match target.shape.column(&column.name) {
            None if is_own(name, source, target) => {}
            None if target.linked_columns.contains(name) => return Some(dropped(name, target.node, source.node)),
            None => return Some(missing(column, source, target)),
            Some(other) if other.generated.is_some() => {}
            Some(other) if !types_fit(column, other) => return Some(different(column, other, source, target)),
            Some(_) => {}
        }
    }
    let gone = target.shape.written_columns().find(|column| {
        let name = column.name.as_str();
        source.linked_columns.contains(name)
            && target.linked_columns.contains(name)
            && source.shape.column(&column.name).is_none()
    })?;
    Some(dropped(gone.name.as_str(), source.node, target.node))
}

fn dropped(column: &str, here: &str, there: &str) -> String {
    format!("column {column} was dropped on {here}; drop it on {there} too, or add it again")
}

fn is_own(name: &str, source: &Side<'_>, target: &Side<'_>) -> bool {
    source.linked_columns.contains(name) && !target.linked_columns.contains(name)
}

fn missing(column: &Column, source: &Side<'_>, target: &Side<'_>) -> String {
    format!(
        "column {} ({}) is on {} but not on {}; add it there: ALTER TABLE {} ADD COLUMN {} {}",
        column.name.as_str(),
        column.type_text,
        source.node,
        target.node,
        target.shape.name,
        Ident::new(column.name.as_str()),
        column.type_text
    )
}

fn different(column: &Column, other: &Column, source: &Side<'_>, target: &Side<'_>) -> String {
    format!(
        "column {} is {} on {} but {} on {}; give it the same type on both",
        column.name.as_str(),
        column.type_text,
        source.node,
        other.type_text,
        target.node
    )
}

/// Types whose texts mean the same: a value that does not fit is refused by the target and held, never cut off.
#[must_use]
pub fn types_fit(one: &Column, other: &Column) -> bool {
    let (a, b) = (one.cast_type.as_str(), other.cast_type.as_str());
    a == b || family(a).is_some_and(|family_a| Some(family_a) == family(b))
}

fn family(cast_type: &str) -> Option<&'static str> {
    Some(match cast_type {
        "smallint" | "integer" | "bigint" | "numeric" => "number",
        "real" | "double precision" => "float",
        "text" | "character varying" | "bpchar" | "character" | "citext" | "name" => "text",
        "json" | "jsonb" => "json",
        name if name.ends_with(".citext") => "text",
        _ => return None,
    })
}
