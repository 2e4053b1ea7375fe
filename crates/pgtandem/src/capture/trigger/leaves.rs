//! Turning over: the outbox's tables take turns, and one whose changes nobody needs any more is emptied.

use std::time::Duration;

use hub::{Boundary, BoundaryKind, Position};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use super::CaptureError;
use crate::connect::FaultClass;
use crate::sql;

/// Between two times of looking after the tables.
const PAUSE: Duration = Duration::from_millis(250);
/// A table is left at the latest when it has grown to this.
const FULL_BYTES: i64 = 16 << 20;
/// A row drawn before a turn may be written after it: so long we wait for its transaction, and whoever comes behind us.
const PATIENCE: &str = "20ms";
const TABLES: i64 = 3;

pub struct Leaves {
    acknowledged: watch::Receiver<Position>,
    written: Position,
    /// A table that is not written waits to be emptied.
    waits: bool,
    at: Instant,
}

impl Leaves {
    pub fn new(acknowledged: watch::Receiver<Position>) -> Self {
        Self { acknowledged, written: Position(0), waits: true, at: Instant::now() }
    }

    /// Forgets what is not needed any more, if there is something and it is time to. `boundaries` that bound nothing any
    /// more go, too.
    pub async fn turn(&mut self, client: &Client, boundaries: &mut Vec<Boundary>) -> Result<(), CaptureError> {
        let acknowledged = *self.acknowledged.borrow();
        if self.at.elapsed() < PAUSE || (acknowledged <= self.written && !self.waits) {
            return Ok(());
        }
        self.at = Instant::now();
        let done = boundaries.iter().rposition(|b| b.kind == BoundaryKind::Read && b.position <= acknowledged);
        acknowledge(client, acknowledged).await?;
        if let Some(done) = done {
            let done = boundaries[done].clone();
            self.empty_tables(client, &done).await?;
            boundaries.retain(|b| b.position >= done.position);
        }
        self.written = acknowledged;
        Ok(())
    }

    /// `done`: nothing that this read has seen is needed any more.
    async fn empty_tables(&mut self, client: &Client, done: &Boundary) -> Result<(), CaptureError> {
        let current = turn_over(client).await?;
        self.waits = false;
        for table in (0..TABLES).filter(|table| *table != current) {
            if size(client, table).await? > 0 {
                empty(client, table, done).await?;
                self.waits |= size(client, table).await? > 0;
            }
        }
        Ok(())
    }
}

async fn acknowledge(client: &Client, position: Position) -> Result<(), CaptureError> {
    const NOTE: &str = "WITH noted AS (UPDATE pgtandem.outbox_acknowledged SET position = $1 WHERE position < $1) \
        DELETE FROM pgtandem.outbox_read \
        WHERE position < (SELECT max(r.position) FROM pgtandem.outbox_read r WHERE r.position <= $1)";
    client.execute(NOTE, &[&PgLsn::from(position.0)]).await?;
    Ok(())
}

/// Leaves the table that is written if it has rows and the next one is empty; which one is written now.
async fn turn_over(client: &Client) -> Result<i64, CaptureError> {
    const NOW: &str = "SELECT last_value >> 32 FROM pgtandem.outbox_id";
    const NEXT: &str = "SELECT pg_catalog.setval('pgtandem.outbox_id', ((last_value >> 32) + 1) << 32, false) \
        FROM pgtandem.outbox_id WHERE last_value >> 32 = $1";
    let leaf: i64 = client.query_one(NOW, &[]).await?.get(0);
    let (current, next) = (leaf % TABLES, (leaf + 1) % TABLES);
    let bytes = size(client, current).await?;
    if bytes < FULL_BYTES || size(client, next).await? > 0 {
        return Ok(current);
    }
    client.query(NEXT, &[&leaf]).await?;
    Ok(next)
}

async fn size(client: &Client, table: i64) -> Result<i64, CaptureError> {
    const SIZE: &str =
        "SELECT pg_catalog.pg_relation_size(('pgtandem.outbox_' || $1::int8::text)::pg_catalog.regclass)";
    Ok(client.query_one(SIZE, &[&table]).await?.get(0))
}

/// Empties a table if all its rows are done with. Another time will do.
async fn empty(client: &Client, table: i64, done: &Boundary) -> Result<(), CaptureError> {
    let script = sql::empty_outbox(table, &done.snapshot.to_string(), done.drawn, PATIENCE);
    let Err(error) = client.batch_execute(&script).await else { return Ok(()) };
    if FaultClass::of(&error) != FaultClass::Retry || error.is_closed() {
        return Err(error.into());
    }
    client.batch_execute("ROLLBACK").await?;
    Ok(())
}
