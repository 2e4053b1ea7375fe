//! What must fit between the nodes.

use super::columns::{Fit, fit};
use crate::catalog::{TableShape, UniqueIndex};
use crate::lifecycle::{NodeSurvey, Report};
use crate::sql::{Ident, QualifiedName, list};
use std::collections::BTreeSet;

const CLOCK_TOLERANCE: f64 = 1.0;

pub(super) fn judge_nodes(report: &mut Report, surveys: &[NodeSurvey]) {
    for (i, a) in surveys.iter().enumerate() {
        for b in &surveys[..i] {
            same_database(report, b, a);
        }
    }
    let Some((first, others)) = surveys.split_first() else {
        return;
    };
    for other in others {
        encoding(report, first, other);
        clock(report, first, other);
        same_link(report, first, other);
    }
}

fn same_database(report: &mut Report, a: &NodeSurvey, b: &NodeSurvey) {
    let identity = |survey: &NodeSurvey| (survey.server.system_identifier.clone(), survey.server.database_oid);
    if identity(a) == identity(b) {
        report
            .fault("same_database", format!("the nodes {} and {} are the same database", a.name, b.name))
            .mend("correct one of the urls; a file-level clone of a server needs a system identifier of its own (dump and restore)");
    }
}

fn encoding(report: &mut Report, a: &NodeSurvey, b: &NodeSurvey) {
    let (from, to) = (&a.server.encoding, &b.server.encoding);
    if from != to {
        let what = format!(
            "the encoding is {to} here and {from} on {}: rows with characters that one of them lacks will be held",
            a.name
        );
        report.warning("encoding", what).on(&b.name);
    }
}

fn clock(report: &mut Report, a: &NodeSurvey, b: &NodeSurvey) {
    let ((first, first_error), (second, second_error)) = (a.server.clock_offset(), b.server.clock_offset());
    let difference = second - first;
    if difference.abs() - first_error - second_error > CLOCK_TOLERANCE {
        let direction = if difference > 0.0 { "ahead of" } else { "behind" };
        let what = format!(
            "its clock is {:.1} s {direction} that of {}: \"newest\" decides conflicts by these clocks",
            difference.abs(),
            a.name
        );
        report.warning("clock", what).on(&b.name).mend("synchronise the clocks (chrony, ntp)");
    }
}

/// Two nodes that are both linked, but not with each other.
fn same_link(report: &mut Report, a: &NodeSurvey, b: &NodeSurvey) {
    let (Some(first), Some(second)) = (&a.link, &b.link) else {
        return;
    };
    let knows = first.peers.iter().any(|peer| peer.incarnation == second.node.incarnation);
    if !knows {
        report
            .fault("other_link", format!("the nodes {} and {} belong to two different links", a.name, b.name))
            .mend(format!("take one down first: `pgtandem down --node {}`", b.name));
    }
}

/// The first node that has the table is what the others are compared with.
pub(in crate::lifecycle) fn judge_table(report: &mut Report, surveys: &[NodeSurvey], name: &QualifiedName) {
    let mut with_table = surveys.iter().filter_map(|survey| Some((survey, survey.table(name)?)));
    let Some((first, table)) = with_table.next() else {
        return;
    };
    for (other, other_table) in with_table {
        let pair = Pair { first, table, other, other_table };
        pair.keys(report);
        pair.columns(report);
        pair.unique_indexes(report);
    }
}

struct Pair<'a> {
    first: &'a NodeSurvey,
    table: &'a TableShape,
    other: &'a NodeSurvey,
    other_table: &'a TableShape,
}

impl Pair<'_> {
    fn keys(&self, report: &mut Report) {
        let (a, b) = (&self.table.primary_key, &self.other_table.primary_key);
        if a.is_empty() || b.is_empty() {
            return;
        }
        if a.iter().collect::<BTreeSet<_>>() != b.iter().collect::<BTreeSet<_>>() {
            let what = format!("its primary key is ({}) here and ({}) on {}", list(b), list(a), self.first.name);
            report
                .fault("key_differs", what)
                .on(&self.other.name)
                .of(&self.table.name)
                .mend("give it the same primary key on both nodes");
        }
    }

    fn columns(&self, report: &mut Report) {
        for column in &self.table.columns {
            match self.other_table.column(&column.name) {
                Some(other) => {
                    let (here, there) = (&other.type_text, &column.type_text);
                    let what = format!("the column {} is {here} here and {there} on {}", other.name, self.first.name);
                    let key = self.table.is_key(&column.name);
                    match fit(column, other) {
                        Fit::Same => {}
                        Fit::Mostly(_) if key && column.category != other.category => {
                            self.type_fault(report, &what, "keys must be of one kind", &other.name, there);
                        }
                        Fit::Mostly(which) => {
                            report
                                .warning("type_differs", format!("{what}; held, not delivered: {which}"))
                                .on(&self.other.name)
                                .of(&self.table.name);
                        }
                        Fit::Never(why) => self.type_fault(report, &what, why, &other.name, there),
                    }
                    if column.generated.is_some() != other.generated.is_some() {
                        self.generated_on_one_side(report, &column.name, column.generated.is_some());
                    }
                }
                None => self.missing(report, self.first, &column.name, column.may_be_left_out(), self.other),
            }
        }
        for column in &self.other_table.columns {
            if self.table.column(&column.name).is_none() {
                self.missing(report, self.other, &column.name, column.may_be_left_out(), self.first);
            }
        }
    }

    fn type_fault(&self, report: &mut Report, what: &str, why: &str, column: &Ident, wanted: &str) {
        report.fault("type_differs", format!("{what}: {why}")).on(&self.other.name).of(&self.table.name).mend(format!(
            "ALTER TABLE {} ALTER COLUMN {column} TYPE {wanted} USING {column}::{wanted}",
            self.other_table.name
        ));
    }

    fn generated_on_one_side(&self, report: &mut Report, column: &Ident, on_first: bool) {
        let (computes, plain) = if on_first { (self.first, self.other) } else { (self.other, self.first) };
        let may_be_null =
            plain.table(&self.table.name).and_then(|table| table.column(column)).is_some_and(|column| !column.not_null);
        let what = format!(
            "the column {column} is computed on {} and a plain one here: rows delivered here leave it NULL",
            computes.name
        );
        let finding = match may_be_null {
            true => report.warning("generated", what),
            false => report.fault("generated", what),
        };
        finding
            .on(&plain.name)
            .of(&self.table.name)
            .mend("make it GENERATED ALWAYS AS (…) STORED on both nodes, or on none");
    }

    fn missing(&self, report: &mut Report, has: &NodeSurvey, column: &Ident, optional: bool, lacks: &NodeSurvey) {
        if optional {
            let what = format!("the column {column} is missing on {}: its values stay here", lacks.name);
            report.note("column_missing", what).on(&has.name).of(&self.table.name);
            return;
        }
        let what = format!(
            "the column {column} is missing on {} and is NOT NULL without a default here: rows from there could not be inserted",
            lacks.name
        );
        let name = if has.name == self.first.name { &self.table.name } else { &self.other_table.name };
        report.fault("column_missing", what).on(&has.name).of(name).mend(format!(
            "add it on {}, or ALTER TABLE {name} ALTER COLUMN {column} SET DEFAULT … (or DROP NOT NULL) here",
            lacks.name
        ));
    }

    fn unique_indexes(&self, report: &mut Report) {
        // By what they are about, not by their names.
        let unique = |table: &TableShape| table.unique_indexes.iter().map(about).collect::<BTreeSet<String>>();
        let (a, b) = (unique(self.table), unique(self.other_table));
        for (only, has, lacks) in [(&a - &b, self.first, self.other), (&b - &a, self.other, self.first)] {
            for index in only {
                let what = format!(
                    "it has a unique index {index} that {} lacks: rows from there that violate it will be held",
                    lacks.name
                );
                report.warning("unique_differs", what).on(&has.name).of(&self.table.name);
            }
        }
    }
}

/// Columns by the names that are the same on all nodes; expressions and conditions as the node has them.
fn about(index: &UniqueIndex) -> String {
    let columns: Option<Vec<&Ident>> = index.columns.iter().map(Option::as_ref).collect();
    let renamed = columns.filter(|columns| columns.iter().any(|name| name.as_str() != name.own_str()));
    match renamed.filter(|_| !index.partial && !index.is_exclusion) {
        Some(columns) => {
            let nulls = if index.nulls_not_distinct { " NULLS NOT DISTINCT" } else { "" };
            format!("btree ({}){nulls}", columns.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", "))
        }
        None => index.definition.split_once(" USING ").map_or("", |(_, about)| about).to_owned(),
    }
}
