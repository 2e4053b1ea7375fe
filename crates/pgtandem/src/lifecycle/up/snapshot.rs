//! What a node held at a known position.

use crate::config::Capture;
use crate::connect::Endpoint;
use crate::lifecycle::error::On;
use crate::lifecycle::{LifecycleError, OpenNode};
use crate::sql::Literal;
use std::cell::RefCell;
use std::time::SystemTime;
use tokio_postgres::types::PgLsn;
use uuid::Uuid;
use wire::ReplicationClient;

/// Shows every transaction that committed before `position`, and none that committed later.
///
/// With WAL capture it comes from a temporary slot, whose making exports it; with trigger capture from a session that
/// marks it as a read of the outbox. Either connection has to stay open, and idle.
pub(in crate::lifecycle) struct Snapshot {
    pub position: PgLsn,
    /// The node's clock just before: nothing the snapshot shows is younger by that clock.
    pub taken_at: SystemTime,
    name: String,
    node: Opening,
    /// Sessions that see it and have nothing to do.
    spare: RefCell<Vec<OpenNode>>,
    _keeps_it: Keeper,
}

/// What it takes to open a session.
struct Opening {
    name: String,
    endpoint: Endpoint,
}

impl Opening {
    fn of(node: &OpenNode) -> Self {
        Self { name: node.name.clone(), endpoint: node.endpoint.clone() }
    }
}

/// The snapshot goes with it.
#[expect(dead_code, reason = "held, not used")]
enum Keeper {
    Slot(Box<ReplicationClient>),
    Session(Box<OpenNode>),
}

const DOING: &str = "taking a snapshot";

impl Snapshot {
    pub async fn take(node: &OpenNode, capture: Capture) -> Result<Self, LifecycleError> {
        match capture {
            Capture::Wal => Self::take_by_slot(node).await,
            Capture::Trigger => Self::take_by_mark(node).await,
        }
    }

    /// Whoever wrote to a linked table before its triggers were there had ended when they were made: they wait for the
    /// lock. No hub is at work, so nobody else takes positions.
    async fn take_by_mark(node: &OpenNode) -> Result<Self, LifecycleError> {
        const TAKE: &str = "SELECT pg_catalog.clock_timestamp(), pg_catalog.pg_export_snapshot(), \
            pg_catalog.pg_current_snapshot()::text";
        const RECORD: &str = "INSERT INTO pgtandem.outbox_read (position, snapshot, drawn) \
            SELECT m.at, $1::text::pg_snapshot, m.drawn FROM pgtandem.begin_read() AS m RETURNING position";
        let keeper = node.another().await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ";
        keeper.client().batch_execute(begin).await.on(&node.name, DOING)?;
        let taken = keeper.client().query_one(TAKE, &[]).await.on(&node.name, DOING)?;
        let snapshot: String = taken.get(2);
        let position: PgLsn = node.client().query_one(RECORD, &[&snapshot]).await.on(&node.name, DOING)?.get(0);
        Ok(Self {
            position: PgLsn::from(u64::from(position) + 1),
            taken_at: taken.get(0),
            name: taken.get(1),
            node: Opening::of(node),
            spare: RefCell::default(),
            _keeps_it: Keeper::Session(Box::new(keeper)),
        })
    }

    /// Waits until every transaction that is open now has ended.
    async fn take_by_slot(node: &OpenNode) -> Result<Self, LifecycleError> {
        let taken_at =
            node.client().query_one("SELECT pg_catalog.clock_timestamp()", &[]).await.on(&node.name, DOING)?;
        let host = &node.session.host;
        let options = node
            .endpoint
            .replication_options(host, "pgtandem up", &[])
            .map_err(|error| LifecycleError::connect(&node.name, error))?;
        let mut connection = node
            .endpoint
            .connect_replication(host, &options)
            .await
            .map_err(|error| LifecycleError::connect(&node.name, error))?;
        let slot = format!("pgtandem_up_{}", Uuid::new_v4().simple());
        let failed = |error| LifecycleError::replication(&node.name, DOING, error);
        let created = connection.create_slot(&slot, true, true).await.map_err(failed)?;
        let name = created.snapshot.ok_or_else(|| {
            LifecycleError::refused(
                format!("node {}: the server made a slot but exported no snapshot", node.name),
                "connect to the server itself, not through a pooler",
            )
        })?;
        Ok(Self {
            position: PgLsn::from(created.consistent_point.0),
            taken_at: taken_at.get(0),
            name,
            node: Opening::of(node),
            spare: RefCell::default(),
            _keeps_it: Keeper::Slot(Box::new(connection)),
        })
    }

    /// A session that sees the snapshot, in a read-only transaction that ends with it.
    pub async fn session(&self) -> Result<OpenNode, LifecycleError> {
        if let Some(session) = self.spare.borrow_mut().pop() {
            return Ok(session);
        }
        let session = OpenNode::open_at(&self.node.name, &self.node.endpoint).await?;
        let script = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            Literal(&self.name)
        );
        session.client().batch_execute(&script).await.on(&self.node.name, "entering a snapshot")?;
        Ok(session)
    }

    /// For whoever needs one next: each costs its server some milliseconds.
    pub fn give_back(&self, session: OpenNode) {
        self.spare.borrow_mut().push(session);
    }
}
