//! How rows of a linked table are read: where its key is, and in which shape its rows come.

use std::collections::HashMap;
use std::sync::Arc;

use hub::{Position, TableId};

use super::CaptureError;
use crate::capture::key::Spelling;
use crate::capture::{Shape, ShapeId, Shapes};

/// A linked table on the node that is read.
#[derive(Debug, Clone)]
pub struct CapturedTable {
    pub id: TableId,
    /// Key columns in key order, each with the spellings its type allows.
    pub key: Vec<(String, Spelling)>,
    /// Changes that committed before are in the rows that were copied or compared when the table was linked.
    pub start: Position,
}

/// By the table's oid on the node.
pub type CapturedTables = HashMap<u32, CapturedTable>;

/// A column as the stream describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceColumn {
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
}

#[derive(Debug, Clone)]
pub(super) struct RelationPlan {
    pub table: TableId,
    pub name: Arc<str>,
    pub shape: ShapeId,
    /// Key columns in key order: index in the row, spelling.
    pub key: Arc<[(usize, Spelling)]>,
    pub start: Position,
}

pub(super) fn plan(
    table: &CapturedTable,
    relation: &wire::Relation,
    shapes: &Shapes,
) -> Result<(RelationPlan, Vec<SourceColumn>), CaptureError> {
    let name = format!("{}.{}", relation.namespace, relation.name);
    let place = |column: &String| relation.columns.iter().position(|c| c.name == *column);
    let mut key = Vec::new();
    for (column, spelling) in &table.key {
        let gone = || CaptureError::KeyColumnGone { table: name.clone(), column: column.clone() };
        key.push((place(column).ok_or_else(gone)?, *spelling));
    }
    let columns = relation.columns.iter().map(|column| column.name.clone()).collect();
    let shape = shapes.intern(Shape { table: table.id, columns });
    let plan = RelationPlan { table: table.id, name: name.into(), shape, key: key.into(), start: table.start };
    let described = relation.columns.iter().map(|column| SourceColumn {
        name: column.name.clone(),
        type_oid: column.type_oid,
        type_modifier: column.type_modifier,
    });
    Ok((plan, described.collect()))
}
