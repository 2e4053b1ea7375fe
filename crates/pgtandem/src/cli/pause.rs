//! `pgtandem pause` and `pgtandem resume`

use clap::Args;
use jiff::Timestamp;

use super::{Failure, Global, Outcome, Style};
use crate::config;
use crate::lifecycle::{self, Pausing, Stand, Turn};
use crate::observe::{self, Observer};
use crate::sql::QualifiedName;

/// Stops deliveries of a table, or of all tables, to every node.
///
/// Applications go on writing. What changes meanwhile is kept, whole, on the node it is meant for, and is delivered at
/// `pgtandem resume`; the servers need not keep WAL for it. Works with and without a running hub.
#[derive(Args)]
pub struct Pause {
    #[command(flatten)]
    args: PauseArgs,
}

/// Lets deliveries of a table, or of all tables, go on.
///
/// Delivers what was kept while it was paused. A table that pgtandem itself paused, because its columns do not fit any
/// more, goes on by itself once they do.
#[derive(Args)]
pub struct Resume {
    #[command(flatten)]
    args: PauseArgs,
}

#[derive(Args)]
struct PauseArgs {
    /// All tables, if none is named
    #[arg(value_name = "TABLE", value_parser = config::read_table_name)]
    table: Option<QualifiedName>,
    /// Print JSON (docs/json.md)
    #[arg(long)]
    json: bool,
}

impl Pause {
    pub async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        turn(Turn::Pause, self.args, global).await
    }
}

impl Resume {
    pub async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        turn(Turn::Resume, self.args, global).await
    }
}

async fn turn(turn: Turn, args: PauseArgs, global: &Global) -> Result<Outcome, Failure> {
    let config = global.load_config()?;
    let mut observer = Observer::new(&config);
    let pausing = lifecycle::turn(&config, &mut observer, turn, args.table.as_ref()).await;
    if pausing.tables.is_empty() && pausing.away.is_empty() {
        let name = args.table.as_ref().map_or_else(|| "no table".to_owned(), QualifiedName::plain);
        let is = if args.table.is_some() { "is not linked" } else { "is linked" };
        return Err(Failure::in_usage(format!("{name} {is}"), "`pgtandem status` lists the linked tables"));
    }
    let status = observe::Status::new(&config, &observer.look().await, Timestamp::now());
    if args.json {
        println!("{:#}", json(&pausing, status.hub.state.is_alive()));
    } else {
        print(turn, &pausing, status.hub.state.is_alive());
    }
    let away: Vec<String> = pausing.away.iter().map(|(node, why)| format!("{node}: {}", why.reason)).collect();
    match away.is_empty() {
        true => Ok(Outcome::Fine),
        false => Err(Failure::at_run_time(format!(
            "not every node could be told; repeat the command when it is back\n{}",
            away.join("\n")
        ))),
    }
}

fn print(turn: Turn, pausing: &Pausing, hub: bool) {
    let style = Style::of_stdout();
    for (table, stand) in &pausing.tables {
        let table = style.bold(table.plain());
        match stand {
            Stand::Paused => println!("{table} is {}", style.warn("paused")),
            Stand::WasPaused => println!("{table} was {} already", style.warn("paused")),
            Stand::Resumed => println!("{table} {}", style.good("goes on")),
            Stand::WasLive => println!("{table} was not paused"),
            Stand::Drifted { reason } => {
                println!("{table} stays {} until its columns fit: {reason}", style.warn("paused"));
            }
        }
    }
    let change = |stand: &Stand| matches!(stand, Stand::Paused | Stand::Resumed);
    if pausing.tables.iter().any(|(_, stand)| change(stand)) {
        match (turn, hub) {
            (Turn::Pause, true) => println!("the hub keeps changes from now on; `pgtandem resume` delivers them"),
            (Turn::Resume, true) => println!("the hub delivers what was kept"),
            (_, false) => println!("no hub is running: this counts from its next start"),
        }
    }
}

fn json(pausing: &Pausing, hub: bool) -> serde_json::Value {
    let tables = pausing.tables.iter().map(|(table, stand)| {
        let (state, reason) = match stand {
            Stand::Paused | Stand::WasPaused => ("paused", None),
            Stand::Resumed | Stand::WasLive => ("live", None),
            Stand::Drifted { reason } => ("paused", Some(reason.as_str())),
        };
        let changed = matches!(stand, Stand::Paused | Stand::Resumed);
        serde_json::json!({ "name": table.plain(), "state": state, "changed": changed, "reason": reason })
    });
    let away = pausing.away.iter().map(|(node, why)| serde_json::json!({ "node": node, "reason": why.reason }));
    serde_json::json!({
        "tables": tables.collect::<Vec<_>>(),
        "away": away.collect::<Vec<_>>(),
        "hub_running": hub,
    })
}
