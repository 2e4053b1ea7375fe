//! `pgtandem conflicts`

use std::time::SystemTime;

use clap::Args;
use serde_json::Value as Json;

use super::layout::{Cell, Grid, Tone, clip, width};
use super::status::key_text;
use super::{Failure, Global, Outcome, Style, say, when};
use crate::config::{self, Config};
use crate::observe::{Conflict, ConflictFilter, Observer, read_conflicts};
use crate::sql::QualifiedName;

/// Lists the conflicts that were decided, newest first, with both rows.
///
/// A conflict is two changes of one row, neither of which had seen the other. Each was decided once, by the table's
/// `resolve`; the row that lost is shown in full, so that it can be put back. Columns that differ are marked ≠.
#[derive(Args)]
pub struct Conflicts {
    /// Only those of this table
    #[arg(short, long, value_name = "TABLE", value_parser = config::read_table_name)]
    table: Option<QualifiedName>,
    /// Only those decided since: `10min`, `2h`, `1 day`, or a time such as `2026-10-17 05:30`
    #[arg(short, long, value_name = "WHEN", value_parser = when::since)]
    since: Option<SystemTime>,
    /// At most this many
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    /// Print JSON (docs/json.md)
    #[arg(long)]
    json: bool,
}

impl Conflicts {
    pub async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let config = global.load_config()?;
        let filter = ConflictFilter { table: self.table.clone(), since: self.since, limit: self.limit };
        let names: Vec<&str> = config.nodes.iter().map(|node| node.name.as_str()).collect();
        let (conflicts, away) = read_conflicts(&names, &mut Observer::new(&config), &filter).await;
        for (node, why) in &away {
            eprintln!("{} {node} is away: {}", Style::of_stderr().warn("warning:"), why.reason);
        }
        if away.len() == names.len() {
            return Err(Failure::at_run_time("no node could be reached"));
        }
        let Some(conflicts) = conflicts else { return Err(not_linked(self.table.as_ref(), &config)) };
        if self.json {
            let away: Vec<&str> = away.iter().map(|(node, _)| node.as_str()).collect();
            let json = serde_json::json!({ "conflicts": conflicts, "away": away });
            say(format!("{json:#}"));
        } else {
            print(&conflicts, self.limit);
        }
        Ok(Outcome::Fine)
    }
}

fn not_linked(table: Option<&QualifiedName>, config: &Config) -> Failure {
    let name = table.map(QualifiedName::plain).unwrap_or_default();
    let known: Vec<String> = config.tables.iter().map(|table| table.name.plain()).collect();
    Failure::in_usage(format!("{name} is not linked"), format!("one of: {}", known.join(", ")))
}

fn print(conflicts: &[Conflict], limit: i64) {
    let style = Style::of_stdout();
    if conflicts.is_empty() {
        say("no conflicts");
        return;
    }
    for (at, conflict) in conflicts.iter().enumerate() {
        if at > 0 {
            say("");
        }
        say(render(conflict, width(), style).trim_end());
    }
    if i64::try_from(conflicts.len()) == Ok(limit) {
        say(format!("\n{}", style.dim(format!("the newest {limit}; more with --limit"))));
    }
}

/// One conflict for a person. `width`: of the terminal.
pub fn render(conflict: &Conflict, width: usize, style: Style) -> String {
    let when = conflict.decided_at.map(when::precisely).unwrap_or_default();
    let Conflict { table, kind, winner, loser, policy, why, .. } = conflict;
    let mut text = format!("{when}  {}  {kind}\n", style.bold(format!("{table} {}", key_text(&conflict.key))));
    let over = format!("over {} (resolve = {policy}): {why}", loser.node);
    text.push_str(&format!("  {} {over}\n", style.good(format!("{} won", winner.node))));

    let stamp = |side: &crate::observe::Side| side.stamp.map(when::precisely).unwrap_or_default();
    let columns = conflict.columns();
    let label = columns.iter().map(|name| name.chars().count()).max().unwrap_or_default().max("committed".len());
    let room = width.saturating_sub(label + 8).max(20) / 2;
    let mut grid = Grid::indented(2);
    let head = |node: &str, what: &str| Cell::new(clip(&format!("{node} {what}"), room)).tone(Tone::Bold);
    grid.row([Cell::new(" "), Cell::new(""), head(&winner.node, "(won)"), head(&loser.node, "(lost)")]);
    let dim = |text: &str| Cell::new(text).tone(Tone::Dim);
    grid.row([dim(" "), dim("committed"), dim(&stamp(winner)), dim(&stamp(loser))]);
    for name in columns {
        let (won, lost) = (value(winner.row.as_ref(), name), value(loser.row.as_ref(), name));
        let differs = won != lost;
        let (mark, tone) = if differs { ("≠", Tone::Warn) } else { (" ", Tone::Dim) };
        grid.row([
            Cell::new(mark).tone(tone),
            dim(name),
            Cell::new(clip(&won, room)).tone(tone),
            Cell::new(clip(&lost, room)).tone(tone),
        ]);
    }
    text.push_str(&grid.render(style));
    text
}

fn value(row: Option<&Json>, column: &str) -> String {
    match row.map(|row| row.get(column)) {
        None => "(deleted)".to_owned(),
        Some(None) => "(no such column)".to_owned(),
        Some(Some(Json::Null)) => "NULL".to_owned(),
        Some(Some(Json::String(text))) => text.clone(),
        Some(Some(Json::Object(_))) => "(unchanged)".to_owned(),
        Some(Some(other)) => other.to_string(),
    }
}
