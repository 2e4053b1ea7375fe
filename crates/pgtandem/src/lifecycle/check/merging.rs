//! What a table must be for its rows to be merged.

use crate::catalog::{Column, TableShape};
use crate::config::{Config, Merge, Table};
use crate::lifecycle::up::order;
use crate::lifecycle::{NodeSurvey, Report};
use crate::sql::QualifiedName;

const WITHOUT_ZONE: &str = "timestamp without time zone";

/// By which column rows are newer matters only until the table is linked.
pub(super) fn judge(report: &mut Report, surveys: &[NodeSurvey], wanted: &Table) {
    matching(report, surveys, wanted);
    let is_live = surveys.iter().all(|survey| survey.is_live(&wanted.name));
    if wanted.merge != Merge::Newest || is_live {
        return;
    }
    let shapes: Vec<(&NodeSurvey, &TableShape)> =
        surveys.iter().filter_map(|survey| Some((survey, survey.table(&wanted.name)?))).collect();
    let by = &wanted.merge_by;
    let mut columns: Vec<(&NodeSurvey, &Column)> = Vec::new();
    for (survey, shape) in &shapes {
        let what = match shape.column(by) {
            Some(column) if column.generated.is_none() => {
                columns.push((survey, column));
                continue;
            }
            Some(_) => format!("the column {by}, by which newer rows are to be told, is computed here"),
            None => format!("there is no column {by}, by which newer rows are to be told"),
        };
        report.fault("merge_column", what).on(&survey.name).of(&wanted.name).mend(
            "name a column that all nodes have (merge_by = \"…\"), or write merge = \"prefer:NODE\", in pgtandem.toml",
        );
    }
    if columns.len() < surveys.len() {
        return;
    }
    if order(&columns.iter().map(|(_, column)| *column).collect::<Vec<_>>()).is_none() {
        let types: Vec<String> =
            columns.iter().map(|(survey, column)| format!("{} on {}", column.type_text, survey.name)).collect();
        let what = format!("the column {by} does not tell which row is newer: it is {}", types.join(" and "));
        report
            .fault("merge_column", what)
            .of(&wanted.name)
            .mend("name a column of times, numbers or texts (merge_by = \"…\"), in pgtandem.toml");
    }
    zones(report, &columns, wanted);
}

/// What rows are matched by, and what their ids must be.
fn matching(report: &mut Report, surveys: &[NodeSurvey], wanted: &Table) {
    let Some(matching) = &wanted.matching else { return };
    if surveys.iter().all(|survey| survey.is_live(&wanted.name)) {
        return;
    }
    for survey in surveys {
        let Some(shape) = survey.table(&wanted.name) else { continue };
        let mut fault = |code: &'static str, what: String, remedy: &str| {
            report.fault(code, what).on(&survey.name).of(&wanted.name).mend(remedy);
        };
        for name in &matching.columns {
            const REMEDY: &str = "match by other columns, in pgtandem.toml";
            match shape.column(name) {
                None => fault("match_column", format!("there is no column {name} to match rows by"), REMEDY),
                Some(column) if column.generated.is_some() => {
                    let what = format!("the column {name}, by which rows are to be matched, is computed here");
                    fault("match_column", what, REMEDY);
                }
                Some(column) if !is_compared_by_text(column) => {
                    let what = format!(
                        "rows cannot be matched by {name}: values of {} have no one spelling",
                        column.type_text
                    );
                    fault("match_column", what, REMEDY);
                }
                Some(_) if shape.is_key(name) => {
                    let what =
                        format!("{name} is the key: whether it means the same on all nodes is what `match` is to tell");
                    fault("match_column", what, REMEDY);
                }
                Some(_) => {}
            }
        }
        let [key] = shape.primary_key.as_slice() else {
            if !shape.primary_key.is_empty() {
                let what =
                    "its key has several columns, and only rows of single ids can be matched under others".to_owned();
                fault("match_key", what, "take `match` out of pgtandem.toml");
            }
            continue;
        };
        let fits =
            shape.column(key).is_some_and(|key| ['N', 'S', 'U'].contains(&key.category) && is_compared_by_text(key));
        if !fits {
            let what = format!("its key {key} is no number, text or uuid, which an id would have to be");
            fault("match_key", what, "take `match` out of pgtandem.toml");
        }
    }
}

/// Of which equal values have one text, or one that a server makes of them.
fn is_compared_by_text(column: &Column) -> bool {
    let plain = column.type_kind != 'c' && column.deterministic;
    plain && !["jsonb", "json", "xml"].contains(&column.base_type.as_str()) && !['A', 'R'].contains(&column.category)
}

/// Rows whose ids mean different things because those of another table do, which they refer to.
pub(super) fn judge_children(report: &mut Report, surveys: &[NodeSurvey], config: &Config) {
    let renumbered = |name: &QualifiedName| {
        let of = config.tables.iter().find(|table| table.name == *name);
        of.is_some_and(|table| table.matching.as_ref().is_some_and(|matching| matching.renumber.is_some()))
    };
    let filled = |name: &QualifiedName| surveys.iter().filter(|survey| survey.filled.contains(name)).count() > 1;
    for table in config.tables.iter().filter(|table| table.matching.is_none() && filled(&table.name)) {
        let shapes = surveys.iter().filter_map(|survey| survey.table(&table.name));
        let mut parents = shapes.flat_map(|shape| &shape.foreign_keys_out).map(|key| &key.referenced);
        let parent = parents.find(|parent| **parent != table.name && renumbered(parent) && filled(parent));
        if let Some(parent) = parent {
            let what = format!(
                "its rows refer to {}, where ids may mean different things on the nodes: those of one id may be different \
                 things, too",
                parent.plain()
            );
            report.warning("unmatched", what).of(&table.name).mend(
                "look at `pgtandem diff`, and say what makes two of its rows the same (match = [\"…\"]), in pgtandem.toml",
            );
        }
    }
}

/// A time without its zone is what the clock on some wall showed.
fn zones(report: &mut Report, columns: &[(&NodeSurvey, &Column)], wanted: &Table) {
    let Some((first, _)) = columns.first() else { return };
    if !columns.iter().any(|(_, column)| column.base_type == WITHOUT_ZONE) {
        return;
    }
    for (survey, _) in columns {
        let (Some(here), Some(there)) = (&survey.time_zone, &first.time_zone) else { continue };
        if here != there {
            let what = format!(
                "{} has no time zone, and sessions' TimeZone is {here} here and {there} on {}: rows written at the same \
                 moment may seem hours apart",
                wanted.merge_by, first.name
            );
            report.warning("merge_time_zone", what).on(&survey.name).of(&wanted.name).mend(
                "look whether both applications write UTC (Rails does); if not, merge by another column or by node",
            );
        }
    }
}
