//! What a node held at a known position.

use crate::lifecycle::error::On;
use crate::lifecycle::{LifecycleError, OpenNode};
use crate::sql::Literal;
use std::time::SystemTime;
use tokio_postgres::types::PgLsn;
use uuid::Uuid;
use wire::ReplicationClient;

/// Shows every transaction that committed before `position`, and none that committed later.
///
/// It comes from a temporary slot, whose making exports it; that connection has to stay open, and idle.
pub(in crate::lifecycle) struct Snapshot {
    pub position: PgLsn,
    /// The node's clock just before: nothing the snapshot shows is younger by that clock.
    pub taken_at: SystemTime,
    name: String,
    node: OpenNode,
    _keeps_it: ReplicationClient,
}

impl Snapshot {
    /// Waits until every transaction that is open now has ended.
    pub async fn take(node: &OpenNode) -> Result<Self, LifecycleError> {
        const DOING: &str = "taking a snapshot";
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
            node: node.another().await?,
            _keeps_it: connection,
        })
    }

    /// A session that sees the snapshot, in a read-only transaction that ends with it.
    pub async fn session(&self) -> Result<OpenNode, LifecycleError> {
        let session = self.node.another().await?;
        let script = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            Literal(&self.name)
        );
        session.client().batch_execute(&script).await.on(&self.node.name, "entering a snapshot")?;
        Ok(session)
    }
}
