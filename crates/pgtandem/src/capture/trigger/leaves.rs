//! Turning over: the outbox's tables take turns, and one whose changes nobody needs any more is emptied.

use std::time::Duration;

use hub::{Boundary, BoundaryKind, Position};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row};

use super::read::number;
use super::{CaptureError, landed};
use crate::connect::FaultClass;
use crate::sql;

/// Between two times of looking after the tables.
const PAUSE: Duration = Duration::from_millis(250);
/// A table is left at the latest when it has grown to this.
const FULL_BYTES: i64 = 8 << 20;
/// A row may be written behind a turn that was drawn before it: so long we wait for it, and whoever comes behind us.
const PATIENCE: &str = "20ms";
const TABLES: i64 = 3;

pub struct Leaves {
    acknowledged: watch::Receiver<Position>,
    written: Position,
    /// A table that is not written waits to be emptied.
    waits: bool,
    at: Instant,
    is_direct: bool,
}

impl Leaves {
    pub fn new(acknowledged: watch::Receiver<Position>, is_direct: bool) -> Self {
        Self { acknowledged, written: Position(0), waits: true, at: Instant::now(), is_direct }
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
            if self.is_direct {
                landed::forget(client, &done.snapshot.to_string(), number(done.drawn)).await?;
            }
            self.empty_tables(client, &done).await?;
            boundaries.retain(|b| b.position >= done.position);
        }
        self.written = acknowledged;
        Ok(())
    }

    /// `done`: nothing that this read has seen is needed any more.
    async fn empty_tables(&mut self, client: &Client, done: &Boundary) -> Result<(), CaptureError> {
        let mut tables = Table::read_all(client).await?;
        let current = turn_over(client, &tables).await?;
        tables.retain(|table| table.number != current && table.bytes > 0);
        self.waits = !tables.is_empty();
        // One that an open transaction has written to cannot be had yet.
        for table in tables.iter().filter(|table| !table.is_held) {
            empty(client, table.number, done).await?;
        }
        Ok(())
    }
}

/// One of those that take turns.
struct Table {
    number: i64,
    bytes: i64,
    /// A transaction has a lock on it.
    is_held: bool,
}

impl Table {
    async fn read_all(client: &Client) -> Result<Vec<Self>, CaptureError> {
        const QUERY: &str = "
            SELECT n.number, pg_catalog.pg_relation_size(c.oid),
                   EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.relation = c.oid AND l.locktype = 'relation'
                           AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
                                             WHERE d.datname = pg_catalog.current_database()))
            FROM pg_catalog.generate_series(0, $1::int8) AS n (number)
            JOIN pg_catalog.pg_class c ON c.oid = ('pgtandem.outbox_' || n.number)::pg_catalog.regclass";
        let rows = client.query(QUERY, &[&(TABLES - 1)]).await?;
        let table = |row: &Row| Self { number: row.get(0), bytes: row.get(1), is_held: row.get(2) };
        Ok(rows.iter().map(table).collect())
    }
}

async fn acknowledge(client: &Client, position: Position) -> Result<(), CaptureError> {
    const NOTE: &str = "WITH noted AS (UPDATE pgtandem.outbox_acknowledged SET position = $1 WHERE position < $1) \
        DELETE FROM pgtandem.outbox_read \
        WHERE position < (SELECT max(r.position) FROM pgtandem.outbox_read r WHERE r.position <= $1)";
    client.execute(NOTE, &[&PgLsn::from(position.0)]).await?;
    Ok(())
}

/// Leaves the table that is written if it is full and another is empty; which one is written now.
async fn turn_over(client: &Client, tables: &[Table]) -> Result<i64, CaptureError> {
    const NOW: &str = "SELECT last_value >> 32 FROM pgtandem.outbox_id";
    const TURN: &str = "SELECT pg_catalog.setval('pgtandem.outbox_id', $1::int8 << 32, false) FROM pgtandem.outbox_id \
        WHERE last_value >> 32 < $1::int8";
    let leaf: i64 = client.query_one(NOW, &[]).await?.get(0);
    let bytes = |leaf: i64| tables.iter().find(|table| table.number == leaf % TABLES).map_or(0, |table| table.bytes);
    if bytes(leaf) < FULL_BYTES {
        return Ok(leaf % TABLES);
    }
    let Some(next) = (leaf + 1..leaf + TABLES).find(|next| bytes(*next) == 0) else { return Ok(leaf % TABLES) };
    client.query(TURN, &[&next]).await?;
    Ok(next % TABLES)
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
