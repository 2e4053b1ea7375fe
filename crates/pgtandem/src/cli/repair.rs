//! `pgtandem repair`

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::diff::{names_of, share, text};
use super::layout::{count, width};
use super::up::Watch;
use super::{Failure, Global, Outcome, Style, confirm, say};
use crate::compare::{Options, Report};
use crate::config::{self, Config};
use crate::daemon::Brief;
use crate::lifecycle::{Repair as Repairing, Settled, TableRepair, Whose};
use crate::observe::{self, Observer};
use crate::sql::QualifiedName;

/// Makes rows that differ between the nodes the same again, by the tables' policies.
///
/// Compares as `pgtandem diff` does, shows what it would do, and asks. Whose row stands: that of --prefer; else that of
/// the node the table's `resolve` or `merge` prefers; else the newest by `merge_by` (updated_at). A row that only some
/// nodes have is given to the others. The row that stands is written once more where it is, as an application would, and
/// the hub brings it to the other nodes; where no hub runs, this command is one until all has arrived. Every row that is
/// replaced is kept: `pgtandem conflicts`. Both applications may go on writing. Exit code 1: rows still differ.
#[derive(Args)]
pub struct Repair {
    /// Only these tables of the configuration
    #[arg(value_name = "TABLE", value_parser = config::read_table_name)]
    tables: Vec<QualifiedName>,
    /// The rows of this node win, whatever the policy says
    #[arg(long, value_name = "NODE")]
    prefer: Option<String>,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// How many rows are shown of each kind of difference
    #[arg(short, long, value_name = "COUNT", default_value_t = 5)]
    examples: usize,
    /// The share of time the servers are kept busy while comparing
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share)]
    max_load: f64,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Print what was done as JSON (docs/json.md)
    #[arg(long)]
    json: bool,
}

/// What was done to a table.
pub(super) struct Done {
    settled: Settled,
    still: u64,
}

impl Done {
    pub fn is_equal(&self) -> bool {
        self.still == 0 && self.settled.left == 0
    }
}

impl Repair {
    pub async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let config = global.load_config()?;
        let names = names_of(&config, &self.tables)?;
        if let Some(unknown) = self.prefer.as_ref().filter(|name| config.node(name).is_none()) {
            let known: Vec<&str> = config.nodes.iter().map(|node| node.name.as_str()).collect();
            let remedy = format!("one of: {}", known.join(", "));
            return Err(Failure::in_usage(format!("there is no node {unknown}"), remedy));
        }
        let repairing = Repairing::open(&config).await?;
        let options = Options { frozen: false, max_load: self.max_load, examples: self.examples };
        let mut tables = Vec::new();
        let whose = Whose { prefer: self.prefer.as_deref(), otherwise: None };
        for name in &names {
            tables.push(repairing.table(name, whose, options, &Watch::new()).await?);
        }
        let nodes: Vec<String> = config.nodes.iter().map(|node| node.name.clone()).collect();
        if !self.json {
            print_plan(&nodes, &tables);
        }
        let writes = tables.iter().any(|table| table.foreseen.written() > 0);
        let mut done = Vec::new();
        if writes && !self.dry_run {
            if !confirm::confirm("Do this?", self.yes).await? {
                say("nothing was done");
                return Ok(Outcome::Fine);
            }
            let settled = settle(&mut tables).await?;
            done = arrive(&config, &mut tables, settled).await?;
        }
        if self.json {
            say(format!("{:#}", to_json(&nodes, &tables, &done, self.dry_run)));
        } else if !done.is_empty() {
            print_done(&nodes, &tables, &done);
        }
        let equal = match done.is_empty() {
            true => tables.iter().all(|table| table.report.tally.is_equal()),
            false => done.iter().all(Done::is_equal),
        };
        Ok(if equal { Outcome::Fine } else { Outcome::Differs })
    }
}

pub(super) async fn settle(tables: &mut [TableRepair]) -> Result<Vec<Settled>, Failure> {
    let mut settled = Vec::new();
    for table in tables.iter_mut() {
        settled.push(table.settle().await?);
    }
    Ok(settled)
}

/// Waits until all nodes have what was settled; where no hub runs, with one.
pub(super) async fn arrive(
    config: &Config,
    tables: &mut [TableRepair],
    settled: Vec<Settled>,
) -> Result<Vec<Done>, Failure> {
    let status = observe::Status::new(config, &Observer::new(config).look().await, Timestamp::now());
    let hub = if status.hub.state.is_alive() { None } else { Some(Brief::start(config)?) };
    let mut done = Vec::new();
    for (table, settled) in tables.iter_mut().zip(settled) {
        let arriving = table.arrive(&settled);
        let still = match &hub {
            None => arriving.await?,
            Some(hub) => tokio::select! {
                still = arriving => still?,
                () = ended(hub) => break,
            },
        };
        done.push(Done { settled, still });
    }
    if let Some(hub) = hub {
        let stopped = tokio::task::spawn_blocking(move || hub.stop()).await;
        let stopped = stopped.map_err(|error| Failure::at_run_time(error.to_string()))?;
        stopped
            .map_err(|error| Failure::at_run_time(format!("what was settled has not arrived everywhere: {error}")))?;
    }
    Ok(done)
}

async fn ended(hub: &Brief) {
    while !hub.has_ended() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn print_plan(nodes: &[String], tables: &[TableRepair]) {
    let style = Style::of_stdout();
    let report = Report { nodes: nodes.to_vec(), tables: tables.iter().map(|table| table.report.clone()).collect() };
    say(text::render(&report, width(), style).trim_end());
    for table in tables.iter().filter(|table| !table.report.tally.is_equal()) {
        let what = in_words(nodes, &table.foreseen);
        say(format!("{}: {what} ({})", style.bold(&table.report.name), table.policy));
    }
}

pub(super) fn print_done(nodes: &[String], tables: &[TableRepair], done: &[Done]) {
    let style = Style::of_stdout();
    for (table, done) in tables.iter().zip(done).filter(|(table, _)| !table.report.tally.is_equal()) {
        let name = style.bold(&table.report.name);
        let mut text = in_words(nodes, &done.settled);
        if let Some(why) = &done.settled.refused_why {
            text.push_str(&format!("; {} refused: {why}", count(done.settled.refused)));
        }
        let verdict = match done.still + done.settled.left {
            0 => style.good("the same on all nodes"),
            still => {
                style.warn(format!("{} still differ; `pgtandem status` tells of keys that are held", count(still)))
            }
        };
        say(format!("{name}: {text}: {verdict}"));
    }
}

fn in_words(nodes: &[String], settled: &Settled) -> String {
    let taken = nodes.iter().zip(&settled.taken_from).filter(|(_, rows)| **rows > 0);
    let mut parts: Vec<String> = taken.map(|(node, rows)| format!("{} taken from {node}", count(*rows))).collect();
    let others = [
        (settled.deleted, "deleted"),
        (settled.left, "left as they are"),
        (settled.equal, "the same meanwhile"),
        (settled.overtaken, "written meanwhile, which the hub judges"),
    ];
    parts.extend(others.iter().filter(|(rows, _)| *rows > 0).map(|(rows, what)| format!("{} {what}", count(*rows))));
    if parts.is_empty() { "nothing to do".to_owned() } else { parts.join(", ") }
}

pub(super) fn to_json(nodes: &[String], tables: &[TableRepair], done: &[Done], dry_run: bool) -> serde_json::Value {
    let counts = |settled: &Settled| {
        let taken: serde_json::Map<_, _> =
            nodes.iter().zip(&settled.taken_from).map(|(node, rows)| (node.clone(), json!(rows))).collect();
        json!({
            "taken_from": taken,
            "deleted": settled.deleted,
            "left": settled.left,
            "equal_meanwhile": settled.equal,
            "overtaken": settled.overtaken,
            "refused": settled.refused,
            "refused_why": settled.refused_why,
        })
    };
    let tables: Vec<_> = tables
        .iter()
        .enumerate()
        .map(|(at, table)| {
            let tally = &table.report.tally;
            let differ = tally.different + tally.partial.iter().map(|partial| partial.keys).sum::<u64>();
            json!({
                "name": table.report.name,
                "policy": table.policy,
                "differ": differ,
                "in_flight": tally.in_flight,
                "foreseen": counts(&table.foreseen),
                "done": done.get(at).map(|done| counts(&done.settled)),
                "still_differ": done.get(at).map_or(differ, |done| done.still + done.settled.left),
            })
        })
        .collect();
    let equal = tables.iter().all(|table| table["still_differ"] == 0);
    json!({ "equal": equal, "dry_run": dry_run, "nodes": nodes, "tables": tables })
}
