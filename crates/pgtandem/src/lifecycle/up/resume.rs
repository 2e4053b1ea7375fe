//! What an interrupted `up` has done of a table's copying.

use super::Work;
use crate::config::Capture;
use crate::lifecycle::LifecycleError;
use crate::lifecycle::error::On;
use crate::link::{self, RestoreKind};
use serde::{Deserialize, Serialize};
use tokio_postgres::types::PgLsn;
use uuid::Uuid;

/// Written on the target, in one transaction with the rows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Copied {
    /// Incarnation of the node they came from.
    pub source: Uuid,
    pub rows: u64,
}

#[derive(Debug, Default)]
pub(super) struct Resumed {
    /// The node that others have been copied from; no other one will do now.
    pub source: Option<usize>,
    /// The nodes that have the rows.
    pub targets: Vec<usize>,
}

impl Work<'_> {
    pub(super) async fn resume(&self, id: i32) -> Result<Resumed, LifecycleError> {
        const DOING: &str = "looking what has been copied";
        let mut resumed = Resumed::default();
        for (index, node) in self.nodes.iter().enumerate() {
            let saved =
                link::read_restore(node.client(), RestoreKind::Copy, &id.to_string()).await.on(&node.name, DOING)?;
            let Some(copied) = saved.and_then(|saved| serde_json::from_value::<Copied>(saved.before).ok()) else {
                continue;
            };
            let source = self.plan.identities.iter().position(|identity| identity.incarnation == copied.source);
            resumed.targets.push(index);
            resumed.source = resumed.source.or(source);
        }
        if let Some(source) = resumed.source {
            self.require_kept(source, id).await?;
        }
        Ok(resumed)
    }

    /// The changes the source made since its rows were read must still be there to be read.
    async fn require_kept(&self, source: usize, id: i32) -> Result<(), LifecycleError> {
        let start = self.start_position(source, id).await?;
        let node = &self.nodes[source];
        let confirmed = match self.plan.captures[source] {
            Capture::Wal => self.surveys[source].slot.as_ref().and_then(|slot| slot.confirmed_flush),
            Capture::Trigger => {
                let acknowledged = link::read_acknowledged(node.client()).await;
                Some(PgLsn::from(acknowledged.on(&node.name, "looking what the outbox keeps")?.0))
            }
        };
        match confirmed {
            Some(confirmed) if confirmed <= start => Ok(()),
            _ => Err(LifecycleError::refused(
                format!(
                    "node {}: an interrupted `up` copied rows as of {start}, but changes made since are gone",
                    node.name
                ),
                "empty the table where it was copied to (TRUNCATE), run `pgtandem down`, then `pgtandem up` again",
            )),
        }
    }
}
