//! `pgtandem verify`

use std::time::{Duration, Instant};

use clap::Args;
use jiff::{Timestamp, Zoned};
use serde_json::json;

use super::diff::{names_of, share};
use super::layout::count;
use super::when::clock;
use super::{Failure, Global, Outcome, Style, say};
use crate::compare::{Options, Sessions, Side, Tally, Watch, compare_rows, read_shapes};
use crate::config::{self, Config};
use crate::lifecycle::{LifecycleError, open_nodes};
use crate::sql::QualifiedName;

/// Compares the tables of all nodes, once or again and again, at low load, and says what has drifted.
///
/// As `pgtandem diff`, but it leaves the servers alone most of the time, and prints one line per table. With `verify_every`
/// in [hub] the hub does the same, and `status` tells what it found. Exit code 1: rows differ.
#[derive(Args)]
pub struct Verify {
    /// Only these tables of the configuration
    #[arg(value_name = "TABLE", value_parser = config::read_table_name)]
    tables: Vec<QualifiedName>,
    /// Again and again, with this pause: 30s, 10min, 1h, 1d
    #[arg(long, value_name = "INTERVAL", value_parser = config::read_interval)]
    every: Option<Duration>,
    /// The share of time the servers are kept busy
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    max_load: f64,
    /// Print each round as one line of JSON (docs/json.md)
    #[arg(long)]
    json: bool,
}

struct Nobody;

impl Watch for Nobody {}

impl Verify {
    pub async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let config = global.load_config()?;
        let names = names_of(&config, &self.tables)?;
        let mut outcome = Outcome::Fine;
        loop {
            match (self.round(&config, &names).await, self.every) {
                (Ok(true), _) => {}
                (Ok(false), _) => outcome = Outcome::Differs,
                (Err(failure), None) => return Err(failure),
                // A node may be away for a while.
                (Err(failure), Some(_)) => drop(failure.report()),
            }
            let Some(every) = self.every else { return Ok(outcome) };
            tokio::time::sleep(every).await;
        }
    }

    /// Whether all is equal.
    async fn round(&self, config: &Config, names: &[QualifiedName]) -> Result<bool, Failure> {
        let nodes = open_nodes(config).await.all()?;
        let sides: Vec<Side<'_>> = nodes.iter().map(|node| Side { name: &node.name, client: node.client() }).collect();
        let options = Options { frozen: false, max_load: self.max_load, examples: 0 };
        let (mut equal, mut tables) = (true, Vec::new());
        for name in names {
            let began = Instant::now();
            let compared = async {
                let shapes = read_shapes(&sides, std::slice::from_ref(name), |node, table| config.naming(node, table))
                    .await?
                    .remove(0);
                let subject = shapes.subject(&sides).await?;
                compare_rows(&subject, &Sessions::single(sides.clone()), options, None, &mut Nobody).await
            };
            let tally = compared.await.map_err(LifecycleError::from)?;
            equal &= tally.is_equal();
            if self.json {
                tables.push(json!({
                    "name": name.plain(),
                    "equal": tally.is_equal(),
                    "different": tally.different,
                    "missing": missing(&tally),
                    "in_flight": tally.in_flight,
                }));
            } else {
                print(name, &tally, began.elapsed());
            }
        }
        if self.json {
            say(json!({ "at": Timestamp::now(), "equal": equal, "tables": tables }));
        }
        Ok(equal)
    }
}

fn missing(tally: &Tally) -> u64 {
    tally.partial.iter().map(|partial| partial.keys).sum()
}

fn print(name: &QualifiedName, tally: &Tally, took: Duration) {
    let style = Style::of_stdout();
    let now = Zoned::now();
    let found = match tally.is_equal() {
        true => style.good(format!("{} equal", count(tally.equal()))),
        false => style.warn(format!(
            "{} different, {} not on all nodes; mend it with `pgtandem repair {}`",
            count(tally.different),
            count(missing(tally)),
            name.plain()
        )),
    };
    let at = clock(now.timestamp(), &now);
    say(format!("{at}  {}  {found}  {}", style.bold(name.plain()), style.dim(format!("{} s", took.as_secs()))));
}
