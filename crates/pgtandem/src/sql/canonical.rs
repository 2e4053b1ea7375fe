//! Values in a form that is the same wherever they are equal.

use super::Ident;
use serde::{Deserialize, Serialize};

/// How values of a column are put so that two of them are equal, as their type sees it, exactly if their forms are.
/// The sessions' settings (time zone, digits of floats) are pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Canonical {
    /// The type writes equal values alike, and its hash function looks at every bit.
    Plain,
    /// The type writes equal values alike.
    Text,
    /// Of up to eight bytes, which the hash function folds to four.
    Integer,
    /// 1.0 is 1.00.
    Numeric,
    /// 0 is -0, and 1 is 1.0.
    Float,
    /// Trailing blanks do not count.
    Stripped,
    /// Neither do capitals. As citext has it: by the database's own rules.
    Folded,
    /// A month is 30 days, a day 24 hours.
    Interval,
    Timestamp,
    TimestampTz,
    /// The type writes equal values differently, and hashes them alike. Hashes may depend on the server (an enum's label
    /// is hashed by its number): so equal texts count, too.
    Hashed,
    /// As [`Canonical::Hashed`], where json stands beside jsonb.
    HashedJson,
}

impl Canonical {
    /// A form by which only values of one spelling are equal: for who must know whether a row was written since.
    #[must_use]
    pub fn spelled(self) -> Self {
        match self {
            Self::Plain | Self::Text | Self::Integer | Self::Timestamp | Self::TimestampTz => self,
            Self::Numeric
            | Self::Float
            | Self::Stripped
            | Self::Folded
            | Self::Interval
            | Self::Hashed
            | Self::HashedJson => Self::Text,
        }
    }

    /// What `hash_record_extended` is given for the column `t.name`: NULL where the value is, else something that its
    /// hash function tells from every other value, in all its 64 bits.
    pub(super) fn hashed(self, name: &Ident) -> String {
        match self {
            Self::Plain | Self::Hashed => format!("t.{name}"),
            // By its bytes, whatever the column's collation takes for equal.
            Self::Text => format!("(t.{name}::pg_catalog.text COLLATE pg_catalog.\"C\")"),
            Self::Stripped => format!("t.{name}::pg_catalog.text"),
            Self::Integer => format!("t.{name}, (t.{name}::pg_catalog.int8 >> 32)"),
            Self::Numeric => {
                format!("pg_catalog.numeric_send(pg_catalog.trim_scale(t.{name}::pg_catalog.numeric))")
            }
            // Zeros and NaNs of either sign hash alike.
            Self::Float => format!("t.{name}::pg_catalog.float8"),
            Self::Folded => folded(name),
            Self::Interval => interval(name),
            Self::Timestamp => format!("pg_catalog.timestamp_send(t.{name}::pg_catalog.timestamp)"),
            Self::TimestampTz => format!("pg_catalog.timestamptz_send(t.{name}::pg_catalog.timestamptz)"),
            Self::HashedJson => format!("t.{name}::pg_catalog.jsonb"),
        }
    }

    /// A text that tells values apart; short even where they are long.
    pub(super) fn token(self, name: &Ident) -> String {
        match self {
            Self::Plain | Self::Text | Self::Stripped | Self::Integer => short(&format!("t.{name}::pg_catalog.text")),
            Self::Numeric => short(&format!("pg_catalog.trim_scale(t.{name}::pg_catalog.numeric)::pg_catalog.text")),
            Self::Float => format!("(t.{name}::pg_catalog.float8 + 0)::pg_catalog.text"),
            Self::Folded => short(&folded(name)),
            Self::Interval => interval(name),
            Self::Timestamp => format!("t.{name}::pg_catalog.timestamp::pg_catalog.text"),
            Self::TimestampTz => format!("t.{name}::pg_catalog.timestamptz::pg_catalog.text"),
            Self::Hashed | Self::HashedJson => self.hashes(name),
        }
    }

    fn hashes(self, name: &Ident) -> String {
        let hash = |seed| format!("pg_catalog.hash_record_extended(ROW({}), {seed})", self.hashed(name));
        format!("CASE WHEN t.{name} IS DISTINCT FROM NULL THEN pg_catalog.concat({}, ' ', {}) END", hash(0), hash(1))
    }
}

fn folded(name: &Ident) -> String {
    format!("pg_catalog.lower(t.{name}::pg_catalog.text COLLATE pg_catalog.\"default\")")
}

/// Texts up to this length stand for themselves; of longer ones length and MD5 do.
const SHORT: usize = 128;

fn short(text: &str) -> String {
    format!(
        "CASE WHEN pg_catalog.length({text}) <= {SHORT} THEN {text} \
         ELSE pg_catalog.length({text}) || ' ' || pg_catalog.md5({text}) END"
    )
}

/// In seconds. Infinite ones (PostgreSQL 17) have no parts.
fn interval(name: &Ident) -> String {
    let part = |part: &str| format!("extract({part} FROM t.{name})");
    format!(
        "coalesce(pg_catalog.trim_scale((({} * 12 + {}) * 30 + {}) * 86400 + {} * 3600 + {} * 60 + {})\
         ::pg_catalog.text, t.{name}::pg_catalog.text)",
        part("year"),
        part("month"),
        part("day"),
        part("hour"),
        part("minute"),
        part("second")
    )
}
