//! Looking from another session whether a server still answers.

use std::time::Duration;

use super::error::ReachError;
use super::reach::{NodeContext, open_session};
use crate::config::Node;
use crate::connect::ConnectFault;

/// Between two looks at a process that is not at work at the moment.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// Whether the server's process `pid` still works on a delivery of ours, or is at least getting on with it.
pub async fn is_at_work(context: &NodeContext, pid: i32) -> bool {
    let limit = context.silence_timeout + SECOND_LOOK;
    match tokio::time::timeout(limit, look(context, pid)).await {
        Ok(Ok(at_work)) => at_work,
        // A server without a free connection lives.
        Ok(Err(ReachError::Connect(error))) => matches!(error.fault, ConnectFault::TooManyConnections { .. }),
        Ok(Err(_)) | Err(_) => false,
    }
}

async fn look(context: &NodeContext, pid: i32) -> Result<bool, ReachError> {
    const QUERY: &str = "SELECT state = 'active', state_change::text FROM pg_catalog.pg_stat_activity \
        WHERE pid = $1 AND application_name = 'pgtandem deliver'";
    let session = open_session(context, "probe").await?;
    let mut last_change = None;
    loop {
        let Some(row) = session.client.query_opt(QUERY, &[&pid]).await? else { return Ok(false) };
        let (active, change): (Option<bool>, Option<String>) = (row.get(0), row.get(1));
        if active == Some(true) {
            return Ok(true);
        }
        // Between two statements it waits for us for a moment; if it waits on, what we sent never arrived, or its
        // answer never came.
        if last_change.is_some() {
            return Ok(last_change != Some(change));
        }
        last_change = Some(change);
        tokio::time::sleep(SECOND_LOOK).await;
    }
}

/// An answer that does not come in time is an error.
pub async fn answer_of<T>(
    node: &str,
    limit: Duration,
    asked: impl Future<Output = Result<T, ReachError>>,
) -> Result<T, ReachError> {
    let silent = |_| ReachError::Silent { node: node.to_owned(), after: limit };
    tokio::time::timeout(limit, asked).await.map_err(silent)?
}

/// Returns when one of the nodes has stopped to answer.
pub async fn first_silent(nodes: &[Node], after: Duration) -> ReachError {
    loop {
        tokio::time::sleep(after).await;
        for node in nodes {
            let asked = async {
                let session = node.endpoint.connect("pgtandem probe", &[]).await?;
                Ok(session.client.batch_execute("").await?)
            };
            // Of any other error whoever works with the node hears by itself.
            if let Err(error @ ReachError::Silent { .. }) = answer_of(&node.name, after, asked).await {
                return error;
            }
        }
    }
}
