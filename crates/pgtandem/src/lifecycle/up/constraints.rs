//! Rows that a constraint of another node would refuse: CHECK constraints and NOT NULL that only some of the nodes have.
//!
//! A constraint is asked on the server where the rows are; what that cannot make sense of (a function or a column that is
//! only there where the constraint is) is not known, and such rows would be held, as in every delivery.

use super::Work;
use super::equal::Compared;
use crate::catalog::{CheckConstraint, Column, TableShape, read_check_constraints};
use crate::compare::{Side, Subject, read_whole};
use crate::config::Merge;
use crate::lifecycle::error::On;
use crate::lifecycle::settle::winner::Winner;
use crate::lifecycle::{LifecycleError, OpenNode};
use crate::sql::{self, Ident, QualifiedName, list};
use std::fmt::Write as _;

const DOING: &str = "looking for rows that a constraint would refuse";
/// Of one constraint no more are looked at.
const MOST_ROWS: usize = 1000;
const EXAMPLES: usize = 3;

impl Work<'_> {
    /// `sessions`: as they were compared, each in its transaction.
    pub(super) async fn refuse_what_constraints_refuse(
        &self,
        table: &QualifiedName,
        sessions: &[(usize, OpenNode)],
        compared: &Compared<'_>,
        (merge, by): (&Merge, &Ident),
    ) -> Result<(), LifecycleError> {
        let Some(subject) = compared.subject.as_ref().filter(|_| !compared.tally.is_equal()) else { return Ok(()) };
        let shapes: Vec<&TableShape> = sessions.iter().filter_map(|(node, _)| self.shape(*node, table)).collect();
        let mut demands = Vec::new();
        for ((node, _), shape) in sessions.iter().zip(&shapes) {
            let here = &self.nodes[*node];
            demands.push(demands_of(here, shape, subject).await?);
        }
        let mut what = String::new();
        for (target, demanded) in demands.iter().enumerate() {
            for (source, known) in demands.iter().enumerate().filter(|(source, _)| *source != target) {
                for demand in demanded.iter().filter(|demand| !known.iter().any(|of| of.is_same(demand))) {
                    let rows = self.against(demand, sessions, subject, &shapes, (source, target), (merge, by)).await?;
                    let Some(first) = rows.first() else { continue };
                    let more = if rows.len() == MOST_ROWS { "or more " } else { "" };
                    let shown = rows.iter().take(EXAMPLES).map(|key| key.join(", "));
                    let _ = write!(
                        what,
                        "\n  {} of {}: {} rows {more}of {} do not fulfil it, such as {}",
                        demand.name,
                        sessions[target].1.name,
                        rows.len(),
                        sessions[source].1.name,
                        list(shown.map(|key| format!("{} {key}", shapes[0].primary_key[0].as_str())))
                    );
                    debug_assert!(!first.is_empty(), "a key has columns");
                }
            }
        }
        if what.is_empty() {
            return Ok(());
        }
        Err(LifecycleError::refused(
            format!("{}: rows of one node are not allowed on another:{what}", table.plain()),
            "change those rows, or the constraint, and run it again",
        ))
    }

    /// Keys of rows of `source` that would be written to `target` and are against what it demands.
    async fn against(
        &self,
        demand: &Demand,
        sessions: &[(usize, OpenNode)],
        subject: &Subject,
        shapes: &[&TableShape],
        (source, target): (usize, usize),
        (merge, by): (&Merge, &Ident),
    ) -> Result<Vec<Vec<String>>, LifecycleError> {
        let node = &self.nodes[sessions[source].0];
        let pairs = shapes[source].columns.iter().filter_map(|column| {
            let theirs = shapes[target].column(&column.name)?;
            Some((column.name.clone(), theirs.name.clone()))
        });
        let pairs: Vec<(Ident, Ident)> = pairs.collect();
        let there = |name: &Ident| Some(shapes[target].column(name)?.name.clone());
        let key: Vec<Ident> = shapes[source].primary_key.iter().filter_map(there).collect();
        let query = sql::rows_against(&shapes[source].name, &pairs, &key, &demand.condition, MOST_ROWS);
        // Outside of the comparison's transaction, which an error would end.
        let rows = match node.client().query(&query, &[]).await {
            Ok(rows) => rows,
            Err(error) if error.as_db_error().is_some() => return Ok(Vec::new()),
            Err(error) => return Err(LifecycleError::sql(&node.name, DOING, error)),
        };
        // In the order of the first node's key, on which all agree by name.
        let order: Vec<usize> = subject
            .key
            .iter()
            .filter_map(|at| shapes[source].primary_key.iter().position(|name| *name == subject.columns[*at]))
            .collect();
        let keys: Vec<Vec<Vec<String>>> = rows
            .iter()
            .map(|row| {
                let texts: Vec<String> = row.get(0);
                let key: Vec<String> = order.iter().map(|at| texts[*at].clone()).collect();
                vec![key; sessions.len()]
            })
            .collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let sides: Vec<Side<'_>> =
            sessions.iter().map(|(_, session)| Side { name: &session.name, client: session.client() }).collect();
        let names: Vec<&str> = sides.iter().map(|side| side.name).collect();
        let columns: Vec<&Column> = shapes.iter().filter_map(|shape| shape.column(by)).collect();
        let winner = Winner::new(merge, by, &names, subject, &columns)?;
        let found = read_whole(&sides, subject, &keys).await?;
        let winners = winner.choose(&found, subject, sides[0]).await?;
        let refused = keys.iter().zip(&found).zip(winners).filter(|((_, rows), winner)| {
            let written = |row: &crate::compare::ComparedRow| {
                rows[target].as_ref().is_none_or(|standing| !standing.is_same(row, subject))
            };
            *winner == Some(source) && rows[source].as_ref().is_some_and(written)
        });
        Ok(refused.map(|((key, _), _)| key[0].clone()).collect())
    }
}

/// What a node's table demands of a row's compared columns.
struct Demand {
    name: String,
    columns: Vec<Ident>,
    condition: String,
}

impl Demand {
    /// One name may be that of different columns on two nodes.
    fn is_same(&self, other: &Self) -> bool {
        self.condition == other.condition && self.columns == other.columns
    }
}

async fn demands_of(node: &OpenNode, shape: &TableShape, subject: &Subject) -> Result<Vec<Demand>, LifecycleError> {
    let checks = read_check_constraints(node.client(), shape).await.on(&node.name, DOING)?;
    let is_compared = |name: &Ident| subject.columns.contains(name);
    let checks = checks.into_iter().filter(|check| check.columns.iter().all(is_compared)).map(
        |CheckConstraint { name, condition, columns }| Demand {
            name: format!("the constraint {name} ({condition})"),
            columns,
            condition,
        },
    );
    let filled = shape.columns.iter().filter(|column| column.not_null && is_compared(&column.name));
    let filled = filled.map(|column| Demand {
        name: format!("NOT NULL of {}", column.name),
        columns: vec![column.name.clone()],
        condition: format!("{} IS NOT NULL", column.name),
    });
    Ok(filled.chain(checks).collect())
}
