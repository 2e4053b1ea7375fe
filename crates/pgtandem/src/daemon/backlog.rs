//! What a node has written that not every other one is known to have.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hub::{Change, Key, Position, TableId};
use tokio::sync::mpsc;
use tokio_postgres::types::PgLsn;

use super::conductor::Report;
use super::control::Control;
use super::error::{ReachError, RunError};
use super::reach::{bring_up, open_session, read_slot};
use super::seat::{Feedback, Seat};
use super::start::{context_without_hub, read_landings};
use crate::capture::Captured;
use crate::config::{Capture, Config, Node};
use crate::link::{self, DirtyKey};

/// Keys that were changed, and tables that were emptied.
#[derive(Debug, Default)]
pub struct Backlog {
    pub keys: HashSet<Key>,
    pub truncated: HashSet<TableId>,
}

/// An outbox that has been read up to date says nothing.
const IDLE: Duration = Duration::from_millis(500);
/// So many keys are in memory at once while they are noted.
const PORTION: usize = 50_000;
/// How long a server may take to let go of what was acknowledged.
const LETTING_GO: Duration = Duration::from_secs(30);

/// Reads the node's changes from what is acknowledged up to now, and acknowledges nothing. No hub may be at work.
///
/// # Errors
/// When the node cannot be reached, or does not keep them.
pub async fn read_backlog(config: &Config, node: &Node) -> Result<Backlog, RunError> {
    let control = Control::open(node).await?;
    let mut reader = Reader::open(config, &control).await?;
    while reader.read(usize::MAX).await? {}
    Ok(reader.backlog)
}

/// Notes on `keeper` which keys the node of `control` has changed, up to now, and lets the node forget its changes.
///
/// # Errors
/// As [`read_backlog`].
pub async fn note_changes(config: &Config, control: &Control, keeper: &Control) -> Result<(), RunError> {
    note_changes_after(Position(0), config, control, keeper).await
}

/// As [`note_changes`], but for those up to `known`, which all others have: they are only forgotten.
pub(super) async fn note_changes_after(
    known: Position,
    config: &Config,
    control: &Control,
    keeper: &Control,
) -> Result<(), RunError> {
    let mut reader = Reader::open(config, control).await?;
    reader.known = known;
    while reader.note(keeper, None).await? {}
    Ok(())
}

/// Reads one node's changes without a hub.
pub(super) struct Reader<'c> {
    control: &'c Control,
    seat: Seat,
    reached: Position,
    until: Position,
    /// Changes up to here are nobody's concern.
    known: Position,
    backlog: Backlog,
    _reports: mpsc::UnboundedReceiver<Report>,
}

impl<'c> Reader<'c> {
    pub(super) async fn open(config: &Config, control: &'c Control) -> Result<Self, RunError> {
        let context = Arc::new(context_without_hub(config, control).await?);
        let (start, _) = read_landings(control, &context, config.nodes.len()).await?;
        let session = open_session(&context, "deliver").await?;
        let up = bring_up(&context, session, Position(start.0.saturating_add(1))).await?;
        let until = up.flushed;
        let (report, reports) = mpsc::unbounded_channel();
        let mut seat = Seat::new(context);
        seat.up(up, start, &report);
        let (known, backlog) = (Position(0), Backlog::default());
        Ok(Self { control, seat, reached: start, until, known, backlog, _reports: reports })
    }

    /// Notes on `keeper` which keys have changed, and lets the node forget that much. False: all has been read that was
    /// there at the beginning; or, where there is a `deadline`, whatever was there until then.
    pub(super) async fn note(&mut self, keeper: &Control, deadline: Option<Instant>) -> Result<bool, RunError> {
        let more = match deadline {
            None => self.read(PORTION).await?,
            Some(deadline) => {
                self.until = Position(u64::MAX);
                let read = tokio::time::timeout_at(deadline.into(), self.read(PORTION)).await;
                read.unwrap_or(Ok(false))?
            }
        };
        let keys = std::mem::take(&mut self.backlog).dirty_keys();
        if !keys.is_empty() {
            let number = self.control.row.number;
            link::add_dirty_keys(&keeper.client, number, &keys).await.map_err(ReachError::from)?;
        }
        self.acknowledge().await?;
        Ok(more)
    }

    /// Until about so many keys are there. False: all has been read.
    async fn read(&mut self, count: usize) -> Result<bool, RunError> {
        let is_outbox = self.control.row.capture == Capture::Trigger;
        while self.backlog.keys.len() < count {
            if !is_outbox && self.reached >= self.until {
                return Ok(false);
            }
            let Some(captured) = &mut self.seat.captured else { return Err(self.lost()) };
            match tokio::time::timeout(IDLE, captured.recv()).await {
                Ok(Some(Captured::Transaction { position, changes, .. })) => {
                    let mut changes = changes.into_changes().map_err(RunError::Spill)?;
                    let is_known = position <= self.known;
                    changes.by_ref().filter(|_| !is_known).for_each(|change| self.backlog.add(&change));
                    if let Some(error) = changes.failed() {
                        return Err(RunError::Spill(error));
                    }
                    self.reached = position;
                }
                Ok(Some(Captured::Passed(position))) => self.reached = self.reached.max(position),
                Ok(Some(Captured::Shape { .. })) => {}
                Ok(None) => return Err(self.lost()),
                Err(_) if is_outbox && has_been_read(self.control, self.reached).await? => return Ok(false),
                Err(_) => {}
            }
        }
        Ok(true)
    }

    fn lost(&self) -> RunError {
        RunError::LostWhileRecovering { node: self.control.name.clone() }
    }

    /// Lets the node forget what has been read, and waits until it says that it has.
    async fn acknowledge(&self) -> Result<(), RunError> {
        let began = Instant::now();
        loop {
            self.seat.acknowledge(self.reached, self.reached);
            if let Some(Feedback::Slot(feedback)) = &self.seat.feedback {
                feedback.flush_now();
            }
            let acknowledged = match self.control.row.capture {
                Capture::Wal => read_slot(&self.control.client, &self.seat.context).await?.confirmed,
                Capture::Trigger => link::read_acknowledged(&self.control.client).await.map_err(ReachError::from)?,
            };
            if acknowledged >= self.reached {
                return Ok(());
            }
            if began.elapsed() > LETTING_GO {
                return Err(self.lost());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
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
    pub(super) fn add<I>(&mut self, change: &Change<I>) {
        match change {
            Change::Row { key, .. } => drop(self.keys.insert(key.clone())),
            Change::KeyChange { from, to, .. } => self.keys.extend([from.clone(), to.clone()]),
            Change::Truncate { tables } => self.truncated.extend(tables),
        }
    }

    pub(super) fn dirty_keys(self) -> Vec<DirtyKey> {
        let tables = self.truncated.iter().map(|table| dirty_table(*table));
        self.keys.iter().map(dirty_key).chain(tables).collect()
    }
}

pub(super) fn dirty_key(key: &Key) -> DirtyKey {
    DirtyKey { table_id: table_number(key.table()), key_bytes: key.bytes().to_vec() }
}

pub(super) fn dirty_table(table: TableId) -> DirtyKey {
    DirtyKey { table_id: table_number(table), key_bytes: Vec::new() }
}

fn table_number(table: TableId) -> i32 {
    i32::try_from(table.0).unwrap_or_default()
}
