//! Comparing a table's rows on several nodes while they are written to, without locks.
//!
//! The servers sum up hashes of groups of rows, range by range of the key (`ranges`, `checksums`). Of groups that differ
//! the keys are found, and looked at on all nodes (`look`). What is unequal may be on its way: once everything that was
//! written until then has arrived (`flight`), those keys are looked at again. Only what is unequal both times, and was not
//! written between, is different (`scan`). Equal is what the columns' types call equal (`form`).

mod checksums;
mod clashes;
mod error;
mod flight;
mod form;
mod look;
mod orphans;
mod pace;
mod ranges;
mod report;
mod row;
mod scan;
mod sequences;
mod subject;
mod tally;

pub use error::CompareError;
pub use orphans::{Orphan, Orphans};
pub use report::{Comparison, Report, Shapes, TableReport, read_shapes};
pub use row::{ComparedRow, read_whole};
pub use scan::{Checkpoint, Missing, MissingKey, Options, Sessions, Watch, compare_rows};
pub use sequences::{Next, Overlap};
pub use subject::{Columns, Side, Subject, columns_by_name};
pub use tally::{Clash, Found, Partial, Tally};
