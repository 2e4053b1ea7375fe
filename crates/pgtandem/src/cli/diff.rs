//! `pgtandem diff`

mod bar;
mod text;

use clap::Args;

use super::layout::width;
use super::{Failure, Global, Outcome, Style, say};
use crate::compare::{self, Options, Report, Side};
use crate::config::{self, Config};
use crate::lifecycle::{LifecycleError, OpenNode, open_nodes};
use crate::sql::QualifiedName;
use bar::Bar;

/// Compares the tables of all nodes while they are written to, and shows what differs.
///
/// Takes no locks, needs no link and no hub, and only the right to read. Checksums are computed in the servers; rows are
/// read only where these differ. What is on its way between the nodes is looked at again before it is called different.
/// Equal is what the columns' types call equal (1.0 = 1.00). Exit code 0: all rows are equal; 1: some differ.
#[derive(Args)]
pub struct Diff {
    /// Only these tables of the configuration
    #[arg(value_name = "TABLE", value_parser = config::read_table_name)]
    tables: Vec<QualifiedName>,
    /// How many rows are shown of each kind of difference
    #[arg(short, long, value_name = "COUNT", default_value_t = 5)]
    examples: usize,
    /// The share of time the servers are kept busy: 0.5 rests as long as it works
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share)]
    max_load: f64,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.01..=1.0).contains(share));
    share.ok_or_else(|| "write a share between 0.01 and 1".to_owned())
}

impl Diff {
    pub async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let config = global.load_config()?;
        let names = self.names(&config)?;
        let report = self.compare(&config, &names).await?;
        say(text::render(&report, width(), Style::of_stdout()).trim_end());
        Ok(if report.is_equal() { Outcome::Fine } else { Outcome::Differs })
    }

    /// Those of the command line, else all of the configuration.
    fn names(&self, config: &Config) -> Result<Vec<QualifiedName>, Failure> {
        let known: Vec<QualifiedName> = config.tables.iter().map(|table| table.name.clone()).collect();
        if self.tables.is_empty() {
            return Ok(known);
        }
        if let Some(unknown) = self.tables.iter().find(|name| !known.contains(name)) {
            let known: Vec<String> = known.iter().map(QualifiedName::plain).collect();
            return Err(Failure::in_usage(
                format!("{} is not in the configuration", unknown.plain()),
                format!("one of: {}", known.join(", ")),
            ));
        }
        Ok(self.tables.clone())
    }

    async fn compare(&self, config: &Config, names: &[QualifiedName]) -> Result<Report, Failure> {
        let nodes = open_nodes(config).await.all()?;
        let mut ahead = Vec::new();
        for node in &nodes {
            ahead.push(node.another().await?);
        }
        let (sides, walkers) = (sides(&nodes), sides(&ahead));
        let shapes = compare::read_shapes(&sides, names).await.map_err(LifecycleError::from)?;
        let options = Options { frozen: false, max_load: self.max_load, examples: self.examples };
        let mut report = Report { nodes: nodes.iter().map(|node| node.name.clone()).collect(), tables: Vec::new() };
        for shapes in &shapes {
            let subject = shapes.subject(&sides).await.map_err(LifecycleError::from)?;
            let mut watch = Bar::new(&subject);
            let compared = compare::compare_table(&subject, &sides, &walkers, options, None, &mut watch).await;
            report.tables.push(compared.map_err(LifecycleError::from)?);
        }
        Ok(report)
    }
}

fn sides(nodes: &[OpenNode]) -> Vec<Side<'_>> {
    nodes.iter().map(|node| Side { name: &node.name, client: node.client() }).collect()
}
