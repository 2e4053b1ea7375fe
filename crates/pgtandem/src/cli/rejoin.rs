//! `pgtandem rejoin`

use clap::Args;

use super::repair::{arrive, print_done, settle, to_json};
use super::up::Watch;
use super::{Failure, Global, Outcome, Style, confirm, say};
use crate::compare::Options;
use crate::lifecycle::plan_rejoin;

/// Brings a node back of which changes may be missing: it lost its slot, was restored, cloned, or promoted with loss.
///
/// `run`, `status` and `check` say when a node needs this. Captures the node's changes anew, compares all tables, settles
/// what differs, and lets the hub go on. A node that only lost its slot (or its triggers) had got what its peers wrote:
/// its own rows stand, deletions included, but for rows that a peer has changed since and not delivered yet. For these, and
/// for all rows of a node that was restored or cloned, the tables' policies decide, and a row that only some nodes have is
/// given to the others. Every row that is replaced is kept: `pgtandem conflicts`. Both applications may go on writing. May
/// be interrupted and begun again; until it has ended no hub works.
#[derive(Args)]
pub struct Rejoin {
    /// The node to bring back
    #[arg(value_name = "NODE")]
    node: String,
    /// This node's state stands, its deletions included: name a peer to make a restored node what its peers are
    #[arg(long, value_name = "NODE")]
    prefer: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Print what was done as JSON (docs/json.md)
    #[arg(long)]
    json: bool,
}

impl Rejoin {
    pub async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let config = global.load_config()?;
        if let Some(unknown) = self.prefer.as_ref().filter(|name| config.node(name).is_none()) {
            return Err(Failure::in_usage(format!("there is no node {unknown}"), "name one of the configuration"));
        }
        let rejoin = plan_rejoin(&config, &self.node).await?;
        let style = if self.json { Style::plain() } else { Style::of_stdout() };
        if !self.json {
            let by = match (&self.prefer, rejoin.is_copy) {
                (Some(node), _) => format!("by the state of {node}"),
                (None, true) => "by the tables' policies".to_owned(),
                (None, false) => format!("by the state of {}, or the policies where a peer has news for it", self.node),
            };
            say(format!("{} {}", style.bold(format!("{}:", rejoin.node)), rejoin.why));
            say(format!("captures its changes from now on, compares all tables, and settles what differs {by}"));
        }
        if !confirm::confirm("Do this?", self.yes).await? {
            say("nothing was done");
            return Ok(Outcome::Fine);
        }
        let watch = Watch::new();
        rejoin.prepare(&config, &watch).await?;
        let options = Options { frozen: false, max_load: 1.0, examples: 5 };
        let mut tables = rejoin.compare(&config, self.prefer.as_deref(), options, &watch).await?;
        let settled = settle(&mut tables).await?;
        rejoin.finish(&config).await?;
        let done = arrive(&config, &mut tables, settled).await?;
        let nodes: Vec<String> = config.nodes.iter().map(|node| node.name.clone()).collect();
        let equal = done.iter().all(super::repair::Done::is_equal);
        if self.json {
            say(format!("{:#}", to_json(&nodes, &tables, &done, false)));
        } else {
            print_done(&nodes, &tables, &done);
            say(format!("{} next: pgtandem run", style.good(format!("{} is back.", self.node))));
        }
        Ok(if equal { Outcome::Fine } else { Outcome::Differs })
    }
}
