//! `pgtandem check`

use super::{Failure, Global, Outcome, Style, say};
use crate::config::Config;
use crate::lifecycle::{self, Finding, Report, Severity};
use clap::Args;

/// Checks every prerequisite on every node, and reports all faults at once, each with what mends it.
///
/// Connects to all nodes and changes nothing. Faults keep `up` from working; warnings and notes are worth knowing.
/// Exit code 1 if there are faults.
#[derive(Args)]
pub struct Check {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let config = global.load_config()?;
        let report = lifecycle::check(&config).await;
        if self.json {
            say(format!("{:#}", json(&config, &report)));
        } else {
            print(&report, Style::of_stdout());
            if report.is_passed() {
                let (nodes, tables) = (config.nodes.len(), config.tables.len());
                let s = if tables == 1 { "" } else { "s" };
                say(format!("{nodes} nodes and {tables} table{s}: nothing stands in the way of `pgtandem up`"));
            }
        }
        Ok(if report.is_passed() { Outcome::Fine } else { Outcome::Differs })
    }
}

/// The report for a program.
pub(super) fn json(config: &Config, report: &Report) -> serde_json::Value {
    let nodes: Vec<&str> = config.nodes.iter().map(|node| node.name.as_str()).collect();
    serde_json::json!({ "passed": report.is_passed(), "nodes": nodes, "findings": report.findings })
}

/// The report for a person: under each node and table, what is wrong and what mends it.
pub(super) fn print(report: &Report, style: Style) {
    for finding in &report.findings {
        say(line(finding, style));
        if let Some(remedy) = &finding.remedy {
            say(format!("         {} {remedy}", style.dim("→")));
        }
    }
    if !report.findings.is_empty() {
        say("");
    }
    let faults = report.count(Severity::Fault);
    if faults > 0 {
        let s = if faults == 1 { "" } else { "s" };
        say(style.bad(format!("{faults} fault{s}: `pgtandem up` will refuse")));
    }
}

fn line(finding: &Finding, style: Style) -> String {
    let severity = match finding.severity {
        Severity::Fault => style.bad("fault   "),
        Severity::Warning => style.warn("warning "),
        Severity::Note => style.dim("note    "),
    };
    let place: Vec<&str> = finding.node.iter().chain(&finding.table).map(String::as_str).collect();
    match place.is_empty() {
        true => format!("{severity} {}", finding.what),
        false => format!("{severity} {}: {}", style.bold(place.join(" ")), finding.what),
    }
}
