//! Asking all nodes at once, again and again, without ever waiting long for one.

use std::time::Duration;

use futures::future::join_all;

use super::node::{NodeView, view};
use crate::config::{Config, Node};
use crate::connect::{ConnectError, Session};

/// A node that has not answered by then is shown as away: nobody waits longer for a look.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// Sessions to all nodes of a configuration, opened when needed.
pub struct Observer<'a> {
    config: &'a Config,
    sessions: Vec<Option<Session>>,
    longest_look: Duration,
}

/// A node that could not be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    pub reason: String,
    pub remedy: Option<String>,
}

pub type Observed = Result<NodeView, Away>;

const SETTINGS: [(&str, &str); 2] = [("search_path", ""), ("TimeZone", "UTC")];

impl<'a> Observer<'a> {
    #[must_use]
    pub fn new(config: &'a Config) -> Self {
        Self { config, sessions: config.nodes.iter().map(|_| None).collect(), longest_look: LONGEST_LOOK }
    }

    /// All nodes, in the configuration's order.
    pub async fn look(&mut self) -> Vec<Observed> {
        let limit = self.longest_look;
        let looks =
            self.config.nodes.iter().zip(&mut self.sessions).map(|(node, session)| look_at(node, session, limit));
        join_all(looks).await
    }

    /// Open sessions to the nodes that can be reached, in the configuration's order.
    pub async fn sessions(&mut self) -> Vec<Result<&Session, Away>> {
        let limit = self.longest_look;
        let opened = self.config.nodes.iter().zip(&mut self.sessions).map(|(node, session)| async move {
            match tokio::time::timeout(limit, open(node, session)).await {
                Ok(Ok(())) => session.as_ref().ok_or_else(|| silent(limit)),
                Ok(Err(error)) => Err(Away::of(&error)),
                Err(_) => Err(silent(limit)),
            }
        });
        join_all(opened).await
    }
}

impl Away {
    fn of(error: &ConnectError) -> Self {
        Self { reason: error.fault.to_string(), remedy: Some(error.remedy()) }
    }

    /// What a node that is reached could not answer.
    #[must_use]
    pub fn of_sql(error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => Self { reason: db.message().to_owned(), remedy: db.hint().map(str::to_owned) },
            None => Self { reason: error.to_string(), remedy: None },
        }
    }
}

fn silent(limit: Duration) -> Away {
    Away {
        reason: format!("no answer within {} s", limit.as_secs()),
        remedy: Some("check the server and the network to it".to_owned()),
    }
}

async fn open(node: &Node, session: &mut Option<Session>) -> Result<(), ConnectError> {
    if session.as_ref().is_none_or(|session| session.client.is_closed()) {
        *session = None;
        *session = Some(node.endpoint.connect("pgtandem status", &SETTINGS).await?);
    }
    Ok(())
}

async fn look_at(node: &Node, session: &mut Option<Session>, limit: Duration) -> Observed {
    let look = async {
        open(node, session).await.map_err(|error| Away::of(&error))?;
        let Some(open) = session.as_ref() else { return Err(silent(limit)) };
        view(&open.client).await
    };
    let observed = tokio::time::timeout(limit, look).await.unwrap_or_else(|_| Err(silent(limit)));
    if observed.is_err() {
        // What is left of its answer must not be taken for the next one's.
        *session = None;
    }
    observed
}
