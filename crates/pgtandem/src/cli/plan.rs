//! `pgtandem plan`

use super::{Failure, Global, Outcome, Style, say};
use crate::lifecycle::{self, Look, Plan, Renumbering, Step};
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
        let (report, plan) = lifecycle::make_plan(&config, Look::Rows).await?;
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
        if let Step::Renumber { table, .. } = step {
            plan.renumberings.iter().filter(|one| one.table == *table).for_each(|one| print_renumbering(one, style));
        }
        if let Step::Fill { table, .. } = step {
            let differ = plan.differ.iter().filter(|(of, _)| of == table);
            differ.for_each(|(_, words)| say(format!("  as things are now, {words}")));
        }
    }
}

fn print_renumbering(renumbering: &Renumbering, style: Style) {
    let Renumbering { node, against, new_ids, joined, examples, references, .. } = renumbering;
    if *new_ids + *joined == 0 {
        say(style.dim("  as things are now, no row gets another id"));
        return;
    }
    say(format!("  {new_ids} get new ids on {node}, {joined} the ids that {against} has for the same"));
    let value = |(name, value): (&String, &Option<String>)| format!("{name}={}", value.as_deref().unwrap_or("NULL"));
    for example in examples {
        let new = example.new.as_deref().unwrap_or("a new id");
        let matched: Vec<String> = renumbering.matched.iter().zip(&example.values).map(value).collect();
        say(format!("    {} becomes {new}  {}", example.old, style.dim(matched.join(" "))));
    }
    if !references.is_empty() {
        say(format!("  and with them {}", references.join(", ")));
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
    let renumberings: Vec<serde_json::Value> = plan
        .renumberings
        .iter()
        .map(|one| {
            let examples: Vec<serde_json::Value> = one
                .examples
                .iter()
                .map(|example| {
                    let values: serde_json::Map<String, serde_json::Value> = one
                        .matched
                        .iter()
                        .cloned()
                        .zip(example.values.iter().map(|value| value.clone().into()))
                        .collect();
                    serde_json::json!({ "old": example.old, "new": example.new, "matched": values })
                })
                .collect();
            serde_json::json!({
                "table": one.table.plain(), "node": one.node, "against": one.against, "new_ids": one.new_ids,
                "joined": one.joined, "references": one.references, "examples": examples,
            })
        })
        .collect();
    let differ = plan.differ.iter().map(|(table, words)| serde_json::json!({ "table": table.plain(), "what": words }));
    let differ: Vec<serde_json::Value> = differ.collect();
    serde_json::json!({ "steps": steps, "renumberings": renumberings, "differ": differ })
}
