//! Values in a form that is the same wherever they are equal.

use super::Ident;

/// How values of a column are put so that two of them are equal, as their type sees it, exactly if their forms are.
/// The sessions' settings (time zone, digits of floats) are pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canonical {
    /// The type writes equal values alike.
    Plain,
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
    /// The form of column `t.name`, for [`super::compared_groups`]: of any type, NULL where the value is.
    pub(super) fn form(self, name: &Ident) -> String {
        match self {
            Self::Plain => format!("t.{name}"),
            Self::Numeric => format!("pg_catalog.trim_scale(t.{name}::pg_catalog.numeric)"),
            Self::Float => format!("(t.{name}::pg_catalog.float8 + 0)"),
            Self::Stripped => format!("t.{name}::pg_catalog.text"),
            Self::Folded => format!("pg_catalog.lower(t.{name}::pg_catalog.text COLLATE pg_catalog.\"default\")"),
            Self::Interval => interval(name),
            Self::Timestamp => format!("t.{name}::pg_catalog.timestamp"),
            Self::TimestampTz => format!("t.{name}::pg_catalog.timestamptz"),
            Self::Hashed | Self::HashedJson => self.hashed(name, 0),
        }
    }

    /// The form as a text that tells values apart; short even where they are long.
    pub(super) fn token(self, name: &Ident) -> String {
        match self {
            Self::Hashed | Self::HashedJson => {
                format!("({})::pg_catalog.text || '/' || ({})", self.hashed(name, 0), self.hashed(name, 1))
            }
            _ => short(&format!("({})::pg_catalog.text", self.form(name))),
        }
    }

    fn hashed(self, name: &Ident, seed: u8) -> String {
        let cast = if self == Self::HashedJson { "::pg_catalog.jsonb" } else { "" };
        format!(
            "CASE WHEN t.{name} IS NOT DISTINCT FROM NULL THEN NULL \
             ELSE pg_catalog.hash_record_extended(ROW(t.{name}{cast}), {seed}) END"
        )
    }
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
