//! `pgtandem conflicts`

use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde_json::Value as Json;

use super::confirm::confirm;
use super::layout::{Cell, Grid, Tone, clip, width};
use super::status::key_text;
use super::{Failure, Global, Outcome, Style, say, when};
use crate::config::{self, Config};
use crate::lifecycle;
use crate::observe::{Conflict, ConflictFilter, NoConflicts, Observer, read_conflicts};
use crate::sql::QualifiedName;

/// Lists the conflicts that were decided, newest first, with both rows; `undo` puts back one that lost.
///
/// A conflict is two changes of one row, neither of which had seen the other. Each was decided once, by the table's
/// `resolve`; the row that lost is kept in full. Columns that differ are marked ≠.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Conflicts {
    #[command(subcommand)]
    what: Option<What>,
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

#[derive(Subcommand)]
enum What {
    Show(Show),
    Undo(Undo),
}

/// Shows one conflict with both rows, nothing cut off.
#[derive(Args)]
struct Show {
    /// Its name, as `pgtandem conflicts` lists it, or how it begins
    conflict: String,
    /// Print JSON (docs/json.md)
    #[arg(long)]
    json: bool,
}

/// Puts back the row that lost, as a new change that wins everywhere.
///
/// It is written on one node as an application would write it (triggers and constraints have their say), and delivered
/// from there. Refused if the row is not the one that won any more.
#[derive(Args)]
struct Undo {
    /// Its name, as `pgtandem conflicts` lists it, or how it begins
    conflict: String,
    /// Also where the row has changed since
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl Conflicts {
    pub async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let config = global.load_config()?;
        match self.what {
            Some(What::Show(show)) => return show.run(&config).await,
            Some(What::Undo(undo)) => return undo.run(&config).await,
            None => {}
        }
        let filter =
            ConflictFilter { table: self.table.clone(), since: self.since, limit: self.limit, ..Default::default() };
        let (conflicts, away) = read(&config, &filter).await?;
        if self.json {
            let json = serde_json::json!({ "conflicts": conflicts, "away": away });
            say(format!("{json:#}"));
        } else {
            print(&conflicts, self.limit);
        }
        Ok(Outcome::Fine)
    }
}

impl Show {
    async fn run(self, config: &Config) -> Result<Outcome, Failure> {
        let conflict = the_one(config, &self.conflict).await?;
        match self.json {
            true => say(format!("{:#}", serde_json::json!(conflict))),
            false => say(render(&conflict, usize::from(u16::MAX), Style::of_stdout()).trim_end()),
        }
        Ok(Outcome::Fine)
    }
}

impl Undo {
    async fn run(self, config: &Config) -> Result<Outcome, Failure> {
        let conflict = the_one(config, &self.conflict).await?;
        let row = format!("{} {}", conflict.table, key_text(&conflict.key));
        if !self.yes {
            say(render(&conflict, width(), Style::of_stdout()).trim_end());
        }
        let question = match conflict.loser.row {
            Some(_) => format!("Put the row of {} back?", conflict.loser.node),
            None => format!("Delete the row, as {} had?", conflict.loser.node),
        };
        if !confirm(&question, self.yes).await? {
            say("nothing was done");
            return Ok(Outcome::Fine);
        }
        let undone = lifecycle::undo(config, &conflict, self.force).await?;
        for node in &undone.away {
            let warning = Style::of_stderr().warn("warning:");
            eprintln!("{warning} {node} is away: whether the row has changed there since is not known");
        }
        let what = if conflict.loser.row.is_some() { "is again what it was on" } else { "is deleted, as it was on" };
        say(format!("{row} {what} {}; written on {}, delivered from there", conflict.loser.node, undone.node));
        Ok(Outcome::Fine)
    }
}

/// The conflicts, and the names of the nodes that are away.
async fn read(config: &Config, filter: &ConflictFilter) -> Result<(Vec<Conflict>, Vec<String>), Failure> {
    let names: Vec<&str> = config.nodes.iter().map(|node| node.name.as_str()).collect();
    let (conflicts, away) = read_conflicts(&names, &mut Observer::new(config), filter).await;
    for (node, why) in &away {
        eprintln!("{} {node} is away: {}", Style::of_stderr().warn("warning:"), why.reason);
    }
    if away.len() == names.len() {
        return Err(Failure::at_run_time("no node could be reached"));
    }
    let conflicts = conflicts.map_err(|none| match none {
        NoConflicts::NothingLinked => Failure::at_run_time("nothing is linked here yet; run `pgtandem up` first"),
        NoConflicts::UnknownTable => not_linked(filter.table.as_ref(), config),
    })?;
    Ok((conflicts, away.into_iter().map(|(node, _)| node).collect()))
}

async fn the_one(config: &Config, name: &str) -> Result<Conflict, Failure> {
    const LIST: &str = "`pgtandem conflicts` lists them with their names";
    let name = name.to_lowercase();
    let filter = ConflictFilter { name: Some(name.clone()), limit: 3, ..Default::default() };
    let (mut found, _) = read(config, &filter).await?;
    match (found.pop(), found.is_empty()) {
        (Some(conflict), true) => Ok(conflict),
        (None, _) => Err(Failure::in_usage(format!("no conflict is called {name}"), LIST)),
        (Some(_), false) => Err(Failure::in_usage(format!("several conflicts begin with {name}"), LIST)),
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
    let row = style.bold(format!("{table} {}", key_text(&conflict.key)));
    let mut text = format!("{when}  {row}  {kind}  {}\n", style.dim(&conflict.name));
    let by = if conflict.is_of_a_merge() { policy.clone() } else { format!("resolve = {policy}") };
    let over = format!("over {} ({by}): {why}", loser.node);
    text.push_str(&format!("  {} {over}\n", style.good(format!("{} won", winner.node))));

    if let Some(at) = conflict.undone_at {
        text.push_str(&format!("  {} {}\n", style.warn("put back"), when::precisely(at)));
    }
    let stamp = |side: &crate::observe::Side| side.stamp.map(when::precisely).unwrap_or_default();
    let columns = conflict.columns();
    let since = if conflict.is_of_a_merge() { "as of" } else { "committed" };
    let label = columns.iter().map(|name| name.chars().count()).max().unwrap_or_default().max(since.len());
    let room = width.saturating_sub(label + 8).max(20) / 2;
    let mut grid = Grid::indented(2);
    let head = |node: &str, what: &str| Cell::new(clip(&format!("{node} {what}"), room)).tone(Tone::Bold);
    grid.row([Cell::new(" "), Cell::new(""), head(&winner.node, "(won)"), head(&loser.node, "(lost)")]);
    let dim = |text: &str| Cell::new(text).tone(Tone::Dim);
    grid.row([dim(" "), dim(since), dim(&stamp(winner)), dim(&stamp(loser))]);
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
