//! Compares the linked tables again and again, at low load, on a thread of its own.

use std::thread;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde_json::{Map, Value as Json, json};
use tokio::sync::mpsc;

use super::settings::SPELLING;
use crate::compare::{Options, Sessions, Side, Tally, Watch, compare_rows, read_shapes};
use crate::config::Config;
use crate::sql::QualifiedName;

/// Most of the time the servers are left alone.
const OPTIONS: Options = Options { frozen: false, max_load: 0.1, examples: 0 };

/// For those who only want the numbers.
struct Nobody;

impl Watch for Nobody {}

/// What the last round found, for `pgtandem.hub_status` and the log.
pub struct Verifying {
    rounds: mpsc::UnboundedReceiver<Json>,
    last: Json,
}

impl Verifying {
    /// Ends with the value that is returned. Nothing is compared where the configuration does not ask for it.
    pub fn start(config: &Config, tables: Vec<QualifiedName>) -> Self {
        let (report, rounds) = mpsc::unbounded_channel();
        if let Some(every) = config.hub.verify_every {
            let config = config.clone();
            let started = thread::Builder::new().name("verify".to_owned()).spawn(move || {
                let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
                runtime.block_on(keep_verifying(&config, &tables, every, &report));
                runtime.shutdown_background();
            });
            if let Err(error) = started {
                tracing::warn!("the tables are not compared: {error}");
            }
        }
        Self { rounds, last: Json::Null }
    }

    /// What is known by now; null: nothing yet.
    pub fn last(&mut self) -> Json {
        while let Ok(round) = self.rounds.try_recv() {
            self.last = round;
        }
        self.last.clone()
    }
}

async fn keep_verifying(
    config: &Config,
    tables: &[QualifiedName],
    every: Duration,
    report: &mpsc::UnboundedSender<Json>,
) {
    while !report.is_closed() {
        // Nobody waits for a round that is not wanted any more.
        let round = tokio::select! {
            round = verify(config, tables) => round,
            () = report.closed() => return,
        };
        drop(report.send(round));
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = report.closed() => return,
        }
    }
}

/// One round, as it is written down.
async fn verify(config: &Config, tables: &[QualifiedName]) -> Json {
    let mut found = Map::new();
    let mut failed = None;
    for table in tables {
        match compare(config, table).await {
            Ok(tally) => {
                let missing: u64 = tally.partial.iter().map(|partial| partial.keys).sum();
                let name = table.plain();
                if tally.is_equal() {
                    tracing::debug!(table = %name, "compared: no difference");
                } else {
                    let different = tally.different;
                    tracing::warn!(
                        table = %name,
                        different,
                        missing,
                        "rows differ between the nodes; see `pgtandem diff`, and mend it with `pgtandem repair`"
                    );
                }
                found.insert(
                    name,
                    json!({
                        "rows": tally.rows,
                        "different": tally.different,
                        "missing": missing,
                        "in_flight": tally.in_flight,
                    }),
                );
            }
            Err(error) => {
                tracing::debug!(table = %table.plain(), "not compared: {error}");
                failed = Some(error);
            }
        }
    }
    let at = Timestamp::try_from(SystemTime::now()).ok();
    json!({ "at": at, "tables": found, "error": failed })
}

async fn compare(config: &Config, table: &QualifiedName) -> Result<Tally, String> {
    let mut sessions = Vec::new();
    for node in &config.nodes {
        let session = node.endpoint.connect("pgtandem verify", &SPELLING).await;
        sessions.push(session.map_err(|error| format!("{}: {error}", node.name))?);
    }
    let sides = config.nodes.iter().zip(&sessions);
    let sides: Vec<Side<'_>> =
        sides.map(|(node, session)| Side { name: &node.name, client: &session.client }).collect();
    let compared = async {
        let shapes =
            read_shapes(&sides, std::slice::from_ref(table), |node, table| config.naming(node, table)).await?.remove(0);
        let subject = shapes.subject(&sides).await?;
        compare_rows(&subject, &Sessions::single(sides.clone()), OPTIONS, None, &mut Nobody).await
    };
    compared.await.map_err(|error| error.to_string())
}
