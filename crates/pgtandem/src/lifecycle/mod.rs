//! check, plan, up and down: how a link comes to be and how it ends.
//!
//! `repair`, `rejoin` and `bring_back` make rows the same again (`settle`).
//! The first four begin with a survey of every node. `check` judges it, `plan` compares it with what the configuration
//! asks for and lists the steps, `up` takes them, `down` takes them back.

mod bring_back;
pub mod check;
mod describe;
pub(crate) mod direct;
mod down;
mod error;
mod identity;
mod init;
mod interleave;
mod locks;
mod nodes;
mod pause;
mod plan;
mod rejoin;
mod renumbered;
mod repair;
mod report;
mod restore;
mod settle;
mod survey;
mod triggers;
mod undo;
mod unmerge;
mod up;

pub use bring_back::bring_back;
pub use check::check;
pub use down::{Cleaning, DownPlan, Gone, OutOfReach, Proof, down, plan_down};
pub use error::LifecycleError;
pub use identity::Identity;
pub use init::{Candidate, Scan, scan, write_config, write_nodes};
pub use interleave::{Interleaving, Pattern};
pub use nodes::{OpenNode, Opened, open_nodes};
pub use pause::{Pausing, Stand, Turn, turn};
pub use plan::{Plan, Rows, Step, plan};
pub use rejoin::{Rejoin, plan_rejoin};
pub use renumbered::{Renumbered, renumbered};
pub use repair::{Repair, TableRepair, Whose};
pub use report::{Finding, Report, Severity};
pub use settle::Settled;
pub use survey::{LinkFacts, NodeSurvey, survey};
pub use undo::{Undone, undo};
pub use unmerge::{Left, Merged, MergedOn, Unmerged, confirm_merge, plan_unmerge, unmerge};
pub use up::{Example, Look, Progress, Renumbering, Silent, Until, make_plan, make_plan_and_stay, up, up_from};

use crate::config::Config;
use crate::sql::QualifiedName;

/// The names of the tables that the configuration lists, in its order.
pub fn table_names(config: &Config) -> Vec<QualifiedName> {
    config.tables.iter().map(|table| table.name.clone()).collect()
}

/// What another version of pgtandem has installed is not read.
async fn require_this_version(node: &OpenNode) -> Result<(), LifecycleError> {
    use error::On as _;
    let row = crate::link::read_node(node.client()).await.on(&node.name, "reading the link")?;
    match row.and_then(|row| row.other_version()) {
        None => Ok(()),
        Some(other) => Err(LifecycleError::refused(format!("node {}: {}", node.name, other.what), other.remedy)),
    }
}
