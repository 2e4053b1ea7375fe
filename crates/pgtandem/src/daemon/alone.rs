//! The one node that is left of two, while the other is away for long.
//!
//! Its changes would be kept for the other until the disk is full. Instead it is noted which keys have changed, and the
//! changes are let go of. No hub works meanwhile: there is nobody to deliver to. When the other one is back, these keys
//! are settled, and a hub goes on.

use std::time::{Duration, Instant};

use hub::Position;
use tokio::sync::{mpsc, watch};
use tokio_postgres::Notification;

use super::backlog::{Backlog, Reader, note_changes, note_changes_after, read_backlog};
use super::control::Control;
use super::error::{ReachError, RunError};
use super::probe;
use super::reach::end_old_backends;
use super::records::cover_of;
use super::start::node_id;
use crate::config::{Capture, Config, Node};
use crate::connect::Retry;
use crate::link::{self, RestoreKind};

/// For `status`.
const AT_WORK: &str = "
    INSERT INTO pgtandem.hub_status AS s (epoch, holder, started_at, seen_at, state)
    SELECT epoch, holder, taken_at, pg_catalog.clock_timestamp(), '{}' FROM pgtandem.epoch
    ON CONFLICT (only_row) DO UPDATE SET epoch = excluded.epoch, holder = excluded.holder, seen_at = excluded.seen_at,
        started_at = excluded.started_at, state = '{}'";
/// How long keys are gathered before they are noted. In between it is looked whether the other node is back.
const ROUND: Duration = Duration::from_secs(1);
/// An outbox of which nothing is needed may be as large, until it turns over a new leaf.
const OUTBOX_AT_REST: i64 = 16 << 20;
/// For a node that comes back to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// What one node keeps for its peers, in bytes: of its WAL, or of its outbox.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub bytes: u64,
    /// More it should not be.
    pub most: u64,
}

impl Kept {
    pub fn is_too_much(self) -> bool {
        self.bytes > self.most
    }
}

/// `most`: it may be less, since a server that bounds what its slots keep throws more away itself, and the slot with it.
/// Half of that: it does so at a checkpoint, and it takes a moment to notice here.
pub(super) async fn kept(control: &Control, most: u64) -> Result<Kept, ReachError> {
    const WAL: &str = "SELECT (pg_catalog.pg_current_wal_lsn() - s.restart_lsn)::bigint, m.setting::bigint
                       FROM pg_catalog.pg_replication_slots AS s, pg_catalog.pg_settings AS m
                       WHERE s.slot_name = $1 AND m.name = 'max_slot_wal_keep_size'";
    let (bytes, most) = match control.row.capture {
        Capture::Wal => {
            let row = control.client.query_opt(WAL, &[&control.row.slot]).await?;
            let field = |at: usize| row.as_ref().and_then(|row| row.get::<_, Option<i64>>(at));
            // In MiB; -1: there is no bound.
            let bound = field(1).and_then(|mib| u64::try_from(mib).ok());
            (field(0).unwrap_or_default(), bound.map_or(most, |mib| most.min(mib << 19)))
        }
        Capture::Trigger => (link::outbox_view(&control.client).await?.bytes - OUTBOX_AT_REST, most),
    };
    Ok(Kept { bytes: bytes.max(0).unsigned_abs(), most })
}

/// If one of two nodes is away, and the other one keeps more for it than it should: notes the keys that change until it
/// is back. Returns at once if that is not so.
///
/// # Errors
/// When the node that is here is lost, or something is wrong with it.
pub(super) async fn stand_in(
    config: &Config,
    away: &str,
    holder: &str,
    stop: &mut watch::Receiver<bool>,
) -> Result<(), RunError> {
    let here = config.nodes.iter().find(|node| node.name != away);
    let (Some(here), Some(there)) = (here, config.node(away)) else { return Ok(()) };
    let mut control = Control::open(here).await?;
    let mark = link::read_left_behind(&control.client).await.map_err(ReachError::from)?;
    let kept = kept(&control, config.keep_wal()).await?;
    if mark.is_none() && !kept.is_too_much() {
        return Ok(());
    }
    let peers = link::read_peers(&control.client).await.map_err(ReachError::from)?;
    let Some(peer) = peers.iter().find(|peer| peer.name == away) else { return Ok(()) };
    // Another one that is at work on it does the same.
    if !link::try_lock(&control.client).await.map_err(ReachError::from)? {
        return Ok(());
    }
    become_the_only_one(&control, holder).await?;
    if mark.is_none() {
        let mib = kept.most >> 20;
        tracing::warn!(
            node = %here.name,
            "keeps more than {mib} MiB of changes for {away}, which is away: from now on only the keys that change are kept"
        );
    }
    link::leave_behind(&control.client, peer.number).await.map_err(ReachError::from)?;
    let mut notifications = control.take_notifications();
    let mut reader = Reader::open(config, &control).await?;
    while !*stop.borrow() && !is_to_yield(&mut notifications) && !is_there(there).await {
        let round = Instant::now() + ROUND;
        while reader.note(&control, Some(round)).await? {}
        control.client.execute(AT_WORK, &[]).await.map_err(ReachError::from)?;
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            () = tokio::time::sleep_until(round.into()) => {}
        }
    }
    Ok(())
}

/// Another hub may be on its way, with an old epoch.
async fn become_the_only_one(control: &Control, holder: &str) -> Result<(), RunError> {
    let epoch = link::read_epoch(&control.client).await.map_err(ReachError::from)?.epoch + 1;
    link::take_epoch(&control.client, epoch, holder).await.map_err(ReachError::from)?;
    Ok(end_old_backends(&control.name, &control.client).await?)
}

/// Or is not what it was, which a hub that begins will say.
async fn is_there(node: &Node) -> bool {
    let answer = probe::answer_of(&node.name, ANSWER, async { Control::open(node).await.map(drop) }).await;
    answer.map_or_else(|error| error.retry() == Retry::Never, |()| true)
}

/// Another command wants the lock.
fn is_to_yield(notifications: &mut mpsc::UnboundedReceiver<Notification>) -> bool {
    std::iter::from_fn(|| notifications.try_recv().ok()).any(|notification| notification.payload() == link::YIELD)
}

/// Of nodes that are all here: the one that was left behind, and whose keys have to be settled before a hub works.
pub(super) async fn returned(controls: &[Control]) -> Result<Option<String>, ReachError> {
    for control in controls {
        if let Some(left) = link::read_left_behind(&control.client).await? {
            let who = controls.iter().find(|other| other.id == node_id(left.node));
            return Ok(who.map(|control| control.name.clone()));
        }
    }
    Ok(None)
}

/// Nothing is left behind any more, and a node that returned is still kept away: who brought it back was ended between the
/// two, when all was done but to say so. To be called by who has the locks of all nodes.
pub(super) async fn end_returns(controls: &[Control]) -> Result<(), ReachError> {
    for control in controls {
        let note = link::read_restore(&control.client, RestoreKind::Rejoin, "node").await?;
        if note.is_some_and(|note| note.before["returning"] == true) {
            link::delete_restore(&control.client, RestoreKind::Rejoin, "node").await?;
        }
    }
    Ok(())
}

/// Notes which keys the nodes have changed up to now, on one that was not left behind, and lets the changes go. To be
/// called before they are settled, by who keeps hubs away.
///
/// Of three nodes or more only the returned one lets its changes go: what the others have written and not delivered yet
/// is for the hub. What that concerns is returned, by their names.
///
/// # Errors
/// When a node cannot be reached.
pub async fn note_all_changes(config: &Config, left: &str) -> Result<Vec<(String, Backlog)>, RunError> {
    let here: Vec<&Node> = config.nodes.iter().filter(|node| node.name != left).collect();
    let Some(there) = config.node(left) else { return Ok(Vec::new()) };
    let returned = Control::open(there).await?;
    if let [here] = here.as_slice() {
        let keeper = Control::open(here).await?;
        note_changes(config, &returned, &keeper).await?;
        note_changes(config, &keeper, &keeper).await?;
        return Ok(Vec::new());
    }
    let (mut keeper, mut known) = (None, Position(0));
    for node in &here {
        let control = Control::open(node).await?;
        let left = link::read_left_behind(&control.client).await.map_err(ReachError::from)?;
        let cover = left.and_then(|left| left.cover);
        if let Some(cover) = &cover {
            known = cover_of(cover.clone(), config.nodes.len()).of(returned.id);
        }
        if keeper.is_none() || cover.is_some() {
            keeper = Some(control);
        }
    }
    let Some(keeper) = keeper else { return Ok(Vec::new()) };
    note_changes_after(known, config, &returned, &keeper).await?;
    let mut backlogs = Vec::new();
    for node in here {
        backlogs.push((node.name.clone(), read_backlog(config, node).await?));
    }
    Ok(backlogs)
}
