//! `pgtandem down`

use super::{Failure, Global, Outcome, Style, confirm, say};
use crate::lifecycle::{self, DownPlan, Gone, Proof};
use clap::Args;

/// Takes the link away: removes everything `up` made, restores what it changed, and proves it.
///
/// The tables and their rows stay as they are on every node. The proof is a comparison of the catalog with what it was
/// before `up`. Exit code 1 if something of ours was left behind.
#[derive(Args)]
pub struct Down {
    /// Only take this node out of the link: it is not wanted any more, or gone for good
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Print the proof as JSON
    #[arg(long)]
    json: bool,
}

impl Down {
    pub async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let config = global.load_config()?;
        let leaving = self.node.as_deref();
        let plan = lifecycle::plan_down(&config, leaving).await?;
        let style = if self.json { Style::plain() } else { Style::of_stdout() };
        if !self.json {
            print_plan(&plan, style);
        }
        let mut gone = Gone { proofs: Vec::new(), parted: None };
        if !plan.is_empty() {
            if !confirm::confirm("Do this?", self.yes).await? {
                say("nothing was done");
                return Ok(Outcome::Fine);
            }
            gone = lifecycle::down(&config, leaving, &plan).await?;
        }
        let Gone { proofs, parted } = gone;
        let clean = proofs.iter().all(|proof| proof.left_behind.is_empty());
        if self.json {
            say(format!(
                "{:#}",
                serde_json::json!({ "clean": clean, "plan": plan, "nodes": proofs, "parted": parted })
            ));
        } else {
            proofs.iter().for_each(|proof| print_proof(proof, style));
            if let Some(why) = parted {
                say(format!(
                    "{} what it wrote last may have reached only some of the nodes that stay: {why}. `pgtandem diff` \
                     compares them, `pgtandem repair` makes them the same",
                    style.warn("note:")
                ));
            }
        }
        Ok(if clean { Outcome::Fine } else { Outcome::Differs })
    }
}

fn print_plan(plan: &DownPlan, style: Style) {
    if plan.is_empty() {
        say("nothing to do: no node is linked");
    }
    if let Some((leaving, told)) = &plan.forget {
        let is_there = plan.clean.iter().any(|cleaning| cleaning.node == *leaving);
        let when = if is_there { ", once they have all that it has written" } else { "" };
        say(format!("{} forget the node {leaving}{when}", style.bold(format!("{}:", told.join(", ")))));
    }
    for cleaning in &plan.clean {
        let node = style.bold(format!("{}:", cleaning.node));
        let tables = if cleaning.tables.is_empty() { "no table".to_owned() } else { cleaning.tables.join(", ") };
        say(match &cleaning.slot {
            Some(slot) => format!(
                "{node} drop the slot {slot}, the publication and the schema pgtandem; restore the sequences and replica \
                 identities of {tables}"
            ),
            None => format!("{node} drop the triggers of pgtandem and its schema; restore the sequences of {tables}"),
        });
    }
    for away in &plan.out_of_reach {
        say(format!(
            "{} {} cannot be reached. If it comes back, its slot keeps WAL until `pgtandem down --node {}` has run there",
            style.warn("note:"),
            away.node,
            away.node
        ));
    }
}

fn print_proof(proof: &Proof, style: Style) {
    let node = style.bold(format!("{}:", proof.node));
    if proof.left_behind.is_empty() {
        let objects = proof.objects;
        say(format!("{node} {} {objects} objects compared with the catalog before `up`", style.good("nothing left.")));
    }
    let sides = |difference: &crate::catalog::Difference| {
        let side = |text: &Option<String>| text.clone().unwrap_or_else(|| "not there".to_owned());
        format!("{} (before: {}; now: {})", difference.object, side(&difference.before), side(&difference.after))
    };
    for difference in &proof.left_behind {
        say(format!("{node} {} {}", style.bad("left behind:"), sides(difference)));
    }
    for difference in &proof.changed_by_others {
        say(format!("{node} changed by others since `up`: {}", difference.object));
    }
}
