//! What a comparison of several tables found.

use super::CompareError;
use super::error::On;
use super::orphans::{Orphans, find_orphans};
use super::scan::{Checkpoint, Options, Sessions, Watch, compare_rows};
use super::sequences::{Overlap, find_overlaps};
use super::subject::{Columns, Side, Subject, columns_by_name};
use super::tally::Tally;
use crate::catalog::{TableShape, read_tables};
use crate::sql::{Ident, Naming, QualifiedName};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone)]
pub struct Report {
    /// Names, in the order of everything that is numbered by node.
    pub nodes: Vec<String>,
    pub tables: Vec<TableReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableReport {
    /// As a person writes it.
    pub name: String,
    /// Names of the compared columns, as the first node has them.
    pub columns: Vec<String>,
    /// Which of them are the key, in its order.
    pub key: Vec<usize>,
    /// Columns that were not compared, because some node lacks them or computes them itself.
    pub left_out: Vec<String>,
    pub tally: Tally,
    pub orphans: Vec<Orphans>,
    pub overlaps: Vec<Overlap>,
}

impl Report {
    pub fn is_equal(&self) -> bool {
        self.tables.iter().all(|table| table.tally.is_equal())
    }
}

/// A table as every node has it.
pub struct Shapes {
    pub name: QualifiedName,
    /// Node by node.
    pub shapes: Vec<TableShape>,
}

/// Reads the shapes of the tables. One that is missing somewhere is an error. `naming`: what a node calls a table.
pub async fn read_shapes(
    sides: &[Side<'_>],
    names: &[QualifiedName],
    naming: impl Fn(&str, &QualifiedName) -> Naming,
) -> Result<Vec<Shapes>, CompareError> {
    let called = |side: &Side<'_>| names.iter().map(|name| naming(side.name, name)).collect::<Vec<Naming>>();
    let by_side: Vec<Vec<Naming>> = sides.iter().map(called).collect();
    let reading = sides.iter().zip(&by_side).map(|(side, namings)| async move {
        read_tables(side.client, namings).await.on(side.name, || "reading the catalog".to_owned())
    });
    let by_node = try_join_all(reading).await?;
    names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let shapes = by_node.iter().zip(sides).zip(&by_side).map(|((shapes, side), namings)| {
                let shape = shapes.iter().find(|shape| shape.name == *name);
                shape.cloned().ok_or_else(|| {
                    let own = namings[at].table.own();
                    CompareError::unfit(
                        format!("node {}: there is no table {}", side.name, own.plain()),
                        format!(
                            "correct the name in the configuration, or GRANT USAGE ON SCHEMA {} to the role",
                            own.schema
                        ),
                    )
                })
            });
            Ok(Shapes { name: name.clone(), shapes: shapes.collect::<Result<_, _>>()? })
        })
        .collect()
}

impl Shapes {
    /// Which columns stand for each other.
    pub fn columns(&self) -> Vec<Columns> {
        columns_by_name(&self.shapes.iter().collect::<Vec<_>>())
    }

    pub async fn subject(&self, sides: &[Side<'_>]) -> Result<Subject, CompareError> {
        let shapes: Vec<&TableShape> = self.shapes.iter().collect();
        Subject::new(&self.name, sides, &shapes, &self.columns()).await
    }
}

/// A comparison of several tables.
pub struct Comparison<'a> {
    pub sessions: Sessions<'a>,
    pub tables: Vec<Shapes>,
    pub options: Options,
}

impl Comparison<'_> {
    /// One table of `tables`. `from`: where an earlier comparison of it stopped.
    pub async fn table(
        &self,
        table: &Shapes,
        subject: &Subject,
        from: Option<Checkpoint>,
        watch: &mut dyn Watch,
    ) -> Result<TableReport, CompareError> {
        let tally = compare_rows(subject, &self.sessions, self.options, from, watch).await?;
        let texts = |names: &[Ident]| names.iter().map(|name| name.as_str().to_owned()).collect();
        Ok(TableReport {
            name: subject.name.plain(),
            columns: texts(&subject.columns),
            key: subject.key.clone(),
            left_out: texts(&subject.left_out),
            tally,
            orphans: find_orphans(&self.sessions.looks, table, &self.tables, self.options.examples).await?,
            overlaps: find_overlaps(&self.sessions.looks, table).await?,
        })
    }
}
