//! Why a delivery did not commit, and so what may be done about it.

use std::io;

use hub::TableId;
use tokio_postgres::Error;

use crate::connect::{FaultClass, in_words};
use crate::sql;

#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// Another hub took over: `pgtandem.open_delivery` refused.
    #[error("another hub has taken over: {0}")]
    Deposed(String),
    /// The connection broke. If COMMIT was on its way, only the landing tells whether it was done.
    #[error("the connection broke: {0}")]
    Lost(Error),
    /// Deadlock, lock timeout, disk full, too many connections and the like: the same delivery may pass later.
    #[error("{}", in_words(.0))]
    Passing(Error),
    /// The target refuses a row.
    #[error("{}", in_words(.0))]
    Row(Error),
    /// The target's table is not what it was.
    #[error("{}", in_words(.0))]
    Shape(Error),
    /// The role may not do it.
    #[error("{}", in_words(.0))]
    NotAllowed(Error),
    #[error("an error that pgtandem has no answer to (SQLSTATE {}): {}", code_of(.0), in_words(.0))]
    Unknown(Error),
    #[error("a linked table (number {}) is not there", .0.0)]
    UnknownTable(TableId),
    #[error("cannot read back what was spilled to a temporary file: {0}")]
    Spill(#[from] io::Error),
}

fn code_of(error: &Error) -> &str {
    error.code().map_or("unknown", |code| code.code())
}

impl From<Error> for DeliverError {
    fn from(error: Error) -> Self {
        let answered = error.as_db_error().is_some_and(|server| server.severity() == "ERROR");
        match FaultClass::of(&error) {
            FaultClass::Deposed => Self::Deposed(in_words(&error)),
            FaultClass::Retry if !answered => Self::Lost(error),
            FaultClass::Retry => Self::Passing(error),
            FaultClass::RowRejected => Self::Row(error),
            FaultClass::ShapeChanged => Self::Shape(error),
            FaultClass::NotAllowed => Self::NotAllowed(error),
            FaultClass::Unknown(_) => Self::Unknown(error),
        }
    }
}

impl DeliverError {
    /// Single rows are at fault, or single tables: the others can be written without them.
    #[must_use]
    pub fn is_about_rows(&self) -> bool {
        match self {
            // A value may be the cause, too: a regclass that names a table which is not there.
            Self::Row(_) | Self::Shape(_) => true,
            Self::Deposed(_)
            | Self::Lost(_)
            | Self::Passing(_)
            | Self::NotAllowed(_)
            | Self::Unknown(_)
            | Self::UnknownTable(_)
            | Self::Spill(_) => false,
        }
    }

    /// It may come of how the rows were written, by what was expected to be there, and not of the rows.
    #[must_use]
    pub fn may_come_of_trust(&self) -> bool {
        match self {
            Self::Row(_) | Self::Shape(_) | Self::NotAllowed(_) | Self::Unknown(_) => true,
            Self::Deposed(_) | Self::Lost(_) | Self::Passing(_) | Self::UnknownTable(_) | Self::Spill(_) => false,
        }
    }

    /// A table, or what hangs on it, is not what the delivery took it for.
    #[must_use]
    pub fn is_about_shape(&self) -> bool {
        matches!(self, Self::Shape(_) | Self::UnknownTable(_))
    }

    #[must_use]
    pub fn is_lock_timeout(&self) -> bool {
        self.sqlstate().as_deref() == Some("55P03")
    }

    /// The transaction may have committed all the same.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Lost(_))
    }

    /// Trying again later can help: by itself, or once a person has mended something.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Passing(_) | Self::NotAllowed(_) | Self::Shape(_) | Self::UnknownTable(_) | Self::Lost(_) => true,
            // A row that is refused when all have been accepted one by one: a constraint that is checked at COMMIT.
            Self::Row(_) => true,
            Self::Deposed(_) | Self::Unknown(_) | Self::Spill(_) => false,
        }
    }

    /// Rows may be in each other's way: deleting them all first can help. Likewise where the row that is there has an
    /// identity that no update may change.
    #[must_use]
    pub fn asks_for_reinsert(&self) -> bool {
        matches!(self.sqlstate().as_deref(), Some("23505" | "23P01" | sql::NOT_WRITTEN))
    }

    /// Every row of the table will meet it. What was raised inside a function of the application has a context: another
    /// row may not come that way.
    #[must_use]
    pub fn is_about_table(&self) -> bool {
        matches!(self, Self::Shape(e) if e.as_db_error().is_none_or(|server| server.where_().is_none()))
    }

    #[must_use]
    pub fn sqlstate(&self) -> Option<String> {
        match self {
            Self::Lost(e)
            | Self::Passing(e)
            | Self::Row(e)
            | Self::Shape(e)
            | Self::NotAllowed(e)
            | Self::Unknown(e) => e.code().map(|code| code.code().to_owned()),
            Self::Deposed(_) | Self::UnknownTable(_) | Self::Spill(_) => None,
        }
    }
}
