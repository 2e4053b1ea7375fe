//! Which of several rows under one key the others become.

use crate::catalog::Column;
use crate::compare::{ComparedRow, Side, Subject};
use crate::config::Merge;
use crate::lifecycle::LifecycleError;
use crate::lifecycle::error::On;
use crate::sql::{self, Ident};
use tokio_postgres::types::ToSql;

/// A key's rows, node by node.
pub(in crate::lifecycle) type Rows = [Option<ComparedRow>];

/// How winners are found.
pub(in crate::lifecycle) enum Winner {
    /// The first node that has the row: of all nodes, or of those that do not lack it after the preferred one.
    First { preferred: Option<usize> },
    /// As above, but only where those that have a row have the same one.
    Uncontested,
    /// The column's place among the compared ones, and the type whose order counts.
    Newest { column: usize, order: String },
}

impl Winner {
    /// `names`: of the nodes whose rows are merged.
    pub fn new(
        policy: &Merge,
        by: &Ident,
        names: &[&str],
        subject: &Subject,
        columns: &[&Column],
    ) -> Result<Self, LifecycleError> {
        match policy {
            Merge::Prefer(node) => Ok(Self::First { preferred: names.iter().position(|name| name == node) }),
            Merge::Refuse | Merge::OnlyMissing => Ok(Self::Uncontested),
            Merge::Newest => {
                let column = subject.columns.iter().position(|name| name == by);
                let order = order(columns);
                column.zip(order).map(|(column, order)| Self::Newest { column, order }).ok_or_else(|| {
                    LifecycleError::refused(
                        format!("{}: its rows cannot be ordered by {by} on all nodes", subject.name.plain()),
                        "name another column (merge_by), or another way to merge, in pgtandem.toml",
                    )
                })
            }
        }
    }

    /// For each key the place of the node whose row wins; none: it stays as it is.
    pub async fn choose(
        &self,
        keys: &[Vec<Option<ComparedRow>>],
        subject: &Subject,
        judge: Side<'_>,
    ) -> Result<Vec<Option<usize>>, LifecycleError> {
        let first = |rows: &Rows| rows.iter().position(Option::is_some);
        Ok(match self {
            Self::First { preferred } => {
                let has_it = |rows: &Rows| preferred.filter(|node| rows[*node].is_some());
                keys.iter().map(|rows| has_it(rows).or_else(|| first(rows))).collect()
            }
            Self::Uncontested => {
                keys.iter().map(|rows| first(rows).filter(|node| is_uncontested(rows, *node, subject))).collect()
            }
            Self::Newest { column, order } => newest(keys, *column, order, judge).await?,
        })
    }

    /// Why `winner`, and not `loser`.
    pub fn why(&self, winner: (&str, &ComparedRow), loser: (&str, &ComparedRow), subject: &Subject) -> String {
        let ((won, winning), (lost, losing)) = (winner, loser);
        let Self::Newest { column, .. } = self else { return format!("rows of {won} are preferred") };
        let by = subject.columns[*column].as_str();
        let value = |row: &ComparedRow| row.values[*column].clone().unwrap_or_else(|| "NULL".to_owned());
        if winning.has_same(losing, subject, *column) {
            return format!("{by} is {} on both: {won} stands before {lost} in the configuration", value(winning));
        }
        format!("{by} is {} on {won} and {} on {lost}", value(winning), value(losing))
    }
}

fn is_uncontested(rows: &Rows, first: usize, subject: &Subject) -> bool {
    let there = || rows.iter().flatten();
    rows[first].as_ref().is_some_and(|first| there().all(|row| row.is_same(first, subject)))
}

/// One server compares for all, by the type's own order.
async fn newest(
    keys: &[Vec<Option<ComparedRow>>],
    column: usize,
    order: &str,
    judge: Side<'_>,
) -> Result<Vec<Option<usize>>, LifecycleError> {
    let nodes = keys.first().map_or(0, Vec::len);
    let of = |node: usize| keys.iter().map(move |rows| rows[node].as_ref());
    let values: Vec<Vec<Option<&str>>> =
        (0..nodes).map(|node| of(node).map(|row| row?.values[column].as_deref()).collect()).collect();
    let present: Vec<Vec<bool>> = (0..nodes).map(|node| of(node).map(|row| row.is_some()).collect()).collect();
    let parameters: Vec<&(dyn ToSql + Sync)> =
        values.iter().map(|values| values as _).chain(present.iter().map(|present| present as _)).collect();
    let chosen = judge.client.query(&sql::newest(order, nodes), &parameters).await;
    let chosen = chosen.on(judge.name, "looking which rows are newer")?;
    Ok(chosen.iter().map(|row| usize::try_from(row.get::<_, i32>(0)).ok()).collect())
}

/// The type whose order tells which of the columns' values is the largest; none: they have no such order.
pub(in crate::lifecycle) fn order(columns: &[&Column]) -> Option<String> {
    let first = columns.first()?;
    let every = |category: char| columns.iter().all(|column| column.category == category);
    if !(every('N') || every('D') || every('S')) {
        return None;
    }
    if columns.iter().all(|column| column.base_type_oid == first.base_type_oid) {
        return Some(first.base_type.clone());
    }
    let any = |name: &str| columns.iter().any(|column| column.base_type == name);
    Some(match first.category {
        'N' => "numeric".to_owned(),
        'D' if any("timestamp with time zone") => "timestamptz".to_owned(),
        'D' => "timestamp".to_owned(),
        _ => "text".to_owned(),
    })
}
