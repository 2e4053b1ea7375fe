//! The outbox's SQL: marks, what is new, what bounds it.

use std::collections::HashMap;
use std::pin::Pin;

use futures::TryStreamExt;
use hub::{Boundary, BoundaryKind, Outboxed, Position, Snapshot};
use tokio_postgres::types::{PgLsn, ToSql};
use tokio_postgres::{Client, Row, RowStream, Statement};
use wire::{Lsn, Message};

use super::CaptureError;

/// What a look finds.
pub struct Look {
    /// Something that no read has seen.
    pub any: bool,
    pub last_landing: Position,
}

/// A transaction in the outbox.
pub struct Transaction {
    outboxed: Outboxed,
    /// When its last row was written, in microseconds since 2000-01-01.
    time: i64,
}

/// Where a transaction lies.
pub struct Place {
    position: Position,
    time: i64,
}

impl Place {
    pub fn begin(&self, xid: u64) -> Message {
        // As the WAL has it: without the epoch.
        let xid = u32::try_from(xid & u64::from(u32::MAX)).unwrap_or_default();
        Message::Begin { final_lsn: Lsn(self.position.0), commit_time_micros: self.time, xid }
    }
}

/// Positions are in the message that opened the transaction.
pub fn commit() -> Message {
    Message::Commit { flags: 0, commit_lsn: Lsn(0), end_lsn: Lsn(0), commit_time_micros: 0 }
}

/// A change as the outbox has it.
pub struct OutboxRow {
    pub xid: u64,
    pub id: i64,
    pub relid: u32,
    pub op: u8,
    pub old_row: Option<String>,
    pub new_row: Option<String>,
}

/// By transaction number.
pub fn placed(boundaries: &[Boundary], transactions: &[Transaction]) -> Result<HashMap<u64, Place>, CaptureError> {
    let outboxed: Vec<Outboxed> = transactions.iter().map(|transaction| transaction.outboxed).collect();
    let positions = hub::place(boundaries, &outboxed).map_err(|error| CaptureError::Unreadable(error.to_string()))?;
    let places = transactions.iter().zip(positions);
    places
        .map(|(Transaction { outboxed, time }, position)| {
            let unseen = || CaptureError::Unreadable(format!("no read has seen transaction {}", outboxed.xid));
            Ok((outboxed.xid, Place { position: position.ok_or_else(unseen)?, time: *time }))
        })
        .collect()
}

const UNREAD: &str = "(o.xid >= $1::text::xid8 OR o.xid = ANY ($2::text[]::xid8[]))";
const SEEN: &str = "pg_catalog.pg_visible_in_snapshot(o.xid, $1::text::pg_snapshot) AND o.id <= $2";
const NOW_SEEN: &str = "pg_catalog.pg_visible_in_snapshot(o.xid, $3::text::pg_snapshot) AND o.id <= $4";
const TRANSACTIONS: &str = "SELECT o.xid::text, pg_catalog.max(o.id), \
    (extract(epoch FROM pg_catalog.max(o.at) - timestamptz '2000-01-01 00:00:00+00') * 1000000)::int8 \
    FROM pgtandem.outbox o WHERE";
const ROWS: &str = "SELECT o.xid::text, o.relid, o.op::text, o.old_row, o.new_row, o.id FROM pgtandem.outbox o WHERE";

pub struct Queries {
    look: Statement,
    mark: Statement,
    landings: Statement,
    reads: Statement,
    record: Statement,
    flush: Statement,
    unread: Statement,
    rows_unread: Statement,
    seen: Statement,
    rows_seen: Statement,
}

impl Queries {
    pub async fn prepare(client: &Client) -> Result<Self, CaptureError> {
        let look = format!(
            "SELECT EXISTS (SELECT FROM pgtandem.outbox o WHERE {UNREAD}), \
             (SELECT l.position FROM pgtandem.landing l ORDER BY l.id DESC LIMIT 1)"
        );
        let unread = format!("{TRANSACTIONS} {UNREAD} AND {NOW_SEEN} GROUP BY o.xid");
        let rows_unread = format!("{ROWS} {UNREAD} AND {NOW_SEEN} ORDER BY o.xid, o.id");
        let seen = format!("{TRANSACTIONS} {SEEN} GROUP BY o.xid");
        let rows_seen = format!("{ROWS} {SEEN} ORDER BY o.xid, o.id");
        const LANDINGS: &str = "SELECT position, snapshot::text, drawn, before FROM pgtandem.landing \
            WHERE position > $1 AND snapshot IS NOT NULL ORDER BY position";
        Ok(Self {
            look: client.prepare(&look).await?,
            mark: client.prepare("SELECT at, snapshot::text, drawn FROM pgtandem.mark(false)").await?,
            landings: client.prepare(LANDINGS).await?,
            reads: client
                .prepare("SELECT position, snapshot::text, drawn FROM pgtandem.outbox_read WHERE position > $1")
                .await?,
            record: client
                .prepare(
                    "INSERT INTO pgtandem.outbox_read (position, snapshot, drawn) \
                     VALUES ($1, $2::text::pg_snapshot, $3)",
                )
                .await?,
            flush: client.prepare("SELECT pg_catalog.pg_logical_emit_message(true, 'pgtandem', '')").await?,
            unread: client.prepare(&unread).await?,
            rows_unread: client.prepare(&rows_unread).await?,
            seen: client.prepare(&seen).await?,
            rows_seen: client.prepare(&rows_seen).await?,
        })
    }

    pub async fn look(&self, client: &Client, before: Option<&Boundary>) -> Result<Look, CaptureError> {
        let (next, in_progress) = unseen_by(before);
        let row = client.query_one(&self.look, &[&next, &in_progress]).await?;
        let last_landing = row.get::<_, Option<PgLsn>>(1).map_or(0, u64::from);
        Ok(Look { any: row.get(0), last_landing: Position(last_landing) })
    }

    pub async fn mark(&self, client: &Client) -> Result<Boundary, CaptureError> {
        boundary(BoundaryKind::Read, &client.query_one(&self.mark, &[]).await?)
    }

    /// Behind a position, in order. A mark with a read between it and its landing bounds nothing: what lies before it
    /// has been placed by that read.
    pub async fn boundaries(&self, client: &Client, after: Position) -> Result<Vec<Boundary>, CaptureError> {
        let rows = client.query(&self.reads, &[&PgLsn::from(after.0)]).await?;
        let mut all = rows.iter().map(|row| boundary(BoundaryKind::Read, row)).collect::<Result<Vec<_>, _>>()?;
        let reads: Vec<Position> = all.iter().map(|read| read.position).collect();
        let landings = self.landings(client, after).await?;
        let apart = |from: Position, to: Position| reads.iter().any(|read| *read > from && *read < to);
        let kept = landings.iter().enumerate().filter(|(at, mark)| {
            let landing = landings.get(at + 1).filter(|_| !mark.is_landing);
            landing.is_none_or(|landing| !apart(mark.boundary.position, landing.boundary.position))
        });
        all.extend(kept.map(|(_, mark)| mark.boundary.clone()));
        all.sort_by_key(|boundary| boundary.position);
        Ok(all)
    }

    pub async fn landings(&self, client: &Client, after: Position) -> Result<Vec<Mark>, CaptureError> {
        let rows = client.query(&self.landings, &[&PgLsn::from(after.0)]).await?;
        let mut marks = Vec::new();
        for row in &rows {
            if let Some(before) = row.get::<_, Option<&str>>(3) {
                let boundary = before_mark(before)?;
                // One that a read came behind meanwhile bounds nothing.
                if boundary.position > after {
                    marks.push(Mark { boundary, is_landing: false });
                }
            }
            marks.push(Mark { boundary: boundary(BoundaryKind::Landing, row)?, is_landing: true });
        }
        Ok(marks)
    }

    pub async fn record(&self, client: &Client, read: &Boundary) -> Result<(), CaptureError> {
        let (position, snapshot) = (PgLsn::from(read.position.0), read.snapshot.to_string());
        client.execute(&self.record, &[&position, &snapshot, &number(read.drawn)]).await?;
        Ok(())
    }

    /// Everything that has committed by now is on disk when this returns.
    pub async fn flush(&self, client: &Client) -> Result<(), CaptureError> {
        client.execute(&self.flush, &[]).await?;
        Ok(())
    }

    pub async fn unread(
        &self,
        client: &Client,
        before: Option<&Boundary>,
        read: &Boundary,
    ) -> Result<Vec<Transaction>, CaptureError> {
        let (next, in_progress) = unseen_by(before);
        let parameters: [&(dyn ToSql + Sync); 4] =
            [&next, &in_progress, &read.snapshot.to_string(), &number(read.drawn)];
        transactions(&client.query(&self.unread, &parameters).await?)
    }

    pub async fn rows_unread(
        &self,
        client: &Client,
        before: Option<&Boundary>,
        read: &Boundary,
    ) -> Result<OutboxRows, CaptureError> {
        let (next, in_progress) = unseen_by(before);
        let (snapshot, drawn) = (read.snapshot.to_string(), number(read.drawn));
        let parameters: [&(dyn ToSql + Sync); 4] = [&next, &in_progress, &snapshot, &drawn];
        Ok(OutboxRows(Box::pin(client.query_raw(&self.rows_unread, parameters).await?)))
    }

    pub async fn seen(&self, client: &Client, read: &Boundary) -> Result<Vec<Transaction>, CaptureError> {
        let (snapshot, drawn) = (read.snapshot.to_string(), number(read.drawn));
        transactions(&client.query(&self.seen, &[&snapshot, &drawn]).await?)
    }

    pub async fn rows_seen(&self, client: &Client, read: &Boundary) -> Result<OutboxRows, CaptureError> {
        let (snapshot, drawn) = (read.snapshot.to_string(), number(read.drawn));
        let parameters: [&(dyn ToSql + Sync); 2] = [&snapshot, &drawn];
        Ok(OutboxRows(Box::pin(client.query_raw(&self.rows_seen, parameters).await?)))
    }
}

/// A boundary that a landing left.
pub struct Mark {
    pub boundary: Boundary,
    /// Taken last, not before rows were deleted.
    is_landing: bool,
}

/// Rows as they come.
pub struct OutboxRows(Pin<Box<RowStream>>);

impl OutboxRows {
    pub async fn next(&mut self) -> Result<Option<OutboxRow>, CaptureError> {
        let Some(row) = self.0.try_next().await? else { return Ok(None) };
        Ok(Some(OutboxRow {
            xid: xid(row.get(0))?,
            relid: row.get(1),
            op: row.get::<_, &str>(2).bytes().next().unwrap_or_default(),
            old_row: row.get(3),
            new_row: row.get(4),
            id: row.get(5),
        }))
    }
}

/// The transactions that a read has not seen: from this number on, and these.
fn unseen_by(before: Option<&Boundary>) -> (String, Vec<String>) {
    let Some(before) = before else { return ("0".to_owned(), Vec::new()) };
    let in_progress = before.snapshot.in_progress().iter().map(u64::to_string).collect();
    (before.snapshot.next().to_string(), in_progress)
}

fn transactions(rows: &[Row]) -> Result<Vec<Transaction>, CaptureError> {
    let transaction = |row: &Row| {
        let outboxed = Outboxed { xid: xid(row.get(0))?, last: row.get::<_, i64>(1).unsigned_abs() };
        Ok(Transaction { outboxed, time: row.get(2) })
    };
    rows.iter().map(transaction).collect()
}

pub(super) fn xid(text: &str) -> Result<u64, CaptureError> {
    text.parse().map_err(|_| CaptureError::Unreadable(format!("{text:?} is no transaction number")))
}

fn boundary(kind: BoundaryKind, row: &Row) -> Result<Boundary, CaptureError> {
    let position = Position(row.get::<_, PgLsn>(0).into());
    let drawn: i64 = row.get(2);
    Ok(Boundary { kind, position, snapshot: snapshot(row.get(1))?, drawn: drawn.unsigned_abs() })
}

/// As `pgtandem.mark_before` writes it: position, snapshot, drawn.
fn before_mark(text: &str) -> Result<Boundary, CaptureError> {
    let unreadable = || CaptureError::Unreadable(format!("{text:?} is no mark of a delivery"));
    let [position, taken, drawn] = text.split(' ').collect::<Vec<_>>()[..] else { return Err(unreadable()) };
    let position: PgLsn = position.parse().map_err(|_| unreadable())?;
    let drawn = drawn.parse().map_err(|_| unreadable())?;
    let kind = BoundaryKind::Landing;
    Ok(Boundary { kind, position: Position(position.into()), snapshot: snapshot(taken)?, drawn })
}

fn snapshot(text: &str) -> Result<Snapshot, CaptureError> {
    text.parse().map_err(|error: hub::NotASnapshot| CaptureError::Unreadable(error.to_string()))
}

/// Numbers of the outbox are positive; SQL has no unsigned type for them.
pub(super) fn number(drawn: u64) -> i64 {
    i64::try_from(drawn).unwrap_or(i64::MAX)
}
