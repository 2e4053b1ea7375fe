//! A comparison for a person.

use crate::cli::Style;
use crate::cli::layout::{Cell, Grid, Tone, clip, count};
use crate::compare::{Clash, Found, Orphans, Overlap, Report, TableReport, Tally};

/// A row with more columns is shown by those that are not the same.
const SHOWN_WHOLE: usize = 16;

/// `width`: of the terminal.
pub(in crate::cli) fn render(report: &Report, width: usize, style: Style) -> String {
    let mut text = String::new();
    for table in &report.tables {
        text.push_str(&Page { table, nodes: &report.nodes, width, style }.render());
        text.push('\n');
    }
    text.push_str(&verdict(report, style));
    text
}

/// The last line.
pub(super) fn verdict(report: &Report, style: Style) -> String {
    let tables = |number: usize| format!("{number} table{}", if number == 1 { "" } else { "s" });
    let on = listed(&report.nodes.iter().map(String::as_str).collect::<Vec<_>>());
    let in_flight: u64 = report.tables.iter().map(|table| table.tally.in_flight).sum();
    let differ = report.tables.iter().filter(|table| !table.tally.is_equal()).count();
    match (differ, in_flight) {
        (0, 0) => style.good(format!("{}: the same rows on {on}", tables(report.tables.len()))),
        (0, _) => style.warn(format!(
            "{}: no difference on {on}, but for {} that were still on their way",
            tables(report.tables.len()),
            count(in_flight)
        )),
        _ if report.tables.len() == 1 => style.warn("the table differs"),
        _ => style.warn(format!("{differ} of {} differ", tables(report.tables.len()))),
    }
}

/// `a and b`, `a, b and c`
pub(super) fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [others @ .., last] => format!("{} and {last}", others.join(", ")),
    }
}

/// The table's part.
struct Page<'a> {
    table: &'a TableReport,
    nodes: &'a [String],
    width: usize,
    style: Style,
}

impl Page<'_> {
    fn render(&self) -> String {
        let Self { table, style, .. } = self;
        let tally = &table.tally;
        let mut text = format!("{}  {}\n", style.bold(&table.name), self.summary(tally));
        let rows = tally.rows.iter().zip(self.nodes).map(|(rows, node)| format!("{} on {node}", count(*rows)));
        text.push_str(&format!("  {}\n", style.dim(format!("rows: {}", rows.collect::<Vec<_>>().join(", ")))));
        if !table.left_out.is_empty() {
            let names = table.left_out.join(", ");
            text.push_str(&format!(
                "  {}\n",
                style.dim(format!("not compared, as not every node writes them: {names}"))
            ));
        }
        for found in tally.examples.iter().filter(|found| found.is_everywhere()) {
            text.push('\n');
            text.push_str(&self.side_by_side(found));
        }
        let shown = tally.examples.iter().filter(|found| found.is_everywhere()).count() as u64;
        if tally.different > shown {
            let more = count(tally.different - shown);
            text.push_str(&format!("\n  {}\n", style.dim(format!("and {more} more that are different"))));
        }
        for partial in &tally.partial {
            text.push('\n');
            text.push_str(&self.only_on(&partial.on, partial.keys));
        }
        let clashes = tally.clash_examples.iter().map(|clash| self.clash(clash));
        let more = tally.clashes.saturating_sub(tally.clash_examples.len() as u64);
        let more = (more > 0).then(|| format!("… and {} more unique values that two keys claim", count(more)));
        let orphans = table.orphans.iter().flat_map(|orphans| self.orphans(orphans));
        let overlaps = table.overlaps.iter().map(|overlap| self.overlap(overlap));
        let mut rest = clashes.chain(more).chain(orphans).chain(overlaps).peekable();
        if rest.peek().is_some() {
            text.push('\n');
        }
        rest.for_each(|line| text.push_str(&format!("  {line}\n")));
        text
    }

    fn summary(&self, tally: &Tally) -> String {
        if tally.is_equal() && tally.in_flight == 0 {
            return self.style.good(format!("{} equal", count(tally.equal())));
        }
        let mut parts = vec![format!("{} equal", count(tally.equal()))];
        if tally.different > 0 {
            parts.push(self.style.warn(format!("{} different", count(tally.different))));
        }
        for partial in &tally.partial {
            parts.push(self.style.warn(format!("{} only on {}", count(partial.keys), self.names(&partial.on))));
        }
        if tally.in_flight > 0 {
            parts.push(self.style.warn(format!("{} still on their way", count(tally.in_flight))));
        }
        parts.join(", ")
    }

    fn names(&self, nodes: &[usize]) -> String {
        listed(&nodes.iter().map(|node| self.nodes[*node].as_str()).collect::<Vec<_>>())
    }

    /// `id=1`, `shop=3 name=x`
    fn key(&self, key: &[String]) -> String {
        let columns = &self.table.columns;
        let parts = self.table.key.iter().zip(key).map(|(column, text)| format!("{}={text}", columns[*column]));
        clip(&parts.collect::<Vec<_>>().join(" "), self.width)
    }

    fn side_by_side(&self, found: &Found) -> String {
        let Self { table, style, .. } = self;
        let mut text = format!("  {}  {}\n", style.bold(self.key(&found.key)), style.warn("different"));
        let whole = table.columns.len() <= SHOWN_WHOLE;
        let shown: Vec<usize> = (0..table.columns.len()).filter(|at| whole || found.differs[*at]).collect();
        let label = shown.iter().map(|at| table.columns[*at].chars().count()).max().unwrap_or_default();
        let room = self.width.saturating_sub(label + 8).max(20) / self.nodes.len().max(1);
        let mut grid = Grid::indented(2);
        let heads = self.nodes.iter().map(|node| Cell::new(clip(node, room)).tone(Tone::Bold));
        grid.row([Cell::new(" "), Cell::new("")].into_iter().chain(heads));
        for at in shown {
            let (mark, tone) = if found.differs[at] { ("≠", Tone::Warn) } else { (" ", Tone::Dim) };
            let value = |row: &Option<Vec<Option<String>>>| {
                let text = row.as_ref().map_or("", |row| row[at].as_deref().unwrap_or("NULL"));
                Cell::new(clip(text, room)).tone(tone)
            };
            let label = [Cell::new(mark).tone(tone), Cell::new(&table.columns[at]).tone(Tone::Dim)];
            grid.row(label.into_iter().chain(found.rows.iter().map(value)));
        }
        text.push_str(&grid.render(*style));
        if !whole {
            let same = found.differs.iter().filter(|differs| !**differs).count();
            text.push_str(&format!("     {}\n", style.dim(format!("{same} other columns are the same"))));
        }
        text
    }

    /// Rows below each other; of wide ones the first columns.
    fn only_on(&self, on: &[usize], keys: u64) -> String {
        let Self { table, style, width, .. } = self;
        let mut text = format!("  {}\n", style.warn(format!("only on {}", self.names(on))));
        let examples: Vec<&Found> = table.tally.examples.iter().filter(|found| found.on() == on).collect();
        const LONGEST: usize = 28;
        let cell = |found: &Found, at: usize| {
            let row = found.rows[on[0]].as_ref().and_then(|row| row[at].as_deref());
            clip(row.unwrap_or("NULL"), LONGEST)
        };
        let mut room = width.saturating_sub(6);
        let mut shown = Vec::new();
        for at in 0..table.columns.len() {
            let values = examples.iter().map(|found| cell(found, at).chars().count());
            let wide = values.max().unwrap_or_default().max(table.columns[at].chars().count().min(LONGEST)) + 2;
            if wide > room {
                break;
            }
            room -= wide;
            shown.push(at);
        }
        let more = shown.len() < table.columns.len();
        let mut grid = Grid::indented(4);
        let line = |cells: Vec<Cell>| cells.into_iter().chain(more.then(|| Cell::new("…").tone(Tone::Dim)));
        grid.row(line(shown.iter().map(|at| Cell::new(clip(&table.columns[*at], LONGEST)).tone(Tone::Dim)).collect()));
        for found in &examples {
            grid.row(line(shown.iter().map(|at| Cell::new(cell(found, *at))).collect()));
        }
        text.push_str(&grid.render(*style));
        let rest = keys.saturating_sub(examples.len() as u64);
        if rest > 0 {
            text.push_str(&format!("    {}\n", style.dim(format!("and {} more", count(rest)))));
        }
        text
    }

    fn clash(&self, clash: &Clash) -> String {
        let [(here, first), (there, second)] = &clash.rows;
        let columns = &self.table.columns;
        let values = clash.columns.iter().zip(&clash.values).map(|(at, value)| format!("{}={value}", columns[*at]));
        format!(
            "{} two keys claim {}: {} on {}, {} on {}",
            self.style.bad("unique:"),
            values.collect::<Vec<_>>().join(" "),
            self.key(first),
            self.nodes[*here],
            self.key(second),
            self.nodes[*there]
        )
    }

    fn orphans(&self, orphans: &Orphans) -> Vec<String> {
        let counts = orphans.rows.iter().enumerate().filter(|(_, rows)| **rows > 0);
        let mut lines: Vec<String> = counts
            .map(|(node, rows)| {
                format!(
                    "{} {} on {} refer by {} to rows of {} that no node has",
                    self.style.bad("orphans:"),
                    count(*rows),
                    self.nodes[node],
                    orphans.columns.join(", "),
                    orphans.referenced
                )
            })
            .collect();
        lines.extend(orphans.examples.iter().map(|orphan| {
            let values = orphans.columns.iter().zip(&orphan.values).map(|(name, value)| format!("{name}={value}"));
            let values = values.collect::<Vec<_>>().join(" ");
            format!("  {} on {}: {values}", self.key(&orphan.key), self.nodes[orphan.node])
        }));
        lines
    }

    fn overlap(&self, overlap: &Overlap) -> String {
        let next = overlap.sequences.iter().map(|next| {
            let by = if next.increment == 1 { String::new() } else { format!(" in steps of {}", next.increment) };
            format!("{} goes on at {}{by}", self.nodes[next.node], count(next.value))
        });
        format!(
            "{} the nodes will make the same values of {}: {} (`up` keeps them apart)",
            self.style.dim("sequences:"),
            overlap.column,
            next.collect::<Vec<_>>().join(", ")
        )
    }
}
