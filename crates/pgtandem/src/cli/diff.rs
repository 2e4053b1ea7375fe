//! `pgtandem diff`

mod bar;
pub(super) mod csv;
mod html;
mod json;
mod resume;
pub(super) mod text;
mod watch;

use std::path::PathBuf;

use clap::Args;

use super::layout::width;
use super::{Failure, Global, Outcome, Style, say};
use crate::compare::{self, Comparison, Options, Report, Sessions, Side};
use crate::config::{self, Config};
use crate::lifecycle::{LifecycleError, OpenNode, open_nodes};
use crate::sql::QualifiedName;
use resume::Resume;
use watch::{Stream, Watching};

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
    #[command(flatten)]
    form: Form,
    /// Also write a page that shows it, for a browser and to be mailed
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// The share of time the servers are kept busy: 0.5 rests as long as it works
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share)]
    max_load: f64,
    /// Note in this file how far it is, and go on from there if the file is there
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
}

/// What goes to standard output.
#[derive(Args)]
#[group(multiple = false)]
struct Form {
    /// Print counts and examples as JSON (docs/json.md)
    #[arg(long)]
    json: bool,
    /// Print every value that differs, as CSV
    #[arg(long)]
    csv: bool,
    /// Print the key of every row that differs, one per line; of one table
    #[arg(long)]
    keys: bool,
}

pub(super) fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.01..=1.0).contains(share));
    share.ok_or_else(|| "write a share between 0.01 and 1".to_owned())
}

impl Diff {
    pub async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let config = global.load_config()?;
        let names = names_of(&config, &self.tables)?;
        if self.form.keys && names.len() > 1 {
            let known: Vec<String> = names.iter().map(QualifiedName::plain).collect();
            return Err(Failure::in_usage(
                "--keys prints the keys of one table",
                format!("name one of: {}", known.join(", ")),
            ));
        }
        let report = self.compare(&config, &names).await?;
        if let Some(file) = &self.html {
            html::write(&report, file)?;
        }
        if self.form.json {
            say(format!("{:#}", json::json(&report)));
        } else if self.form.csv || self.form.keys {
            eprintln!("{}", text::verdict(&report, Style::of_stderr()));
        } else {
            say(text::render(&report, width(), Style::of_stdout()).trim_end());
        }
        Ok(if report.is_equal() { Outcome::Fine } else { Outcome::Differs })
    }

    async fn compare(&self, config: &Config, names: &[QualifiedName]) -> Result<Report, Failure> {
        let node_names: Vec<String> = config.nodes.iter().map(|node| node.name.clone()).collect();
        let mut resume = Resume::open(self.resume.as_deref(), &node_names, names)?;
        let nodes = open_nodes(config).await.all()?;
        let (ranges, looks) = (others(&nodes).await?, others(&nodes).await?);
        let sessions = Sessions { sums: sides(&nodes), ranges: sides(&ranges), looks: sides(&looks), ask_ahead: true };
        let tables = compare::read_shapes(&sessions.looks, names, |node, table| config.naming(node, table)).await;
        let tables = tables.map_err(LifecycleError::from)?;
        let options = Options { frozen: false, max_load: self.max_load, examples: self.examples };
        let comparison = Comparison { sessions, tables, options };
        let mut stream = match &self.form {
            Form { csv: true, .. } => Stream::csv(&node_names),
            Form { keys: true, .. } => Stream::keys(),
            _ => Stream::none(),
        };
        let mut report = Report { nodes: node_names, tables: Vec::new() };
        for shapes in &comparison.tables {
            let name = shapes.name.plain();
            let done = match resume.finished(&name) {
                Some(done) => done,
                None => {
                    let subject = shapes.subject(&comparison.sessions.looks).await.map_err(LifecycleError::from)?;
                    let from = resume.checkpoint(&name);
                    let mut watch = Watching::new(&subject, from.as_ref(), &report.nodes, &mut stream, &mut resume);
                    let done = comparison.table(shapes, &subject, from, &mut watch).await;
                    watch.end()?;
                    done.map_err(LifecycleError::from)?
                }
            };
            resume.finish(&done)?;
            report.tables.push(done);
        }
        resume.remove();
        Ok(report)
    }
}

/// Those of the command line, else all of the configuration.
pub(super) fn names_of(config: &Config, wanted: &[QualifiedName]) -> Result<Vec<QualifiedName>, Failure> {
    let known: Vec<QualifiedName> = config.tables.iter().map(|table| table.name.clone()).collect();
    if wanted.is_empty() {
        return Ok(known);
    }
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(name)) {
        let known: Vec<String> = known.iter().map(QualifiedName::plain).collect();
        return Err(Failure::in_usage(
            format!("{} is not in the configuration", unknown.plain()),
            format!("one of: {}", known.join(", ")),
        ));
    }
    Ok(wanted.to_vec())
}

async fn others(nodes: &[OpenNode]) -> Result<Vec<OpenNode>, LifecycleError> {
    futures::future::try_join_all(nodes.iter().map(OpenNode::another)).await
}

fn sides(nodes: &[OpenNode]) -> Vec<Side<'_>> {
    nodes.iter().map(|node| Side { name: &node.name, client: node.client() }).collect()
}
