//! Whether tables and columns that nodes call otherwise are there, and are what was linked.

use crate::config::{Config, Table};
use crate::lifecycle::{NodeSurvey, Report};
use crate::sql::{Ident, Naming};

pub(super) fn judge(report: &mut Report, config: &Config, survey: &NodeSurvey) {
    for table in &config.tables {
        let naming = table.naming(&survey.name);
        match survey.linked(&table.name) {
            Some(linked) if linked.naming != naming => changed(report, survey, &linked.naming, &naming),
            Some(_) => {}
            None => linked_otherwise(report, survey, &naming),
        }
        columns(report, survey, &naming);
    }
}

/// What has been written of it so far goes by the old names.
fn changed(report: &mut Report, survey: &NodeSurvey, linked: &Naming, wanted: &Naming) {
    let what = format!("it was linked as {}, and pgtandem.toml says {} now", linked.in_words(), wanted.in_words());
    report.fault("mapping_changed", what).on(&survey.name).of(&linked.table).mend(
        "put the old names back; or take the table out of pgtandem.toml and run `pgtandem up`, \
         then put it in with its new names and run it again",
    );
}

/// A table cannot be linked twice.
fn linked_otherwise(report: &mut Report, survey: &NodeSurvey, wanted: &Naming) {
    let mut linked = survey.link.iter().flat_map(|link| &link.tables);
    if let Some(linked) = linked.find(|linked| linked.naming.table.own() == wanted.table.own()) {
        let what = format!("its table {} is linked as {}", wanted.table.own().plain(), linked.name.plain());
        report.fault("mapping_changed", what).on(&survey.name).of(&wanted.table).mend(
            "take the table out of pgtandem.toml and run `pgtandem up`, then put it in under its new name and run it again",
        );
    }
}

fn columns(report: &mut Report, survey: &NodeSurvey, naming: &Naming) {
    let Some(shape) = survey.table(&naming.table) else { return };
    for column in naming.columns() {
        if shape.columns.iter().any(|there| there.name.own_str() == column.own_str()) {
            continue;
        }
        let what = format!("there is no column {}, which is to stand for {}", column.own_str(), column.as_str());
        let there: Vec<&str> = shape.columns.iter().map(|column| column.name.own_str()).collect();
        report
            .fault("mapped_column", what)
            .on(&survey.name)
            .of(&naming.table)
            .mend(format!("correct `columns` in pgtandem.toml; there are: {}", there.join(", ")));
    }
}

/// What a column stands for must be on some other node.
pub(super) fn judge_columns(report: &mut Report, surveys: &[NodeSurvey], table: &Table) {
    for survey in surveys {
        let Some(shape) = survey.table(&table.name) else { continue };
        for column in table.naming(&survey.name).columns() {
            let others = || surveys.iter().filter(|other| other.name != survey.name);
            let is_there = |name: &Ident| {
                others().filter_map(|other| other.table(&table.name)).any(|other| other.column(name).is_some())
            };
            if shape.column(column).is_none() || is_there(column) || others().next().is_none() {
                continue;
            }
            let what = format!("{} is to stand for {}, which no other node has", column.own_str(), column.as_str());
            report
                .fault("mapped_column", what)
                .on(&survey.name)
                .of(&table.name)
                .mend("correct `columns` in pgtandem.toml: the name that the column has elsewhere comes first");
        }
    }
}
