//! `pgtandem renumbered`

use super::{Failure, Global, Outcome, say, when};
use crate::config;
use crate::lifecycle::{self, Renumbered};
use crate::sql::QualifiedName;
use clap::Args;

/// Lists the rows that `up` gave other ids: the old id and the one it has become.
///
/// Other systems hold those ids too. Take the list along before `pgtandem down`, which removes it.
#[derive(Args)]
pub struct RenumberedCommand {
    /// Only those of this table
    #[arg(value_name = "TABLE", value_parser = config::read_table_name)]
    table: Option<QualifiedName>,
    /// Print comma-separated values
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print JSON (docs/json.md)
    #[arg(long)]
    json: bool,
}

impl RenumberedCommand {
    pub async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let config = global.load_config()?;
        let all = lifecycle::renumbered(&config, self.table.as_ref()).await?;
        match (self.csv, self.json) {
            (true, _) => {
                say("table,node,old_id,new_id,why");
                all.iter().for_each(|one| say(csv(one)));
            }
            (_, true) => {
                say(format!("{:#}", serde_json::json!({ "renumbered": all.iter().map(json).collect::<Vec<_>>() })))
            }
            _ if all.is_empty() => say("no row was given another id"),
            _ => all.iter().for_each(|one| say(text(one))),
        }
        Ok(Outcome::Fine)
    }
}

fn text(one: &Renumbered) -> String {
    let Renumbered { table, node, old_id, new_id, why, .. } = one;
    let why = match why.as_str() {
        "joined" => "the same thing has it elsewhere",
        _ => "its id is another thing elsewhere",
    };
    format!("{}  {table} on {node}  {old_id} became {new_id}: {why}", when::precisely(one.at))
}

fn csv(one: &Renumbered) -> String {
    let fields = [&one.table, &one.node, &one.old_id, &one.new_id, &one.why];
    fields.map(|field| super::diff::csv::quoted(field)).join(",")
}

fn json(one: &Renumbered) -> serde_json::Value {
    let Renumbered { table, node, old_id, new_id, why, at } = one;
    serde_json::json!({ "table": table, "node": node, "old_id": old_id, "new_id": new_id, "why": why, "at": at.to_string() })
}
