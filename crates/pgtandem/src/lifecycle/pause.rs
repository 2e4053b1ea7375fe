//! `pause` and `resume`: what a person decides about a table's deliveries, written on every node.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::link::{self, Installed, LinkedTable, PausedBy};
use crate::observe::{Away, Observer};
use crate::sql::QualifiedName;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Pause,
    Resume,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Pausing {
    pub tables: BTreeMap<QualifiedName, Stand>,
    /// Nodes that could not be told, and why.
    pub away: Vec<(String, Away)>,
}

/// How a table stands now. In the order of what a person should hear if the nodes do not agree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stand {
    WasLive,
    WasPaused,
    Resumed,
    Paused,
    /// Not paused by a person, but by the hub.
    Drifted {
        reason: String,
    },
}

impl Stand {
    /// This command made it so.
    #[must_use]
    pub fn is_new(&self) -> bool {
        matches!(self, Self::Paused | Self::Resumed)
    }
}

/// Pauses or resumes one table or all, on all nodes that can be reached, and tells the hub.
///
/// A hub pauses a table that any node says is paused, so that a node that was away does not undo it.
pub async fn turn(config: &Config, observer: &mut Observer<'_>, turn: Turn, only: Option<&QualifiedName>) -> Pausing {
    let mut pausing = Pausing::default();
    for (node, session) in config.nodes.iter().zip(observer.sessions().await) {
        let turned = match session {
            Ok(session) => turn_on(&session.client, turn, only).await.map_err(|error| Away::of_sql(&error)),
            Err(away) => Err(away),
        };
        match turned {
            Err(away) => pausing.away.push((node.name.clone(), away)),
            Ok(stands) => {
                for (table, stand) in stands {
                    let known = pausing.tables.entry(table).or_insert_with(|| stand.clone());
                    *known = stand.max(known.clone());
                }
            }
        }
    }
    pausing
}

async fn turn_on(
    client: &tokio_postgres::Client,
    turn: Turn,
    only: Option<&QualifiedName>,
) -> Result<Vec<(QualifiedName, Stand)>, tokio_postgres::Error> {
    if link::is_installed(client).await? != Installed::Yes {
        return Ok(Vec::new());
    }
    let mut stands = Vec::new();
    for table in link::read_linked_tables(client).await? {
        if only.is_some_and(|only| *only != table.name) {
            continue;
        }
        let stand = turn_table(client, turn, &table).await?;
        stands.push((table.name, stand));
    }
    link::notify_changed(client).await?;
    Ok(stands)
}

async fn turn_table(
    client: &tokio_postgres::Client,
    turn: Turn,
    table: &LinkedTable,
) -> Result<Stand, tokio_postgres::Error> {
    const REASON: &str = "by `pgtandem pause`";
    Ok(match (turn, table.paused_by) {
        (Turn::Pause, Some(PausedBy::User)) => Stand::WasPaused,
        (Turn::Pause, _) => {
            link::set_paused(client, table.id, Some((PausedBy::User, REASON))).await?;
            Stand::Paused
        }
        (Turn::Resume, Some(PausedBy::User)) => {
            link::set_paused(client, table.id, None).await?;
            Stand::Resumed
        }
        (Turn::Resume, Some(PausedBy::Drift)) => {
            Stand::Drifted { reason: table.pause_reason.clone().unwrap_or_default() }
        }
        (Turn::Resume, None) => Stand::WasLive,
    })
}
