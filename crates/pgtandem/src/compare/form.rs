//! Which canonical form the values of a column take.

use crate::catalog::Column;
use crate::catalog::types::{
    BIGINT, BPCHAR, DATE, DOUBLE, INTEGER, INTERVAL, JSON, JSONB, NUMERIC, REAL, SMALLINT, TIMESTAMP, TIMESTAMPTZ,
};
use crate::sql::Canonical;

/// The form for values of all these columns, one per node. Whether values can be hashed must be asked before
/// [`Canonical::Hashed`] may be used.
pub(super) fn canonical(columns: &[&Column]) -> Canonical {
    let every = |test: fn(&Column) -> bool| columns.iter().all(|column| test(column));
    let any = |test: fn(&Column) -> bool| columns.iter().any(|column| test(column));
    if every(is_integer) {
        return if any(|column| column.base_type_oid == BIGINT) { Canonical::Integer } else { Canonical::Plain };
    }
    if every(is_number) {
        return if any(is_float) { Canonical::Float } else { Canonical::Numeric };
    }
    if any(is_citext) && every(|column| column.category == 'S') {
        return Canonical::Folded;
    }
    if every(|column| column.category == 'S' && column.deterministic) {
        let padded = |column: &Column| column.base_type_oid == BPCHAR;
        return if any(padded) && !every(padded) { Canonical::Stripped } else { Canonical::Plain };
    }
    if any(|column| column.base_type_oid == JSONB) && any(|column| column.base_type_oid == JSON) {
        return Canonical::HashedJson;
    }
    let same = columns.iter().all(|column| column.base_type == columns[0].base_type);
    if !same {
        return times(columns);
    }
    match columns[0].base_type_oid {
        INTERVAL => Canonical::Interval,
        TIMESTAMP => Canonical::Timestamp,
        TIMESTAMPTZ => Canonical::TimestampTz,
        _ if any(|column| !column.deterministic) || spells_equal_values_differently(columns[0]) => Canonical::Hashed,
        of if HASHES_EVERY_BIT.contains(&of) => Canonical::Plain,
        _ => Canonical::Text,
    }
}

/// boolean, bytea, date, oid, uuid: their hash functions are the same on all servers, and look at every bit.
const HASHES_EVERY_BIT: [u32; 5] = [16, 17, DATE, 26, 2950];

fn times(columns: &[&Column]) -> Canonical {
    let is_time = |column: &&Column| matches!(column.base_type_oid, DATE | TIMESTAMP | TIMESTAMPTZ);
    match columns.iter().all(is_time) {
        true if columns.iter().any(|column| column.base_type_oid == TIMESTAMPTZ) => Canonical::TimestampTz,
        true => Canonical::Timestamp,
        false => Canonical::Text,
    }
}

fn is_integer(column: &Column) -> bool {
    matches!(column.base_type_oid, SMALLINT | INTEGER | BIGINT)
}

fn is_float(column: &Column) -> bool {
    matches!(column.base_type_oid, REAL | DOUBLE)
}

fn is_number(column: &Column) -> bool {
    is_integer(column) || is_float(column) || column.base_type_oid == NUMERIC
}

fn is_citext(column: &Column) -> bool {
    column.base_type == "citext" || column.base_type.ends_with(".citext")
}

/// jsonb, what is made of numerics, floats, intervals or padded texts, and what may be: composites, arrays and ranges of
/// types that are not PostgreSQL's own.
fn spells_equal_values_differently(column: &Column) -> bool {
    const FIRST_NORMAL_OID: u32 = 16384;
    const SUCH: [u32; 10] = [
        JSONB, 3807, // jsonb[]
        1231, // numeric[]
        1021, 1022, // real[], double precision[]
        1187, // interval[]
        1014, // character[]
        3906, 4532, // numrange, nummultirange
        3907, // numrange[]
    ];
    SUCH.contains(&column.base_type_oid)
        || column.base_type_oid >= FIRST_NORMAL_OID && matches!(column.category, 'A' | 'C' | 'R')
}

/// Whether all these columns sort their values alike, so that a range of one is a range of the others.
pub(super) fn sorts_alike(columns: &[&Column]) -> bool {
    let same = columns.iter().all(|column| column.base_type_oid == columns[0].base_type_oid);
    columns.iter().all(|column| is_integer(column))
        || same && columns.iter().all(|column| sorts_everywhere_alike(column))
}

fn sorts_everywhere_alike(column: &Column) -> bool {
    const SUCH: [u32; 13] = [
        SMALLINT,
        INTEGER,
        BIGINT,
        NUMERIC,
        REAL,
        DOUBLE,
        DATE,
        TIMESTAMP,
        TIMESTAMPTZ,
        16,   // boolean
        17,   // bytea
        26,   // oid
        2950, // uuid
    ];
    const TEXTS: [u32; 3] = [25, 1043, 19]; // text, character varying, name
    SUCH.contains(&column.base_type_oid) || TEXTS.contains(&column.base_type_oid) && column.sorts_by_bytes
}

/// One integer on every node.
pub(super) fn is_one_integer(key: &[Vec<&Column>]) -> bool {
    key.len() == 1 && key[0].iter().all(|column| is_integer(column))
}

/// What all its columns can hold.
pub(super) fn highest_key(key: &[Vec<&Column>]) -> i64 {
    let highest = |column: &&Column| match column.base_type_oid {
        SMALLINT => i64::from(i16::MAX),
        INTEGER => i64::from(i32::MAX),
        _ => i64::MAX,
    };
    key.iter().flatten().map(highest).min().unwrap_or(i64::MAX)
}
