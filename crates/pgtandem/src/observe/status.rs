//! The state of a link as one value: what `status` shows and `docs/json.md` describes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value as Json;

use super::direct::DirectStatus;
use super::node::{HeldKey, LinkView, NodeView};
use super::observer::Observed;
use super::verdict::{hub_status, latest_row, timestamp};
use crate::config::{Config, Node};
use crate::link::{self, PausedBy, TableState};

#[derive(Debug, Clone, Serialize)]
pub struct Status {
    pub at: Timestamp,
    /// Nothing needs attention.
    pub well: bool,
    /// What does, each in one sentence.
    pub attention: Vec<String>,
    pub hub: HubStatus,
    pub nodes: Vec<NodeStatus>,
    pub tables: Vec<TableStatus>,
    pub conflicts: Conflicts,
    pub held: Vec<HeldKeys>,
}

#[derive(Debug, Clone, Serialize)]
pub struct HubStatus {
    pub state: HubState,
    /// Who it is, for instance `pid 4711 on db1`.
    pub holder: Option<String>,
    pub epoch: Option<i64>,
    pub started_at: Option<Timestamp>,
    pub seen_at: Option<Timestamp>,
    pub seen_seconds_ago: Option<f64>,
    /// Hubs that wait to take over.
    pub waiting: i64,
    /// Another command that is at work, for instance `pgtandem up`.
    pub other_command: Option<String>,
    /// Tables that the hub keeps from being delivered to some node, as it said last.
    pub paused: Vec<String>,
    /// When the hub compared the tables last; none: it has not been asked to, or has not come to an end yet.
    pub verified_at: Option<Timestamp>,
    /// Rows that it found to differ, by table.
    pub drifted: BTreeMap<String, u64>,
    /// Why it could not compare all tables.
    pub verify_error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HubState {
    /// It holds a lock and has written its status lately.
    Running,
    /// It holds a lock and has not written its status yet.
    Starting,
    /// It holds a lock, but has not written its status for long.
    Silent,
    /// It ended in good order.
    Ended,
    /// It is gone without a word, or waits for a node that is away.
    Lost,
    /// No hub has worked here yet.
    NeverRan,
    /// No node could be asked.
    Unknown,
}

#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    pub name: String,
    pub state: NodeState,
    /// Why it is away or needs attention, and what to do about it.
    pub reason: Option<String>,
    pub remedy: Option<String>,
    pub server_version: Option<String>,
    pub standby: Option<bool>,
    /// How its changes are read: `wal` or `trigger`.
    pub capture: Option<&'static str>,
    /// Of a node with trigger capture: changes in its outbox that are still needed.
    pub outbox_changes: Option<i64>,
    /// What its outbox takes.
    pub outbox_bytes: Option<i64>,
    /// Of a node in direct mode.
    pub direct: Option<DirectStatus>,
    /// WAL of this node since what every other node has of it.
    pub behind_bytes: Option<i64>,
    /// WAL this node's server keeps for pgtandem.
    pub retained_bytes: Option<i64>,
    /// Since when its peer keeps only the keys that change, because it is away for long.
    pub left_behind_since: Option<Timestamp>,
    /// How many of them there are.
    pub dirty_keys: Option<i64>,
    /// What the hub has read from it, since the hub started.
    pub read: Option<Read>,
    /// What the hub has delivered to it, since the hub started.
    pub delivered: Option<Delivered>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    Linked,
    /// It could not be asked.
    Away,
    /// It is there, but `up` has not been here.
    NotLinked,
}

#[derive(Debug, Clone, Serialize)]
pub struct Read {
    pub transactions: u64,
    pub changes: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Delivered {
    pub deliveries: u64,
    pub rows: u64,
    /// The hub has lost it and tries to come back.
    pub lost: bool,
    /// Rows this node should have and has not yet.
    pub owed_rows: u64,
    /// For how long the oldest of them has been known; with none, how long the last one took.
    pub lag_ms: f64,
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct TableStatus {
    pub name: String,
    pub state: TableWell,
    /// Who paused it.
    pub paused_by: Option<Owner>,
    pub reason: Option<String>,
    pub resolve: Option<String>,
    /// About how many rows it has, by node; as the servers' statistics have it.
    pub rows: BTreeMap<String, i64>,
    pub conflicts: i64,
    pub held_keys: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TableWell {
    Live,
    /// `up` is at work on it, or was interrupted.
    Linking,
    Paused,
    /// In the configuration, but `up` has not linked it.
    NotLinked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    User,
    Drift,
}

#[derive(Debug, Clone, Serialize)]
pub struct Conflicts {
    pub decided: i64,
    pub last_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Serialize)]
pub struct HeldKeys {
    /// The node that cannot take them.
    pub node: String,
    pub table: String,
    pub count: i64,
    pub oldest: Option<Timestamp>,
    /// The oldest few.
    pub examples: Vec<HeldExample>,
}

#[derive(Debug, Clone, Serialize)]
pub struct HeldExample {
    pub key: Json,
    pub reason: String,
    pub sqlstate: Option<String>,
    pub since: Option<Timestamp>,
}

impl Status {
    #[must_use]
    pub fn new(config: &Config, observed: &[Observed], at: Timestamp) -> Self {
        let hub = hub_status(observed);
        let links: Vec<(&str, &LinkView)> = config
            .nodes
            .iter()
            .zip(observed)
            .filter_map(|(node, seen)| Some((node.name.as_str(), seen.as_ref().ok()?.link.as_ref()?)))
            .collect();
        // Counters of a hub that has ended are history.
        let state =
            latest_row(links.iter().map(|(_, link)| *link)).filter(|_| hub.state.is_alive()).map(|row| &row.state);
        let nodes: Vec<NodeStatus> =
            config.nodes.iter().zip(observed).map(|(node, seen)| node_status(node, seen, state, &links)).collect();
        let mut status = Self {
            at,
            well: false,
            attention: Vec::new(),
            hub,
            nodes,
            tables: table_statuses(config, &links),
            conflicts: conflicts(&links),
            held: links.iter().flat_map(|(node, link)| held_keys(node, link)).collect(),
        };
        status.attention = status.what_needs_attention();
        status.well = status.attention.is_empty();
        status
    }

    #[must_use]
    pub fn nothing_reached(&self) -> bool {
        self.nodes.iter().all(|node| node.state == NodeState::Away)
    }

    /// Both nodes deliver by themselves; a hub is for what they could not.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.nodes.iter().any(|node| node.direct.is_some())
    }

    fn waits_for_a_hub(&self, node: &NodeStatus) -> Option<String> {
        let queued = node.direct.as_ref().map(|direct| &direct.queued).filter(|queued| queued.changes > 0)?;
        if self.hub.state.is_alive() {
            return None;
        }
        let wait = if queued.changes == 1 { "change waits" } else { "changes wait" };
        Some(format!("{}: {} {wait} for `pgtandem run --once`", node.name, queued.changes))
    }

    fn what_needs_attention(&self) -> Vec<String> {
        let mut attention = Vec::new();
        let linked = self.nodes.iter().any(|node| node.state == NodeState::Linked);
        if let (true, Some(what)) = (linked && !self.is_direct(), self.hub.state.complaint()) {
            attention.push(what.to_owned());
        }
        attention.extend(self.nodes.iter().filter_map(|node| self.waits_for_a_hub(node)));
        for node in &self.nodes {
            match node.state {
                NodeState::Away => attention.push(format!("{} is away", node.name)),
                NodeState::NotLinked => attention.push(format!("{} is not linked yet", node.name)),
                NodeState::Linked => attention.extend(node.reason.clone().map(|why| format!("{}: {why}", node.name))),
            }
        }
        for table in &self.tables {
            match table.state {
                TableWell::Live => {}
                TableWell::Paused => attention.push(format!("{} is paused", table.name)),
                TableWell::Linking => attention.push(format!("{} is still being linked", table.name)),
                TableWell::NotLinked => attention.push(format!("{} is not linked yet", table.name)),
            }
        }
        for (table, rows) in &self.hub.drifted {
            let rows = if *rows == 1 { "1 row differs".to_owned() } else { format!("{rows} rows differ") };
            attention.push(format!("{table}: {rows}; see `pgtandem diff`, and mend it with `pgtandem repair`"));
        }
        for held in &self.held {
            // A paused table's keys wait for it, and that has been said.
            if !self.tables.iter().any(|table| table.name == held.table && table.state == TableWell::Paused) {
                let keys = if held.count == 1 { "key is" } else { "keys are" };
                attention.push(format!("{} {keys} held on {}: {}", held.count, held.node, held.table));
            }
        }
        attention
    }
}

impl HubState {
    /// Whether what it wrote last is about now.
    #[must_use]
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Silent)
    }

    fn complaint(self) -> Option<&'static str> {
        match self {
            Self::Running | Self::Starting | Self::Unknown => None,
            Self::Silent => Some("the hub does not answer"),
            Self::Ended | Self::Lost | Self::NeverRan => Some("the hub is not running"),
        }
    }
}

fn node_status(node: &Node, seen: &Observed, state: Option<&Json>, links: &[(&str, &LinkView)]) -> NodeStatus {
    let mut status = NodeStatus {
        name: node.name.clone(),
        state: NodeState::Away,
        reason: None,
        remedy: None,
        server_version: None,
        standby: None,
        capture: None,
        outbox_changes: None,
        outbox_bytes: None,
        direct: None,
        behind_bytes: None,
        retained_bytes: None,
        left_behind_since: None,
        dirty_keys: None,
        read: None,
        delivered: None,
    };
    if let Some(counters) = state.and_then(|state| state.get("nodes")?.get(&node.name)) {
        let number = |name: &str| counters.get(name).and_then(Json::as_u64).unwrap_or_default();
        status.read = Some(Read { transactions: number("transactions_read"), changes: number("changes_read") });
        status.delivered = Some(Delivered {
            deliveries: number("deliveries"),
            rows: number("rows_delivered"),
            lost: counters.get("away").and_then(Json::as_bool).unwrap_or_default(),
            owed_rows: number("owed_rows"),
            lag_ms: counters.get("lag_ms").and_then(Json::as_f64).unwrap_or_default(),
            last_error: counters.get("last_error").and_then(Json::as_str).map(str::to_owned),
        });
    }
    match seen {
        Err(away) => {
            status.reason = Some(away.reason.clone());
            status.remedy.clone_from(&away.remedy);
        }
        Ok(view) => describe(&mut status, view, links),
    }
    // Of several that note it, one keeps the keys.
    let left = links.iter().filter_map(|(peer, link)| Some((peer, link.left_behind.as_ref()?)));
    let left = left.filter(|(_, left)| left.name == node.name).max_by_key(|(_, left)| left.keys);
    if let Some((peer, left)) = left {
        (status.left_behind_since, status.dirty_keys) = (timestamp(left.since), Some(left.keys));
        let what = format!("{peer} keeps only the keys that change for it: {} by now", left.keys);
        status.reason = Some(status.reason.map_or(what.clone(), |reason| format!("{reason}; {what}")));
    }
    status
}

fn describe(status: &mut NodeStatus, view: &NodeView, links: &[(&str, &LinkView)]) {
    status.server_version = Some(view.server_version.clone());
    status.standby = Some(view.in_recovery);
    let Some(link) = &view.link else {
        status.state = NodeState::NotLinked;
        status.reason = Some("pgtandem is not installed here".to_owned());
        status.remedy = Some("run `pgtandem up`".to_owned());
        return;
    };
    status.state = NodeState::Linked;
    let complaint = match &link.slot {
        _ if link.node.name != status.name => Some("another node was linked here than the configuration names"),
        _ if link.rejoining => Some("`pgtandem rejoin` has begun to bring it back, and has not ended"),
        _ if link.is_copy => Some("it is a copy (restored, cloned) of the database that was linked"),
        _ if link::is_set_back(&link.sight, links.iter().map(|(_, link)| &link.sight)) => {
            Some("it was set back to an earlier state: its peers know more of it than it does itself")
        }
        None if link.outbox.is_some() => None,
        None => Some("its replication slot is gone"),
        Some(slot) if slot.wal_status.as_deref() == Some("lost") => Some("its replication slot has lost WAL it needs"),
        Some(_) => None,
    };
    status.capture = Some(link.node.capture.as_str());
    if let Some(outbox) = &link.outbox {
        status.outbox_changes = Some(outbox.length);
        status.outbox_bytes = Some(outbox.bytes);
    }
    status.direct = link.direct.as_ref().map(DirectStatus::new);
    if let Some(slot) = &link.slot {
        status.behind_bytes = Some(slot.behind_bytes);
        status.retained_bytes = Some(slot.retained_bytes);
    }
    if let Some(what) = complaint {
        status.reason = Some(what.to_owned());
        status.remedy = Some(match link.node.name == status.name {
            true => format!("run `pgtandem rejoin {}`", status.name),
            false => "run `pgtandem check`".to_owned(),
        });
    } else if let Some(delivered) = &status.delivered {
        status.reason = match delivered {
            Delivered { lost: true, .. } => Some("the hub has lost it and is coming back to it".to_owned()),
            Delivered { owed_rows: 1.., last_error: Some(error), .. } => {
                Some(format!("deliveries to it fail: {error}"))
            }
            _ => None,
        };
    }
}

fn table_statuses(config: &Config, links: &[(&str, &LinkView)]) -> Vec<TableStatus> {
    let mut tables: BTreeMap<String, TableStatus> = BTreeMap::new();
    let blank = |name: &str| TableStatus {
        name: name.to_owned(),
        state: TableWell::NotLinked,
        paused_by: None,
        reason: None,
        resolve: None,
        rows: BTreeMap::new(),
        conflicts: 0,
        held_keys: 0,
    };
    // Decisions are kept on every node they concern: the one that has most has seen most.
    for (node, link) in links {
        for view in &link.tables {
            let linked = &view.linked;
            let name = linked.name.plain();
            let table = tables.entry(name.clone()).or_insert_with(|| TableStatus {
                state: TableWell::Live,
                resolve: Some(linked.resolve.clone()),
                ..blank(&name)
            });
            table.rows.insert((*node).to_owned(), view.rows);
            let decided = link.decided.iter().find(|decided| decided.table_id == linked.id);
            table.conflicts = table.conflicts.max(decided.map_or(0, |decided| decided.count));
            let held = link.held.iter().filter(|held| held.table_id == linked.id);
            table.held_keys += held.map(|held| held.count).sum::<i64>();
            match (linked.state, linked.paused_by) {
                (TableState::Linking, _) => table.state = TableWell::Linking,
                (TableState::Live, None) => {}
                (TableState::Live, Some(by)) => {
                    if table.state == TableWell::Live {
                        table.state = TableWell::Paused;
                    }
                    let user = by == PausedBy::User;
                    if user || table.paused_by.is_none() {
                        table.paused_by = Some(if user { Owner::User } else { Owner::Drift });
                        table.reason.clone_from(&linked.pause_reason);
                    }
                }
            }
        }
    }
    if !links.is_empty() {
        for table in &config.tables {
            let name = table.name.plain();
            tables.entry(name.clone()).or_insert_with(|| blank(&name));
        }
    }
    tables.into_values().collect()
}

fn conflicts(links: &[(&str, &LinkView)]) -> Conflicts {
    let of = |link: &LinkView| link.decided.iter().map(|decided| decided.count).sum::<i64>();
    let last = links.iter().flat_map(|(_, link)| &link.decided).map(|decided| decided.last).max();
    Conflicts {
        decided: links.iter().map(|(_, link)| of(link)).max().unwrap_or_default(),
        last_at: last.and_then(timestamp),
    }
}

fn held_keys(node: &str, link: &LinkView) -> Vec<HeldKeys> {
    let name = |id: i32| {
        let table = link.tables.iter().find(|table| table.linked.id == id);
        table.map_or_else(|| format!("table {id}"), |table| table.linked.name.plain())
    };
    let example = |held: &HeldKey| HeldExample {
        key: held.key.clone(),
        reason: held.reason.clone(),
        sqlstate: held.sqlstate.clone(),
        since: timestamp(held.since),
    };
    let held = link.held.iter().map(|held| HeldKeys {
        node: node.to_owned(),
        table: name(held.table_id),
        count: held.count,
        oldest: timestamp(held.oldest),
        examples: held.examples.iter().map(example).collect(),
    });
    held.collect()
}
