//! Rows that refer to a row no node has.

use super::CompareError;
use super::error::On;
use super::report::Shapes;
use super::subject::Side;
use crate::catalog::{ForeignKey, TableShape};
use crate::sql::{self, Ident, QualifiedName, Reference};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use std::pin::pin;
use tokio_postgres::types::ToSql;

/// So many missing parents are looked for at a time.
const AT_ONCE: usize = 1000;

/// Of one foreign key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphans {
    pub columns: Vec<String>,
    pub referenced: String,
    /// Node by node.
    pub rows: Vec<u64>,
    pub examples: Vec<Orphan>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    /// Number of the node that has it.
    pub node: usize,
    pub key: Vec<String>,
    /// Of the referring columns.
    pub values: Vec<String>,
}

/// Looks for them in `child`, as to foreign keys that some node has and another does not enforce: rows that come from there
/// would be refused here. `all`: the tables that are compared; others' rows do not travel.
pub(super) async fn find_orphans(
    sides: &[Side<'_>],
    child: &Shapes,
    all: &[Shapes],
    examples: usize,
) -> Result<Vec<Orphans>, CompareError> {
    let mut found = Vec::new();
    for key in foreign_keys(child) {
        let Some(parent) = all.iter().find(|table| table.name == key.referenced) else { continue };
        let search = Search { sides, child, parent, key, examples };
        let orphans = search.run().await?;
        if orphans.rows.iter().any(|rows| *rows > 0) {
            found.push(orphans);
        }
    }
    Ok(found)
}

/// Each once, whatever it is called.
fn foreign_keys(child: &Shapes) -> Vec<&ForeignKey> {
    let mut keys: Vec<&ForeignKey> = Vec::new();
    for key in child.shapes.iter().flat_map(|shape| &shape.foreign_keys_out) {
        if !keys.iter().any(|other| is_same(other, key)) {
            keys.push(key);
        }
    }
    keys
}

fn is_same(a: &ForeignKey, b: &ForeignKey) -> bool {
    a.columns == b.columns && a.referenced == b.referenced && a.referenced_columns == b.referenced_columns
}

struct Search<'a> {
    sides: &'a [Side<'a>],
    child: &'a Shapes,
    parent: &'a Shapes,
    key: &'a ForeignKey,
    examples: usize,
}

impl Search<'_> {
    async fn run(&self) -> Result<Orphans, CompareError> {
        let mut orphans = Orphans {
            columns: self.key.columns.iter().map(|name| name.as_str().to_owned()).collect(),
            referenced: self.key.referenced.plain(),
            rows: vec![0; self.sides.len()],
            examples: Vec::new(),
        };
        for (node, shape) in self.child.shapes.iter().enumerate() {
            let enforced = shape.foreign_keys_out.iter().any(|key| is_same(key, self.key) && key.validated);
            if let (false, Some(references)) = (enforced, self.references(node)) {
                self.on_node(node, &references, &mut orphans).await?;
            }
        }
        Ok(orphans)
    }

    /// None where the node lacks one of the columns.
    fn references(&self, node: usize) -> Option<Vec<Reference>> {
        let (child, parent): (&TableShape, &TableShape) = (&self.child.shapes[node], &self.parent.shapes[node]);
        let pairs = self.key.columns.iter().zip(&self.key.referenced_columns);
        let reference = |(from, to)| {
            let (from, to) = (child.column(from)?, parent.column(to)?);
            Some(Reference {
                from: from.name.clone(),
                to: to.name.clone(),
                equals: to.equals.clone(),
                cast_type: to.cast_type.clone(),
            })
        };
        pairs.map(reference).collect()
    }

    /// In the first node's order.
    fn key_of_child(&self, node: usize) -> Vec<Ident> {
        let key = self.child.shapes[0].primary_key.iter();
        key.filter_map(|name| Some(self.child.shapes[node].column(name)?.name.clone())).collect()
    }

    async fn on_node(&self, node: usize, references: &[Reference], orphans: &mut Orphans) -> Result<(), CompareError> {
        let (side, shape) = (self.sides[node], &self.child.shapes[node]);
        let query =
            sql::rows_without_parent(&shape.name, &self.key_of_child(node), &self.parent.shapes[node].name, references);
        let parameters: [&str; 0] = [];
        let rows = side.client.query_raw(&query, parameters).await.on(side.name, || self.doing())?;
        let mut portions = pin!(rows.map_err(|error| self.failed(side, error)).try_chunks(AT_ONCE));
        while let Some(portion) = portions.try_next().await.map_err(|broken| broken.1)? {
            let portion: Vec<Orphan> =
                portion.iter().map(|row| Orphan { node, key: row.get(0), values: row.get(1) }).collect();
            for orphan in self.nowhere(node, portion).await? {
                orphans.rows[node] += 1;
                if orphans.examples.len() < self.examples {
                    orphans.examples.push(orphan);
                }
            }
        }
        Ok(())
    }

    /// Those whose parent no other node has either.
    async fn nowhere(&self, node: usize, mut orphans: Vec<Orphan>) -> Result<Vec<Orphan>, CompareError> {
        for (other, side) in self.sides.iter().enumerate().filter(|(other, _)| *other != node) {
            let Some(references) = self.references(other) else { continue };
            let column = |at: usize| orphans.iter().map(|orphan| orphan.values[at].as_str()).collect::<Vec<&str>>();
            let columns: Vec<Vec<&str>> = (0..references.len()).map(column).collect();
            let parameters: Vec<&(dyn ToSql + Sync)> =
                columns.iter().map(|texts| texts as &(dyn ToSql + Sync)).collect();
            let query = sql::parents_present(&self.parent.shapes[other].name, &references);
            let rows = side.client.query(&query, &parameters).await.on(side.name, || self.doing())?;
            let present: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
            let mut place = 0;
            orphans.retain(|_| {
                place += 1;
                !present.contains(&place)
            });
        }
        Ok(orphans)
    }

    fn doing(&self) -> String {
        let plain = |name: &QualifiedName| name.plain();
        format!("looking for rows of {} without their {}", plain(&self.child.name), plain(&self.parent.name))
    }

    fn failed(&self, side: Side<'_>, error: tokio_postgres::Error) -> CompareError {
        CompareError::Sql { node: side.name.to_owned(), doing: self.doing(), error }
    }
}
