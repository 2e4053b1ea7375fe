//! How changes are read off a node.

mod assemble;
mod error;
mod image;
pub mod key;
mod relation;
mod shape;
mod source;
mod spool;
pub mod trigger;
pub mod wal;

pub use assemble::{Assembler, Captured};
pub use error::{CaptureError, MissedError};
pub use image::{Image, ImageBuilder, Loaded, Value, resident_bytes};
pub use relation::{CapturedTable, CapturedTables, KeyColumn, SourceColumn};
pub use shape::{Shape, ShapeId, Shapes};
pub use source::Source;
pub use spool::{SharedFile, Spool, Spooled, SpooledChanges};
