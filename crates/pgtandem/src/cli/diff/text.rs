//! A comparison for a person.

use crate::cli::Style;
use crate::cli::layout::{Cell, Grid, Tone, clip, count};
use crate::compare::{Clash, Found, Report, TableReport, Tally};

/// `width`: of the terminal.
pub fn render(report: &Report, width: usize, style: Style) -> String {
    let mut text = String::new();
    for table in &report.tables {
        text.push_str(&counts(table, &report.nodes, style));
        for found in &table.tally.examples {
            text.push('\n');
            text.push_str(&example(found, table, &report.nodes, width, style));
        }
        for clash in &table.tally.clash_examples {
            text.push_str(&format!("\n  {}\n", claim(clash, table, &report.nodes)));
        }
        text.push('\n');
    }
    text.push_str(&verdict(report, style));
    text
}

fn counts(table: &TableReport, nodes: &[String], style: Style) -> String {
    let tally = &table.tally;
    let mut text = format!("{}\n", style.bold(&table.name));
    let mut grid = Grid::indented(2);
    let number = |number: u64| Cell::new(count(number)).right();
    let head = nodes.iter().map(|node| Cell::new(node).right().tone(Tone::Dim));
    grid.row(std::iter::once(Cell::new("")).chain(head));
    let row = |what: &str, numbers: &mut dyn Iterator<Item = Cell>| {
        std::iter::once(Cell::new(what)).chain(numbers).collect::<Vec<_>>()
    };
    grid.row(row("rows", &mut tally.rows.iter().map(|rows| number(*rows))));
    let only = |node: usize| match tally.only_on(node) {
        0 => number(0),
        keys => number(keys).tone(Tone::Warn),
    };
    grid.row(row("only here", &mut (0..nodes.len()).map(only)));
    text.push_str(&grid.render(style));
    text.push_str(&format!("  {}\n", summary(tally, nodes, style)));
    if !table.left_out.is_empty() {
        let names = table.left_out.join(", ");
        text.push_str(&format!(
            "  {}\n",
            style.dim(format!("not compared, because not every node has or writes it: {names}"))
        ));
    }
    text
}

fn summary(tally: &Tally, nodes: &[String], style: Style) -> String {
    let mut parts = vec![format!("{} equal", count(tally.equal()))];
    let different = format!("{} different", count(tally.different));
    parts.push(if tally.different > 0 { style.warn(different) } else { different });
    for partial in tally.partial.iter().filter(|partial| partial.on.len() > 1) {
        let on: Vec<&str> = partial.on.iter().map(|node| nodes[*node].as_str()).collect();
        parts.push(style.warn(format!("{} only on {}", count(partial.keys), on.join(" and "))));
    }
    if tally.in_flight > 0 {
        parts.push(format!("{} on their way, too busy to tell", count(tally.in_flight)));
    }
    if tally.clashes > 0 {
        parts.push(style.bad(format!("{} claims of a unique value by two keys", count(tally.clashes))));
    }
    parts.join(", ")
}

/// `id=1`, `shop=3 name=x`
fn key(table: &TableReport, key: &[String]) -> String {
    let parts = table.key.iter().zip(key).map(|(column, text)| format!("{}={text}", table.columns[*column]));
    parts.collect::<Vec<_>>().join(" ")
}

fn example(found: &Found, table: &TableReport, nodes: &[String], width: usize, style: Style) -> String {
    let on: Vec<&str> = found.on().into_iter().map(|node| nodes[node].as_str()).collect();
    let what = match found.is_everywhere() {
        true => "different".to_owned(),
        false => format!("only on {}", on.join(" and ")),
    };
    let mut text = format!("  {}  {}\n", style.bold(clip(&key(table, &found.key), width / 2)), style.warn(what));
    let label = table.columns.iter().map(|name| name.chars().count()).max().unwrap_or_default();
    let rows: Vec<(usize, &Vec<Option<String>>)> =
        found.rows.iter().enumerate().filter_map(|(node, row)| Some((node, row.as_ref()?))).collect();
    let room = width.saturating_sub(label + 8).max(20) / rows.len().max(1);
    let mut grid = Grid::indented(2);
    let heads = rows.iter().map(|(node, _)| Cell::new(clip(&nodes[*node], room)).tone(Tone::Dim));
    grid.row([Cell::new(" "), Cell::new("")].into_iter().chain(heads));
    for (at, name) in table.columns.iter().enumerate() {
        let (mark, tone) = if found.differs[at] { ("≠", Tone::Warn) } else { (" ", Tone::Dim) };
        let value = |(_, row): &(usize, &Vec<Option<String>>)| {
            Cell::new(clip(row[at].as_deref().unwrap_or("NULL"), room)).tone(tone)
        };
        let label = [Cell::new(mark).tone(tone), Cell::new(name).tone(Tone::Dim)];
        grid.row(label.into_iter().chain(rows.iter().map(value)));
    }
    text.push_str(&grid.render(style));
    text
}

fn claim(clash: &Clash, table: &TableReport, nodes: &[String]) -> String {
    let values = clash.columns.iter().zip(&clash.values).map(|(at, value)| format!("{}={value}", table.columns[*at]));
    let [(here, first), (there, second)] = &clash.rows;
    format!(
        "{} is claimed by {} on {} and by {} on {}",
        values.collect::<Vec<_>>().join(" "),
        key(table, first),
        nodes[*here],
        key(table, second),
        nodes[*there]
    )
}

fn verdict(report: &Report, style: Style) -> String {
    let differ = report.tables.iter().filter(|table| !table.tally.is_equal()).count();
    let tables = |number: usize| format!("{number} table{}", if number == 1 { "" } else { "s" });
    match differ {
        0 => style.good(format!("{}: equal on {}", tables(report.tables.len()), report.nodes.join(" and "))),
        _ => style.warn(format!("{} of {} differ", differ, tables(report.tables.len()))),
    }
}
