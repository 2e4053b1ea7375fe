//! A node that was away for so long that its peer has kept only the keys that changed comes back.
//!
//! Which keys it has changed itself is noted beside them, and each node forgets its changes up to then. A key that only
//! one node has changed becomes what it is there, deleted or not; where both have, the policy decides. What is written
//! from then on is captured, and the hub judges it when it goes on.

use super::error::On;
use super::rejoin::{Rejoin, plan_rejoin};
use super::repair::{Repair, TableRepair, Whose};
use super::settle::{Known, Settled, Stand};
use super::{LifecycleError, OpenNode, Progress, locks, open_nodes};
use crate::compare::Options;
use crate::config::Config;
use crate::daemon::note_all_changes;
use crate::link::{self, LinkedTable, RestoreKind};
use serde_json::json;

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
    let keeper = usize::from(place == 0);
    // Where nothing is left behind, another one was faster.
    let left = link::read_left_behind(nodes[keeper].client()).await.on(&nodes[keeper].name, "reading what is noted")?;
    if left.is_none() {
        return Ok(());
    }
    let note = json!({ "is_copy": false, "returning": true });
    let noted = link::save_restore(nodes[place].client(), RestoreKind::Rejoin, "node", &note, None).await;
    noted.on(name, "noting that it is being brought back")?;
    // The locks are kept to the end: another one that did the same meanwhile would forget keys that are not settled.
    note_all_changes(config, name).await.map_err(|error| {
        let remedy = format!("mend it, and run `pgtandem run` again, or `pgtandem rejoin {name}`");
        LifecycleError::refused(format!("noting which keys have changed: {error}"), remedy)
    })?;
    settle_all(config, name, &nodes[keeper], progress).await?;
    // Forgets what was noted, too.
    let rejoin = Rejoin { node: name.to_owned(), why: String::new(), is_copy: false, is_interrupted: true };
    rejoin.finish(config).await
}

/// What could not be settled stays noted: once the keys are forgotten, nobody knows of the changes. A parent may go only
/// once its children have.
async fn settle_all(
    config: &Config,
    name: &str,
    keeper: &OpenNode,
    progress: &dyn Progress,
) -> Result<(), LifecycleError> {
    let mut remains = String::new();
    for _ in 0..PASSES {
        remains.clear();
        for mut table in tables(config, name, keeper, progress).await? {
            let settled = table.settle().await?;
            progress.merged(&table.name(), &in_words(config, &settled));
            let undone = settled.overtaken + settled.refused;
            if undone > 0 {
                let why = settled.refused_why.as_deref().unwrap_or("they are locked, or written all the time");
                remains = format!("{undone} rows of {} cannot be settled: {why}", table.name().plain());
            }
        }
        if remains.is_empty() {
            return Ok(());
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

async fn tables(
    config: &Config,
    name: &str,
    keeper: &OpenNode,
    progress: &dyn Progress,
) -> Result<Vec<TableRepair>, LifecycleError> {
    const DOING: &str = "reading which keys have changed";
    let repair = Repair::open(config).await?.even_paused();
    let whose = Whose { prefer: None, otherwise: Some(&keeper.name) };
    let linked = link::read_linked_tables(keeper.client()).await.on(&keeper.name, DOING)?;
    let mut tables = Vec::new();
    for LinkedTable { id, name: table, .. } in &linked {
        let dirty = link::read_dirty_keys(keeper.client(), *id).await.on(&keeper.name, DOING)?;
        if dirty.is_empty() {
            continue;
        }
        let known = known(&repair, &dirty);
        progress.step(&format!("{name} is back: settling {}", table.plain()));
        let whole = dirty.iter().any(|(bytes, _)| bytes.is_empty());
        let mut table = match whole {
            true => {
                let options = Options { frozen: false, max_load: 1.0, examples: 0 };
                repair.table(table, whose, options, progress).await?
            }
            false => repair.keys(table, whose, dirty.iter().map(|(bytes, _)| bytes)).await?,
        };
        table.know(known).await?;
        tables.push(table);
    }
    Ok(tables)
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
    Known { keys: keys.collect(), otherwise }
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
