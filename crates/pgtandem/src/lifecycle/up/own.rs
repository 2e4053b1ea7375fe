//! Transactions of `up` that write rows.

use crate::lifecycle::error::On;
use crate::lifecycle::{LifecycleError, OpenNode};
use crate::link;

/// Begins one that is marked as ours, so that nothing of it travels back. `settings`: statements for it alone.
pub(in crate::lifecycle) async fn begin(
    node: &OpenNode,
    replica_role: bool,
    settings: &[&str],
    doing: &str,
) -> Result<(), LifecycleError> {
    let role = replica_role.then_some("SET LOCAL session_replication_role = replica");
    let script = ["BEGIN"].into_iter().chain(settings.iter().copied()).chain(role).collect::<Vec<_>>().join("; ");
    let (client, name) = (node.client(), node.name.as_str());
    client.batch_execute(&script).await.on(name, doing)?;
    let epoch = link::read_epoch(client).await.on(name, doing)?.epoch;
    client.execute("SELECT pgtandem.open_delivery($1, 0)", &[&epoch]).await.on(name, doing)?;
    Ok(())
}
