//! What a server's error means for a delivery.
//!
//! A wrong verdict here either stops a table for a passing trouble or tries a hopeless statement for ever, so every
//! class of SQLSTATE in PostgreSQL's Appendix A has its line below, and what has none is [`FaultClass::Unknown`].

use std::error::Error as _;
use std::io;

use tokio_postgres::error::DbError;

/// What the daemon does about an error. Nothing is ever dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultClass {
    /// A newer hub has taken over (raised by `pgtandem.open_delivery`): this one ends.
    Deposed,
    /// It passes by itself: the delivery is tried again without end, with backoff.
    Retry,
    /// The target does not take this row: its key is held until a person has removed the cause.
    RowRejected,
    /// The table is not what it was: it is read anew, and paused if it does not fit any more.
    ShapeChanged,
    /// Our role may not do this, or the database is gone: a person has to act; the node is tried again, slowly.
    NotAllowed,
    /// Nothing that is known to pass or to be about a row: the node stops with this SQLSTATE (or description of
    /// a client-side error) and the server's message. It is neither tried for ever nor skipped.
    Unknown(String),
}

use Verdict::{NotAllowed, Retry, Row, Shape, Unknown};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Deposed,
    Retry,
    Row,
    Shape,
    NotAllowed,
    Unknown,
}

/// Codes that differ from the rest of their class.
#[rustfmt::skip]
const CODES: &[(&str, Verdict)] = &[
    ("PT001", Verdict::Deposed),
    ("PT002", Row),        // pgtandem.refuse: a row was not written, or is not as it was written
    ("08P01", Unknown),    // protocol violation: one of the two sides has a bug
    ("22P04", Shape),      // COPY found other columns
    ("25006", Retry),      // read-only: a failover is going on, the next connection finds the primary
    ("25P03", Retry),      // idle in transaction too long
    ("25P04", Retry),      // transaction_timeout
    ("25P02", Unknown),    // a statement after a failed one: ours is the mistake
    ("3D000", NotAllowed), // the database does not exist
    ("40002", Row),        // a constraint, by the standard's other name
    ("42501", NotAllowed), // privilege missing
    ("42703", Shape),      // undefined column
    ("42704", Shape),      // undefined object: a type, a collation
    ("42725", Shape),      // ambiguous function: for the operators of a changed type
    ("42804", Shape),      // datatype mismatch
    ("42809", Shape),      // wrong object type: the table is a view now
    ("42846", Shape),      // cannot coerce
    ("42883", Shape),      // undefined function
    ("428C9", Shape),      // a column is generated now
    ("42P01", Shape),      // undefined table
    ("42P08", Shape),      // a parameter's type is not what it was
    ("42P10", Shape),      // no unique constraint fits ON CONFLICT any more
    ("42P16", Shape),      // the definition of the table forbids it
    ("42P17", Shape),      // that of an index or a partition
    ("42P18", Shape),      // a type that cannot be told
    ("42P21", Shape),      // collations
    ("42P22", Shape),
    ("55006", Retry),      // object in use
    ("55P02", Unknown),    // a setting that cannot be changed now
    ("55P03", Retry),      // lock not available: our lock_timeout, below the server's deadlock_timeout
    ("55P04", Retry),      // an enum value whose ALTER TYPE has not committed
    ("57P04", NotAllowed), // the database was dropped
    ("58P01", Unknown),    // a file is missing: a library, for instance
    ("58P02", Unknown),
    ("58P03", Unknown),
];

/// Every class of Appendix A, 14 to 18.
#[rustfmt::skip]
const CLASSES: &[(&str, Verdict)] = &[
    ("00", Unknown),    // success is no error
    ("01", Unknown),    // nor are warnings
    ("02", Unknown),
    ("03", Unknown),
    ("08", Retry),      // connection
    ("09", Row),        // a triggered action failed
    ("0A", Shape),      // "cached plan must not change result type"
    ("0B", Unknown),
    ("0F", Unknown),
    ("0L", NotAllowed), // grantor
    ("0P", NotAllowed), // role
    ("0Z", Unknown),
    ("10", Unknown),
    ("20", Row),        // a CASE without a branch, in a trigger
    ("21", Row),        // a subquery with several rows, in a trigger
    ("22", Row),        // data
    ("23", Row),        // constraints
    ("24", Unknown),
    ("25", Unknown),    // transaction state
    ("26", Unknown),    // a prepared statement is gone: a pooler between us and the server
    ("27", Row),        // a trigger changed the row under our feet
    ("28", NotAllowed), // authorization
    ("2B", NotAllowed),
    ("2D", Unknown),
    ("2F", Row),        // SQL function in a trigger
    ("34", Unknown),
    ("38", Row),        // external function in a trigger
    ("39", Row),
    ("3B", Unknown),    // savepoints
    ("3D", NotAllowed), // database
    ("3F", Shape),      // schema
    ("40", Retry),      // serialization, deadlock
    ("42", Unknown),    // what is not listed above is a mistake in our SQL
    ("44", Row),        // WITH CHECK OPTION
    ("53", Retry),      // disk, memory, connections
    ("54", Row),        // too large for an index or a row; a trigger that calls itself
    ("55", Shape),      // "does not have a replica identity and publishes updates"
    ("57", Retry),      // cancelled, shutting down, starting up
    ("58", Retry),      // input and output
    ("72", Retry),      // snapshot too old
    ("F0", Unknown),
    ("HV", Unknown),    // foreign data wrapper
    ("P0", Row),        // RAISE in a trigger
    ("XX", Unknown),    // internal error, corrupted data
];

impl FaultClass {
    /// By the five characters alone.
    pub fn of_sqlstate(code: &str) -> Self {
        let exact = CODES.iter().find(|(known, _)| *known == code);
        let class = || CLASSES.iter().find(|(known, _)| code.len() == 5 && code.starts_with(known));
        match exact.or_else(class).map_or(Unknown, |(_, verdict)| *verdict) {
            Verdict::Deposed => Self::Deposed,
            Retry => Self::Retry,
            Row => Self::RowRejected,
            Shape => Self::ShapeChanged,
            NotAllowed => Self::NotAllowed,
            Unknown => Self::Unknown(code.to_owned()),
        }
    }

    /// A code of its own that an application's trigger raises is a refusal of the row, too.
    pub fn of_server(error: &DbError) -> Self {
        match Self::of_sqlstate(error.code().code()) {
            // The server's C function behind PL/pgSQL's RAISE; unlike the context, it is never translated.
            Self::Unknown(_) if error.routine() == Some("exec_stmt_raise") => Self::RowRejected,
            class => class,
        }
    }

    pub fn of(error: &tokio_postgres::Error) -> Self {
        if let Some(server) = error.as_db_error() {
            return Self::of_server(server);
        }
        // Without an answer of the server: the connection broke, or we sent what it could not even be asked.
        let broke =
            error.is_closed() || error.source().is_some_and(|source| source.downcast_ref::<io::Error>().is_some());
        if broke { Self::Retry } else { Self::Unknown(error.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code of every error in Appendix A of PostgreSQL 18, with what a delivery makes of it.
    const APPENDIX: &str = include_str!("sqlstate_appendix.txt");

    fn name(class: &FaultClass) -> &'static str {
        match class {
            FaultClass::Deposed => "deposed",
            FaultClass::Retry => "retry",
            FaultClass::RowRejected => "row",
            FaultClass::ShapeChanged => "shape",
            FaultClass::NotAllowed => "not-allowed",
            FaultClass::Unknown(_) => "unknown",
        }
    }

    #[test]
    fn s35_every_documented_code_has_its_class() {
        let mut seen = 0;
        for line in APPENDIX.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let (code, expected) = (words.next().expect("a code"), words.next().expect("a class"));
            assert_eq!(name(&FaultClass::of_sqlstate(code)), expected, "{line}");
            assert!(CLASSES.iter().any(|(class, _)| code.starts_with(class)) || code == "PT001", "{line}");
            seen += 1;
        }
        assert!(seen > 240, "{seen}");
    }

    #[test]
    fn s35_what_is_not_known_says_its_code() {
        for code in ["ZZ123", "", "4", "23", "PT999", "é23"] {
            assert_eq!(FaultClass::of_sqlstate(code), FaultClass::Unknown(code.to_owned()));
        }
    }
}
