//! `undo merge`: the tables become what they were before `up` merged them, and leave the link until the next `up`.
//!
//! What was done is known row by row: inserted rows with a hash, overwritten ones with both rows in their decision,
//! renumbered ones with both ids. Each is taken back in one transaction with its record, so that an interrupted undo goes
//! on where it was. What an application has changed since is left as it is, and listed.

mod inserted;
mod rows;

use super::check::survey_all;
use super::error::On;
use super::{LifecycleError, NodeSurvey, OpenNode, locks, open_nodes, require_this_version};
use crate::config::Config;
use crate::link::{self, Installed, MergeRow, RestoreKind, TableState};
use crate::sql::QualifiedName;
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// What there is to undo, table by table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Merged {
    #[serde(skip)]
    pub(super) id: i32,
    #[serde(serialize_with = "plain")]
    pub table: QualifiedName,
    pub nodes: Vec<MergedOn>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MergedOn {
    pub node: String,
    pub inserted: i64,
    pub overwritten: i64,
    pub renumbered: usize,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Unmerged {
    pub deleted: u64,
    pub restored: u64,
    pub renumbered: u64,
    /// Rows that stay as they are.
    pub left: Vec<Left>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Left {
    pub table: String,
    pub node: String,
    pub key: Vec<String>,
    pub why: String,
}

fn plain<S: serde::Serializer>(name: &QualifiedName, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&name.plain())
}

const READING: &str = "reading what was merged";

/// # Errors
/// When there is nothing to undo, when it can no longer be undone, or when a node is away.
pub async fn plan_unmerge(config: &Config) -> Result<Vec<Merged>, LifecycleError> {
    let nodes = open_nodes(config).await.all()?;
    find(config, &nodes).await
}

/// # Errors
/// As [`plan_unmerge`]; when it is not what was agreed to any more; when a row cannot be written.
pub async fn unmerge(config: &Config, agreed: &[Merged]) -> Result<Unmerged, LifecycleError> {
    let nodes = open_nodes(config).await.all()?;
    locks::keep_others_away(&nodes).await?;
    let merged = find(config, &nodes).await?;
    if merged != agreed {
        return Err(LifecycleError::refused(
            "what there is to undo has changed since it was shown",
            "run `pgtandem undo merge` again",
        ));
    }
    // From here on nothing that is written to them travels.
    for node in &nodes {
        for table in &merged {
            let work = async {
                link::set_linking(node.client(), table.id).await?;
                link::delete_held_of_table(node.client(), table.id).await
            };
            work.await.on(&node.name, "taking a table out of the link")?;
        }
    }
    let surveys: Vec<NodeSurvey> =
        survey_all(&nodes, |node| config.namings(node)).await.into_iter().collect::<Result<_, _>>()?;
    let mut done = Unmerged::default();
    for (node, survey) in nodes.iter().zip(&surveys) {
        rows::take_back(config, node, survey, &merged, &mut done).await?;
    }
    for node in &nodes {
        for table in &merged {
            let work = async {
                link::delete_merge(node.client(), table.id).await?;
                for kind in [RestoreKind::Copy, RestoreKind::Renumber] {
                    link::delete_restore(node.client(), kind, &table.id.to_string()).await?;
                }
                link::notify_changed(node.client()).await
            };
            work.await.on(&node.name, "forgetting a merge")?;
        }
    }
    Ok(done)
}

/// From now on what was merged stays. Says how many tables that is about.
///
/// # Errors
/// When a node is away, or has been linked by another version.
pub async fn confirm_merge(config: &Config) -> Result<usize, LifecycleError> {
    let mut tables = std::collections::BTreeSet::new();
    for node in open_nodes(config).await.all()? {
        let client = node.client();
        if link::is_installed(client).await.on(&node.name, READING)? != Installed::Yes {
            continue;
        }
        require_this_version(&node).await?;
        let open = link::list_merges(client).await.on(&node.name, READING)?;
        tables.extend(open.iter().filter(|merge| merge.confirmed_at.is_none()).map(|merge| merge.table_id));
        link::confirm_merges(client, None).await.on(&node.name, "confirming what was merged")?;
    }
    Ok(tables.len())
}

async fn find(config: &Config, nodes: &[OpenNode]) -> Result<Vec<Merged>, LifecycleError> {
    let mut all: Vec<Merged> = Vec::new();
    for node in nodes {
        let client = node.client();
        if link::is_installed(client).await.on(&node.name, READING)? != Installed::Yes {
            continue;
        }
        require_this_version(node).await?;
        let Some(row) = link::read_node(client).await.on(&node.name, READING)? else { continue };
        let merges = link::list_merges(client).await.on(&node.name, READING)?;
        for linked in link::read_linked_tables(client).await.on(&node.name, READING)? {
            let merge = merges.iter().find(|merge| merge.table_id == linked.id);
            let renumbered = link::list_renumbered(client, Some(linked.id)).await.on(&node.name, READING)?.len();
            if merge.is_none() && renumbered == 0 {
                continue;
            }
            if let Some(merge) = merge {
                let linked_at = if linked.state == TableState::Live { linked.linked_at } else { None };
                require_open(config, &linked.name, merge, linked_at)?;
                require_recorded(node, &linked.name, row.number, merge).await?;
            }
            let on = MergedOn {
                node: node.name.clone(),
                inserted: merge.map_or(0, |merge| merge.copied),
                overwritten: merge.map_or(0, |merge| merge.overwritten),
                renumbered,
            };
            let at = all.iter().position(|table| table.id == linked.id).unwrap_or_else(|| {
                all.push(Merged { id: linked.id, table: linked.name, nodes: Vec::new() });
                all.len() - 1
            });
            all[at].nodes.push(on);
        }
    }
    if all.is_empty() {
        return Err(LifecycleError::refused(
            "nothing was merged here that could be undone",
            "`pgtandem status` shows what is linked; `pgtandem down` takes the link away and leaves the rows",
        ));
    }
    Ok(all)
}

fn require_open(
    config: &Config,
    table: &QualifiedName,
    merge: &MergeRow,
    linked_at: Option<SystemTime>,
) -> Result<(), LifecycleError> {
    const REMEDY: &str = "single rows can still be put back: `pgtandem conflicts undo`";
    let when = |at: SystemTime| jiff::Timestamp::try_from(at).map(|at| at.strftime("%Y-%m-%d %H:%M").to_string());
    if let Some(at) = merge.confirmed_at {
        let at = when(at).unwrap_or_default();
        let what = format!("the merge of {} was confirmed at {at} UTC, and can no longer be undone", table.plain());
        return Err(LifecycleError::refused(what, REMEDY));
    }
    let days = config.hub.confirm_after_days;
    let age = linked_at.and_then(|at| at.elapsed().ok()).unwrap_or_default();
    if age > Duration::from_secs(u64::from(days) * 86_400) {
        let at = linked_at.and_then(|at| when(at).ok()).unwrap_or_default();
        let what = format!(
            "{} has been linked since {at} UTC, for longer than {days} days: its merge can no longer be undone",
            table.plain()
        );
        return Err(LifecycleError::refused(what, format!("{REMEDY}; the time is confirm_after_days in [hub]")));
    }
    Ok(())
}

/// What the record has dropped cannot be put back; half of it would be worse than nothing.
async fn require_recorded(
    node: &OpenNode,
    table: &QualifiedName,
    number: i16,
    merge: &MergeRow,
) -> Result<(), LifecycleError> {
    let kept = link::count_merge_decisions(node.client(), merge.table_id, number).await.on(&node.name, READING)?;
    if kept >= merge.overwritten {
        return Ok(());
    }
    Err(LifecycleError::refused(
        format!(
            "node {}: of {} rows of {} that were overwritten the record keeps {kept} only",
            node.name,
            merge.overwritten,
            table.plain()
        ),
        "put back by hand what matters (`pgtandem conflicts`); keep_conflicts_mib and keep_conflicts_days in [hub] say how \
         much is kept",
    ))
}
