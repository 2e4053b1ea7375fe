//! One delivery: one transaction on a target that writes canonical states.

mod arrays;
mod batch;
mod careful;
mod copy_text;
mod error;
mod forms;
mod patience;
mod pipeline;
mod placement;
mod record;
mod session;
mod target;
mod trust;

pub use careful::PAUSED;
pub use error::DeliverError;
pub use patience::Patience;
pub use record::{Held, row_json};
pub use session::{Landing, LandingId, Target, TargetRole};
pub use target::{Referrer, TargetColumn, TargetTable, TargetTables};
pub use trust::Experience;
