//! What makes a node's changes readable: replica identities, publication, slot.

use super::Work;
use crate::catalog::ReplicaIdentity;
use crate::lifecycle::error::On;
use crate::lifecycle::{LifecycleError, locks, restore};
use crate::link::{self, RestoreKind};
use crate::sql::{self, Ident, QualifiedName};

impl Work<'_> {
    /// Saved first: between the two a kill leaves a record of something that did not happen, which does no harm.
    pub(super) async fn set_replica_identity(
        &mut self,
        node: usize,
        table: &QualifiedName,
        from: &ReplicaIdentity,
        to: &ReplicaIdentity,
    ) -> Result<(), LifecycleError> {
        const DOING: &str = "setting a replica identity";
        let survey = &self.surveys[node];
        let owner = survey.tables.iter().find_map(|root| {
            let leaf = root.leaves.iter().find(|leaf| leaf.name == *table)?;
            Some((&root.name, leaf.relid))
        });
        let node = &self.nodes[node];
        if let Some((root, relid)) = owner {
            let before = restore::identity_before(root, relid, from);
            let after = serde_json::json!(to.sql());
            let object = table.to_string();
            link::save_restore(node.client(), RestoreKind::ReplicaIdentity, &object, &before, Some(&after))
                .await
                .on(&node.name, DOING)?;
        }
        let statement = sql::alter_replica_identity(table, &to.sql());
        locks::in_short_transaction(node, DOING, table, &[statement]).await
    }

    pub(super) async fn publish(
        &mut self,
        node: usize,
        create: bool,
        generated: bool,
        tables: &[QualifiedName],
    ) -> Result<(), LifecycleError> {
        const DOING: &str = "publishing tables";
        let publication = Ident::new(link::PUBLICATION);
        let node = &self.nodes[node];
        if create {
            // Of no table yet: each is added by itself, so that no lock is waited for while another is held.
            let statement = sql::create_publication(&publication, [], generated);
            node.client().batch_execute(&statement).await.on(&node.name, DOING)?;
        }
        for table in tables {
            let statement = sql::add_to_publication(&publication, [table]);
            locks::in_short_transaction(node, DOING, table, &[statement]).await?;
        }
        Ok(())
    }

    /// Waits until every transaction that is open now has ended.
    pub(super) async fn create_slot(&mut self, node: usize) -> Result<(), LifecycleError> {
        let slot = self.plan.identities[node].slot();
        let node = &self.nodes[node];
        node.client()
            .execute("SELECT FROM pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput')", &[&slot])
            .await
            .on(&node.name, "making the replication slot")?;
        Ok(())
    }
}
