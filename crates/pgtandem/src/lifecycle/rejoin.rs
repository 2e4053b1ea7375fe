//! `rejoin`: a node of which changes may be missing, or that is not what it was, is brought back into the link.
//!
//! While that is under way a note on the node keeps hubs from working, so that it may be interrupted anywhere and begun
//! again. First its changes are captured again; then its rows are compared, and those that differ are settled. Whatever
//! is written from the first moment on is captured, whatever was written before is in the rows.

use super::error::On;
use super::repair::{Repair, TableRepair, Whose, read_link};
use super::settle::{Known, Stand};
use super::{LifecycleError, Look, OpenNode, Progress, Until, down, locks, make_plan, open_nodes, table_names, up};
use crate::compare::Options;
use crate::config::{Capture, Config};
use crate::daemon::{Backlog, read_backlog, stand_where_it_would};
use crate::link::{self, NodeRow, RestoreKind, Sight};
use crate::sql;
use serde_json::json;
use std::collections::HashMap;

const DOING: &str = "looking what has become of the node";

/// What is wrong with a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejoin {
    pub node: String,
    pub why: String,
    /// It is not what its peers have seen of it: it was set back, or is another database. Otherwise it has all that was
    /// delivered to it, and only what it wrote itself is unknown.
    pub is_copy: bool,
    /// It was begun and has not ended, and nothing else is wrong.
    pub is_interrupted: bool,
}

/// Finds out what is wrong with a node.
///
/// # Errors
/// When nothing is, or not every node can be reached.
pub async fn plan_rejoin(config: &Config, name: &str) -> Result<Rejoin, LifecycleError> {
    let place = config.nodes.iter().position(|node| node.name == name).ok_or_else(|| {
        let names: Vec<&str> = config.nodes.iter().map(|node| node.name.as_str()).collect();
        LifecycleError::Unknown {
            what: format!("there is no node {name} in {}", config.file.display()),
            remedy: format!("name one of: {}", names.join(", ")),
        }
    })?;
    let nodes = open_nodes(config).await.all()?;
    let (row, _) = read_link(&nodes[place]).await?;
    refuse_if_another_is_left(&nodes, &row).await?;
    let Trouble { why, is_copy, is_interrupted } = diagnose(&nodes, place, &row).await?.ok_or_else(|| {
        LifecycleError::refused(
            format!("node {name}: it is what its peers know, and none of its changes are missing"),
            "if rows differ all the same: `pgtandem repair`",
        )
    })?;
    Ok(Rejoin { node: name.to_owned(), why, is_copy, is_interrupted })
}

/// What another node has missed is noted on one of its peers, and only that: it is settled with all of them, before one of
/// them becomes something else.
async fn refuse_if_another_is_left(nodes: &[OpenNode], row: &NodeRow) -> Result<(), LifecycleError> {
    for node in nodes {
        let left = link::read_left_behind(node.client()).await.on(&node.name, DOING)?;
        let Some(left) = left.filter(|left| left.node != row.number) else { continue };
        let peers = link::read_peers(node.client()).await.on(&node.name, DOING)?;
        let missing =
            peers.into_iter().find(|peer| peer.number == left.node).map_or_else(String::new, |peer| peer.name);
        return Err(LifecycleError::unsettled(
            &missing,
            format!(
                "let `pgtandem run` settle that; if that cannot be: `pgtandem down --node {missing}`, and add it again \
                 afterwards"
            ),
        ));
    }
    Ok(())
}

async fn sights(nodes: &[OpenNode]) -> Result<Vec<Sight>, LifecycleError> {
    let mut sights = Vec::new();
    for node in nodes {
        read_link(node).await?;
        sights.push(link::read_sight(node.client()).await.on(&node.name, DOING)?);
    }
    Ok(sights)
}

struct Trouble {
    why: String,
    is_copy: bool,
    is_interrupted: bool,
}

async fn diagnose(nodes: &[OpenNode], place: usize, row: &NodeRow) -> Result<Option<Trouble>, LifecycleError> {
    let trouble = |why: &str, is_copy| Some(Trouble { why: why.to_owned(), is_copy, is_interrupted: false });
    let (client, name) = (nodes[place].client(), nodes[place].name.as_str());
    let sights = sights(nodes).await?;
    if !link::is_where_it_was_linked(client, row).await.on(name, DOING)? {
        let why = "it is a copy (a restored backup, a clone, or a new server) of the database that was linked";
        return Ok(trouble(why, true));
    }
    if link::is_set_back(&sights[place], &sights) {
        let why = "it was set back to an earlier state: its peers know more of it than it does itself";
        return Ok(trouble(why, true));
    }
    let note = link::read_restore(client, RestoreKind::Rejoin, "node").await.on(name, DOING)?;
    // One that only returns goes on where it was: it is known what it has changed.
    if let Some(note) = note.as_ref().filter(|note| note.before["returning"] != true) {
        let is_copy = note.before["is_copy"].as_bool().unwrap_or(true);
        return Ok(trouble("it was being brought back, which has not ended", is_copy));
    }
    if row.capture == Capture::Trigger {
        let lost = link::uncaptured(client).await.on(name, DOING)?;
        let why = |table: &String| {
            format!("the triggers that capture changes of {table} are gone: what was changed since is unknown")
        };
        return Ok(lost.first().and_then(|table| trouble(&why(table), false)).or(interrupted(note.is_some())));
    }
    let slot = crate::catalog::read_slot(client, &row.slot).await.on(name, DOING)?;
    let lost = slot.is_none_or(|slot| slot.wal_status.as_deref() == Some("lost"));
    let why = format!("its replication slot {} is gone or has lost WAL: what was changed since is unknown", row.slot);
    // A slot is lost in a promotion even where nothing else is; where something is, the state is not the later one.
    if lost && !link::is_on_its_timeline(client).await.on(name, DOING)? {
        return Ok(trouble(&format!("it was promoted or restored, and {why}"), true));
    }
    Ok(if lost { trouble(&why, false) } else { interrupted(note.is_some()) })
}

fn interrupted(is_noted: bool) -> Option<Trouble> {
    let why = "it was being brought back, which has not ended".to_owned();
    is_noted.then_some(Trouble { why, is_copy: false, is_interrupted: true })
}

impl Rejoin {
    /// Keeps hubs away, and has the node's changes captured from now on.
    ///
    /// # Errors
    /// When a node is lost, or something stands in the way that `check` names. It can be begun again.
    pub async fn prepare(&self, config: &Config, progress: &dyn Progress) -> Result<(), LifecycleError> {
        let nodes = open_nodes(config).await.all()?;
        progress.step("asking a running hub to wait");
        locks::keep_others_away(&nodes).await?;
        let place = nodes.iter().position(|node| node.name == self.node).unwrap_or_default();
        let (client, name) = (nodes[place].client(), self.node.as_str());
        let (mut row, tables) = read_link(&nodes[place]).await?;
        let note = json!({ "is_copy": self.is_copy });
        // Also over the note of a mere return: from here on it is not known any more what the node has changed.
        let noted = link::replace_restore(client, RestoreKind::Rejoin, "node", &note).await;
        noted.on(name, "noting that it is being brought back")?;
        progress.step(&format!("{name}: capturing its changes from now on"));
        down::drop_slot(&nodes[place], &row.slot).await?;
        if self.is_copy {
            let sights = sights(&nodes).await?;
            row = link::begin_anew(client, &row, &sights).await.on(name, "taking it for what it is now")?;
            for node in &nodes {
                let forgotten = link::forget_positions_of(node.client(), row.number, row.incarnation).await;
                forgotten.on(&node.name, "forgetting what was known of a node")?;
            }
        }
        if row.capture == Capture::Trigger {
            for table in &tables {
                let statements = sql::drop_capture(&table.name);
                locks::in_short_transaction(&nodes[place], "making triggers anew", &table.name, &statements).await?;
            }
        }
        // Its sessions hold the locks. From here on the note keeps hubs away.
        drop(nodes);
        let (report, plan) = make_plan(config, Look::Ids).await?;
        match plan {
            Some(plan) if plan.is_empty() => Ok(()),
            Some(plan) => up(config, &plan, Until::Linked, progress).await,
            None => {
                let faults: Vec<String> = report.faults().map(|fault| fault.what.clone()).collect();
                Err(LifecycleError::refused(
                    format!("node {name}: something stands in the way: {}", faults.join("; ")),
                    "see `pgtandem check`, mend it, and run the command again",
                ))
            }
        }
    }

    /// Compares the tables, and says what is to be done about each. `prefer`: the node whose state stands, its deletions
    /// included.
    ///
    /// # Errors
    /// When a node is lost, or nothing tells whose rows are to stand.
    pub async fn compare(
        &self,
        config: &Config,
        prefer: Option<&str>,
        options: Options,
        progress: &dyn Progress,
    ) -> Result<Vec<TableRepair>, LifecycleError> {
        let repair = Repair::open(config).await?.even_paused();
        // What a peer has not delivered yet comes in any case, and is the later one as far as anybody knows.
        let peer = config.nodes.iter().find(|node| node.name != self.node).map(|node| node.name.as_str());
        let whose = Whose { prefer, otherwise: peer.filter(|_| !self.is_copy) };
        let mut tables = Vec::new();
        for name in &table_names(config) {
            progress.step(&format!("comparing {}", name.plain()));
            tables.push(repair.table(name, whose, options, progress).await?);
        }
        // After the comparison: what was written while it was under way is in it, too.
        let has_others = prefer.is_some() && config.nodes.len() > 2;
        let backlogs = if self.is_copy && !has_others { Vec::new() } else { self.backlogs(config).await? };
        for table in &mut tables {
            let known = self.known(config, prefer, table.id(), &backlogs);
            table.know(known).await?;
        }
        Ok(tables)
    }

    async fn backlogs(&self, config: &Config) -> Result<Vec<Backlog>, LifecycleError> {
        let mut backlogs = Vec::new();
        for peer in config.nodes.iter().filter(|node| node.name != self.node) {
            let read = read_backlog(config, peer).await.map_err(|error| {
                let what = format!("node {}: reading what it has not delivered yet: {error}", peer.name);
                LifecycleError::refused(what, "mend it, and run the command again")
            });
            let mut backlog = read?;
            // It may have let changes go of which it has noted the keys.
            let open = OpenNode::open(peer).await?;
            for table in link::read_linked_tables(open.client()).await.on(&peer.name, DOING)? {
                let dirty = link::read_dirty_keys(open.client(), table.id).await.on(&peer.name, DOING)?;
                let table = hub::TableId(table.id.unsigned_abs());
                for (bytes, _) in dirty {
                    if bytes.is_empty() {
                        backlog.truncated.insert(table);
                    } else {
                        backlog.keys.insert(hub::Key::new(table, bytes));
                    }
                }
            }
            backlogs.push(backlog);
        }
        Ok(backlogs)
    }

    /// A node that has only lost its slot had got all that its peers had written, but for what they still keep: so of all
    /// other keys its state is the later one.
    fn known(&self, config: &Config, prefer: Option<&str>, table: i32, backlogs: &[Backlog]) -> Known {
        let place = |name: &str| config.nodes.iter().position(|node| node.name == name);
        let table = hub::TableId(table.unsigned_abs());
        if let Some(prefer) = prefer {
            // What other peers have changed and not delivered yet is none of its business: it is to become as they are.
            let waiting = if prefer == self.node { &[] } else { backlogs };
            return Known {
                keys: self.changed(config, table, waiting, Stand::State),
                otherwise: place(prefer),
                ..Known::default()
            };
        }
        if self.is_copy || backlogs.iter().any(|backlog| backlog.truncated.contains(&table)) {
            return Known::default();
        }
        Known {
            keys: self.changed(config, table, backlogs, Stand::ChangedBy),
            otherwise: place(&self.node),
            ..Known::default()
        }
    }

    /// What is known of keys that peers have changed. `stand`: of one that a single peer has.
    fn changed(
        &self,
        config: &Config,
        table: hub::TableId,
        backlogs: &[Backlog],
        stand: fn(usize) -> Stand,
    ) -> HashMap<Vec<u8>, Stand> {
        let peers = (0..config.nodes.len()).filter(|at| config.nodes[*at].name != self.node);
        let mut keys = HashMap::new();
        for (peer, backlog) in peers.zip(backlogs) {
            for key in backlog.keys.iter().filter(|key| key.table() == table) {
                let several = |by: &mut Stand| *by = Stand::Policy;
                keys.entry(key.bytes().to_vec()).and_modify(several).or_insert_with(|| stand(peer));
            }
        }
        keys
    }

    /// Lets hubs work again.
    ///
    /// # Errors
    /// When the node is lost.
    pub async fn finish(&self, config: &Config) -> Result<(), LifecycleError> {
        let node = config.node(&self.node).ok_or_else(|| {
            LifecycleError::refused(format!("there is no node {}", self.node), "write it into the configuration")
        })?;
        let number = read_link(&OpenNode::open(node).await?).await?.0.number;
        let mut peers = Vec::new();
        for peer in config.nodes.iter().filter(|peer| peer.name != node.name) {
            let peer = OpenNode::open(peer).await?;
            let left = link::read_left_behind(peer.client()).await.on(&peer.name, "reading what is noted")?;
            if let Some(left) = left.filter(|left| left.node == number) {
                peers.push((peer, left.cover));
            }
        }
        // Who keeps the keys forgets first: until then the others' marks say that there are any.
        peers.sort_by_key(|(_, cover)| cover.is_none());
        for (peer, cover) in peers {
            if let Some(cover) = cover {
                stand_where_it_would(config, node, cover).await.map_err(|error| {
                    let what = format!("node {}: noting what it has by now: {error}", node.name);
                    LifecycleError::refused(what, "mend it, and run the command again")
                })?;
            }
            link::forget_left_behind(peer.client()).await.on(&peer.name, "forgetting what was noted")?;
        }
        let node = OpenNode::open(node).await?;
        let done = link::delete_restore(node.client(), RestoreKind::Rejoin, "node").await;
        done.on(&node.name, "noting that it is back")
    }
}
