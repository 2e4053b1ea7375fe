//! Capture by triggers: what they write into a node's outbox becomes whole transactions of changes.
//!
//! Each read takes all that one snapshot sees and no read before it had seen. It is recorded on the node, and on disk
//! there, before anything of it is handed on: so every transaction has a position for good (`hub::place`), and what is
//! judged cannot be lost by a crash of the server. The commit of the record flushes what was read with it, and the
//! landings before it; a read that found nothing to record flushes them, too, before it passes them.

mod columns;
mod landed;
mod leaves;
mod read;
mod record;

use std::collections::HashMap;
use std::time::Duration;

use hub::{Boundary, BoundaryKind, Position};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_postgres::Client;

use super::{Assembler, CaptureError, Captured, CapturedTables};
use columns::Columns;
use landed::Landed;
use leaves::Leaves;
use read::{OutboxRow, OutboxRows, Queries};
use wire::Message;

/// Settings of the session that reads, beside those of every session: what is found by index stays found by index, and a
/// read is on disk when it is recorded.
pub const READING: [(&str, &str); 5] = [
    ("synchronous_commit", "local"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("jit", "off"),
    ("work_mem", "32MB"),
];

/// Between two looks while there is something to read now and then.
const BUSY_PAUSE: Duration = Duration::from_millis(1);
/// So long after the last change the looks become rarer.
const BUSY_FOR: Duration = Duration::from_secs(2);
/// The longest pause of a node where nothing happens.
const IDLE_PAUSE: Duration = Duration::from_millis(50);
/// A landing behind which nothing was written is passed no sooner after the last read.
const PASS_PAUSE: Duration = Duration::from_millis(20);

/// A backlog is put in order by the server before it says anything.
const BACKLOG: u32 = 20;

/// A connection on which nothing is heard may be dead without anybody having been told.
async fn answered<T>(
    silence: Duration,
    asked: impl Future<Output = Result<T, CaptureError>>,
) -> Result<T, CaptureError> {
    tokio::time::timeout(silence, asked).await.map_err(|_| CaptureError::Silent(silence))?
}

/// Reads one node's outbox until its session fails or nobody listens.
pub struct TriggerCapture {
    client: Client,
    queries: Queries,
    assembler: Assembler,
    columns: Columns,
    leaves: Leaves,
    /// Reads and landings that may bound what is still needed, in order of position.
    boundaries: Vec<Boundary>,
    /// Up to where all has been handed on, or was judged before.
    passed: Position,
    last_read: Instant,
    last_change: Instant,
    /// No answer is waited for any longer.
    silence: Duration,
    /// Changes may have reached the peer already.
    is_direct: bool,
}

impl TriggerCapture {
    /// `judged`: what was judged before this capture began. `acknowledged`: what nobody needs any more.
    ///
    /// # Errors
    /// When the outbox is not what this version expects, or the connection is lost.
    pub async fn new(
        client: Client,
        tables: &CapturedTables,
        assembler: Assembler,
        judged: Position,
        acknowledged: watch::Receiver<Position>,
        silence: Duration,
    ) -> Result<Self, CaptureError> {
        let queries = answered(silence, Queries::prepare(&client)).await?;
        let is_direct = answered(silence, landed::is_direct(&client)).await?;
        let now = Instant::now();
        Ok(Self {
            columns: Columns::new(tables),
            leaves: Leaves::new(acknowledged, is_direct),
            client,
            queries,
            assembler,
            boundaries: Vec::new(),
            passed: judged,
            last_read: now,
            last_change: now,
            silence,
            is_direct,
        })
    }

    /// Runs until the session fails; ends quietly when the receiver is gone.
    ///
    /// # Errors
    /// Whatever ended the reading.
    pub async fn run(mut self, out: mpsc::Sender<Captured>) -> Result<(), CaptureError> {
        if !self.go_on(&out).await? {
            return Ok(());
        }
        loop {
            let look = answered(self.silence, self.queries.look(&self.client, self.last_boundary_read())).await?;
            let passes = look.last_landing > self.passed && self.last_read.elapsed() >= PASS_PAUSE;
            if (look.any || passes) && !self.read(&out).await? {
                return Ok(());
            }
            answered(self.silence, self.leaves.turn(&self.client, &mut self.boundaries)).await?;
            if !look.any {
                let pause = if self.last_change.elapsed() < BUSY_FOR { BUSY_PAUSE } else { IDLE_PAUSE };
                tokio::time::sleep(pause).await;
            }
            if out.is_closed() {
                return Ok(());
            }
        }
    }

    fn last_boundary_read(&self) -> Option<&Boundary> {
        self.boundaries.iter().rfind(|boundary| boundary.kind == BoundaryKind::Read)
    }

    /// What an earlier capture has recorded as read and the hub has not judged, then all that is there now.
    async fn go_on(&mut self, out: &mpsc::Sender<Captured>) -> Result<bool, CaptureError> {
        self.boundaries = self.queries.boundaries(&self.client, Position(0)).await?;
        if let Some(last) = self.last_boundary_read() {
            let (position, seen) = (last.position, last.clone());
            let transactions = self.queries.seen(&self.client, &seen).await?;
            if !self.hand_on(transactions, Rows::Seen(seen), out).await? || !self.pass(position, out).await? {
                return Ok(false);
            }
        }
        self.read(out).await
    }

    /// Reads what is new. False: nobody listens.
    async fn read(&mut self, out: &mpsc::Sender<Captured>) -> Result<bool, CaptureError> {
        let before = self.last_boundary_read().cloned();
        let mark = answered(self.silence, self.queries.mark(&self.client)).await?;
        let known = self.boundaries.last().map_or(Position(0), |boundary| boundary.position);
        let marks = self.queries.landings(&self.client, known);
        let transactions = self.queries.unread(&self.client, before.as_ref(), &mark);
        let both = async { tokio::try_join!(marks, transactions) };
        let (marks, transactions) = answered(self.silence * BACKLOG, both).await?;
        self.last_read = Instant::now();
        let position = mark.position;
        // One that landed since the read was begun bounds nothing yet: the next read is behind it.
        let before_this = marks.into_iter().map(|mark| mark.boundary).filter(|boundary| boundary.position < position);
        self.boundaries.extend(before_this);
        if !transactions.is_empty() {
            self.last_change = Instant::now();
            self.boundaries.push(mark.clone());
            if !self.hand_on(transactions, Rows::Unread(before, mark), out).await? {
                return Ok(false);
            }
        } else {
            // A landing that a crash takes back must not have been passed.
            answered(self.silence, self.queries.flush(&self.client)).await?;
        }
        self.pass(position, out).await
    }

    async fn pass(&mut self, position: Position, out: &mpsc::Sender<Captured>) -> Result<bool, CaptureError> {
        self.passed = self.passed.max(position);
        Ok(out.send(Captured::Passed(position)).await.is_ok())
    }

    /// Puts transactions together and hands them on in order, once what was read is recorded. False: nobody listens.
    async fn hand_on(
        &mut self,
        transactions: Vec<read::Transaction>,
        rows: Rows,
        out: &mpsc::Sender<Captured>,
    ) -> Result<bool, CaptureError> {
        let landed = match self.is_direct {
            true => match landed::find_out(&self.client, self.silence, || out.is_closed()).await? {
                Some(landed) => landed,
                None => return Ok(false),
            },
            false => Landed::default(),
        };
        let placed = read::placed(&self.boundaries, &transactions)?;
        answered(self.silence, self.columns.look(&self.client)).await?;
        let Self { client, queries, assembler, columns, silence, .. } = self;
        let recorded = async {
            match &rows {
                Rows::Unread(_, mark) => answered(*silence, queries.record(client, mark)).await,
                Rows::Seen(_) => Ok(()),
            }
        };
        let mut reading = Reading { assembler, columns, placed, landed, silence: *silence, ready: Vec::new() };
        let read = async {
            let found = match &rows {
                Rows::Unread(before, mark) => queries.rows_unread(client, before.as_ref(), mark).await?,
                Rows::Seen(read) => queries.rows_seen(client, read).await?,
            };
            reading.read(found).await
        };
        tokio::try_join!(recorded, read)?;
        let mut ready = reading.ready;
        ready.sort_by_key(position_of);
        for captured in ready {
            if out.send(captured).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Which rows of the outbox.
enum Rows {
    /// Those that the second sees and the first does not.
    Unread(Option<Boundary>, Boundary),
    Seen(Boundary),
}

/// Transactions as they are put together.
struct Reading<'a> {
    assembler: &'a mut Assembler,
    columns: &'a mut Columns,
    placed: HashMap<u64, read::Place>,
    landed: Landed,
    silence: Duration,
    ready: Vec<Captured>,
}

impl Reading<'_> {
    async fn read(&mut self, mut rows: OutboxRows) -> Result<(), CaptureError> {
        let mut open = None;
        while let Some(row) = answered(self.silence, rows.next()).await? {
            if self.landed.has(&row) {
                continue;
            }
            if open != Some(row.xid) {
                if open.is_some() {
                    self.take(read::commit()).await?;
                }
                let Some(place) = self.placed.get(&row.xid) else {
                    return Err(CaptureError::Unreadable(format!("transaction {} came from nowhere", row.xid)));
                };
                let begin = place.begin(row.xid);
                self.take(begin).await?;
                open = Some(row.xid);
            }
            for message in self.columns.messages(row)? {
                self.take(message).await?;
            }
        }
        if open.is_some() {
            self.take(read::commit()).await?;
        }
        Ok(())
    }

    async fn take(&mut self, message: Message) -> Result<(), CaptureError> {
        self.ready.extend(self.assembler.take(message).await?);
        Ok(())
    }
}

/// Shapes go ahead of what has them.
fn position_of(captured: &Captured) -> Position {
    match captured {
        Captured::Transaction { position, .. } | Captured::Passed(position) => *position,
        Captured::Shape { .. } => Position(0),
    }
}
