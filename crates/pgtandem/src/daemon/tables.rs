//! Linked tables as the hub needs them: how they are read, how they are written.

use std::collections::HashMap;
use std::sync::Arc;

use hub::{Position, TableId};
use tokio_postgres::{Client, Error};

use crate::capture::key::Spelling;
use crate::capture::{CapturedTable, CapturedTables, KeyColumn};
use crate::catalog::{self, Column, ForeignKey, Identity, TableShape, Trigger, TriggerFiring, UniqueIndex};
use crate::deliver::{Referrer, TargetColumn, TargetTable, TargetTables};
use crate::link::LinkedTable;
use crate::sql::{Ident, Naming};

/// How deliveries write the tables of a node as they are now. A table that is gone is left out. `is_replica`: the
/// session's `session_replication_role`.
///
/// # Errors
/// When the connection is lost.
pub async fn read_target_tables(
    client: &Client,
    linked: &[(TableId, Naming)],
    is_replica: bool,
) -> Result<TargetTables, Error> {
    let namings: Vec<_> = linked.iter().map(|(_, naming)| naming.clone()).collect();
    let shapes = catalog::read_tables(client, &namings).await?;
    let ranks = ranks(&shapes);
    let tables = linked.iter().filter_map(|(id, naming)| {
        let shape = shapes.iter().find(|shape| shape.name == naming.table)?;
        Some((*id, target_table(*id, shape, ranks[&shape.relid], is_replica)))
    });
    Ok(Arc::new(tables.collect()))
}

fn target_table(id: TableId, shape: &TableShape, rank: usize, is_replica: bool) -> TargetTable {
    let columns = shape.written_columns().map(|column| TargetColumn {
        name: column.name.clone(),
        cast_type: column.cast_type.clone(),
        equals: column.equals.clone(),
        is_fixed: column.identity == Some(Identity::Always),
    });
    let columns: Vec<_> = columns.collect();
    let fires = |trigger: &Trigger| match trigger.firing {
        TriggerFiring::Disabled => false,
        TriggerFiring::Origin => !is_replica,
        TriggerFiring::Replica => is_replica,
        TriggerFiring::Always => true,
    };
    let has_fixed = columns.iter().any(|column| column.is_fixed && !shape.is_key(&column.name));
    TargetTable {
        id,
        name: shape.name.clone(),
        is_replica,
        row_security: shape.row_security,
        may_leave_out: has_fixed || shape.triggers.iter().any(fires),
        unchecked: if is_replica { deferrable(shape) } else { Vec::new() },
        referrers: if is_replica {
            Vec::new()
        } else {
            shape.foreign_keys_in.iter().map(|key| referrer(shape, key)).collect()
        },
        columns,
        key: shape.primary_key.clone(),
        key_is_spelled: key_columns(shape).iter().any(|column| column.spelling != Spelling::Exact),
        rank,
    }
}

/// A constraint's name, its columns and what makes them equal.
type Unique = (Ident, Vec<(Ident, String)>);

fn deferrable(shape: &TableShape) -> Vec<Unique> {
    let unique = shape.unique_indexes.iter().filter(|index| index.deferrable && !index.is_exclusion);
    let column = |name: &Ident| (name.clone(), equals(shape, name));
    let columns = |index: &UniqueIndex| index.columns.iter().flatten().map(column).collect();
    unique.map(|index| (index.name.clone(), columns(index))).collect()
}

fn referrer(shape: &TableShape, key: &ForeignKey) -> Referrer {
    let columns = key.columns.iter().zip(&key.referenced_columns);
    Referrer {
        child: key.table.clone(),
        columns: columns.map(|(from, to)| (from.clone(), to.clone(), equals(shape, to))).collect(),
        acts_on_delete: key.on_delete.writes(),
    }
}

fn equals(shape: &TableShape, column: &Ident) -> String {
    shape.column(column).map_or_else(|| "=".to_owned(), |column| column.equals.clone())
}

fn key_columns(shape: &TableShape) -> Vec<KeyColumn> {
    let key = shape.primary_key.iter().filter_map(|name| shape.column(name));
    let column =
        |column: &Column| KeyColumn { column: shape.written(column), spelling: Spelling::of_type(&column.base_type) };
    key.map(column).collect()
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
    let namings: Vec<_> = linked.iter().map(|table| table.naming.clone()).collect();
    let shapes = catalog::read_tables(client, &namings).await?;
    let captured = linked.iter().filter_map(|table| {
        let shape = shapes.iter().find(|shape| shape.name == table.name)?;
        let captured = CapturedTable {
            id: table_id(table.id),
            naming: table.naming.clone(),
            key: key_columns(shape),
            partitioned_by: shape.partitioned_by.clone(),
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
