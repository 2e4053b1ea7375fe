//! What can go wrong in a demo.

use crate::cluster::{ClusterError, SqlError};
use crate::daemon::RunError;
use crate::lifecycle::LifecycleError;

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("the demo's own configuration is wrong: {0}")]
    Config(String),
    #[error("`pgtandem check` finds faults: {0}")]
    Check(String),
    #[error(transparent)]
    Link(#[from] LifecycleError),
    #[error("the hub failed: {0}")]
    Hub(#[from] RunError),
    #[error("the hub ended by itself")]
    HubEnded,
    #[error("waited {seconds} s in vain for {what}")]
    Late { what: &'static str, seconds: u64 },
    /// The one thing that must not happen.
    #[error("the two sides differ in {rows} rows\n{examples}")]
    Differ { rows: usize, examples: String },
}
