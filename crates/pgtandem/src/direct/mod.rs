//! Direct mode, as far as it is not in the databases: settling what applications' transactions left behind.
//!
//! `sql/direct.sql` delivers; `capture/trigger/landed.rs` finds out what became of what was sent and not answered.

mod receipts;

pub use receipts::{Settled, settle_receipts};
