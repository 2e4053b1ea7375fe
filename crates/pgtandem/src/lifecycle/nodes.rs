//! Sessions on all nodes.

use super::LifecycleError;
use super::error::On;
use crate::config::{Config, Node};
use crate::connect::{Endpoint, Session};
use futures::future::join_all;

/// Set on every session of ours, so that a value reads the same wherever it comes from and goes to, whatever the
/// database's or the role's own settings are, and nothing of the application stands in the way.
pub const SESSION_SETTINGS: &[(&str, &str)] = &[
    ("search_path", ""),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("xmloption", "content"),
    ("lc_monetary", "C"),
    ("client_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("row_security", "off"),
    ("check_function_bodies", "off"),
];

/// A node we have a session on. The session ends when this is dropped.
pub struct OpenNode {
    pub name: String,
    pub endpoint: Endpoint,
    pub session: Session,
}

impl OpenNode {
    pub async fn open(node: &Node) -> Result<Self, LifecycleError> {
        Self::open_at(&node.name, &node.endpoint).await
    }

    pub async fn open_at(name: &str, endpoint: &Endpoint) -> Result<Self, LifecycleError> {
        let session = endpoint
            .connect("pgtandem", SESSION_SETTINGS)
            .await
            .map_err(|error| LifecycleError::connect(name, error))?;
        // Later sessions of this command go where this one went, if the endpoint names several servers.
        let endpoint = endpoint.at(&session.host);
        Ok(Self { name: name.to_owned(), endpoint, session })
    }

    /// Another session on the same server.
    pub async fn another(&self) -> Result<Self, LifecycleError> {
        Self::open_at(&self.name, &self.endpoint).await
    }

    /// A session for a write that the application could have made: its triggers may rely on the database's own search
    /// path.
    pub async fn as_an_application(&self) -> Result<Session, LifecycleError> {
        let settings: Vec<_> = SESSION_SETTINGS.iter().copied().filter(|(name, _)| *name != "search_path").collect();
        let session = self.endpoint.connect("pgtandem", &settings).await;
        session.map_err(|error| LifecycleError::connect(&self.name, error))
    }

    /// What the server and the database set for whoever sets nothing.
    pub async fn time_zone(&self) -> Result<String, LifecycleError> {
        const DOING: &str = "reading the time zone";
        let session = self.endpoint.connect("pgtandem", &[]).await;
        let session = session.map_err(|error| LifecycleError::connect(&self.name, error))?;
        let row = session.client.query_one("SELECT pg_catalog.current_setting('TimeZone')", &[]).await;
        Ok(row.on(&self.name, DOING)?.get(0))
    }

    pub fn client(&self) -> &tokio_postgres::Client {
        &self.session.client
    }
}

/// Every node of the configuration, in its order.
pub struct Opened {
    pub nodes: Vec<Result<OpenNode, LifecycleError>>,
}

/// Tries all nodes at once.
pub async fn open_nodes(config: &Config) -> Opened {
    Opened { nodes: join_all(config.nodes.iter().map(OpenNode::open)).await }
}

impl Opened {
    /// All, or what is wrong with each that cannot be had.
    pub fn all(self) -> Result<Vec<OpenNode>, LifecycleError> {
        let (mut open, mut errors) = (Vec::new(), Vec::new());
        for node in self.nodes {
            match node {
                Ok(node) => open.push(node),
                Err(error) => errors.push(error),
            }
        }
        match errors.len() {
            0 => Ok(open),
            1 => Err(errors.remove(0)),
            _ => Err(LifecycleError::Several(errors)),
        }
    }
}
