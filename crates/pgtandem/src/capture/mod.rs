//! How changes are read off a node.

mod image;
pub mod key;
mod shape;
mod spool;
pub mod wal;

pub use image::{Image, ImageBuilder, Loaded, Value, resident_bytes};
pub use shape::{Shape, ShapeId, Shapes};
pub use spool::{SharedFile, Spool, Spooled, SpooledChanges};
