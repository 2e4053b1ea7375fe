//! A comparison as one page that needs nothing else: it can be mailed.

use std::path::Path;

use askama::Template;
use jiff::Zoned;

use super::text::listed;
use crate::cli::Failure;
use crate::cli::layout::count;
use crate::compare::{Found, Report, TableReport};

#[derive(Template)]
#[template(path = "diff.html")]
struct Page {
    title: String,
    made_at: String,
    nodes: Vec<String>,
    is_equal: bool,
    tables: Vec<Section>,
}

struct Section {
    name: String,
    is_equal: bool,
    /// What there is to count, and whether it is a fault.
    numbers: Vec<(String, String, &'static str)>,
    left_out: String,
    columns: Vec<String>,
    different: Vec<Pair>,
    more_different: String,
    partial: Vec<Rows>,
    notes: Vec<(&'static str, String)>,
}

/// A row as all nodes have it.
struct Pair {
    key: String,
    lines: Vec<Line>,
}

struct Line {
    column: String,
    differs: bool,
    values: Vec<Option<String>>,
}

/// Rows that only some nodes have.
struct Rows {
    on: String,
    keys: String,
    rows: Vec<Vec<Option<String>>>,
    more: String,
}

pub(super) fn write(report: &Report, file: &Path) -> Result<(), Failure> {
    let differ = report.tables.iter().filter(|table| !table.tally.is_equal()).count();
    let nodes: Vec<&str> = report.nodes.iter().map(String::as_str).collect();
    let page = Page {
        title: match differ {
            0 => format!("The same rows on {}", listed(&nodes)),
            _ => format!("{differ} of {} tables differ between {}", report.tables.len(), listed(&nodes)),
        },
        made_at: Zoned::now().strftime("%Y-%m-%d %H:%M %Z").to_string(),
        nodes: report.nodes.clone(),
        is_equal: differ == 0,
        tables: report.tables.iter().map(|table| section(table, &report.nodes)).collect(),
    };
    let text = page.render().map_err(|error| Failure::at_run_time(format!("cannot draw the page: {error}")))?;
    std::fs::write(file, text)
        .map_err(|error| Failure::at_run_time(format!("cannot write {}: {error}", file.display())))
}

fn section(table: &TableReport, nodes: &[String]) -> Section {
    let tally = &table.tally;
    let names = |on: &[usize]| listed(&on.iter().map(|node| nodes[*node].as_str()).collect::<Vec<_>>());
    let mut numbers: Vec<(String, String, &'static str)> =
        tally.rows.iter().zip(nodes).map(|(rows, node)| (count(*rows), format!("rows on {node}"), "plain")).collect();
    numbers.push((count(tally.equal()), "equal".to_owned(), "good"));
    if tally.different > 0 {
        numbers.push((count(tally.different), "different".to_owned(), "warn"));
    }
    numbers.extend(tally.partial.iter().map(|p| (count(p.keys), format!("only on {}", names(&p.on)), "warn")));
    if tally.in_flight > 0 {
        numbers.push((count(tally.in_flight), "still on their way".to_owned(), "plain"));
    }
    let different: Vec<&Found> = tally.examples.iter().filter(|found| found.is_everywhere()).collect();
    let partial = tally.partial.iter().map(|partial| {
        let found = tally.examples.iter().filter(|found| found.on() == partial.on);
        let rows: Vec<_> = found.filter_map(|found| found.rows[partial.on[0]].clone()).collect();
        Rows { on: names(&partial.on), keys: count(partial.keys), more: more(partial.keys, rows.len()), rows }
    });
    Section {
        name: table.name.clone(),
        is_equal: tally.is_equal(),
        numbers,
        left_out: table.left_out.join(", "),
        columns: table.columns.clone(),
        more_different: more(tally.different, different.len()),
        different: different.into_iter().map(|found| pair(found, table)).collect(),
        partial: partial.collect(),
        notes: notes(table, nodes),
    }
}

fn pair(found: &Found, table: &TableReport) -> Pair {
    let line = |at: usize| Line {
        column: table.columns[at].clone(),
        differs: found.differs[at],
        values: found.rows.iter().map(|row| row.as_ref().and_then(|row| row[at].clone())).collect(),
    };
    Pair { key: key(table, &found.key), lines: (0..table.columns.len()).map(line).collect() }
}

fn key(table: &TableReport, texts: &[String]) -> String {
    let parts = table.key.iter().zip(texts).map(|(at, text)| format!("{} = {text}", table.columns[*at]));
    parts.collect::<Vec<_>>().join(", ")
}

fn more(all: u64, shown: usize) -> String {
    match all.saturating_sub(shown as u64) {
        0 => String::new(),
        rest => format!("and {} more", count(rest)),
    }
}

fn notes(table: &TableReport, nodes: &[String]) -> Vec<(&'static str, String)> {
    let mut notes = Vec::new();
    for clash in &table.tally.clash_examples {
        let values = clash.columns.iter().zip(&clash.values);
        let values = values.map(|(at, value)| format!("{} = {value}", table.columns[*at])).collect::<Vec<_>>();
        let rows = clash.rows.iter().map(|(node, texts)| format!("{} on {}", key(table, texts), nodes[*node]));
        let rows = rows.collect::<Vec<_>>().join(" and by ");
        notes.push(("Unique value", format!("{} is claimed by {rows}", values.join(", "))));
    }
    let rest = more(table.tally.clashes, table.tally.clash_examples.len());
    if !rest.is_empty() {
        notes.push(("Unique value", rest));
    }
    for orphans in &table.orphans {
        let counts = orphans.rows.iter().zip(nodes).filter(|(rows, _)| **rows > 0);
        let counts = counts.map(|(rows, node)| format!("{} rows on {node}", count(*rows))).collect::<Vec<_>>();
        let by = orphans.columns.join(", ");
        let what = format!("{} refer by {by} to rows of {} that no node has", counts.join(" and "), orphans.referenced);
        notes.push(("Orphans", what));
    }
    for overlap in &table.overlaps {
        let next = overlap.sequences.iter().map(|next| format!("{} on {}", count(next.value), nodes[next.node]));
        let next = next.collect::<Vec<_>>().join(", ");
        notes.push(("Sequences", format!("the same values of {} will be made: next is {next}", overlap.column)));
    }
    notes
}
