//! Steps that write only to our own schema.

use super::Work;
use crate::catalog::read_fingerprint;
use crate::config::{Capture, Table};
use crate::lifecycle::error::On;
use crate::lifecycle::{Identity, LifecycleError, OpenNode};
use crate::link::{self, LinkedTable, NewNode, Peer, RestoreKind, TableState};
use crate::sql::Naming;
use tokio_postgres::types::PgLsn;
use uuid::Uuid;

impl Work<'_> {
    /// On several nodes at the same time: none needs anything of another.
    pub(super) async fn install_all(&mut self, wanted: &[(usize, Capture)]) -> Result<(), LifecycleError> {
        let peers: Vec<_> = self.plan.identities.iter().map(Identity::peer).collect();
        let (identities, slot_count) = (&self.plan.identities, self.plan.slot_count);
        let installs = self.nodes.iter_mut().enumerate().filter_map(|(at, node)| {
            let capture = wanted.iter().find(|(wanted, _)| *wanted == at)?.1;
            Some(install(node, new_node(&identities[at], slot_count), capture, &peers))
        });
        futures::future::try_join_all(installs).await.map(drop)
    }

    pub(super) async fn add_peer(&mut self, node: usize, peer: usize) -> Result<(), LifecycleError> {
        let peer = self.plan.identities[peer].peer();
        let node = &self.nodes[node];
        link::insert_peer(node.client(), &peer).await.on(&node.name, "adding a node")
    }

    pub(super) async fn set_slot_count(&mut self, node: usize) -> Result<(), LifecycleError> {
        let node = &self.nodes[node];
        link::set_slot_count(node.client(), self.plan.slot_count).await.on(&node.name, "setting the number of id slots")
    }

    pub(super) async fn register(
        &mut self,
        node: usize,
        id: i32,
        (table, naming): (&Table, &Naming),
        columns: &[String],
    ) -> Result<(), LifecycleError> {
        let relid = self.surveys[node].table(&table.name).map(|shape| shape.relid).unwrap_or_default();
        let linked = LinkedTable {
            id,
            name: naming.table.clone(),
            naming: naming.clone(),
            relid,
            resolve: table.resolve.to_string(),
            ids: table.ids,
            columns: columns.to_vec(),
            start_position: PgLsn::from(0),
            state: TableState::Linking,
            linked_at: None,
            paused_by: None,
            pause_reason: None,
        };
        let node = &self.nodes[node];
        link::insert_linked_table(node.client(), &linked).await.on(&node.name, "listing a table")
    }

    pub(super) async fn set_policy(&mut self, node: usize, id: i32, table: &Table) -> Result<(), LifecycleError> {
        let node = &self.nodes[node];
        let resolve = table.resolve.to_string();
        link::set_policy(node.client(), id, &resolve, table.ids).await.on(&node.name, "changing a table's policy")
    }
}

fn new_node(identity: &Identity, slot_count: i16) -> NewNode {
    NewNode {
        number: identity.number,
        incarnation: identity.incarnation,
        slot: identity.slot(),
        publication: link::PUBLICATION.to_owned(),
        secret: Uuid::new_v4(),
        slot_count,
        name: identity.name.clone(),
    }
}

/// In one transaction with the fingerprint of how the catalog was before, so there is never one without the other.
async fn install(node: &mut OpenNode, new: NewNode, capture: Capture, peers: &[Peer]) -> Result<(), LifecycleError> {
    let work = async {
        let transaction = node.session.client.transaction().await?;
        let before = serde_json::to_value(read_fingerprint(&transaction).await?).unwrap_or_default();
        link::install(&transaction, &new).await?;
        if capture == Capture::Trigger {
            link::install_outbox(&transaction).await?;
        }
        for peer in peers {
            link::insert_peer(&transaction, peer).await?;
        }
        link::save_restore(&transaction, RestoreKind::Catalog, "database", &before, None).await?;
        transaction.commit().await
    };
    work.await.on(&new.name, "making the schema pgtandem")
}
