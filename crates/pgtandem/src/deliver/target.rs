//! A linked table as deliveries to one node write it.

use std::collections::HashMap;
use std::sync::Arc;

use hub::TableId;

use crate::capture::Shape;
use crate::sql::{Ident, QualifiedName, WrittenColumn};

#[derive(Debug, Clone)]
pub struct TargetTable {
    pub id: TableId,
    pub name: QualifiedName,
    /// Every column that can be written, in no particular order: generated ones are not among them.
    pub columns: Vec<TargetColumn>,
    /// Names of the primary key's columns, in key order.
    pub key: Vec<Ident>,
    /// The key's type has several spellings of one value.
    pub key_is_spelled: bool,
    /// Parents before children: rows are inserted in this order and deleted in the opposite one.
    pub rank: usize,
    /// Neither triggers nor foreign keys act on what is delivered.
    pub is_replica: bool,
    /// Its policies might apply to the role; COPY refuses such a table.
    pub row_security: bool,
    /// Something may leave a row out silently: a trigger that fires for deliveries, too, or a column that no update
    /// may set.
    pub may_leave_out: bool,
    /// Deferrable unique constraints (name; columns and what makes them equal), which PostgreSQL does not check in a session that replicates.
    pub unchecked: Vec<(Ident, Vec<(Ident, String)>)>,
    /// Foreign keys of other tables that refer to this one and are enforced in deliveries.
    pub referrers: Vec<Referrer>,
}

/// A foreign key of another table.
#[derive(Debug, Clone)]
pub struct Referrer {
    pub child: QualifiedName,
    /// The child's column, the column it refers to, and what makes them equal.
    pub columns: Vec<(Ident, Ident, String)>,
    /// Deleting the row that is referred to writes to the child.
    pub acts_on_delete: bool,
}

#[derive(Debug, Clone)]
pub struct TargetColumn {
    pub name: Ident,
    pub cast_type: String,
    /// The operator by which the type's values are equal.
    pub equals: String,
    /// GENERATED ALWAYS AS IDENTITY.
    pub is_fixed: bool,
}

/// All linked tables of a node.
pub type TargetTables = Arc<HashMap<TableId, TargetTable>>;

impl TargetTable {
    fn is_key(&self, name: &Ident) -> bool {
        self.key.contains(name)
    }

    /// The columns that both the source's shape and this table have, each with its place in the shape.
    #[must_use]
    pub fn written(&self, shape: &Shape) -> Vec<(usize, WrittenColumn)> {
        let place = |column: &TargetColumn| shape.columns.iter().position(|name| name == column.name.as_str());
        let written = |column: &TargetColumn| WrittenColumn {
            name: column.name.clone(),
            cast_type: column.cast_type.clone(),
            is_key: self.is_key(&column.name),
            equals: column.equals.clone(),
            is_fixed: column.is_fixed,
        };
        let mut columns: Vec<_> = self.columns.iter().filter_map(|c| place(c).map(|at| (at, written(c)))).collect();
        columns.sort_by_key(|(at, _)| *at);
        columns
    }

    /// The key's columns in key order.
    #[must_use]
    pub fn key_columns(&self) -> Vec<WrittenColumn> {
        let column = |name: &Ident| self.columns.iter().find(|column| column.name == *name);
        let key = self.key.iter().filter_map(column).cloned();
        key.map(|TargetColumn { name, cast_type, equals, is_fixed }| WrittenColumn {
            name,
            cast_type,
            is_key: true,
            equals,
            is_fixed,
        })
        .collect()
    }

    /// Whether a row whose key changes is moved rather than deleted and written anew: it has columns that only this
    /// node has, or rows that refer to it.
    #[must_use]
    pub fn moves(&self, shape: &Shape) -> bool {
        !(self.referrers.is_empty() && self.own_columns(shape).is_empty())
    }

    /// Columns of this node's table that a row of `shape` does not bring.
    #[must_use]
    pub fn own_columns(&self, shape: &Shape) -> Vec<Ident> {
        let brought = |column: &&TargetColumn| !shape.columns.iter().any(|name| name == column.name.as_str());
        self.columns.iter().filter(brought).map(|column| column.name.clone()).collect()
    }
}
