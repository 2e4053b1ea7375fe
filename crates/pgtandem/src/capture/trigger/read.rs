//! The outbox's SQL: reads, what is in them, what bounds it.

use std::collections::HashMap;
use std::pin::Pin;

use futures::TryStreamExt;
use hub::{Boundary, BoundaryKind, Crowded, Outboxed, Position, Snapshot};
use tokio_postgres::types::{PgLsn, ToSql};
use tokio_postgres::{Client, Row, RowStream, Statement};
use wire::{Lsn, Message};

use super::CaptureError;
use crate::sql::LAST_WRITTEN_MICROS;

/// A read that the node has begun.
pub struct Read {
    pub boundary: Boundary,
    /// There is something in it, and it is kept.
    pub is_recorded: bool,
    pub last_landing: Position,
}

/// How the node is to wait for something new.
pub struct Waiting {
    pub looks: i32,
    pub pause_s: f64,
}

/// Which landing is to end it.
pub enum Passing {
    None,
    Behind(Position),
    /// Nor is anything else waited for.
    Now,
}

/// A transaction in the outbox.
pub struct Transaction {
    pub outboxed: Outboxed,
    /// When its last row was written, in microseconds since 2000-01-01.
    pub time: i64,
}

/// Where a transaction lies.
pub struct Place {
    pub position: Position,
    pub time: i64,
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
    let positions = hub::place(boundaries, &outboxed).map_err(crowded)?;
    let places = transactions.iter().zip(positions);
    places
        .map(|(Transaction { outboxed, time }, position)| {
            let unseen = || CaptureError::Unreadable(format!("no read has seen transaction {}", outboxed.xid));
            Ok((outboxed.xid, Place { position: position.ok_or_else(unseen)?, time: *time }))
        })
        .collect()
}

pub(super) fn crowded(error: Crowded) -> CaptureError {
    CaptureError::Unreadable(error.to_string())
}

const UNREAD: &str = "(o.xid >= $1::text::xid8 OR o.xid = ANY ($2::text[]::xid8[]))";
const SEEN: &str = "pg_catalog.pg_visible_in_snapshot(o.xid, $3::text::pg_snapshot) AND o.id <= $4";
const ROWS: &str = "SELECT o.xid::text, o.relid, o.op::text, o.old_row, o.new_row, o.id FROM pgtandem.outbox o WHERE";

pub struct Queries {
    read_on: Statement,
    landings: Statement,
    reads: Statement,
    transactions: Statement,
    rows: Statement,
    rows_of: Statement,
}

impl Queries {
    pub async fn prepare(client: &Client) -> Result<Self, CaptureError> {
        const READ_ON: &str = "SELECT recorded, at, snapshot::text, drawn, landed \
            FROM pgtandem.read_on($1::text::xid8, $2::text[]::xid8[], $3, $4, $5)";
        const LANDINGS: &str = "SELECT position, snapshot::text, drawn, before FROM pgtandem.landing \
            WHERE position > $1 AND snapshot IS NOT NULL ORDER BY position";
        const READS: &str = "SELECT position, snapshot::text, drawn FROM pgtandem.outbox_read WHERE position > $1";
        let transactions = format!(
            "SELECT o.xid::text, pg_catalog.max(o.id), {LAST_WRITTEN_MICROS} FROM pgtandem.outbox o \
             WHERE {UNREAD} AND {SEEN} GROUP BY o.xid"
        );
        let rows = format!("{ROWS} {UNREAD} AND {SEEN} ORDER BY o.xid, o.id");
        let rows_of = format!("{ROWS} o.xid = ANY ($1::text[]::xid8[]) AND o.id <= $2 ORDER BY o.xid, o.id");
        Ok(Self {
            read_on: client.prepare(READ_ON).await?,
            landings: client.prepare(LANDINGS).await?,
            reads: client.prepare(READS).await?,
            transactions: client.prepare(&transactions).await?,
            rows: client.prepare(&rows).await?,
            rows_of: client.prepare(&rows_of).await?,
        })
    }

    /// Waits for something behind `before`, and begins a read if there is. It is on disk then, and all that it saw.
    pub async fn read_on(
        &self,
        client: &Client,
        before: Option<&Boundary>,
        passing: Passing,
        waiting: Waiting,
    ) -> Result<Option<Read>, CaptureError> {
        let (next, in_progress) = unseen_by(before);
        let passed = match passing {
            Passing::None => Some(PgLsn::from(u64::MAX)),
            Passing::Behind(position) => Some(PgLsn::from(position.0)),
            Passing::Now => None,
        };
        let parameters: [&(dyn ToSql + Sync); 5] = [&next, &in_progress, &passed, &waiting.looks, &waiting.pause_s];
        let row = client.query_one(&self.read_on, &parameters).await?;
        let Some(is_recorded) = row.get(0) else { return Ok(None) };
        let boundary = boundary(BoundaryKind::Read, row.get(1), row.get(2), row.get(3))?;
        let last_landing = Position(row.get::<_, Option<PgLsn>>(4).map_or(0, u64::from));
        Ok(Some(Read { boundary, is_recorded, last_landing }))
    }

    /// Behind a position, in order. A mark with a read between it and its landing bounds nothing: what lies before it
    /// has been placed by that read.
    pub async fn boundaries(&self, client: &Client, after: Position) -> Result<Vec<Boundary>, CaptureError> {
        let rows = client.query(&self.reads, &[&PgLsn::from(after.0)]).await?;
        let read = |row: &Row| boundary(BoundaryKind::Read, row.get(0), row.get(1), row.get(2));
        let mut all = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
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
            let boundary = boundary(BoundaryKind::Landing, row.get(0), row.get(1), row.get(2))?;
            marks.push(Mark { boundary, is_landing: true });
        }
        Ok(marks)
    }

    /// What the second boundary sees and the first does not.
    pub async fn transactions(
        &self,
        client: &Client,
        before: Option<&Boundary>,
        end: &Boundary,
    ) -> Result<Vec<Transaction>, CaptureError> {
        let (next, in_progress) = unseen_by(before);
        let (snapshot, drawn) = (end.snapshot.to_string(), number(end.drawn));
        let parameters: [&(dyn ToSql + Sync); 4] = [&next, &in_progress, &snapshot, &drawn];
        let transaction = |row: &Row| {
            let outboxed = Outboxed { xid: xid(row.get(0))?, last: row.get::<_, i64>(1).unsigned_abs() };
            Ok(Transaction { outboxed, time: row.get(2) })
        };
        client.query(&self.transactions, &parameters).await?.iter().map(transaction).collect()
    }

    /// Of these transactions.
    pub async fn rows(
        &self,
        client: &Client,
        before: Option<&Boundary>,
        end: &Boundary,
    ) -> Result<OutboxRows, CaptureError> {
        let (next, in_progress) = unseen_by(before);
        let (snapshot, drawn) = (end.snapshot.to_string(), number(end.drawn));
        let parameters: [&(dyn ToSql + Sync); 4] = [&next, &in_progress, &snapshot, &drawn];
        Ok(OutboxRows(Box::pin(client.query_raw(&self.rows, parameters).await?)))
    }

    /// Of transactions by number, which the boundary sees.
    pub async fn rows_of(
        &self,
        client: &Client,
        xids: Vec<String>,
        end: &Boundary,
    ) -> Result<OutboxRows, CaptureError> {
        let drawn = number(end.drawn);
        let parameters: [&(dyn ToSql + Sync); 2] = [&xids, &drawn];
        Ok(OutboxRows(Box::pin(client.query_raw(&self.rows_of, parameters).await?)))
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

pub(super) fn xid(text: &str) -> Result<u64, CaptureError> {
    text.parse().map_err(|_| CaptureError::Unreadable(format!("{text:?} is no transaction number")))
}

fn boundary(kind: BoundaryKind, position: PgLsn, taken: &str, drawn: i64) -> Result<Boundary, CaptureError> {
    let position = Position(position.into());
    Ok(Boundary { kind, position, snapshot: snapshot(taken)?, drawn: drawn.unsigned_abs() })
}

/// As `pgtandem.mark_before` writes it: position, snapshot, drawn.
fn before_mark(text: &str) -> Result<Boundary, CaptureError> {
    let unreadable = || CaptureError::Unreadable(format!("{text:?} is no mark of a delivery"));
    let [position, taken, drawn] = text.split(' ').collect::<Vec<_>>()[..] else { return Err(unreadable()) };
    let position: PgLsn = position.parse().map_err(|_| unreadable())?;
    boundary(BoundaryKind::Landing, position, taken, drawn.parse().map_err(|_| unreadable())?)
}

fn snapshot(text: &str) -> Result<Snapshot, CaptureError> {
    text.parse().map_err(|error: hub::NotASnapshot| CaptureError::Unreadable(error.to_string()))
}

/// Numbers of the outbox are positive; SQL has no unsigned type for them.
pub(super) fn number(drawn: u64) -> i64 {
    i64::try_from(drawn).unwrap_or(i64::MAX)
}
