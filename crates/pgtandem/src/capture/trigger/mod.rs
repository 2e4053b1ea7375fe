//! Capture by triggers: what they write into a node's outbox becomes whole transactions of changes.
//!
//! Each read takes all that one snapshot sees and no read before it had seen. It is recorded on the node, and on disk
//! there, before anything of it is handed on: so every transaction has a position for good (`hub::place`), and what is
//! judged cannot be lost by a crash of the server. The commit of the record flushes what was read with it, and the
//! landings before it; a read that found nothing to record flushes them, too, before it passes them.
//!
//! A read of much is a [`backlog`]: it has the same order, and comes in pieces.

mod backlog;
mod columns;
mod landed;
mod leaves;
mod read;
mod reading;
mod record;

use std::time::Duration;

use hub::{Boundary, BoundaryKind, Position};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_postgres::Client;

use super::{Assembler, CaptureError, Captured, CapturedTables};
use columns::Columns;
use landed::Landed;
pub use landed::ReachPeer;
use leaves::Leaves;
use read::{Passing, Queries, Waiting};
use reading::Reading;

/// Settings of the session that reads, beside those of every session: what is found by index stays found by index, and a
/// read is on disk when it is recorded.
pub const READING: [(&str, &str); 5] = [
    ("synchronous_commit", "local"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("jit", "off"),
    ("work_mem", "32MB"),
];

/// How the server looks for something new while there is something now and then.
const BUSY: Waiting = Waiting { looks: 20, pause_s: 0.001 };
/// So long after the last change the looks become rarer.
const BUSY_FOR: Duration = Duration::from_secs(2);
/// How it looks where nothing happens.
const IDLE: Waiting = Waiting { looks: 2, pause_s: 0.025 };
/// A landing behind which nothing was written is passed no sooner after the last read.
const PASS_PAUSE: Duration = Duration::from_millis(20);

/// A backlog is put in order by the server before it says anything.
const BACKLOG: u32 = 20;
/// So many changes are taken at once; whole transactions of any size. Tests have little, and are to see many pieces.
const PIECE: u64 = if cfg!(debug_assertions) { 256 } else { 16_384 };

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
    reach_peer: ReachPeer,
}

impl TriggerCapture {
    /// `judged`: what was judged before this capture began. `acknowledged`: what nobody needs any more. `reach_peer`: in direct mode.
    ///
    /// # Errors
    /// When the outbox is not what this version expects, or the connection is lost.
    pub async fn new(
        client: Client,
        tables: &CapturedTables,
        assembler: Assembler,
        judged: Position,
        acknowledged: watch::Receiver<Position>,
        reach_peer: ReachPeer,
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
            reach_peer,
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
        let mut passing = Passing::Now;
        while !out.is_closed() {
            if !self.read(passing, &out).await? {
                return Ok(());
            }
            answered(self.silence, self.leaves.turn(&self.client, &mut self.boundaries)).await?;
            passing = match self.last_read.elapsed() >= PASS_PAUSE {
                true => Passing::Behind(self.passed),
                false => Passing::None,
            };
        }
        Ok(())
    }

    fn last_boundary_read(&self) -> Option<&Boundary> {
        self.boundaries.iter().rfind(|boundary| boundary.kind == BoundaryKind::Read)
    }

    /// What an earlier capture has recorded as read and the hub has not judged. Reads of little are taken together.
    async fn go_on(&mut self, out: &mpsc::Sender<Captured>) -> Result<bool, CaptureError> {
        self.boundaries = answered(self.silence, self.queries.boundaries(&self.client, Position(0))).await?;
        let reads = self.boundaries.iter().filter(|boundary| boundary.kind == BoundaryKind::Read);
        let (judged, left): (Vec<Boundary>, _) = reads.cloned().partition(|read| read.position <= self.passed);
        let mut before = judged.last().cloned();
        let Some(landed) = self.landed(out).await? else { return Ok(false) };
        let mut left = left.into_iter().peekable();
        while let Some(mut end) = left.next() {
            while let Some(next) = left.next_if(|next| is_little(before.as_ref(), next)) {
                end = next;
            }
            if !self.hand_on(before.as_ref(), &end, &landed, out).await? {
                return Ok(false);
            }
            before = Some(end);
        }
        Ok(true)
    }

    /// Waits a little for something new, and reads it. False: nobody listens.
    async fn read(&mut self, passing: Passing, out: &mpsc::Sender<Captured>) -> Result<bool, CaptureError> {
        let before = self.last_boundary_read().cloned();
        let waiting = if self.last_change.elapsed() < BUSY_FOR { BUSY } else { IDLE };
        let begun = self.queries.read_on(&self.client, before.as_ref(), passing, waiting);
        let Some(read) = answered(self.silence, begun).await? else { return Ok(true) };
        self.last_read = Instant::now();
        let end = read.boundary;
        if !read.is_recorded {
            return self.pass(end.position, out).await;
        }
        self.last_change = self.last_read;
        let known = self.boundaries.last().map_or(Position(0), |boundary| boundary.position);
        if read.last_landing > known {
            let marks = answered(self.silence, self.queries.landings(&self.client, known)).await?;
            // One that landed since the read was begun bounds nothing yet: the next read is behind it.
            let before_this = marks.into_iter().map(|mark| mark.boundary).filter(|mark| mark.position < end.position);
            self.boundaries.extend(before_this);
        }
        self.boundaries.push(end.clone());
        let Some(landed) = self.landed(out).await? else { return Ok(false) };
        self.hand_on(before.as_ref(), &end, &landed, out).await
    }

    /// What has reached the peer already. None: nobody listens.
    async fn landed(&self, out: &mpsc::Sender<Captured>) -> Result<Option<Landed>, CaptureError> {
        match self.is_direct {
            true => landed::find_out(&self.client, &self.reach_peer, self.silence, || out.is_closed()).await,
            false => Ok(Some(Landed::default())),
        }
    }

    async fn pass(&mut self, position: Position, out: &mpsc::Sender<Captured>) -> Result<bool, CaptureError> {
        self.passed = self.passed.max(position);
        Ok(out.send(Captured::Passed(position)).await.is_ok())
    }

    /// Hands on what `end` sees and `before` does not, in order. False: nobody listens.
    async fn hand_on(
        &mut self,
        before: Option<&Boundary>,
        end: &Boundary,
        landed: &Landed,
        out: &mpsc::Sender<Captured>,
    ) -> Result<bool, CaptureError> {
        answered(self.silence, self.columns.look(&self.client)).await?;
        let all = match is_little(before, end) {
            true => self.hand_on_at_once(before, end, landed, out).await?,
            false => self.hand_on_in_pieces(before, end, landed, out).await?,
        };
        Ok(all && self.pass(end.position, out).await?)
    }

    async fn hand_on_at_once(
        &mut self,
        before: Option<&Boundary>,
        end: &Boundary,
        landed: &Landed,
        out: &mpsc::Sender<Captured>,
    ) -> Result<bool, CaptureError> {
        let Self { client, queries, assembler, columns, silence, boundaries, .. } = self;
        let transactions = queries.transactions(client, before, end);
        let rows = queries.rows(client, before, end);
        let both = async { tokio::try_join!(transactions, rows) };
        let (transactions, rows) = answered(*silence * BACKLOG, both).await?;
        let placed = read::placed(boundaries, &transactions)?;
        let mut reading = Reading::new(assembler, columns, placed, landed, *silence);
        reading.read(rows).await?;
        reading.hand_on(out).await
    }
}

/// Whether not much lies between the two. Every change in between has drawn its number there, but for those of
/// transactions that were open at the first. (Where the outbox turns over a new leaf, numbers leap; then it counts as
/// much.)
fn is_little(before: Option<&Boundary>, end: &Boundary) -> bool {
    end.drawn - before.map_or(0, |before| before.drawn.min(end.drawn)) <= PIECE
}
