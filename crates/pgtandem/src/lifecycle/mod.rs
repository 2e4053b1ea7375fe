//! check, plan, up and down.

mod pause;

pub use pause::{Pausing, Stand, Turn, turn};
