//! Rows that the merge inserted.

use super::Merged;
use super::rows::{BATCH, DOING, Undoing};
use crate::catalog::{TableKind, TableShape};
use crate::lifecycle::LifecycleError;
use crate::lifecycle::error::On;
use crate::lifecycle::locks::Attempts;
use crate::link::{self, MergedRow, MergedRows};
use crate::sql::{self, ComparedColumn, ComparedTable, Ident, QualifiedName, Spelling, WrittenColumn};
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use tokio_postgres::types::ToSql;

/// Some of them, as the table is now.
struct Portion<'a> {
    shape: &'a TableShape,
    id: i64,
    key: Vec<WrittenColumn>,
    /// Of the row `t`.
    hash: String,
    rows: Vec<MergedRow>,
    /// Whether each is still to be taken back.
    waits: Vec<bool>,
}

impl Undoing<'_> {
    /// As often as some are gone and others may follow that they referred to.
    pub(super) async fn inserted(&mut self, merged: &Merged, shape: &TableShape) -> Result<(), LifecycleError> {
        let refers_to_itself = shape.foreign_keys_in.iter().any(|key| key.table == shape.name);
        loop {
            // The last ones first: a merge that was interrupted may have inserted a row twice, and what it last was counts.
            let (mut before, mut some_gone, mut kept) = (i64::MAX, false, BTreeSet::new());
            loop {
                let rows = link::read_merged_rows(self.node.client(), merged.id, before).await;
                let Some(rows) = rows.on(&self.node.name, DOING)? else { break };
                before = rows.id;
                let portion = self.portion(merged, shape, rows)?;
                some_gone |= self.delete(portion, &mut kept).await?;
            }
            if kept.is_empty() || !some_gone || !refers_to_itself {
                for key in kept {
                    self.left(&merged.table, key, "it was changed since, or other rows refer to it");
                }
                return Ok(());
            }
        }
    }

    fn portion<'s>(
        &self,
        merged: &Merged,
        shape: &'s TableShape,
        MergedRows { id, spelling, rows }: MergedRows,
    ) -> Result<Portion<'s>, LifecycleError> {
        let table = table_of(shape, &spelling);
        let key = table.key.iter().filter_map(|column| shape.column(&column.name));
        let key: Vec<WrittenColumn> = key.map(|column| shape.written(column)).collect();
        if key.len() != spelling.key.len() {
            return Err(LifecycleError::refused(
                format!(
                    "node {}: the merged rows of {} are known by {}, which it does not have any more",
                    self.node.name,
                    merged.table.plain(),
                    spelling.key.join(", ")
                ),
                "call the columns as they were called, and run `pgtandem undo merge` again",
            ));
        }
        let waits = vec![true; rows.len()];
        Ok(Portion { shape, id, key, hash: spelling.hash(&table), rows, waits })
    }

    /// Whether some are gone. `kept`: gets those that stay.
    async fn delete(
        &mut self,
        mut portion: Portion<'_>,
        kept: &mut BTreeSet<Vec<String>>,
    ) -> Result<bool, LifecycleError> {
        let (mut attempts, mut some_gone) = (Attempts::new(), false);
        let parts = (0..portion.rows.len()).step_by(BATCH).rev();
        let mut waiting: Vec<Range<usize>> = parts.map(|from| from..portion.rows.len().min(from + BATCH)).collect();
        while let Some(some) = waiting.pop() {
            match self.try_delete(&mut portion, some.clone()).await {
                Ok(gone) => some_gone |= gone,
                Err(error) => match self.recover(error, &mut attempts, &portion.shape.name).await? {
                    true => waiting.push(some),
                    false if some.len() == 1 => {}
                    false => {
                        let middle = some.start + some.len() / 2;
                        waiting.extend([middle..some.end, some.start..middle]);
                    }
                },
            }
        }
        for (row, waits) in portion.rows.into_iter().zip(portion.waits) {
            if waits {
                kept.insert(row.key);
            } else {
                kept.remove(&row.key);
            }
        }
        Ok(some_gone)
    }

    /// Whether some are gone. Those that are, or were not there any more, leave the record in the same transaction.
    async fn try_delete(&mut self, portion: &mut Portion<'_>, some: Range<usize>) -> Result<bool, LifecycleError> {
        let (client, node) = (self.node.client(), self.node.name.as_str());
        let (table, key) = (&portion.shape.name, &portion.key);
        let rows = &portion.rows[some.clone()];
        let texts: Vec<Vec<&str>> =
            (0..key.len()).map(|at| rows.iter().map(|row| row.key[at].as_str()).collect()).collect();
        let hashes: Vec<i64> = rows.iter().map(|row| row.hash).collect();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = texts.iter().map(|texts| texts as _).collect();
        self.begin().await?;
        // In a statement of its own: a child whose INSERT held the row meanwhile is seen by the next one.
        client.query(&sql::lock_rows(table, key), &parameters).await.on(node, DOING)?;
        parameters.push(&hashes);
        let query = sql::take_back_inserted(table, key, &portion.hash, &referring(portion.shape));
        let answers = client.query(&query, &parameters).await.on(node, DOING)?;
        let (mut settled, mut deleted) = (HashSet::new(), 0);
        for row in &answers {
            settled.extend(usize::try_from(row.get::<_, i64>(0) - 1).ok().map(|at| at + some.start));
            deleted += u64::from(row.get::<_, bool>(1));
        }
        if !settled.is_empty() {
            let all = portion.rows.iter().zip(&portion.waits).enumerate();
            let left = all.filter(|(at, (_, waits))| **waits && !settled.contains(at)).map(|(_, (row, _))| row);
            link::keep_merged_rows(client, portion.id, left).await.on(node, DOING)?;
        }
        self.commit().await?;
        self.done.deleted += deleted;
        for at in &settled {
            portion.waits[*at] = false;
        }
        Ok(!settled.is_empty())
    }
}

/// With the columns that were hashed, as far as they are there.
fn table_of(shape: &TableShape, spelling: &Spelling) -> ComparedTable {
    let columns = spelling.columns.iter().filter_map(|(name, canonical)| {
        let column = shape.column(&Ident::new(name.as_str()))?;
        Some(ComparedColumn {
            name: column.name.clone(),
            cast_type: column.cast_type.clone(),
            equals: column.equals.clone(),
            canonical: *canonical,
        })
    });
    let columns: Vec<ComparedColumn> = columns.collect();
    let key = spelling.key.iter().filter_map(|name| columns.iter().find(|column| column.name.as_str() == name));
    let is_partitioned = shape.kind == TableKind::Partitioned;
    ComparedTable { name: shape.name.clone(), is_partitioned, key: key.cloned().collect(), columns }
}

/// Where rows refer to the table's: theirs, and what that refers to.
fn referring(shape: &TableShape) -> Vec<(QualifiedName, Vec<(Ident, Ident)>)> {
    let of = shape.foreign_keys_in.iter().map(|key| {
        let pairs = key.columns.iter().cloned().zip(key.referenced_columns.iter().cloned());
        (key.table.clone(), pairs.collect())
    });
    of.collect()
}
