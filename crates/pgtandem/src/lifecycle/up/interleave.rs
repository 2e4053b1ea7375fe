//! Interleaving one column's sequences, on all nodes in one go.

use super::Work;
use crate::lifecycle::error::On;
use crate::lifecycle::interleave::{Interleaving, NodeSequence, SequenceAfter};
use crate::lifecycle::{LifecycleError, locks};
use crate::link::{self, RestoreKind};
use crate::sql;
use futures::future::try_join_all;
use tokio_postgres::Transaction;

const DOING: &str = "interleaving ids";

impl Work<'_> {
    /// `ALTER SEQUENCE` keeps `nextval` waiting until its transaction ends. So all nodes are asked at once, nothing is
    /// done in between but reading where the sequences are, and whoever cannot have the lock soon lets go of all.
    pub(super) async fn interleave(&mut self, interleaving: &Interleaving) -> Result<(), LifecycleError> {
        // Ids that came from elsewhere may be above what the sequences gave. Looked up before anything is locked.
        let mut highest = 0;
        for (node, survey) in self.nodes.iter().zip(&self.surveys) {
            let Some(table) = survey.table(&interleaving.table) else { continue };
            if let Some(column) = table.column(&interleaving.column) {
                let query = sql::highest_value(&table.name, &column.name);
                let row = node.client().query_one(&query, &[]).await.on(&node.name, DOING)?;
                highest = highest.max(row.get::<_, Option<i64>>(0).unwrap_or(0));
            }
        }
        let mut attempts = locks::Attempts::new();
        loop {
            let error = match self.try_interleave(interleaving, highest).await {
                Ok(()) => return Ok(()),
                Err(error) if locks::is_lock_timeout(&error) => error,
                Err(error) => return Err(error),
            };
            if !attempts.again().await {
                let node =
                    self.nodes.iter().find(|node| error.to_string().starts_with(&format!("node {}:", node.name)));
                let entry = interleaving
                    .sequences
                    .iter()
                    .find(|entry| node.is_some_and(|node| node.name == self.nodes[entry.node].name));
                return match (node, entry) {
                    (Some(node), Some(entry)) => Err(locks::busy(node, DOING, &entry.sequence.name).await),
                    _ => Err(error),
                };
            }
        }
    }

    async fn try_interleave(&mut self, interleaving: &Interleaving, highest: i64) -> Result<(), LifecycleError> {
        let names: Vec<String> = self.nodes.iter().map(|node| node.name.clone()).collect();
        let mut open = Vec::new();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if let Some(entry) = interleaving.sequences.iter().find(|entry| entry.node == index) {
                let transaction = node.session.client.transaction().await.on(&names[index], DOING)?;
                open.push((entry, transaction));
            }
        }
        let locked = open.iter().map(|(entry, transaction)| lock(interleaving, entry, transaction, &names[entry.node]));
        let reached = try_join_all(locked).await?.into_iter().max().unwrap_or(0);
        let restarts = interleaving.restarts(highest.max(reached))?;
        let restarted = open.iter().zip(&restarts).map(|((entry, transaction), restart)| {
            restart_at(interleaving, entry, transaction, *restart, &names[entry.node])
        });
        try_join_all(restarted).await?;
        for (entry, transaction) in open {
            transaction.commit().await.on(&names[entry.node], DOING)?;
        }
        Ok(())
    }
}

/// Takes the lock and reads how far the sequence is.
async fn lock(
    interleaving: &Interleaving,
    entry: &NodeSequence,
    transaction: &Transaction<'_>,
    node: &str,
) -> Result<i64, LifecycleError> {
    let sequence = &entry.sequence.name;
    let options = entry.options(interleaving.pattern).unwrap_or_else(|| entry.sequence.options.clone());
    let script = format!("{}; {}", locks::set_lock_timeout(), options.alter(sequence, None));
    transaction.batch_execute(&script).await.on(node, DOING)?;
    let row = transaction.query_one(&sql::sequence_state(sequence), &[]).await.on(node, DOING)?;
    Ok(row.get(0))
}

async fn restart_at(
    interleaving: &Interleaving,
    entry: &NodeSequence,
    transaction: &Transaction<'_>,
    restart: i64,
    node: &str,
) -> Result<(), LifecycleError> {
    let sequence = &entry.sequence.name;
    let options = entry.options(interleaving.pattern).unwrap_or_else(|| entry.sequence.options.clone());
    transaction.batch_execute(&options.alter(sequence, Some(restart))).await.on(node, DOING)?;
    let before = serde_json::to_value(&entry.original).unwrap_or_default();
    let after = SequenceAfter { options, pattern: interleaving.pattern, restart };
    let after = serde_json::to_value(after).unwrap_or_default();
    link::save_restore(transaction, RestoreKind::Sequence, &sequence.to_string(), &before, Some(&after))
        .await
        .on(node, DOING)
}
