//! Linked tables as the hub needs them: how they are read, how they are written.

use std::collections::HashMap;
use std::sync::Arc;

use hub::{Position, TableId};
use tokio_postgres::{Client, Error};

use crate::capture::key::Spelling;
use crate::capture::wal::{CapturedTable, CapturedTables};
use crate::catalog::{self, TableShape};
use crate::deliver::{TargetColumn, TargetTable, TargetTables};
use crate::link::LinkedTable;
use crate::sql::QualifiedName;

/// How deliveries write the tables of a node as they are now. A table that is gone is left out.
///
/// # Errors
/// When the connection is lost.
pub async fn read_target_tables(client: &Client, linked: &[(TableId, QualifiedName)]) -> Result<TargetTables, Error> {
    let names: Vec<_> = linked.iter().map(|(_, name)| name.clone()).collect();
    let shapes = catalog::read_tables(client, &names).await?;
    let ranks = ranks(&shapes);
    let tables = linked.iter().filter_map(|(id, name)| {
        let shape = shapes.iter().find(|shape| shape.name == *name)?;
        Some((*id, target_table(*id, shape, ranks[&shape.relid])))
    });
    Ok(Arc::new(tables.collect()))
}

fn target_table(id: TableId, shape: &TableShape, rank: usize) -> TargetTable {
    let columns = shape
        .written_columns()
        .map(|column| TargetColumn { name: column.name.clone(), cast_type: column.cast_type.clone() });
    TargetTable {
        id,
        name: shape.name.clone(),
        columns: columns.collect(),
        key: shape.primary_key.clone(),
        key_is_spelled: spellings(shape).iter().any(|(_, spelling)| *spelling != Spelling::Exact),
        rank,
    }
}

fn spellings(shape: &TableShape) -> Vec<(String, Spelling)> {
    let column = |name| shape.column(name);
    let key = shape.primary_key.iter().filter_map(column);
    key.map(|column| (column.name.as_str().to_owned(), Spelling::of_type(&column.cast_type))).collect()
}

/// Parents before children; tables that refer to each other in a circle come in any order.
fn ranks(shapes: &[TableShape]) -> HashMap<u32, usize> {
    let mut ranks: HashMap<u32, usize> = shapes.iter().map(|shape| (shape.relid, 0)).collect();
    for _ in 0..shapes.len() {
        for shape in shapes {
            let parents = shape.foreign_keys_out.iter().filter(|key| key.referenced_relid != shape.relid);
            let above = parents.filter_map(|key| ranks.get(&key.referenced_relid)).max().map_or(0, |rank| rank + 1);
            ranks.entry(shape.relid).and_modify(|rank| *rank = (*rank).max(above).min(shapes.len()));
        }
    }
    ranks
}

/// How the linked tables of a node are read.
///
/// # Errors
/// When the connection is lost.
pub async fn read_captured_tables(client: &Client, linked: &[LinkedTable]) -> Result<CapturedTables, Error> {
    let names: Vec<_> = linked.iter().map(|table| table.name.clone()).collect();
    let shapes = catalog::read_tables(client, &names).await?;
    let captured = linked.iter().filter_map(|table| {
        let shape = shapes.iter().find(|shape| shape.name == table.name)?;
        let captured = CapturedTable {
            id: table_id(table.id),
            key: spellings(shape),
            start: Position(table.start_position.into()),
        };
        Some((shape.relid, captured))
    });
    Ok(captured.collect())
}

/// Ids of linked tables are positive; the catalog has no unsigned type for them.
#[must_use]
pub fn table_id(id: i32) -> TableId {
    TableId(id.unsigned_abs())
}
