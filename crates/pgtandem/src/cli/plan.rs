//! `pgtandem plan`

use super::{Failure, Global, Outcome, Style, say};
use crate::lifecycle::{self, Plan};
use clap::Args;

/// Shows what `up` would make and change on each node, and changes nothing.
#[derive(Args)]
pub struct PlanCommand {
    /// Print the SQL that would run, node by node
    #[arg(long)]
    sql: bool,
    /// Print the steps as JSON
    #[arg(long, conflicts_with = "sql")]
    json: bool,
}

impl PlanCommand {
    pub async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let config = global.load_config()?;
        let (report, plan) = lifecycle::make_plan(&config).await?;
        let Some(plan) = plan else {
            match self.json {
                true => say(format!("{:#}", super::check::json(&config, &report))),
                false => super::check::print(&report, Style::of_stdout()),
            }
            return Ok(Outcome::Differs);
        };
        match (self.sql, self.json) {
            (true, _) => print_sql(&plan),
            (_, true) => say(format!("{:#}", json(&plan))),
            _ => print(&plan, Style::of_stdout()),
        }
        Ok(Outcome::Fine)
    }
}

/// The steps for a person.
pub(super) fn print(plan: &Plan, style: Style) {
    if plan.is_empty() {
        say("nothing to do: the nodes are as the configuration asks");
        return;
    }
    for step in &plan.steps {
        let node = plan.node_of(step).unwrap_or("all nodes");
        say(format!("{} {}", style.bold(format!("{node}:")), plan.describe(step)));
    }
}

fn print_sql(plan: &Plan) {
    if plan.is_empty() {
        say("-- nothing to do");
    }
    for step in &plan.steps {
        for (node, sql) in plan.sql(step) {
            say(format!("-- {node}: {}\n{sql}\n", plan.describe(step)));
        }
    }
}

fn json(plan: &Plan) -> serde_json::Value {
    let steps: Vec<serde_json::Value> = plan
        .steps
        .iter()
        .map(|step| {
            let sql: Vec<serde_json::Value> =
                plan.sql(step).into_iter().map(|(node, sql)| serde_json::json!({ "node": node, "sql": sql })).collect();
            serde_json::json!({ "node": plan.node_of(step), "what": plan.describe(step), "sql": sql })
        })
        .collect();
    serde_json::json!({ "steps": steps })
}
