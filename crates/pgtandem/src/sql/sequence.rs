//! ALTER SEQUENCE.

use super::{Ident, Literal, QualifiedName};
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

/// `last_value`, `is_called`.
pub fn sequence_state(sequence: &QualifiedName) -> String {
    format!("SELECT last_value, is_called FROM {sequence}")
}

/// Unlike `ALTER SEQUENCE … RESTART` it can say that the value was handed out already.
pub fn set_value(sequence: &QualifiedName, value: i64, is_called: bool) -> String {
    format!("SELECT pg_catalog.setval({}, {value}, {is_called})", Literal(&sequence.to_string()))
}

/// The highest value of a column, as int8; NULL if there is none.
pub fn highest_value(table: &QualifiedName, column: &Ident) -> String {
    format!("SELECT pg_catalog.max({column})::pg_catalog.int8 FROM {table}")
}
