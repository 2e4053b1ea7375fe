//! ALTER SEQUENCE.

use super::QualifiedName;
use serde::{Deserialize, Serialize};

/// Every option of a sequence that can be altered, but for its type and owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceOptions {
    pub increment: i64,
    pub start: i64,
    pub min: i64,
    pub max: i64,
    pub cache: i64,
    pub cycle: bool,
}

impl SequenceOptions {
    /// Gives a sequence these options, and lets its next value be `restart` if that is given.
    pub fn alter(&self, sequence: &QualifiedName, restart: Option<i64>) -> String {
        let Self { increment, start, min, max, cache, cycle } = self;
        let cycle = if *cycle { "CYCLE" } else { "NO CYCLE" };
        let restart = restart.map(|value| format!(" RESTART WITH {value}")).unwrap_or_default();
        format!(
            "ALTER SEQUENCE {sequence} INCREMENT BY {increment} MINVALUE {min} MAXVALUE {max} \
             START WITH {start} CACHE {cache} {cycle}{restart}"
        )
    }
}
