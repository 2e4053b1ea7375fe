//! `repair`: what a comparison finds different becomes the same, by the tables' policies.

use super::error::On;
use super::settle::differences::{Differences, Keep, Keys};
use super::settle::winner::{Winner, order};
use super::settle::{Known, Place, Settled, Settling, key_texts};
use super::{LifecycleError, OpenNode, Progress, open_nodes};
use crate::catalog::{Column, TableShape, read_role};
use crate::compare::{Comparison, Options, Sessions, Shapes, Side, Subject, TableReport, Tally, read_shapes};
use crate::config::{Capture, Config, Merge, Resolve, Table};
use crate::link::{self, LinkedTable, NodeRow, TableState};
use crate::sql::{Ident, QualifiedName};
use std::time::{Duration, Instant};

/// So many keys are settled in one transaction at most.
const KEYS_AT_ONCE: usize = 1000;
/// What was written is waited for as long as more and more of it arrives, and this long beyond.
const ARRIVAL: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// The nodes of a link whose rows are to be the same.
pub struct Repair<'a> {
    config: &'a Config,
    nodes: Vec<OpenNode>,
    looks: Vec<OpenNode>,
    ranges: Vec<OpenNode>,
    links: Vec<(NodeRow, Vec<LinkedTable>)>,
    even_paused: bool,
}

/// Whose rows win, beside what the configuration says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Whose<'a> {
    /// This node's, whatever the policy.
    pub prefer: Option<&'a str>,
    /// This node's, where no policy says.
    pub otherwise: Option<&'a str>,
}

/// One table, compared, and what is to be done about it.
pub struct TableRepair {
    pub report: TableReport,
    /// How it is decided whose row stands, in words.
    pub policy: String,
    pub foreseen: Settled,
    settling: Settling,
    keys: Keys,
}

impl<'a> Repair<'a> {
    /// Connects to all nodes.
    ///
    /// # Errors
    /// When one cannot be reached, or is not linked.
    pub async fn open(config: &'a Config) -> Result<Self, LifecycleError> {
        let nodes = open_nodes(config).await.all()?;
        let (looks, ranges) = (others(&nodes).await?, others(&nodes).await?);
        let mut links = Vec::new();
        for node in &nodes {
            links.push(read_link(node).await?);
        }
        Ok(Self { config, nodes, looks, ranges, links, even_paused: false })
    }

    /// Also tables that are paused: what is written to them arrives later.
    #[must_use]
    pub fn even_paused(self) -> Self {
        Self { even_paused: true, ..self }
    }

    /// Compares a table, and says what would be done.
    ///
    /// # Errors
    /// When the table is not live everywhere, or its policy says nothing of rows that differ.
    pub async fn table(
        &self,
        name: &QualifiedName,
        whose: Whose<'_>,
        options: Options,
        progress: &dyn Progress,
    ) -> Result<TableRepair, LifecycleError> {
        let id = self.require_live(name)?;
        let shapes = self.shapes(name).await?;
        let subject = shapes.subject(&sides(&self.looks)).await?;
        let sums = sides(&self.nodes);
        let sessions = Sessions { sums, ranges: sides(&self.ranges), looks: sides(&self.looks), ask_ahead: true };
        let comparison = Comparison { sessions, tables: Vec::new(), options };
        let mut differences =
            Differences::new(name, subject.estimated_rows(), progress, Keep::Keys { nodes: self.nodes.len() })?;
        let report = comparison.table(&shapes, &subject, None, &mut differences).await?;
        progress.compared(name);
        let contested = differences.contested;
        let (winner, policy) = self.policy(name, whose, &shapes, &subject, contested)?;
        let places = self.places(&shapes).await?;
        let settling = Settling { id, subject, places, winner, known: Known::default(), policy: policy.clone() };
        let keys = differences.into_keys()?;
        let mut table = TableRepair { report, policy, foreseen: Settled::default(), settling, keys };
        table.foresee().await?;
        Ok(table)
    }

    /// As each node has it, by the names that it was linked with.
    async fn shapes(&self, name: &QualifiedName) -> Result<Shapes, LifecycleError> {
        let naming = |node: &str, name: &QualifiedName| {
            let place = self.nodes.iter().position(|open| open.name == node);
            let linked = place.and_then(|at| self.links[at].1.iter().find(|table| table.name == *name));
            linked.map_or_else(|| self.config.naming(node, name), |table| table.naming.clone())
        };
        Ok(read_shapes(&sides(&self.looks), std::slice::from_ref(name), naming).await?.remove(0))
    }

    /// The place of the node with this number.
    pub(super) fn place_of(&self, number: i16) -> Option<usize> {
        self.links.iter().position(|(row, _)| row.number == number)
    }

    /// As [`Self::table`], of these keys alone; `keys`: as capture writes them.
    pub(super) async fn keys(
        &self,
        name: &QualifiedName,
        whose: Whose<'_>,
        keys: impl Iterator<Item = &Vec<u8>>,
    ) -> Result<TableRepair, LifecycleError> {
        let id = self.require_live(name)?;
        let shapes = self.shapes(name).await?;
        let subject = shapes.subject(&sides(&self.looks)).await?;
        let (winner, policy) = self.policy(name, whose, &shapes, &subject, 1)?;
        let primary_key = &shapes.shapes[0].primary_key;
        let column = |at: &usize| primary_key.iter().position(|name| *name == subject.columns[*at]).unwrap_or_default();
        let columns: Vec<usize> = subject.key.iter().map(column).collect();
        let nodes = self.nodes.len();
        let keys = Keys::of(keys.map(|bytes| {
            let texts = key_texts(bytes);
            let texts: Vec<String> = columns.iter().filter_map(|at| texts.get(*at).cloned()).collect();
            vec![texts; nodes]
        }))?;
        let report = TableReport {
            name: name.plain(),
            columns: subject.columns.iter().map(|name| name.as_str().to_owned()).collect(),
            key: subject.key.clone(),
            left_out: Vec::new(),
            tally: Tally::default(),
            orphans: Vec::new(),
            overlaps: Vec::new(),
        };
        let places = self.places(&shapes).await?;
        let settling = Settling { id, subject, places, winner, known: Known::default(), policy: policy.clone() };
        Ok(TableRepair { report, policy, foreseen: Settled::default(), settling, keys })
    }

    fn require_live(&self, name: &QualifiedName) -> Result<i32, LifecycleError> {
        let mut id = 0;
        for (node, (_, tables)) in self.nodes.iter().zip(&self.links) {
            let refuse = |what: &str, remedy: String| {
                Err(LifecycleError::refused(format!("node {}: {} {what}", node.name, name.plain()), remedy))
            };
            match tables.iter().find(|table| table.name == *name) {
                None => return refuse("is not linked", "run `pgtandem up`, which makes filled tables one".to_owned()),
                Some(table) if table.state != TableState::Live => {
                    return refuse("is being linked", "run `pgtandem up` again".to_owned());
                }
                Some(LinkedTable { paused_by: Some(_), .. }) if !self.even_paused => {
                    let remedy = format!("run `pgtandem resume {}`, or see what `pgtandem status` says", name.plain());
                    return refuse("is paused: what is written would not arrive", remedy);
                }
                Some(table) => id = table.id,
            }
        }
        Ok(id)
    }

    fn policy(
        &self,
        name: &QualifiedName,
        whose: Whose<'_>,
        shapes: &Shapes,
        subject: &Subject,
        contested: u64,
    ) -> Result<(Winner, String), LifecycleError> {
        let names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        let table = self.config.tables.iter().find(|table| table.name == *name);
        let by = table.map_or_else(|| Ident::new(crate::config::MERGE_BY), |table| table.merge_by.clone());
        let merge = merge_of(table, whose.prefer);
        let columns: Vec<&Column> = shapes.shapes.iter().filter_map(|shape| shape.column(&by)).collect();
        let ordered = columns.len() == names.len() && order(&columns).is_some() && subject.columns.contains(&by);
        let merge = if merge == Merge::Refuse && ordered { Merge::Newest } else { merge };
        let merge = match (merge, whose.otherwise) {
            (Merge::Refuse, Some(node)) => Merge::Prefer(node.to_owned()),
            (merge, _) => merge,
        };
        if contested > 0 && merge == Merge::Refuse {
            return Err(LifecycleError::refused(
                format!(
                    "{}: {contested} rows are on several nodes but different, and nothing tells which are to stand",
                    name.plain()
                ),
                format!("say whose rows win: --prefer {}, or merge_by = \"COLUMN\" in pgtandem.toml", names[0]),
            ));
        }
        let winner = Winner::new(&merge, &by, &names, subject, &columns)?;
        let policy = match &merge {
            Merge::Newest => format!("newest by {}", by.as_str()),
            Merge::Refuse | Merge::OnlyMissing => Merge::OnlyMissing.to_string(),
            Merge::Prefer(_) => merge.to_string(),
        };
        Ok((winner, policy))
    }

    async fn places(&self, shapes: &Shapes) -> Result<Vec<Place>, LifecycleError> {
        let mut places = Vec::new();
        for ((node, shape), (row, _)) in self.nodes.iter().zip(&shapes.shapes).zip(&self.links) {
            places.push(place(node, shape, row).await?);
        }
        Ok(places)
    }
}

/// What the configuration says, beside the order of a column.
fn merge_of(table: Option<&Table>, prefer: Option<&str>) -> Merge {
    match (prefer, table) {
        (Some(node), _) => Merge::Prefer(node.to_owned()),
        (None, Some(Table { resolve: Resolve::Prefer(node), .. })) => Merge::Prefer(node.clone()),
        (None, Some(table)) => table.merge.clone(),
        (None, None) => Merge::Refuse,
    }
}

pub(super) async fn place(node: &OpenNode, shape: &TableShape, row: &NodeRow) -> Result<Place, LifecycleError> {
    let role = read_role(node.client(), &[]).await.on(&node.name, "reading what the role may do")?;
    // Where triggers capture, they have to fire, and the application's go with them.
    let replica_role = role.may_set_replication_role && row.capture == Capture::Wal;
    Ok(Place {
        name: node.name.clone(),
        number: row.number,
        capture: row.capture,
        shape: shape.clone(),
        reader: node.another().await?,
        writer: if replica_role { node.another().await?.session } else { node.as_an_application().await? },
        replica_role,
    })
}

pub(super) async fn read_link(node: &OpenNode) -> Result<(NodeRow, Vec<LinkedTable>), LifecycleError> {
    const DOING: &str = "reading the link";
    let client = node.client();
    let installed = link::is_installed(client).await.on(&node.name, DOING)? == link::Installed::Yes;
    let row = if installed { link::read_node(client).await.on(&node.name, DOING)? } else { None };
    let Some(row) = row else {
        let remedy = "run `pgtandem up`, which makes filled tables one where that is asked for";
        return Err(LifecycleError::refused(format!("node {}: nothing is linked here", node.name), remedy));
    };
    if let Some(other) = row.other_version() {
        return Err(LifecycleError::refused(format!("node {}: {}", node.name, other.what), other.remedy));
    }
    Ok((row, link::read_linked_tables(client).await.on(&node.name, DOING)?))
}

impl TableRepair {
    pub(super) fn id(&self) -> i32 {
        self.settling.id
    }

    pub(super) fn name(&self) -> QualifiedName {
        self.settling.subject.name.clone()
    }

    /// What is known beside the rows changes what would be done.
    pub(super) async fn know(&mut self, known: Known) -> Result<(), LifecycleError> {
        self.settling.known = known;
        self.foresee().await
    }

    async fn foresee(&mut self) -> Result<(), LifecycleError> {
        self.foreseen = Settled::of(self.settling.places.len());
        self.keys.rewind()?;
        loop {
            let some = self.keys.next(KEYS_AT_ONCE)?;
            if some.is_empty() {
                return Ok(());
            }
            self.settling.foresee(&some, &mut self.foreseen).await?;
        }
    }

    /// Writes what stands once more. The hub brings it to the other nodes.
    ///
    /// # Errors
    /// When a node is lost.
    pub async fn settle(&mut self) -> Result<Settled, LifecycleError> {
        let mut settled = Settled::of(self.settling.places.len());
        self.keys.rewind()?;
        loop {
            let some = self.keys.next(KEYS_AT_ONCE)?;
            if some.is_empty() {
                return Ok(settled);
            }
            self.settling.settle(&some, &mut settled).await?;
        }
    }

    /// Waits until the keys are the same on all nodes; says how many are not, but for those that the policy leaves.
    ///
    /// # Errors
    /// When a node is lost.
    pub async fn arrive(&mut self, settled: &Settled) -> Result<u64, LifecycleError> {
        self.keys.rewind()?;
        let (mut unequal, mut last_news) = (0, Instant::now());
        loop {
            let some = self.keys.next(KEYS_AT_ONCE)?;
            if some.is_empty() {
                return Ok(u64::saturating_sub(unequal, settled.left));
            }
            let mut equal = self.settling.count_equal(&some).await?;
            // Those that are left as they are may all be among these.
            let wanted = some.len().saturating_sub(usize::try_from(settled.left).unwrap_or(usize::MAX));
            while equal < wanted && last_news.elapsed() < ARRIVAL {
                tokio::time::sleep(POLL).await;
                let now = self.settling.count_equal(&some).await?;
                if now > equal {
                    last_news = Instant::now();
                }
                equal = now;
            }
            if equal == some.len() {
                last_news = Instant::now();
            }
            unequal += (some.len() - equal) as u64;
        }
    }
}

async fn others(nodes: &[OpenNode]) -> Result<Vec<OpenNode>, LifecycleError> {
    futures::future::try_join_all(nodes.iter().map(OpenNode::another)).await
}

fn sides(nodes: &[OpenNode]) -> Vec<Side<'_>> {
    nodes.iter().map(|node| Side { name: &node.name, client: node.client() }).collect()
}
