//! `down`: takes the link away, and proves it.

use super::error::On;
use super::{LifecycleError, OpenNode, locks, open_nodes, restore};
use crate::catalog::{Difference, Fingerprint, read_fingerprint, read_slot};
use crate::config::{Capture, Config};
use crate::daemon::deliver_last;
use crate::link::{self, Installed, LinkedTable, NodeRow, Peer, RestoreKind};
use crate::sql::{self, Ident};
use serde::Serialize;
use std::time::{Duration, Instant};

/// What `down` will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DownPlan {
    /// Nodes that are to be cleaned altogether.
    pub clean: Vec<Cleaning>,
    /// A node that leaves while others stay linked: `(leaving, who is told)`.
    pub forget: Option<(String, Vec<String>)>,
    /// Nodes that are to go but cannot be reached.
    pub out_of_reach: Vec<OutOfReach>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cleaning {
    pub node: String,
    pub tables: Vec<String>,
    /// None: changes are captured by triggers.
    pub slot: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutOfReach {
    pub node: String,
    pub why: String,
}

/// What a node's catalog looks like after it was cleaned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    pub node: String,
    /// How many objects were compared.
    pub objects: usize,
    /// What differs although `up` and `down` touched it, or is ours and still there.
    pub left_behind: Vec<Difference>,
    /// What differs because others changed it since `up`.
    pub changed_by_others: Vec<Difference>,
}

impl DownPlan {
    pub fn is_empty(&self) -> bool {
        self.clean.is_empty() && self.forget.is_none()
    }
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// Of each node that was cleaned.
    pub proofs: Vec<Proof>,
    /// Why the last of what a leaving node wrote may have reached only some of those that stay.
    pub parted: Option<String>,
}

/// A node with what it says of the link; none: it is not linked.
struct Found {
    node: OpenNode,
    link: Option<(NodeRow, Vec<Peer>, Vec<LinkedTable>)>,
}

/// `leaving`: only this node is to go, because it is not wanted or gone for good. None: all.
pub async fn plan_down(config: &Config, leaving: Option<&str>) -> Result<DownPlan, LifecycleError> {
    let (found, away) = look(config).await?;
    make(config, &found, away, leaving)
}

/// Does what `plan_down` says, and compares each cleaned node's catalog with what it was before `up`.
pub async fn down(config: &Config, leaving: Option<&str>, agreed: &DownPlan) -> Result<Gone, LifecycleError> {
    let (found, away) = look(config).await?;
    if make(config, &found, away, leaving)? != *agreed {
        return Err(LifecycleError::refused(
            "what there is to do has changed since it was shown",
            "run `pgtandem down` again",
        ));
    }
    let parted = match &agreed.forget {
        Some((leaving, _)) => {
            require_notes_stay(&found, leaving).await?;
            part(config, &found, leaving).await?
        }
        None => None,
    };
    let mut proofs = Vec::new();
    for one in &found {
        let Some((row, _, tables)) = &one.link else { continue };
        if agreed.clean.iter().any(|cleaning| cleaning.node == one.node.name) {
            locks::keep_others_away_from(&one.node).await?;
            proofs.push(clean(&one.node, row, tables).await?);
        }
    }
    Ok(Gone { proofs, parted })
}

/// What another node has missed is noted on one that stays, or on the one that leaves; and it takes both to settle it.
async fn require_notes_stay(found: &[Found], leaving: &str) -> Result<(), LifecycleError> {
    for one in found {
        let Some((_, peers, _)) = &one.link else { continue };
        let left = link::read_left_behind(one.node.client()).await;
        let Some(left) = left.on(&one.node.name, "reading what is noted")? else { continue };
        let missing = peers.iter().find(|peer| peer.number == left.node && peer.name != leaving);
        if let Some(missing) = missing {
            return Err(LifecycleError::unsettled(
                &missing.name,
                format!(
                    "start all nodes, and let `pgtandem run` settle that; if {0}, or one of the others, is gone for good: \
                     `pgtandem down --node {0}` first, and add it again afterwards",
                    missing.name
                ),
            ));
        }
    }
    Ok(())
}

/// Has its peers forget a node, once they have all of what it wrote or none of it. Returns why that may not be so.
async fn part(config: &Config, found: &[Found], leaving: &str) -> Result<Option<String>, LifecycleError> {
    let peers_of = |one: &Found| one.link.as_ref().map(|(_, peers, _)| peers.clone()).unwrap_or_default();
    let staying = || found.iter().filter(|one| one.link.is_some() && one.node.name != leaving);
    let knows = |one: &Found| peers_of(one).iter().any(|peer| peer.name == leaving);
    let forget_everywhere = async || {
        for one in staying() {
            for peer in peers_of(one).iter().filter(|peer| peer.name == leaving) {
                forget(&one.node, peer).await?;
            }
        }
        Ok(())
    };
    // One that has forgotten it already did so when that was settled.
    let why = if !staying().all(knows) {
        None
    } else if !found.iter().any(|one| one.link.is_some() && one.node.name == leaving) {
        Some(format!("the node {leaving} cannot be reached"))
    } else {
        match deliver_last(config, leaving, forget_everywhere).await {
            Ok(forgotten) => return forgotten.map(|()| None),
            Err(error) => Some(error.to_string()),
        }
    };
    for one in staying() {
        locks::keep_others_away_from(&one.node).await?;
    }
    forget_everywhere().await.map(|()| why)
}

async fn look(config: &Config) -> Result<(Vec<Found>, Vec<OutOfReach>), LifecycleError> {
    let (mut found, mut away) = (Vec::new(), Vec::new());
    for (wanted, opened) in config.nodes.iter().zip(open_nodes(config).await.nodes) {
        match opened {
            Ok(node) => {
                let link = read(&node).await?;
                found.push(Found { node, link });
            }
            Err(error) => away.push(OutOfReach { node: wanted.name.clone(), why: error.without_node(&wanted.name) }),
        }
    }
    Ok((found, away))
}

async fn read(node: &OpenNode) -> Result<Option<(NodeRow, Vec<Peer>, Vec<LinkedTable>)>, LifecycleError> {
    let client = node.client();
    let work = async {
        if link::is_installed(client).await? != Installed::Yes {
            return Ok(None);
        }
        let Some(row) = link::read_node(client).await? else {
            return Ok(None);
        };
        Ok(Some((row, link::read_peers(client).await?, link::read_linked_tables(client).await?)))
    };
    work.await.on(&node.name, "reading the link")
}

fn make(
    config: &Config,
    found: &[Found],
    away: Vec<OutOfReach>,
    leaving: Option<&str>,
) -> Result<DownPlan, LifecycleError> {
    let linked = || found.iter().filter_map(|one| Some((one, one.link.as_ref()?)));
    let Some(leaving) = leaving else {
        if let Some(first) = away.first() {
            return Err(LifecycleError::Away {
                what: format!("the node {} cannot be reached: {}", first.node, first.why),
                remedy: format!("start it again; if it is gone for good: `pgtandem down --node {}`", first.node),
            });
        }
        let clean = linked().map(|(one, link)| cleaning(&one.node, link)).collect();
        return Ok(DownPlan { clean, forget: None, out_of_reach: Vec::new() });
    };
    let is_known = config.node(leaving).is_some()
        || linked().any(|(_, (_, peers, _))| peers.iter().any(|peer| peer.name == leaving));
    if !is_known {
        let names: Vec<&str> = config.nodes.iter().map(|node| node.name.as_str()).collect();
        return Err(LifecycleError::Unknown {
            what: format!("there is no node {leaving}, neither in the link nor in {}", config.file.display()),
            remedy: format!("name one of: {}", names.join(", ")),
        });
    }
    let staying: Vec<_> = linked().filter(|(one, _)| one.node.name != leaving).collect();
    let others_away = away.iter().any(|node| node.node != leaving);
    // A link of one is none.
    let is_end = staying.len() < 2 && !others_away;
    let clean = linked()
        .filter(|(one, _)| is_end || one.node.name == leaving)
        .map(|(one, link)| cleaning(&one.node, link))
        .collect();
    let told: Vec<String> = staying
        .iter()
        .filter(|(_, (_, peers, _))| !is_end && peers.iter().any(|peer| peer.name == leaving))
        .map(|(one, _)| one.node.name.clone())
        .collect();
    let forget = (!told.is_empty()).then(|| (leaving.to_owned(), told));
    let out_of_reach = away.into_iter().filter(|node| node.node == leaving).collect();
    Ok(DownPlan { clean, forget, out_of_reach })
}

fn cleaning(node: &OpenNode, (row, _, tables): &(NodeRow, Vec<Peer>, Vec<LinkedTable>)) -> Cleaning {
    Cleaning {
        node: node.name.clone(),
        tables: tables.iter().map(|table| table.name.plain()).collect(),
        slot: (row.capture == Capture::Wal).then(|| row.slot.clone()),
    }
}

async fn forget(node: &OpenNode, peer: &Peer) -> Result<(), LifecycleError> {
    let work = async {
        link::set_left(node.client(), peer.incarnation).await?;
        if link::read_left_behind(node.client()).await?.is_some_and(|left| left.node == peer.number) {
            link::forget_left_behind(node.client()).await?;
        }
        link::notify_changed(node.client()).await
    };
    work.await.on(&node.name, "taking a node out of the link")
}

/// The slot first: it keeps WAL. The schema last: it knows what is still to be done if we are killed.
async fn clean(node: &OpenNode, row: &NodeRow, tables: &[LinkedTable]) -> Result<Proof, LifecycleError> {
    const DOING: &str = "removing the link";
    let client = node.client();
    drop_slot(node, &row.slot).await?;
    let mut touched: Vec<String> = Vec::new();
    for (kind, what) in [(RestoreKind::ReplicaIdentity, "replica identity of"), (RestoreKind::Sequence, "sequence")] {
        let saved = link::list_restore(client, kind).await.on(&node.name, DOING)?;
        touched.extend(saved.into_iter().map(|saved| format!("{what} {}", saved.object)));
    }
    for table in tables {
        let captured = row.capture == Capture::Trigger;
        if captured && restore::exists(client, &table.name).await.on(&node.name, DOING)? {
            locks::in_short_transaction(node, DOING, &table.name, &sql::drop_capture(&table.name)).await?;
        }
        restore::restore_table(node, &table.name).await?;
    }
    let saved = link::read_restore(client, RestoreKind::Catalog, "database").await.on(&node.name, DOING)?;
    let before = saved.and_then(|saved| serde_json::from_value::<Fingerprint>(saved.before).ok()).unwrap_or_default();
    super::direct::remove(node).await?;
    let publication = Ident::new(row.publication.as_str());
    let script = format!("BEGIN; DROP PUBLICATION IF EXISTS {publication}; DROP SCHEMA pgtandem CASCADE; COMMIT");
    if let Err(error) = client.batch_execute(&script).await {
        client.batch_execute("ROLLBACK").await.on(&node.name, DOING)?;
        return Err(LifecycleError::sql(&node.name, DOING, error));
    }
    let after = read_fingerprint(client).await.on(&node.name, "comparing the catalog")?;
    let (left_behind, changed_by_others) =
        before.differences(&after).into_iter().partition(|difference| is_ours(difference, &touched));
    Ok(Proof { node: node.name.clone(), objects: after.0.len(), left_behind, changed_by_others })
}

/// `touched`: objects as the fingerprint calls them, but for their quotes.
fn is_ours(difference: &Difference, touched: &[String]) -> bool {
    let bare = |name: &str| name.replace('"', "");
    let object = bare(&difference.object);
    object.contains("pgtandem") || touched.iter().any(|touched| bare(touched) == object)
}

/// A hub that reads from it is sent away.
pub(super) async fn drop_slot(node: &OpenNode, slot: &str) -> Result<(), LifecycleError> {
    const DOING: &str = "dropping the replication slot";
    const PATIENCE: Duration = Duration::from_secs(20);
    const END_READERS: &str = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.unnest($1::int[]) AS pid";
    let client = node.client();
    let since = Instant::now();
    while let Some(found) = read_slot(client, slot).await.on(&node.name, DOING)? {
        if found.readers.is_empty() {
            let dropped = client.execute("SELECT pg_catalog.pg_drop_replication_slot($1)", &[&slot]).await;
            match dropped {
                Ok(_) => return Ok(()),
                // Somebody was faster.
                Err(error) if error.code().is_some_and(|code| code.code() == "55006") => {}
                Err(error) => return Err(LifecycleError::sql(&node.name, DOING, error)),
            }
        }
        if since.elapsed() > PATIENCE {
            return Err(LifecycleError::refused(
                format!("node {}: somebody keeps reading from the replication slot {slot}", node.name),
                "stop the running pgtandem, and run `pgtandem down` again",
            ));
        }
        client.execute(END_READERS, &[&found.readers]).await.on(&node.name, DOING)?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
