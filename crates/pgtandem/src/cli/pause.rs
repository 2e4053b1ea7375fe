//! `pgtandem pause` and `pgtandem resume`

use std::time::{Duration, Instant};

use clap::Args;
use jiff::Timestamp;

use super::{Failure, Global, Outcome, Style, say};
use crate::config::{self, Config};
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
    let hub = hub_follows(&config, &mut observer, turn, &pausing).await;
    if args.json {
        say(format!("{:#}", json(&pausing, hub)));
    } else {
        print(turn, &pausing, hub);
    }
    let away: Vec<String> = pausing.away.iter().map(|(node, why)| format!("{node}: {}", why.reason)).collect();
    match away.is_empty() {
        true => Ok(Outcome::Fine),
        false => {
            let some = if pausing.tables.is_empty() { "no node" } else { "not every node" };
            let again = "could be told; repeat the command when it is back";
            Err(Failure::at_run_time(format!("{some} {again}\n{}", away.join("\n"))))
        }
    }
}

/// What the hub makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hub {
    NotRunning,
    Follows,
    /// It has not said so yet.
    Late,
}

/// It looks at its tables as soon as it is told.
const PATIENCE: Duration = Duration::from_secs(5);

async fn hub_follows(config: &Config, observer: &mut Observer<'_>, turn: Turn, pausing: &Pausing) -> Hub {
    let began = Instant::now();
    loop {
        let status = observe::Status::new(config, &observer.look().await, Timestamp::now());
        if !status.hub.state.is_alive() {
            return Hub::NotRunning;
        }
        let follows = pausing.tables.iter().all(|(table, stand)| {
            let paused = status.hub.paused.contains(&table.plain());
            // One that the hub may pause by itself is not waited for.
            matches!(stand, Stand::Drifted { .. }) || paused == (turn == Turn::Pause) || !stand.is_new()
        });
        match follows {
            true => return Hub::Follows,
            false if began.elapsed() > PATIENCE => return Hub::Late,
            false => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn print(turn: Turn, pausing: &Pausing, hub: Hub) {
    let style = Style::of_stdout();
    let paused = style.warn("paused");
    for (table, stand) in &pausing.tables {
        let table = style.bold(table.plain());
        say(match stand {
            Stand::Paused => format!("{table} is {paused}"),
            Stand::WasPaused => format!("{table} was {paused} already"),
            Stand::Resumed => format!("{table} {}", style.good("goes on")),
            Stand::WasLive => format!("{table} was not paused"),
            Stand::Drifted { reason } => format!("{table} stays {paused} until its columns fit: {reason}"),
        });
    }
    if pausing.tables.values().any(Stand::is_new) {
        say(match (turn, hub) {
            (Turn::Pause, Hub::Follows) => "the hub keeps changes from now on; `pgtandem resume` delivers them",
            (Turn::Resume, Hub::Follows) => "the hub delivers what was kept",
            (_, Hub::NotRunning) => "no hub is running: this counts from its next start",
            (_, Hub::Late) => {
                "the hub was told, but has not said that it follows; `pgtandem status` shows how it stands"
            }
        });
    }
}

fn json(pausing: &Pausing, hub: Hub) -> serde_json::Value {
    let tables = pausing.tables.iter().map(|(table, stand)| {
        let (state, reason) = match stand {
            Stand::Paused | Stand::WasPaused => ("paused", None),
            Stand::Resumed | Stand::WasLive => ("live", None),
            Stand::Drifted { reason } => ("paused", Some(reason.as_str())),
        };
        serde_json::json!({ "name": table.plain(), "state": state, "changed": stand.is_new(), "reason": reason })
    });
    let away = pausing.away.iter().map(|(node, why)| serde_json::json!({ "node": node, "reason": why.reason }));
    serde_json::json!({
        "tables": tables.collect::<Vec<_>>(),
        "away": away.collect::<Vec<_>>(),
        "hub_running": hub != Hub::NotRunning,
        "hub_follows": hub == Hub::Follows,
    })
}
