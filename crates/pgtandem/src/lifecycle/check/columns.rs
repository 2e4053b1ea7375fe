//! Whether a value of one node's column can stand in another's.

use crate::catalog::Column;
use crate::catalog::types::{
    BIGINT, DATE, DOUBLE, INTEGER, INTERVAL, JSON, JSONB, NUMERIC, REAL, SMALLINT, TIME, TIMESTAMP, TIMESTAMPTZ, TIMETZ,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fit {
    Same,
    /// Some values may not fit: those are held and reported, never changed. Says which.
    Mostly(&'static str),
    /// Says why not.
    Never(&'static str),
}

/// Some value of `from` would be another one in `to`, without an error: digits behind the point, of a number or of seconds.
pub fn rounds(from: &Column, to: &Column) -> bool {
    const ALL: i32 = 6;
    let has = |oid: u32| from.base_type_oid == oid && to.base_type_oid == oid;
    if to.typmod < 0 {
        return false;
    }
    if has(NUMERIC) {
        // A modifier is made of precision and scale, which may be negative, and the length of a header.
        let scale = |column: &Column| (((column.typmod - 4) & 0x7ff) ^ 1024) - 1024;
        return from.typmod < 0 || scale(from) > scale(to);
    }
    let digits = |column: &Column| if column.typmod < 0 { ALL } else { column.typmod.min(ALL) };
    let of_times = [TIME, TIMETZ, TIMESTAMP, TIMESTAMPTZ];
    of_times.contains(&from.base_type_oid) && of_times.contains(&to.base_type_oid) && digits(from) > digits(to)
        || has(INTERVAL) && from.typmod != to.typmod
}

/// From either column to the other: changes travel both ways.
pub fn fit(a: &Column, b: &Column) -> Fit {
    if a.type_text == b.type_text {
        return Fit::Same;
    }
    if rounds(a, b) || rounds(b, a) {
        return Fit::Never("PostgreSQL rounds what the narrower one cannot hold, without a word");
    }
    if a.base_type_oid == b.base_type_oid && a.is_builtin() && b.is_builtin() {
        return Fit::Mostly("values too long or too large for the narrower one");
    }
    let pair = (a.base_type_oid.min(b.base_type_oid), a.base_type_oid.max(b.base_type_oid));
    let integer = |oid| matches!(oid, SMALLINT | INTEGER | BIGINT);
    let number = |oid| integer(oid) || matches!(oid, NUMERIC | REAL | DOUBLE);
    match pair {
        (x, y) if integer(x) && integer(y) => Fit::Mostly("numbers too large for the narrower one"),
        (x, y) if (integer(x) || x == NUMERIC) && (integer(y) || y == NUMERIC) => {
            Fit::Mostly("numbers with a fraction, or too large")
        }
        (x, y) if number(x) && number(y) => Fit::Never("a floating-point number cannot hold every exact one"),
        (JSON, JSONB) => Fit::Never("jsonb changes a json text's spacing and order of keys"),
        (DATE, TIMESTAMP | TIMESTAMPTZ) => Fit::Never("a date would drop the time of day"),
        (TIMESTAMP, TIMESTAMPTZ) => {
            Fit::Mostly("none, but a timestamp without time zone is taken as UTC: is that what the application means?")
        }
        _ if a.category == 'S' && b.category == 'S' => Fit::Mostly("values too long for the narrower one"),
        _ if matches!((a.category, b.category), ('S', 'E') | ('E', 'S')) => {
            Fit::Mostly("texts that are no label of the enum")
        }
        // Types of the database's own: the names decide, and their text passes.
        _ if !a.is_builtin() && !b.is_builtin() && a.category == b.category => {
            Fit::Mostly("values that only one of the two types has")
        }
        _ => Fit::Never("values of these types cannot be told from each other's text"),
    }
}
