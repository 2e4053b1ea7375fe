//! The session that makes a hub the one hub of a node: it holds the node's lock, listens, and runs errands.

use hub::NodeId;
use tokio::sync::mpsc;
use tokio_postgres::{Client, Notification};

use super::error::ReachError;
use super::settings::SPELLING;
use super::start::node_id;
use crate::config::Node;
use crate::connect::Endpoint;
use crate::link::{self, Installed, NodeRow};

pub struct Control {
    pub id: NodeId,
    pub name: String,
    pub endpoint: Endpoint,
    pub row: NodeRow,
    pub client: Client,
    notifications: Option<mpsc::UnboundedReceiver<Notification>>,
}

impl Control {
    /// # Errors
    /// When the node cannot be reached or is not linked.
    pub async fn open(node: &Node) -> Result<Self, ReachError> {
        let session = node.endpoint.connect("pgtandem hub", &SPELLING).await?;
        let not_linked = || ReachError::NotLinked { node: node.name.clone() };
        if link::is_installed(&session.client).await? != Installed::Yes {
            return Err(not_linked());
        }
        let row = link::read_node(&session.client).await?.ok_or_else(not_linked)?;
        if let Some(other) = row.other_version() {
            let reason = format!("{}; {}", other.what, other.remedy);
            return Err(ReachError::Misfit { node: node.name.clone(), reason });
        }
        if !link::is_where_it_was_linked(&session.client, &row).await? {
            return Err(ReachError::Stranger { node: node.name.clone() });
        }
        if row.name != node.name {
            let reason = format!(
                "this database is linked under the name {0}; write [nodes.{0}] into the configuration",
                row.name
            );
            return Err(ReachError::Misfit { node: node.name.clone(), reason });
        }
        // What a peer is told of this node must be on its disk.
        let listen = format!("SET synchronous_commit = local; LISTEN {}", link::CHANNEL);
        session.client.batch_execute(&listen).await?;
        Ok(Self {
            id: node_id(row.number),
            name: node.name.clone(),
            endpoint: node.endpoint.clone(),
            row,
            client: session.client,
            notifications: Some(session.notifications),
        })
    }

    /// What the session hears; to be taken once.
    pub fn take_notifications(&mut self) -> mpsc::UnboundedReceiver<Notification> {
        // A receiver that is gone already reads as a session that is: its taker starts over.
        self.notifications.take().unwrap_or_else(|| mpsc::unbounded_channel().1)
    }
}
