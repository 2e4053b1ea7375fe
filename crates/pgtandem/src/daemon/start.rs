//! From nothing to a working hub: reach every node, become the one hub, recover from what the databases say.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use hub::{Hub, Landing, NodeId, PerTable, Position, Prefer, Recovery, Wrote};
use tokio::sync::mpsc;
use tokio_postgres::types::PgLsn;

use super::backlog::Backlog;
use super::conductor::Report;
use super::control::Control;
use super::error::{ReachError, RunError};
use super::left_out::{LeftOut, Notebook};
use super::reach::{NodeContext, bring_up, end_old_backends, open_session, read_slot};
use super::records::{cover_of, held_records, kept_decisions};
use super::seat::Seat;
use super::tables::{read_captured_tables, table_id};
use crate::capture::Captured;
use crate::capture::{Image, Shapes};
use crate::config::{Capture, Config};
use crate::link::{self, LinkedTable, RestoreKind, Sight, TableState};

/// A hub ready to conduct.
pub struct Started {
    pub hub: Hub<Image>,
    pub seats: Vec<Seat>,
    pub epoch: i64,
    pub linked: Vec<LinkedTable>,
}

/// Becomes the one hub on nodes whose locks `controls` hold, and recovers.
///
/// # Errors
/// When a node is lost on the way or is not what was linked.
pub async fn start(
    config: &Config,
    controls: &[Control],
    holder: &str,
    left_out: Option<&LeftOut>,
    report: &mpsc::UnboundedSender<Report>,
) -> Result<Started, RunError> {
    // Before sessions of others are ended: a `rejoin`, which a hub waits for, reads what nodes have not delivered yet
    // without the locks, from the same slots and under the same names.
    let sights = require_what_peers_know(controls).await?;
    let epoch = take_epochs(controls, holder).await?;
    require_all_peers(controls, left_out).await?;
    let nodes = controls.len() + usize::from(left_out.is_some());
    let linked = common_tables(controls).await?;
    let shapes = Shapes::default();
    let mut contexts = Vec::new();
    for (control, sight) in controls.iter().zip(&sights) {
        let own = link::read_linked_tables(&control.client).await.map_err(ReachError::from)?;
        let own: Vec<LinkedTable> = own.into_iter().filter(|table| linked.iter().any(|l| l.id == table.id)).collect();
        let mut context = context(config, control, epoch, &own, &shapes).await?;
        context.beat.store(sight.beat(sight.number), Ordering::Relaxed);
        context.in_one_go = true;
        contexts.push(Arc::new(context));
    }
    if let (Some(_), [one, other]) = (config.direct, contexts.as_slice()) {
        let both = [one.peer.set(Arc::downgrade(other)), other.peer.set(Arc::downgrade(one))];
        debug_assert!(both.iter().all(Result::is_ok), "set once");
    }
    let mut starts = Vec::new();
    let mut landings = Vec::new();
    for (control, context) in controls.iter().zip(&contexts) {
        let (start, landed) = read_landings(control, context, nodes).await?;
        starts.push(start);
        landings.push(landed);
    }
    let mut standing = None;
    if let Some(left_out) = left_out {
        let beat = sights.iter().map(|sight| sight.beat(i16::from(left_out.id.0))).max();
        let context = left_out.context(&contexts[0], beat.unwrap_or_default());
        standing = Some((left_out, left_out.stand_for(&controls[0], &mut starts, &mut landings).await?));
        contexts.insert(left_out.place(), Arc::new(context));
    }
    let decisions = kept_decisions(controls, &starts).await?;
    let held = held_records(controls, nodes, &shapes).await?;
    for (context, reach) in contexts.iter().zip(hub::reach(&starts, &landings)) {
        context.known.store(reach.0, Ordering::Relaxed);
    }
    let mut seats: Vec<Seat> = contexts.iter().map(|context| Seat::new(Arc::clone(context))).collect();
    let is_here = |node: NodeId| left_out.is_none_or(|left_out| left_out.id != node);
    for (seat, start) in seats.iter_mut().zip(&starts).filter(|(seat, _)| is_here(seat.node)) {
        let session = open_session(&seat.context, "deliver").await?;
        let up = bring_up(&seat.context, session, Position(start.0.saturating_add(1))).await?;
        seat.up(up, *start, report);
    }
    let mut recovery = Recovery::new(starts.clone(), landings, decisions, held, policies(&linked, &contexts));
    let mut backlogs = Vec::new();
    for (seat, start) in seats.iter_mut().zip(starts).filter(|(seat, _)| is_here(seat.node)) {
        let mut backlog = standing.as_ref().filter(|(_, standing)| standing.is_new).map(|_| Backlog::default());
        feed(&mut recovery, seat, start, backlog.as_mut()).await?;
        backlogs.extend(backlog);
    }
    let mut hub = recovery.finish();
    if let Some((left_out, standing)) = standing {
        left_out.begin(controls, epoch, &standing, backlogs).await?;
        let keeper = contexts.iter().find(|context| context.id == controls[0].id).unwrap_or(&contexts[0]);
        let notebook = Notebook::new(left_out, standing, Arc::clone(keeper), report.clone());
        seats[left_out.place()].leave_out(notebook);
    }
    for table in linked.iter().filter(|table| table.paused_by.is_some()) {
        seats.iter().for_each(|seat| hub.pause(table_id(table.id), seat.node));
    }
    Ok(Started { hub, seats, epoch, linked })
}

/// Waits for what an earlier hub had begun and refuses what it may still send.
async fn take_epochs(controls: &[Control], holder: &str) -> Result<i64, RunError> {
    let mut epoch = 0;
    for control in controls {
        let read = link::read_epoch(&control.client).await.map_err(ReachError::from)?;
        epoch = epoch.max(read.epoch + 1);
    }
    for control in controls {
        link::take_epoch(&control.client, epoch, holder).await.map_err(ReachError::from)?;
        end_old_backends(&control.name, &control.client).await?;
    }
    Ok(epoch)
}

/// A node that joined after this hub had read its configuration: going on without it would acknowledge changes that it
/// has not seen.
async fn require_all_peers(controls: &[Control], left_out: Option<&LeftOut>) -> Result<(), RunError> {
    let known = |incarnation| {
        controls.iter().any(|known| known.row.incarnation == incarnation)
            || left_out.is_some_and(|left_out| left_out.incarnation == incarnation)
    };
    for control in controls {
        for peer in link::read_peers(&control.client).await.map_err(ReachError::from)? {
            if !known(peer.incarnation) {
                return Err(RunError::UnknownPeer { peer: peer.name, node: control.name.clone() });
            }
        }
    }
    Ok(())
}

/// The tables that every node has live. Those that an `up` has not come to yet wait for it.
///
/// One whose rows it had begun to make the same makes the hub itself wait: what the nodes have written to it since must
/// still be there to be read, and acknowledging for the other tables would let it go.
async fn common_tables(controls: &[Control]) -> Result<Vec<LinkedTable>, RunError> {
    let mut common: BTreeMap<i32, (LinkedTable, usize)> = BTreeMap::new();
    let mut begun = None;
    for control in controls {
        for table in link::read_linked_tables(&control.client).await.map_err(ReachError::from)? {
            match table.state {
                TableState::Live => {
                    let (known, nodes) = common.entry(table.id).or_insert_with(|| (table.clone(), 0));
                    *nodes += 1;
                    // A node that was away when a person paused the table does not undo it.
                    if known.paused_by.is_none() {
                        (known.paused_by, known.pause_reason) = (table.paused_by, table.pause_reason);
                    }
                }
                TableState::Linking if u64::from(table.start_position) > 0 => begun = Some(table.name),
                TableState::Linking => {}
            }
        }
    }
    let somewhere = common.values().find(|(_, nodes)| *nodes < controls.len()).map(|(table, _)| table.name.clone());
    if let Some(table) = begun.or(somewhere) {
        return Err(RunError::UpUnfinished { table: table.plain() });
    }
    let linked: Vec<LinkedTable> = common.into_values().map(|(table, _)| table).collect();
    if linked.is_empty() { Err(RunError::NothingLinked) } else { Ok(linked) }
}

/// No node may have been set back, or be about to be brought back. By node, what it knows of itself and its peers.
async fn require_what_peers_know(controls: &[Control]) -> Result<Vec<Sight>, ReachError> {
    let mut sights = Vec::new();
    for control in controls {
        sights.push(link::read_sight(&control.client).await?);
    }
    for (control, sight) in controls.iter().zip(&sights) {
        let rejoining = link::read_restore(&control.client, RestoreKind::Rejoin, "node").await?;
        if rejoining.is_some() {
            return Err(ReachError::Rejoining { node: control.name.clone() });
        }
        if link::is_set_back(sight, &sights) {
            return Err(ReachError::SetBack { node: control.name.clone() });
        }
        if let Some(table) = link::uncaptured(&control.client).await?.into_iter().next() {
            return Err(ReachError::TriggersGone { node: control.name.clone(), table });
        }
    }
    Ok(sights)
}

/// Of a node that is looked at without a hub, as it is.
pub(super) async fn context_without_hub(config: &Config, control: &Control) -> Result<NodeContext, ReachError> {
    let epoch = link::read_epoch(&control.client).await?.epoch;
    let own = link::read_linked_tables(&control.client).await?;
    context(config, control, epoch, &own, &Shapes::default()).await
}

/// `own`: the tables as this node has them linked; start positions and oids are its own.
async fn context(
    config: &Config,
    control: &Control,
    epoch: i64,
    own: &[LinkedTable],
    shapes: &Shapes,
) -> Result<NodeContext, ReachError> {
    let captured = read_captured_tables(&control.client, own).await?;
    let row = &control.row;
    Ok(NodeContext {
        id: control.id,
        name: control.name.clone(),
        endpoint: control.endpoint.clone(),
        incarnation: row.incarnation,
        system_identifier: row.system_identifier.clone(),
        capture: row.capture,
        slot: row.slot.clone(),
        secret: row.secret,
        epoch,
        captured: Arc::new(captured),
        linked: Arc::new(own.iter().map(|table| (table_id(table.id), table.naming.clone())).collect()),
        shapes: shapes.clone(),
        experience: Arc::default(),
        known: AtomicU64::new(0),
        beat: AtomicI64::new(0),
        in_one_go: false,
        peer: OnceLock::new(),
        status_interval: config.hub.status_interval,
        silence_timeout: config.hub.silence_timeout,
    })
}

/// From where a node's changes are needed, and what has landed on it.
pub(super) async fn read_landings(
    control: &Control,
    context: &NodeContext,
    nodes: usize,
) -> Result<(Position, Vec<Landing>), ReachError> {
    // A server that crashed may have forgotten what was confirmed last; the landings have it too.
    let mut start = match context.capture {
        Capture::Wal => Position(read_slot(&control.client, context).await?.confirmed.0.saturating_sub(1)),
        Capture::Trigger => link::read_acknowledged(&control.client).await?,
    };
    let rows = control
        .client
        .query("SELECT position, cover, acknowledged, wrote FROM pgtandem.landing ORDER BY position, id", &[])
        .await?;
    let mut landings = Vec::new();
    for row in rows {
        let (position, cover): (PgLsn, Vec<PgLsn>) = (row.get(0), row.get(1));
        start = start.max(Position(row.get::<_, PgLsn>(2).into()));
        let wrote = Wrote::from_bytes(row.get(3));
        landings.push(Landing { position: Position(position.into()), cover: cover_of(cover, nodes), wrote });
    }
    Ok((start, landings))
}

fn policies(linked: &[LinkedTable], contexts: &[Arc<NodeContext>]) -> Box<PerTable> {
    let mut policies = PerTable::default();
    for table in linked {
        let Some(preferred) = table.resolve.strip_prefix("prefer:") else { continue };
        if let Some(context) = contexts.iter().find(|context| context.name == preferred) {
            policies.set(table_id(table.id), Prefer { node: context.id, name: table.resolve.clone().into() });
        }
    }
    Box::new(policies)
}

/// Hands the hub what a node's landings may already reflect; the first thing beyond it stays for the conductor.
/// `backlog`: is told which keys that concerns.
async fn feed(
    recovery: &mut Recovery<Image>,
    seat: &mut Seat,
    start: Position,
    mut backlog: Option<&mut Backlog>,
) -> Result<(), RunError> {
    let node = seat.node;
    let reach = recovery.reach(node);
    if start >= reach {
        return Ok(());
    }
    loop {
        let captured = match &mut seat.captured {
            Some(captured) => captured.recv().await,
            None => None,
        };
        let Some(captured) = captured else {
            return Err(RunError::LostWhileRecovering { node: seat.name.clone() });
        };
        match captured {
            Captured::Transaction { position, time, changes } if position <= reach => {
                let mut changes = changes.into_changes().map_err(RunError::Spill)?;
                for change in &mut changes {
                    if let Some(backlog) = &mut backlog {
                        backlog.add(&change);
                    }
                    recovery.change(node, position, time, change);
                }
                if let Some(error) = changes.failed() {
                    return Err(RunError::Spill(error));
                }
                if position == reach {
                    return Ok(());
                }
            }
            Captured::Shape { table, columns } => seat.new_shapes.push((table, columns)),
            Captured::Passed(position) if position < reach => {}
            beyond => {
                seat.next = Some(beyond);
                return Ok(());
            }
        }
    }
}

/// Numbers of nodes are small; the catalog has no unsigned type for them.
#[must_use]
pub fn node_id(number: i16) -> NodeId {
    NodeId(u8::try_from(number).unwrap_or(u8::MAX))
}
