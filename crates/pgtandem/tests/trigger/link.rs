//! What of `tests/it/link` depends on how changes are captured.

use crate::support::scene::{Scene, servers};

#[path = "../it/link/s40_merge.rs"]
mod s40_merge;
#[path = "../it/link/s41_merge.rs"]
mod s41_merge;
#[path = "../it/link/s45_ids.rs"]
mod s45_ids;
