//! `pgtandem undo`

use super::{Failure, Global, Outcome, Style, confirm, say};
use crate::lifecycle::{self, Merged, Unmerged};
use clap::{Args, Subcommand};

/// Takes back what `up` did to rows.
#[derive(Args)]
pub struct Undo {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Merge(Merge),
}

/// Makes merged tables what they were: rows that the merge inserted are deleted, rows it wrote over are put back, and rows
/// that got other ids get their old ones.
///
/// What an application has changed since is left as it is, and listed. The tables leave the link until the next `up`.
/// Refused once the merge was confirmed (`up --confirm`), or has been linked for longer than confirm_after_days. A single
/// row is put back by `pgtandem conflicts undo`. Exit code 1 if rows were left.
#[derive(Args)]
struct Merge {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Print what was done as JSON (docs/json.md)
    #[arg(long)]
    json: bool,
}

/// More are only counted.
const MOST_LISTED: usize = 20;

impl Undo {
    pub async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        match self.what {
            What::Merge(merge) => merge.run(global).await,
        }
    }
}

impl Merge {
    async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let config = global.load_config()?;
        let merged = lifecycle::plan_unmerge(&config).await?;
        if !self.json {
            merged.iter().for_each(print_plan);
        }
        if !confirm::confirm("Undo this?", self.yes).await? {
            say("nothing was done");
            return Ok(Outcome::Fine);
        }
        let done = lifecycle::unmerge(&config, &merged).await?;
        match self.json {
            true => say(format!("{:#}", serde_json::json!({ "merged": merged, "undone": done }))),
            false => print(&done),
        }
        Ok(if done.left.is_empty() { Outcome::Fine } else { Outcome::Differs })
    }
}

fn print_plan(merged: &Merged) {
    for on in &merged.nodes {
        let node = Style::of_stdout().bold(format!("{}:", on.node));
        say(format!(
            "{node} {}: {} rows were inserted, {} overwritten, {} given other ids",
            merged.table.plain(),
            on.inserted,
            on.overwritten,
            on.renumbered
        ));
    }
}

fn print(done: &Unmerged) {
    let style = Style::of_stdout();
    let Unmerged { deleted, restored, renumbered, left } = done;
    say(format!("{deleted} rows deleted, {restored} put back, {renumbered} got their old ids"));
    for left in left.iter().take(MOST_LISTED) {
        let (table, node, key) = (&left.table, &left.node, left.key.join(", "));
        say(format!("{} {table} {key} on {node}: {}", style.warn("left:"), left.why));
    }
    if left.len() > MOST_LISTED {
        say(format!("and {} more that were left; --json lists them all", left.len() - MOST_LISTED));
    }
    say("the tables are not linked any more. next: pgtandem up, or pgtandem down");
}
