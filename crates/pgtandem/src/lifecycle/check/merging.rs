//! What a table must be for its rows to be merged.

use crate::catalog::{Column, TableShape};
use crate::config::{Merge, Table};
use crate::lifecycle::up::order;
use crate::lifecycle::{NodeSurvey, Report};

const WITHOUT_ZONE: &str = "timestamp without time zone";

/// By which column rows are newer matters only until the table is linked.
pub(super) fn judge(report: &mut Report, surveys: &[NodeSurvey], wanted: &Table) {
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
