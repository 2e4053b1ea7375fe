//! What a node has written that not every other one is known to have.

use std::collections::HashSet;
use std::time::Duration;

use hub::{Change, Key, Position, TableId};
use tokio::sync::mpsc;
use tokio_postgres::types::PgLsn;

use super::control::Control;
use super::error::{ReachError, RunError};
use super::reach::{bring_up, open_session};
use super::seat::Seat;
use super::start::{context, read_landings};
use crate::capture::{Captured, Shapes};
use crate::config::{Capture, Config, Node};
use crate::link;

/// Keys that were changed, and tables that were emptied.
#[derive(Debug, Default)]
pub struct Backlog {
    pub keys: HashSet<Key>,
    pub truncated: HashSet<TableId>,
}

/// An outbox that has been read up to date says nothing.
const IDLE: Duration = Duration::from_millis(500);

/// Reads the node's changes from what is acknowledged up to now, and acknowledges nothing. No hub may be at work.
///
/// # Errors
/// When the node cannot be reached, or does not keep them.
pub async fn read_backlog(config: &Config, node: &Node) -> Result<Backlog, RunError> {
    let control = Control::open(node).await?;
    let epoch = link::read_epoch(&control.client).await.map_err(ReachError::from)?.epoch;
    let linked = link::read_linked_tables(&control.client).await.map_err(ReachError::from)?;
    let shapes = Shapes::default();
    let context = std::sync::Arc::new(context(config, &control, epoch, &linked, &shapes).await?);
    let (start, _) = read_landings(&control, &context, config.nodes.len()).await?;
    let session = open_session(&context, "deliver").await?;
    let up = bring_up(&context, session, Position(start.0.saturating_add(1))).await?;
    let until = up.flushed;
    let (report, _reports) = mpsc::unbounded_channel();
    let mut seat = Seat::new(context);
    seat.up(up, start, &report);
    let mut backlog = Backlog::default();
    let mut reached = start;
    while control.row.capture == Capture::Trigger || reached < until {
        let Some(captured) = &mut seat.captured else { break };
        match tokio::time::timeout(IDLE, captured.recv()).await {
            Ok(Some(Captured::Transaction { position, changes, .. })) => {
                let mut changes = changes.into_changes().map_err(RunError::Spill)?;
                changes.by_ref().for_each(|change| backlog.add(change));
                if let Some(error) = changes.failed() {
                    return Err(RunError::Spill(error));
                }
                reached = position;
            }
            Ok(Some(Captured::Passed(position))) => reached = reached.max(position),
            Ok(Some(Captured::Shape { .. })) => {}
            Ok(None) => return Err(RunError::LostWhileRecovering { node: node.name.clone() }),
            Err(_) if control.row.capture == Capture::Trigger && has_been_read(&control, reached).await? => break,
            Err(_) => {}
        }
    }
    Ok(backlog)
}

/// Whether the outbox holds nothing that a read up to `reached` has not seen.
async fn has_been_read(control: &Control, reached: Position) -> Result<bool, ReachError> {
    const QUERY: &str = "
        SELECT coalesce((SELECT pg_catalog.max(position) FROM pgtandem.outbox_read), '0/0'),
               EXISTS (SELECT FROM pgtandem.outbox o
                       WHERE NOT coalesce((SELECT pg_catalog.pg_visible_in_snapshot(o.xid, r.snapshot) AND o.id <= r.drawn
                                           FROM pgtandem.outbox_read r ORDER BY r.position DESC LIMIT 1), false))";
    let row = control.client.query_one(QUERY, &[]).await?;
    let last = Position(row.get::<_, PgLsn>(0).into());
    Ok(!row.get::<_, bool>(1) && (reached >= last || link::read_acknowledged(&control.client).await? >= last))
}

impl Backlog {
    fn add<I>(&mut self, change: Change<I>) {
        match change {
            Change::Row { key, .. } => drop(self.keys.insert(key)),
            Change::KeyChange { from, to, .. } => self.keys.extend([from, to]),
            Change::Truncate { tables } => self.truncated.extend(tables),
        }
    }
}
