//! What a hub does for nodes that deliver directly, beside delivering what they did not.

use std::time::Duration;

use super::error::ReachError;
use super::probe::answer_of;
use super::settings::SPELLING;
use crate::config::Node;
use crate::direct::{Settled, settle_receipts};

/// A row that an application holds is left for another time.
const PATIENCE: (&str, &str) = ("lock_timeout", "500ms");

/// Between two looks at the receipts.
pub const PAUSE: Duration = Duration::from_secs(2);

/// Settles what direct deliveries have left on the two nodes, and lets them deliver again if they can.
///
/// # Errors
/// When a node cannot be reached, or is lost.
pub async fn settle(nodes: &[Node], patience: Duration) -> Result<Settled, ReachError> {
    let node = nodes.first().map(|node| node.name.clone()).unwrap_or_default();
    answer_of(&node, patience, settle_now(nodes)).await
}

async fn settle_now(nodes: &[Node]) -> Result<Settled, ReachError> {
    let [first, second] = nodes else { return Ok(Settled::default()) };
    let mut settings: Vec<(&str, &str)> = SPELLING.iter().copied().filter(|(name, _)| *name != PATIENCE.0).collect();
    settings.push(PATIENCE);
    let mut one = first.endpoint.connect("pgtandem receipts", &settings).await?;
    let mut other = second.endpoint.connect("pgtandem receipts", &settings).await?;
    for session in [&one, &other] {
        // As for deliveries: triggers and foreign keys do not act, where we may say so.
        drop(session.client.batch_execute("SET session_replication_role = replica").await);
        session.client.execute("SELECT pgtandem.try_peer()", &[]).await?;
    }
    let there = settle_receipts(&one.client, &mut other.client).await?;
    let back = settle_receipts(&other.client, &mut one.client).await?;
    let settled = Settled {
        forgotten: there.forgotten + back.forgotten,
        reverted: there.reverted + back.reverted,
        left: there.left + back.left,
    };
    if settled.reverted + settled.left > 0 {
        let Settled { reverted, left, .. } = settled;
        tracing::warn!(
            "transactions failed after their peer had committed: {reverted} rows were put back, {left} were left as they \
             are; `pgtandem conflicts` shows them, and why"
        );
    }
    Ok(settled)
}
