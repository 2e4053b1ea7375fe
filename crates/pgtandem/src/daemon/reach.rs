//! Reaching a node: who it must be, the session that delivers to it, the stream that reads it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use hub::{NodeId, Position, TableId};
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;
use uuid::Uuid;

use super::error::ReachError;
use super::in_one_go;
use super::settings::{DELIVERY, SPELLING};
use super::tables::read_target_tables;
use crate::capture::trigger::{READING, ReachPeer};
use crate::capture::wal::WalSource;
use crate::capture::{CapturedTables, Shapes};
use crate::config::Capture;
use crate::connect::{Endpoint, Host, Retry, Session};
use crate::deliver::{Experience, Landing, LandingId, Patience, Target, TargetRole};
use crate::link;
use crate::sql::Naming;

/// Between attempts to come back to a node, doubled each time.
pub const SHORTEST_RECONNECT: Duration = Duration::from_millis(50);
pub const LONGEST_RECONNECT: Duration = Duration::from_secs(2);
/// What bringing a node up may take beside waiting for its answers: it may end backends of an earlier hub.
const BRING_UP: Duration = Duration::from_secs(10);

/// What does not change while a hub works.
pub struct NodeContext {
    pub id: NodeId,
    pub name: String,
    pub endpoint: Endpoint,
    pub incarnation: Uuid,
    pub system_identifier: String,
    pub capture: Capture,
    pub slot: String,
    pub secret: Uuid,
    pub epoch: i64,
    pub captured: Arc<CapturedTables>,
    pub linked: Arc<Vec<(TableId, Naming)>>,
    pub shapes: Shapes,
    /// Outlives the sessions that gained it.
    pub experience: Arc<Mutex<Experience>>,
    /// The largest position of the node that anything says: an outbox goes on above it after a crash.
    pub known: AtomicU64,
    /// What its peers may know of it: see `pgtandem.pulse`.
    pub beat: AtomicI64,
    /// Changes that it has kept for long may be read in one go.
    pub in_one_go: bool,
    /// Of two nodes that deliver directly, the other one.
    pub peer: OnceLock<Weak<NodeContext>>,
    pub status_interval: Duration,
    pub silence_timeout: Duration,
}

impl NodeContext {
    /// A key's values for a person.
    #[must_use]
    pub fn key_text(&self, key: &hub::Key) -> String {
        let parts =
            crate::capture::key::raw_parts(key.bytes()).map(|part| String::from_utf8_lossy(&part[4..]).into_owned());
        parts.collect::<Vec<_>>().join(", ")
    }

    /// A linked table's name for a person.
    #[must_use]
    pub fn table_name(&self, id: TableId) -> String {
        let found = self.linked.iter().find(|(table, _)| *table == id);
        found.map_or_else(|| format!("table {}", id.0), |(_, naming)| naming.table.plain())
    }
}

/// A node that is reached: everything the conductor needs of it.
pub struct NodeUp {
    pub target: Target,
    pub source: NodeSource,
    pub last_landing: Option<LandingId>,
    /// How far the node's own WAL went when it was reached.
    pub flushed: Position,
}

/// Where a node's changes are read from.
pub enum NodeSource {
    Wal(WalSource, wire::Feedback),
    Outbox(Client),
}

/// Opens a session with the settings every part of the hub needs.
///
/// # Errors
/// When the node cannot be reached or is not who it was.
pub async fn open_session(context: &NodeContext, purpose: &str) -> Result<Session, ReachError> {
    let session = context.endpoint.connect(&format!("pgtandem {purpose}"), &SPELLING).await?;
    let found = link::read_node(&session.client).await?;
    let known = found
        .filter(|node| node.incarnation == context.incarnation && node.system_identifier == context.system_identifier);
    match known {
        Some(node) if link::is_where_it_was_linked(&session.client, &node).await? => Ok(session),
        _ => Err(ReachError::Stranger { node: context.name.clone() }),
    }
}

/// How the capture of a node reaches the other one.
pub fn reaching_peer(context: &NodeContext) -> ReachPeer {
    let peer = context.peer.get().cloned();
    Box::new(move || {
        let peer = peer.as_ref().and_then(Weak::upgrade);
        Box::pin(async move {
            let peer = peer?;
            let opened = tokio::time::timeout(peer.silence_timeout, open_session(&peer, "receipts")).await;
            opened.ok()?.ok().map(|session| session.client)
        })
    })
}

/// Turns a session into a target.
///
/// # Errors
/// When the connection is lost or the role may not do what deliveries need.
pub async fn open_target(context: &NodeContext, client: Client) -> Result<Target, ReachError> {
    for (name, value) in DELIVERY {
        client.execute("SELECT pg_catalog.set_config($1, $2, false)", &[&name, &value]).await?;
    }
    let row = client
        .query_one(
            "SELECT setting::int, pg_catalog.pg_backend_pid() FROM pg_catalog.pg_settings \
             WHERE name = 'deadlock_timeout'",
            &[],
        )
        .await?;
    let (deadlock_timeout, pid): (i32, i32) = (row.get(0), row.get(1));
    let patience = Patience::below(Duration::from_millis(u64::from(deadlock_timeout.unsigned_abs())));
    let is_replica = become_replica(&client).await?;
    let namings: Vec<_> = context.linked.iter().cloned().collect();
    let tables = read_target_tables(&client, &namings, is_replica).await?;
    let shapes = context.shapes.clone();
    let experience = Arc::clone(&context.experience);
    let role = TargetRole { epoch: context.epoch, capture: context.capture, pid, patience, experience, is_replica };
    Ok(Target::new(context.id, context.name.clone(), client, tables, shapes, role).await?)
}

/// Keeps the application's triggers and foreign-key triggers from firing for delivered rows, where the role may;
/// says whether it may.
async fn become_replica(client: &Client) -> Result<bool, ReachError> {
    match client.batch_execute("SET session_replication_role = replica").await {
        Ok(()) => Ok(true),
        Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens the replication connection, ending a walsender that a hub before us left behind.
///
/// # Errors
/// When the slot is gone or invalid, or the node cannot be reached.
async fn open_wal(
    context: &NodeContext,
    session: &Client,
    host: &Host,
    from: Position,
    flushed: Position,
) -> Result<NodeSource, ReachError> {
    let slot = read_slot(session, context).await?;
    if let Some(pid) = slot.active_pid {
        let ended = session.query_one("SELECT pg_catalog.pg_terminate_backend($1, 5000)", &[&pid]).await?;
        if !ended.get::<_, bool>(0) {
            return Err(ReachError::OldBackend { node: context.name.clone() });
        }
    }
    let mut options = context.endpoint.replication_options(host, "pgtandem capture", &SPELLING)?;
    options.status_interval = context.status_interval;
    options.silence_timeout = Some(context.silence_timeout);
    // What wal_sender_timeout does while it streams.
    let alive = [("tcp_keepalives_idle", "30"), ("tcp_keepalives_interval", "10"), ("tcp_keepalives_count", "3")];
    options.settings.extend(alive.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let mut client = context.endpoint.connect_replication(host, &options).await?;
    let mut pgoutput = wire::PgOutputOptions::new([link::PUBLICATION]);
    pgoutput.messages = true;
    if in_one_go::is_worth_it(context, session, &slot, from, flushed).await? {
        let copy = format!("{}{}", link::BACKLOG_SLOT, client.process_id());
        let opened = client.read_missed(&context.slot, &copy, &pgoutput).await;
        client = match opened.inspect_err(|_| in_one_go::has_failed(&context.slot))? {
            Ok(backlog) => {
                let feedback = backlog.feedback();
                let missed = flushed.0.saturating_sub(slot.confirmed.0) >> 20;
                tracing::info!(node = %context.name, "catching up: {missed} MiB of its WAL in one go");
                return Ok(NodeSource::Wal(WalSource::Backlog(Box::new(backlog)), feedback));
            }
            // No free place for a slot, or a server that does not let us: streaming does as well.
            Err((client, error)) => {
                tracing::debug!(node = %context.name, "what was missed cannot be read in one go: {error}");
                client
            }
        };
    }
    let (stream, feedback) = client.start(&context.slot, wire::Lsn(from.0), &pgoutput).await?;
    Ok(NodeSource::Wal(WalSource::Stream(Box::new(stream)), feedback))
}

/// What a slot's server says of it.
pub struct Slot {
    pub confirmed: Position,
    pub active_pid: Option<i32>,
}

/// # Errors
/// When the slot is gone or its WAL was removed: nothing may go on as if nothing were missing.
pub async fn read_slot(client: &Client, context: &NodeContext) -> Result<Slot, ReachError> {
    const QUERY: &str = "SELECT confirmed_flush_lsn, active_pid, wal_status \
        FROM pg_catalog.pg_replication_slots \
        WHERE slot_name = $1 AND database = pg_catalog.current_database() AND plugin = 'pgoutput'";
    let gone = || ReachError::SlotGone { node: context.name.clone(), slot: context.slot.clone() };
    let row = client.query_opt(QUERY, &[&context.slot]).await?.ok_or_else(gone)?;
    if row.get::<_, Option<&str>>(2) == Some("lost") {
        return Err(gone());
    }
    let confirmed: Option<PgLsn> = row.get(0);
    Ok(Slot { confirmed: Position(confirmed.map_or(0, u64::from)), active_pid: row.get(1) })
}

/// Comes back to a node that was lost, however long it takes, and finds out what became of the delivery that was in
/// flight. `pause` comes before the first attempt.
///
/// # Errors
/// When waiting cannot help.
pub async fn bring_up_again(
    context: Arc<NodeContext>,
    flying: Option<LandingId>,
    mut pause: Duration,
) -> Result<(NodeUp, Option<Result<Landing, ()>>), ReachError> {
    let mut last_said = String::new();
    tokio::time::sleep(pause).await;
    pause = pause.max(SHORTEST_RECONNECT);
    loop {
        // A server that takes connections and then says nothing must not keep us from trying another way.
        let limit = context.silence_timeout + BRING_UP;
        let error = match tokio::time::timeout(limit, try_bring_up(&context, flying)).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => error,
            Err(_) => ReachError::Silent { node: context.name.clone(), after: limit },
        };
        let text = error.to_string();
        if text != last_said {
            tracing::warn!(node = %context.name, "cannot be reached: {text}");
            last_said = text;
            // Something happens over there: it starts, for instance.
            pause = SHORTEST_RECONNECT;
        }
        match error.retry() {
            // The whole hub starts over, and waits for the locks.
            _ if matches!(error, ReachError::Deposed { .. }) => return Err(error),
            Retry::Soon => {}
            Retry::AfterPerson => pause = pause.max(Duration::from_secs(1)),
            Retry::Never => return Err(error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_RECONNECT);
    }
}

async fn try_bring_up(
    context: &NodeContext,
    flying: Option<LandingId>,
) -> Result<(NodeUp, Option<Result<Landing, ()>>), ReachError> {
    let session = open_session(context, "deliver").await?;
    // Before anything is ended: under another epoch the sessions found here are another hub's.
    let epoch = link::read_epoch(&session.client).await?;
    if epoch.epoch != context.epoch {
        return Err(ReachError::Deposed { holder: epoch.holder.unwrap_or_default() });
    }
    let sight = link::read_sight(&session.client).await?;
    if sight.beat(sight.number) < context.beat.load(Ordering::Relaxed) {
        return Err(ReachError::SetBack { node: context.name.clone() });
    }
    end_old_backends(&context.name, &session.client).await?;
    let outcome = match flying {
        None => None,
        Some(id) => Some(match Target::find_landing(&session.client, id).await? {
            Some(position) => {
                let held = held_since(&session.client).await?;
                let durable = match context.capture {
                    Capture::Wal => written_up_to(&session.client).await?,
                    Capture::Trigger => position,
                };
                Ok(Landing { position, durable, before: position, missed: Vec::new(), held })
            }
            None => Err(()),
        }),
    };
    Ok((bring_up(context, session, Position(0)).await?, outcome))
}

/// How far the node's WAL goes, be it on disk or not: behind every commit that can be seen.
pub(super) async fn written_up_to(client: &Client) -> Result<Position, tokio_postgres::Error> {
    let row = client.query_one("SELECT pg_catalog.pg_current_wal_insert_lsn()", &[]).await?;
    Ok(Position(row.get::<_, PgLsn>(0).into()))
}

/// A backend whose client is gone may still be about to commit: it must have ended before its landing is looked for.
pub async fn end_old_backends(node: &str, client: &Client) -> Result<(), ReachError> {
    const QUERY: &str = "SELECT pg_catalog.pg_terminate_backend(pid, 5000) FROM pg_catalog.pg_stat_activity \
        WHERE pid <> pg_catalog.pg_backend_pid() AND datname = pg_catalog.current_database() \
          AND usename = current_user AND application_name IN ('pgtandem deliver', 'pgtandem capture')";
    for row in client.query(QUERY, &[]).await? {
        if !row.get::<_, bool>(0) {
            return Err(ReachError::OldBackend { node: node.to_owned() });
        }
    }
    Ok(())
}

/// Keys that the target holds: those of a delivery whose answer was lost are among them.
async fn held_since(client: &Client) -> Result<Vec<crate::deliver::Held>, ReachError> {
    let held = link::list_held(client).await?.into_iter().map(|held| crate::deliver::Held {
        key: hub::Key::new(TableId(held.table_id.unsigned_abs()), held.key_bytes),
        reason: held.reason,
        sqlstate: held.sqlstate,
    });
    Ok(held.collect())
}

/// Makes a reached node ready: its target, its stream from `from` (or what the slot has confirmed, if later).
///
/// # Errors
/// When the node is lost again or something a person must mend is in the way.
pub async fn bring_up(context: &NodeContext, session: Session, from: Position) -> Result<NodeUp, ReachError> {
    let row = session
        .client
        .query_one(
            "SELECT pg_catalog.pg_current_wal_flush_lsn(), (SELECT pg_catalog.max(id) FROM pgtandem.landing)",
            &[],
        )
        .await?;
    let flushed: PgLsn = row.get(0);
    let last_landing = row.get::<_, Option<i64>>(1).map(LandingId);
    let (source, flushed) = match context.capture {
        Capture::Wal => {
            let flushed = Position(u64::from(flushed).saturating_sub(1));
            (open_wal(context, &session.client, &session.host, from, flushed).await?, flushed)
        }
        Capture::Trigger => open_outbox(context, &session.client).await?,
    };
    let target = open_target(context, session.client).await?;
    Ok(NodeUp { target, source, last_landing, flushed })
}

/// A session that reads the outbox, and the position of all that is there now.
async fn open_outbox(context: &NodeContext, session: &Client) -> Result<(NodeSource, Position), ReachError> {
    link::go_on_above(session, Position(context.known.load(Ordering::Relaxed))).await?;
    let reader = open_session(context, "capture").await?;
    for (name, value) in READING {
        reader.client.execute("SELECT pg_catalog.set_config($1, $2, false)", &[&name, &value]).await?;
    }
    let (position, _) = link::record_read(&reader.client).await?;
    Ok((NodeSource::Outbox(reader.client), position))
}
