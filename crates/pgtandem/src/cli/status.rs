//! `pgtandem status`

mod text;
mod watch;

pub use text::key as key_text;

use clap::Args;
use jiff::{Timestamp, Zoned};

use super::{Failure, Global, Outcome, Style, say};
use crate::observe;

/// Shows the nodes, the lag, the tables, conflicts and held keys, and whether the hub is running.
///
/// Asks the databases, so it works without a hub, and a node that is away is shown as such. Exit code 0: all is well;
/// 1: something needs attention; 3: no node could be reached.
#[derive(Args)]
pub struct Status {
    /// Show it anew every second, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// Print JSON (docs/json.md); with --watch, one line per second
    #[arg(long)]
    json: bool,
}

impl Status {
    pub async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let config = global.load_config()?;
        let mut observer = observe::Observer::new(&config);
        if self.watch {
            return watch::watch(&config, &mut observer, self.json).await;
        }
        let status = observe::Status::new(&config, &observer.look().await, Timestamp::now());
        if self.json {
            say(serde_json::to_string_pretty(&status).map_err(std::io::Error::from)?);
        } else {
            say(text::render(&status, &Zoned::now(), Style::of_stdout()).trim_end());
        }
        if status.nothing_reached() {
            return Err(Failure::at_run_time("no node could be reached"));
        }
        Ok(if status.well { Outcome::Fine } else { Outcome::Differs })
    }
}
