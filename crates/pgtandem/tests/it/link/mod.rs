//! init, check, plan, up and down, through the command itself.

mod s38_check;
mod s40_merge;
mod s40_merge_many;
mod s40_renumber;
mod s40_up;
mod s41_killed;
mod s41_merge;
mod s41_renumber;
mod s43_down;
mod s44_changes;
mod s45_ids;
mod traffic;

use crate::support::scene::{Ended, PRODUCTS, Scene, servers};
