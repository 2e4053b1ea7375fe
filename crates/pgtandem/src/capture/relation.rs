//! How rows of a linked table are read: where its key is, and in which shape its rows come.

use std::collections::HashMap;
use std::sync::Arc;

use hub::{Position, TableId};

use super::error::CaptureError;
use super::key::Spelling;
use super::{Shape, ShapeId, Shapes};
use crate::sql::{Ident, Naming, QualifiedName, WrittenColumn};

/// A linked table on the node that is read.
#[derive(Debug, Clone)]
pub struct CapturedTable {
    pub id: TableId,
    /// What the node calls it and its columns.
    pub naming: Naming,
    /// Key columns in key order.
    pub key: Vec<KeyColumn>,
    /// Columns that say in which partition a row is.
    pub partitioned_by: Vec<Ident>,
    /// Changes that committed before are in the rows that were copied or compared when the table was linked.
    pub start: Position,
}

#[derive(Debug, Clone)]
pub struct KeyColumn {
    pub column: WrittenColumn,
    /// Which spellings its type allows.
    pub spelling: Spelling,
}

/// By the table's oid on the node.
pub type CapturedTables = HashMap<u32, CapturedTable>;

/// A column as the stream describes it, by the name that is the same on all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceColumn {
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
}

#[derive(Debug, Clone)]
pub(super) struct RelationPlan {
    pub table: TableId,
    pub name: Arc<QualifiedName>,
    pub shape: ShapeId,
    /// Names of all columns, in the order of the row.
    pub columns: Arc<[Ident]>,
    /// Key columns in key order, with their places in the row.
    pub key: Arc<[(usize, KeyColumn)]>,
    /// A key column's spelling has to be asked for.
    pub asks: bool,
    /// Places of the key columns that a row keeps when an update moves it to another partition; none if the table is
    /// not partitioned, or no such column is left.
    pub kept_in_move: Arc<[usize]>,
    pub start: Position,
}

pub(super) fn plan(
    table: &CapturedTable,
    relation: &wire::Relation,
    shapes: &Shapes,
) -> Result<(RelationPlan, Vec<SourceColumn>), CaptureError> {
    let own = QualifiedName::new(relation.namespace.as_str(), relation.name.as_str());
    let name = table.naming.table.called(&own);
    let columns: Vec<Ident> = relation.columns.iter().map(|column| table.naming.column(&column.name)).collect();
    let place = |column: &Ident| columns.iter().position(|c| c == column);
    let mut key = Vec::new();
    for of_key in &table.key {
        let column = &of_key.column.name;
        let gone = || CaptureError::KeyColumnGone { table: name.plain(), column: column.as_str().to_owned() };
        key.push((place(column).ok_or_else(gone)?, of_key.clone()));
    }
    let names: Vec<String> = columns.iter().map(|column| column.as_str().to_owned()).collect();
    let described = names.iter().zip(&relation.columns).map(|(name, column)| SourceColumn {
        name: name.clone(),
        type_oid: column.type_oid,
        type_modifier: column.type_modifier,
    });
    let described = described.collect();
    let plan = RelationPlan {
        table: table.id,
        name: Arc::new(name),
        columns: columns.into(),
        shape: shapes.intern(Shape { table: table.id, columns: names }),
        asks: key.iter().any(|(_, column)| column.spelling == Spelling::CaseFolded),
        kept_in_move: kept_in_move(table, &key),
        key: key.into(),
        start: table.start,
    };
    Ok((plan, described))
}

fn kept_in_move(table: &CapturedTable, key: &[(usize, KeyColumn)]) -> Arc<[usize]> {
    if table.partitioned_by.is_empty() {
        return Arc::new([]);
    }
    let kept = key.iter().filter(|(_, column)| !table.partitioned_by.contains(&column.column.name));
    kept.map(|(at, _)| *at).collect()
}
