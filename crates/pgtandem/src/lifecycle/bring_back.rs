//! A node that was away for so long that its peers have kept only the keys that changed comes back.
//!
//! Which keys it has changed itself is noted beside them, and it forgets its changes up to then; of two nodes, so does its
//! peer. A key that only one side has changed becomes what it is there, deleted or not; where both have, the policy
//! decides. What is written from then on is captured, and the hub judges it when it goes on.
//!
//! Of three nodes or more the others are one side. What they have not acknowledged stays with them for the hub, which
//! knows who had seen what; so a key of which their rows differ is left to it.

use super::error::On;
use super::rejoin::{Rejoin, plan_rejoin};
use super::repair::{Repair, TableRepair, Whose};
use super::settle::{Away, Known, Settled, Stand};
use super::{LifecycleError, OpenNode, Progress, locks, open_nodes};
use crate::compare::Options;
use crate::config::Config;
use crate::daemon::{Backlog, note_all_changes};
use crate::link::{self, LinkedTable, RestoreKind};
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// Keys by their bytes, with who has changed each.
type Dirty = Vec<(Vec<u8>, Vec<i16>)>;

/// How often what could not be settled is tried again.
const PASSES: usize = 3;

/// Settles what was noted, and lets hubs work again. May be interrupted anywhere, and called again.
///
/// # Errors
/// When a node is lost, or the node is not what its peer has seen of it.
pub async fn bring_back(config: &Config, name: &str, progress: &dyn Progress) -> Result<(), LifecycleError> {
    refuse_if_broken(config, name).await?;
    let nodes = open_nodes(config).await.all()?;
    locks::keep_others_away(&nodes).await?;
    let place = nodes.iter().position(|node| node.name == name).unwrap_or_default();
    let mut is_left = false;
    for node in nodes.iter().filter(|node| node.name != name) {
        let left = link::read_left_behind(node.client()).await.on(&node.name, "reading what is noted")?;
        is_left |= left.is_some();
    }
    // Where nothing is left behind, another one was faster.
    if !is_left {
        return Ok(());
    }
    let note = json!({ "is_copy": false, "returning": true });
    let noted = link::save_restore(nodes[place].client(), RestoreKind::Rejoin, "node", &note, None).await;
    noted.on(name, "noting that it is being brought back")?;
    // The locks are kept to the end: another one that did the same meanwhile would forget keys that are not settled.
    let backlogs = note_all_changes(config, name).await.map_err(|error| {
        let remedy = format!("mend it, and run `pgtandem run` again, or `pgtandem rejoin {name}`");
        LifecycleError::refused(format!("noting which keys have changed: {error}"), remedy)
    })?;
    let returned = Returned { name, place, nodes: &nodes, backlogs };
    settle_all(config, &returned, progress).await?;
    // Forgets what was noted, too.
    let rejoin = Rejoin { node: name.to_owned(), why: String::new(), is_copy: false, is_interrupted: true };
    rejoin.finish(config).await
}

/// The node that is back, and what is known of the others.
struct Returned<'a> {
    name: &'a str,
    place: usize,
    nodes: &'a [OpenNode],
    /// Of three nodes or more: what each other one has not acknowledged.
    backlogs: Vec<(String, Backlog)>,
}

/// What could not be settled stays noted: once the keys are forgotten, nobody knows of the changes. A parent may go only
/// once its children have.
async fn settle_all(config: &Config, returned: &Returned<'_>, progress: &dyn Progress) -> Result<(), LifecycleError> {
    let mut remains = String::new();
    for _ in 0..PASSES {
        remains.clear();
        let (tables, whole) = tables(config, returned, progress).await?;
        for mut table in tables {
            let settled = table.settle().await?;
            progress.merged(&table.name(), &in_words(config, &settled));
            let undone = settled.overtaken + settled.refused;
            if undone > 0 {
                let why = settled.refused_why.as_deref().unwrap_or("they are locked, or written all the time");
                remains = format!("{undone} rows of {} cannot be settled: {why}", table.name().plain());
            }
        }
        if remains.is_empty() {
            return returned.forget_emptied(&whole).await;
        }
    }
    Err(LifecycleError::refused(
        remains,
        "remove the cause, and run `pgtandem run` again; which keys they are stays noted",
    ))
}

/// Of one that has lost its slot, or was set back, it is not known what it has changed.
async fn refuse_if_broken(config: &Config, name: &str) -> Result<(), LifecycleError> {
    match plan_rejoin(config, name).await {
        Ok(Rejoin { why, is_interrupted: false, .. }) => Err(LifecycleError::refused(
            format!("node {name}: {why}"),
            format!("run `pgtandem rejoin {name}` to compare it with its peers, settle what differs and go on with it"),
        )),
        Ok(_) | Err(LifecycleError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

const READING: &str = "reading which keys have changed";

/// And which of them are looked at as a whole.
async fn tables(
    config: &Config,
    returned: &Returned<'_>,
    progress: &dyn Progress,
) -> Result<(Vec<TableRepair>, Vec<i32>), LifecycleError> {
    let repair = Repair::open(config).await?.even_paused();
    let peer = &returned.nodes[usize::from(returned.place == 0)];
    let whose = Whose { prefer: None, otherwise: Some(&peer.name) };
    let linked = link::read_linked_tables(peer.client()).await.on(&peer.name, READING)?;
    let (mut tables, mut wholes) = (Vec::new(), Vec::new());
    for LinkedTable { id, name, .. } in &linked {
        let dirty = returned.dirty(*id).await?;
        if dirty.is_empty() {
            continue;
        }
        let whole = dirty.iter().any(|(bytes, _)| bytes.is_empty());
        let mut known = match returned.nodes.len() {
            2 => known(&repair, &dirty),
            _ => returned.known(&repair, *id, &dirty).await?,
        };
        known.held = returned.held(*id).await?;
        progress.step(&format!("{} is back: settling {}", returned.name, name.plain()));
        let mut table = match whole {
            true => {
                let options = Options { frozen: false, max_load: 1.0, examples: 0 };
                repair.table(name, whose, options, progress).await?
            }
            false => repair.keys(name, whose, dirty.iter().map(|(bytes, _)| bytes)).await?,
        };
        table.know(known.clone()).await?;
        tables.push(table);
        if whole {
            wholes.push(*id);
            // A comparison does not find keys whose rows are the same.
            let held: HashSet<&Vec<u8>> = known.held.iter().map(|(_, bytes)| bytes).collect();
            let held = held.into_iter().filter(|bytes| !bytes.is_empty());
            let mut table = repair.keys(name, whose, held).await?;
            table.know(known).await?;
            tables.push(table);
        }
    }
    Ok((tables, wholes))
}

impl Returned<'_> {
    fn others(&self) -> impl Iterator<Item = (usize, &OpenNode)> {
        self.nodes.iter().enumerate().filter(|(place, _)| *place != self.place)
    }

    /// As all others have it noted.
    async fn dirty(&self, table: i32) -> Result<Dirty, LifecycleError> {
        let mut all: HashMap<Vec<u8>, Vec<i16>> = HashMap::new();
        for (_, node) in self.others() {
            for (bytes, by) in link::read_dirty_keys(node.client(), table).await.on(&node.name, READING)? {
                all.entry(bytes).or_default().extend(by);
            }
        }
        Ok(all.into_iter().collect())
    }

    async fn held(&self, table: i32) -> Result<HashSet<(usize, Vec<u8>)>, LifecycleError> {
        let mut held = HashSet::new();
        for (place, node) in self.nodes.iter().enumerate() {
            let keys = link::list_held_keys(node.client(), table).await.on(&node.name, "reading what is held")?;
            held.extend(keys.into_iter().map(|bytes| (place, bytes)));
        }
        Ok(held)
    }

    /// Of tables all whose rows are settled: that they are to be emptied, as it had come before and was refused.
    async fn forget_emptied(&self, tables: &[i32]) -> Result<(), LifecycleError> {
        let is_one_side = |place: usize| self.nodes.len() == 2 || place == self.place;
        for (_, node) in self.nodes.iter().enumerate().filter(|(place, _)| is_one_side(*place)) {
            for table in tables {
                let done = link::delete_held(node.client(), *table, &[]).await;
                done.on(&node.name, "forgetting what is held")?;
            }
        }
        Ok(())
    }

    /// The others are one side: what they have all acknowledged, they have settled among themselves.
    async fn known(&self, repair: &Repair<'_>, table: i32, dirty: &Dirty) -> Result<Known, LifecycleError> {
        let of_table = hub::TableId(table.unsigned_abs());
        let backlogs = || self.backlogs.iter().map(|(_, backlog)| backlog);
        let emptied = backlogs().any(|backlog| backlog.truncated.contains(&of_table));
        let keys = backlogs().flat_map(|backlog| &backlog.keys).filter(|key| key.table() == of_table);
        let in_flight: HashSet<Vec<u8>> = keys.map(|key| key.bytes().to_vec()).collect();
        let own = |by: &[i16]| by.iter().any(|number| repair.place_of(*number) == Some(self.place));
        let others = |by: &[i16]| by.iter().any(|number| repair.place_of(*number) != Some(self.place));
        let all = dirty.iter().find(|(bytes, _)| bytes.is_empty()).map_or(&[][..], |(_, by)| by);
        let first = usize::from(self.place == 0);
        let stand = |by: &[i16], bytes: &Vec<u8>| {
            let theirs = others(by) || others(all) || emptied || in_flight.contains(bytes);
            match (own(by) || own(all), theirs) {
                (true, true) => Stand::Policy,
                (true, false) => Stand::State(self.place),
                (false, _) => Stand::State(first),
            }
        };
        // Where all of the table is compared, keys that are not noted may be under way, too.
        let unnoted = in_flight.iter().filter(|_| !all.is_empty()).map(|bytes| (bytes.clone(), stand(&[], bytes)));
        let noted = dirty.iter().filter(|(bytes, _)| !bytes.is_empty());
        let noted = noted.map(|(bytes, by)| (bytes.clone(), stand(by, bytes)));
        let keys: HashMap<Vec<u8>, Stand> = unnoted.chain(noted).collect();
        let otherwise = match (own(all), others(all) || emptied) {
            (true, true) => None,
            (true, false) => Some(self.place),
            (false, _) => Some(first),
        };
        Ok(Known { keys, otherwise, away: Some(Away { place: self.place, in_flight }), held: HashSet::new() })
    }
}

fn known(repair: &Repair<'_>, dirty: &Dirty) -> Known {
    let place = |number: &i16| repair.place_of(*number);
    let changed = |(_, by): &(Vec<u8>, Vec<i16>)| match by.as_slice() {
        [one] => place(one).map_or(Stand::Policy, Stand::State),
        _ => Stand::Policy,
    };
    let all = dirty.iter().find(|(bytes, _)| bytes.is_empty()).map(|all| (changed(all), &all.1));
    let stand = |key: &(Vec<u8>, Vec<i16>)| match (&all, changed(key)) {
        (None, stand) => stand,
        // Of whom it is not known which keys it has changed may have changed this one.
        (Some((_, others)), _) if others.iter().any(|other| !key.1.contains(other)) => Stand::Policy,
        (Some(_), stand) => stand,
    };
    let keys = dirty.iter().filter(|(bytes, _)| !bytes.is_empty()).map(|key| (key.0.clone(), stand(key)));
    let otherwise = match all {
        Some((Stand::State(place), _)) => Some(place),
        _ => None,
    };
    Known { keys: keys.collect(), otherwise, ..Known::default() }
}

fn in_words(config: &Config, settled: &Settled) -> String {
    let taken = config.nodes.iter().zip(&settled.taken_from).filter(|(_, rows)| **rows > 0);
    let mut parts: Vec<String> = taken.map(|(node, rows)| format!("{rows} rows taken from {}", node.name)).collect();
    let others = [
        (settled.deleted, "deleted"),
        (settled.equal, "the same"),
        (settled.left, "left as they are"),
        (settled.refused, "refused"),
        (settled.overtaken, "locked or written meanwhile"),
    ];
    parts.extend(others.iter().filter(|(rows, _)| *rows > 0).map(|(rows, what)| format!("{rows} {what}")));
    parts.join(", ")
}
