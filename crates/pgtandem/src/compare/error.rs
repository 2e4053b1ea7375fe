//! What can go wrong while comparing.

#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error("node {node}: {doing}: {error}")]
    Sql { node: String, doing: String, error: tokio_postgres::Error },
    /// The tables cannot be compared as they are.
    #[error("{what}")]
    Unfit { what: String, remedy: String },
}

impl CompareError {
    pub(super) fn unfit(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Unfit { what: what.into(), remedy: remedy.into() }
    }
}

/// For what is asked of a node: names it and what was being done.
pub(super) trait On<T> {
    fn on(self, node: &str, doing: impl FnOnce() -> String) -> Result<T, CompareError>;
}

impl<T> On<T> for Result<T, tokio_postgres::Error> {
    fn on(self, node: &str, doing: impl FnOnce() -> String) -> Result<T, CompareError> {
        self.map_err(|error| CompareError::Sql { node: node.to_owned(), doing: doing(), error })
    }
}
