//! `init`: a configuration from what the nodes have.

use super::check::{judge_pair, judge_single, survey_all};
use super::{Finding, LifecycleError, Report, Severity, open_nodes};
use crate::catalog::list_tables;
use crate::config::{Config, spell_table_name};
use crate::sql::{Naming, QualifiedName};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Tables by which tools know what they have done to a database. Each application has its own history.
const BOOKKEEPING: &[&str] = &[
    "schema_migrations",
    "ar_internal_metadata",
    "flyway_schema_history",
    "databasechangelog",
    "databasechangeloglock",
    "django_migrations",
    "django_content_type",
    "alembic_version",
    "knex_migrations",
    "knex_migrations_lock",
    "_prisma_migrations",
    "goose_db_version",
    "doctrine_migration_versions",
    "__EFMigrationsHistory",
];

/// A table that every node has.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub name: QualifiedName,
    /// Why it cannot be linked as it is; empty: it can.
    pub faults: Vec<Finding>,
    /// It keeps track of one application's migrations.
    pub is_bookkeeping: bool,
}

#[derive(Debug, Clone)]
pub struct Scan {
    pub candidates: Vec<Candidate>,
    /// How many tables only some of the nodes have.
    pub elsewhere: usize,
}

impl Candidate {
    pub fn is_linkable(&self) -> bool {
        self.faults.is_empty() && !self.is_bookkeeping
    }
}

/// Looks at the nodes of `config`; its tables do not matter.
pub async fn scan(config: &Config) -> Result<Scan, LifecycleError> {
    let nodes = open_nodes(config).await.all()?;
    let mut seen: BTreeMap<QualifiedName, usize> = BTreeMap::new();
    for node in &nodes {
        let tables = list_tables(node.client()).await;
        let tables = tables.map_err(|error| LifecycleError::sql(&node.name, "listing the tables", error))?;
        for table in tables {
            *seen.entry(table).or_default() += 1;
        }
    }
    let common: Vec<QualifiedName> =
        seen.iter().filter(|(_, count)| **count == nodes.len()).map(|(name, _)| name.clone()).collect();
    let elsewhere = seen.len() - common.len();
    let surveys = survey_all(&nodes, |_| common.iter().cloned().map(Naming::plain).collect())
        .await
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let candidates = common.into_iter().map(|name| {
        let mut report = Report::default();
        for survey in &surveys {
            if let Some(shape) = survey.table(&name) {
                judge_single(&mut report, survey, shape);
            }
        }
        judge_pair(&mut report, &surveys, &name);
        let faults = report.findings.into_iter().filter(|finding| finding.severity == Severity::Fault).collect();
        Candidate { faults, is_bookkeeping: BOOKKEEPING.contains(&name.name.as_str()), name }
    });
    Ok(Scan { candidates: candidates.collect(), elsewhere })
}

/// The text of the configuration. `nodes`: names and connection strings as they were given.
pub fn write_config(nodes: &[(String, String)], scan: &Scan) -> String {
    let mut text = String::from(
        "# Which databases pgtandem links, and which of their tables. Next: `pgtandem check`, `pgtandem up`,\n\
         # `pgtandem run`.\n\n",
    );
    text.push_str(&write_nodes(nodes));
    for candidate in &scan.candidates {
        text.push('\n');
        write_candidate(&mut text, candidate, nodes);
    }
    if scan.candidates.is_empty() {
        text.push_str("\n# The nodes have no table in common. Create it on all of them, then list it here:\n\n");
        text.push_str("# [[tables]]\n# name = \"products\"\n");
    }
    text
}

/// The part that says where the nodes are.
pub fn write_nodes(nodes: &[(String, String)]) -> String {
    let mut text = String::new();
    for (name, url) in nodes {
        let url = toml::Value::String(url.clone());
        let _ = writeln!(text, "[nodes.{name}]\nurl = {url}");
    }
    text
}

fn write_candidate(text: &mut String, candidate: &Candidate, nodes: &[(String, String)]) {
    let name = spell_table_name(&candidate.name);
    let prefer = nodes.first().map_or("NODE", |(name, _)| name.as_str());
    let spelled = toml::Value::String(name.clone());
    let entry = format!("[[tables]]\nname = {spelled}\nresolve = \"newest\"          # or \"prefer:{prefer}\"\n");
    if candidate.is_linkable() {
        text.push_str(&entry);
        return;
    }
    let _ = writeln!(text, "# {name} is left out:");
    if candidate.is_bookkeeping {
        let _ = writeln!(text, "#   it keeps track of an application's own migrations");
    }
    for fault in &candidate.faults {
        let node = fault.node.as_ref().map(|node| format!("{node}: ")).unwrap_or_default();
        let _ = writeln!(text, "#   {node}{}", fault.what);
        if let Some(remedy) = &fault.remedy {
            let _ = writeln!(text, "#     -> {remedy}");
        }
    }
    for line in entry.lines() {
        let _ = writeln!(text, "# {line}");
    }
}
