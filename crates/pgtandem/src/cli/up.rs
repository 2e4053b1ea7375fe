//! `pgtandem up`

use super::{Failure, Global, Outcome, Style, check, confirm, plan, say};
use crate::config::Config;
use crate::lifecycle::{self, Look, Progress, Until};
use crate::sql::QualifiedName;
use clap::Args;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;

/// Links the nodes: shows what it will make and change, asks, and does it.
///
/// May be repeated: after it was interrupted it goes on where it was, after a change of the configuration it does what
/// is missing, and otherwise it changes nothing. Both applications may go on writing meanwhile.
#[derive(Args)]
pub struct Up {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Disable triggers on these tables that write to the other database by themselves, through a foreign table or dblink
    ///
    /// `pgtandem down` enables them again.
    #[arg(long)]
    replace_triggers: bool,
    /// Make the rows the same, and stop before the tables are linked; `pgtandem up` goes on from there
    #[arg(long)]
    merge_only: bool,
    /// Only say that what was merged is to stay: `pgtandem undo merge` cannot undo it any more
    #[arg(long, conflicts_with = "merge_only")]
    confirm: bool,
}

impl Up {
    pub async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let mut config = global.load_config()?;
        config.replace_triggers = self.replace_triggers;
        if self.confirm {
            return self.confirm_merge(&config).await;
        }
        let (report, agreed) = lifecycle::make_plan_and_stay(&config, Look::Ids).await?;
        let style = Style::of_stdout();
        let Some((agreed, nodes)) = agreed else {
            check::print(&report, style);
            return Ok(Outcome::Differs);
        };
        plan::print(&agreed, style);
        if agreed.is_empty() {
            return Ok(Outcome::Fine);
        }
        // Nobody is kept waiting by a question.
        let nodes = self.yes.then_some(nodes);
        if !confirm::confirm("Do this?", self.yes).await? {
            say("nothing was done");
            return Ok(Outcome::Fine);
        }
        say("");
        let until = if self.merge_only { Until::Merged } else { Until::Linked };
        let watch = Watch::new();
        match nodes {
            Some(nodes) => lifecycle::up_from(nodes, &config, &agreed, until, &watch).await?,
            None => lifecycle::up(&config, &agreed, until, &watch).await?,
        }
        say(match until {
            Until::Merged => format!(
                "{} What the applications write from now on is kept on their servers. next: pgtandem up, or pgtandem undo merge",
                style.good("merged, and not linked yet.")
            ),
            Until::Linked if config.direct.is_some() => {
                format!("{} after an outage, and now and then: pgtandem run --once", style.good("linked."))
            }
            Until::Linked => format!("{} next: pgtandem run", style.good("linked.")),
        });
        Ok(Outcome::Fine)
    }

    async fn confirm_merge(&self, config: &Config) -> Result<Outcome, Failure> {
        if !confirm::confirm("Is what was merged to stay, for good?", self.yes).await? {
            say("nothing was done");
            return Ok(Outcome::Fine);
        }
        match lifecycle::confirm_merge(config).await? {
            0 => say("there is no merge to confirm"),
            1 => say("confirmed: 1 table stays as it was merged"),
            tables => say(format!("confirmed: {tables} tables stay as they were merged")),
        }
        Ok(Outcome::Fine)
    }
}

/// A line for each step; rows with rate and remaining time, on a terminal.
pub(super) struct Watch {
    bar: Mutex<Option<ProgressBar>>,
    terminal: bool,
}

impl Watch {
    pub fn new() -> Self {
        Self { bar: Mutex::new(None), terminal: std::io::stderr().is_terminal() }
    }

    fn with_bar<T>(&self, use_it: impl FnOnce(&mut Option<ProgressBar>) -> T) -> T {
        // A bar whose last user panicked is still a bar.
        use_it(&mut self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn clear(&self) {
        self.with_bar(|bar| {
            if let Some(bar) = bar.take() {
                bar.finish_and_clear();
            }
        });
    }
}

/// Nobody counts fractions of rows.
fn whole_rate(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    // A failure to draw is not one to copy.
    let _ = write!(out, "{}", HumanCount(state.per_sec() as u64));
}

impl Progress for Watch {
    fn step(&self, text: &str) {
        eprintln!("{text}");
    }

    fn rows(&self, table: &QualifiedName, done: u64, total: u64) {
        if !self.terminal {
            return;
        }
        self.with_bar(|bar| {
            let bar = bar.get_or_insert_with(|| {
                let style = ProgressStyle::with_template(
                    "  {msg} {wide_bar} {human_pos}/{human_len} rows, {rate} rows/s, {eta} left",
                )
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .with_key("rate", whole_rate);
                let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
                bar.with_style(style).with_message(table.plain())
            });
            bar.set_length(total);
            bar.set_position(done);
        });
    }

    fn compared(&self, _: &QualifiedName) {
        self.clear();
    }

    fn merged(&self, table: &QualifiedName, what: &str) {
        self.clear();
        eprintln!("  {}: {what}", table.plain());
    }

    fn rows_end(&self, table: &QualifiedName, rows: u64) {
        self.clear();
        eprintln!("  {}: {} rows copied", table.plain(), HumanCount(rows));
    }
}
