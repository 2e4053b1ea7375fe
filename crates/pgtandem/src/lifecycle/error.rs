//! What can go wrong on the way.

use crate::compare::CompareError;
use crate::connect::ConnectError;
use std::error::Error as _;
use std::fmt::Write as _;
use tokio_postgres::error::SqlState;

#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    #[error("node {node}: {error}")]
    Connect { node: String, error: Box<ConnectError> },
    #[error("node {node}: {doing}: {}", describe(error))]
    Sql { node: String, doing: String, error: tokio_postgres::Error },
    #[error("node {node}: {doing}: {error}")]
    Replication { node: String, doing: String, error: wire::Error },
    /// Of several nodes.
    #[error("{}", several(.0))]
    Several(Vec<LifecycleError>),
    /// It was not tried, or was taken back, because it would not have been right.
    #[error("{what}")]
    Refused { what: String, remedy: String },
    /// A node that must take part cannot be reached.
    #[error("{what}")]
    Away { what: String, remedy: String },
    /// The command line names something that there is not.
    #[error("{what}")]
    Unknown { what: String, remedy: String },
}

impl LifecycleError {
    pub fn connect(node: &str, error: ConnectError) -> Self {
        Self::Connect { node: node.to_owned(), error: Box::new(error) }
    }

    pub fn sql(node: &str, doing: impl Into<String>, error: tokio_postgres::Error) -> Self {
        Self::Sql { node: node.to_owned(), doing: doing.into(), error }
    }

    pub fn replication(node: &str, doing: impl Into<String>, error: wire::Error) -> Self {
        Self::Replication { node: node.to_owned(), doing: doing.into(), error }
    }

    pub fn refused(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), remedy: remedy.into() }
    }

    /// What a node has missed has to be settled before anything else becomes of the link.
    pub fn unsettled(node: &str, remedy: impl Into<String>) -> Self {
        Self::refused(format!("{node} was away for long, and what it has missed is not settled yet"), remedy)
    }

    /// For where the node is named already.
    pub fn without_node(&self, node: &str) -> String {
        let text = self.to_string();
        text.strip_prefix(&format!("node {node}: ")).unwrap_or(&text).to_owned()
    }

    /// What the person can do about it.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Connect { error, .. } => Some(error.remedy()),
            Self::Sql { error, .. } => {
                let hint = error.as_db_error().and_then(|error| error.hint()).map(str::to_owned);
                hint.or_else(|| rights(error.code()?))
            }
            Self::Replication { .. } | Self::Several(_) => None,
            Self::Refused { remedy, .. } | Self::Away { remedy, .. } | Self::Unknown { remedy, .. } => {
                Some(remedy.clone())
            }
        }
    }

    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Sql { error, .. } => error.code().map(|state| state.code()),
            Self::Replication { error, .. } => error.code(),
            Self::Connect { .. }
            | Self::Several(_)
            | Self::Refused { .. }
            | Self::Away { .. }
            | Self::Unknown { .. } => None,
        }
    }
}

/// Each with its remedy: whoever mends one after the other need not run the command more than once.
fn several(errors: &[LifecycleError]) -> String {
    let mut text = format!("{} nodes cannot be reached", errors.len());
    for error in errors {
        let _ = write!(text, "\n  {error}");
        if let Some(remedy) = error.remedy() {
            let _ = write!(text, "\n    try: {remedy}");
        }
    }
    text
}

/// tokio-postgres shows a server's error as "db error" and keeps the rest for those who ask.
fn describe(error: &tokio_postgres::Error) -> String {
    let Some(server) = error.as_db_error() else {
        return match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
    };
    let mut text = format!("{} (SQLSTATE {})", server.message(), server.code().code());
    if let Some(detail) = server.detail() {
        let _ = write!(text, "; {detail}");
    }
    text
}

fn rights(state: &SqlState) -> Option<String> {
    (*state == SqlState::INSUFFICIENT_PRIVILEGE).then(|| "grant the role what docs/roles.md lists".to_owned())
}

impl From<CompareError> for LifecycleError {
    fn from(error: CompareError) -> Self {
        match error {
            CompareError::Sql { node, doing, error } => Self::Sql { node, doing, error },
            CompareError::Unfit { what, remedy } => Self::Unknown { what, remedy },
        }
    }
}

/// For what is asked of a node's session: names the node and what was being done.
pub(super) trait On<T> {
    fn on(self, node: &str, doing: &str) -> Result<T, LifecycleError>;
}

impl<T> On<T> for Result<T, tokio_postgres::Error> {
    fn on(self, node: &str, doing: &str) -> Result<T, LifecycleError> {
        self.map_err(|error| LifecycleError::sql(node, doing, error))
    }
}
