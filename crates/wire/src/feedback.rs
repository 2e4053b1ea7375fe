//! Telling the server how far we are, from a task of its own, so that it hears from us even while
//! nobody reads.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::lsn::Lsn;
use crate::transport::WriteHalf;

/// 2000-01-01, where PostgreSQL's time begins, in seconds of Unix time.
const POSTGRES_EPOCH: u64 = 946_684_800;

/// Says how far the changes have been dealt with. Cheap to clone; of no effect once the stream is
/// gone.
#[derive(Clone)]
pub struct Feedback {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    flushed: AtomicU64,
    written: AtomicU64,
    /// Up to where the server said it has sent everything.
    received: AtomicU64,
    /// What the task is to do now, besides what it does every interval.
    wake: Notify,
    ask_for_reply: AtomicBool,
    hang_up: AtomicBool,
    /// Why the task can no longer send.
    failure: Mutex<Option<io::Error>>,
    failed: Notify,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Feedback {
    /// Keeps what it is told until there is a stream.
    pub(crate) fn new() -> Self {
        Feedback { shared: Arc::default() }
    }

    /// Begins to tell the server.
    pub(crate) fn spawn(&self, write: WriteHalf, status_interval: Duration) {
        let task = tokio::spawn(run(self.shared.clone(), write, status_interval));
        *lock(&self.shared.task) = Some(task);
    }

    /// Confirms everything up to `flushed`: the server may forget it, and does not send it again
    /// after a restart. `written` is for `pg_stat_replication` only, and is never behind `flushed`.
    /// Neither moves back. Told to the server with the next status.
    ///
    /// What is not confirmed does not hold up a server that shuts down, nor one whose
    /// `synchronous_standby_names` would match this connection: see `statuses`.
    pub fn set(&self, flushed: Lsn, written: Lsn) {
        self.shared.flushed.fetch_max(flushed.0, Ordering::AcqRel);
        let written = written.max(flushed);
        self.shared.written.fetch_max(written.0, Ordering::AcqRel);
    }

    /// The server said that it has sent everything up to here.
    pub(crate) fn received(&self, wal_end: Lsn) {
        self.shared.received.fetch_max(wal_end.0, Ordering::AcqRel);
    }

    /// What has been confirmed so far.
    pub fn flushed(&self) -> Lsn {
        Lsn(self.shared.flushed.load(Ordering::Acquire))
    }

    /// Sends a status at once.
    pub fn flush_now(&self) {
        self.shared.wake.notify_one();
    }

    /// Sends a status that the server must answer.
    pub(crate) fn ask_for_reply(&self) {
        self.shared.ask_for_reply.store(true, Ordering::Release);
        self.flush_now();
    }

    /// Sends a last status and ends the connection.
    pub(crate) fn hang_up(&self) {
        self.shared.hang_up.store(true, Ordering::Release);
        self.flush_now();
    }

    /// Ends the task without a word.
    pub(crate) fn abort(&self) {
        if let Some(task) = lock(&self.shared.task).take() {
            task.abort();
        }
    }

    /// Returns once nothing can be sent any more.
    pub(crate) async fn failed(&self) {
        self.shared.failed.notified().await;
    }

    pub(crate) fn take_failure(&self) -> Option<io::Error> {
        lock(&self.shared.failure).take()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing under these locks can panic half-way.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

async fn run(shared: Arc<Shared>, mut write: WriteHalf, status_interval: Duration) {
    if let Err(error) = send_statuses(&shared, &mut write, status_interval).await {
        *lock(&shared.failure) = Some(error);
        shared.failed.notify_one();
    }
}

async fn send_statuses(shared: &Shared, write: &mut WriteHalf, status_interval: Duration) -> io::Result<()> {
    let mut ticks = interval(status_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut message = BytesMut::with_capacity(128);
    let mut confirmed = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.wake.notified() => {}
        }
        message.clear();
        statuses(shared, &mut confirmed, &mut message);
        let last = shared.hang_up.load(Ordering::Acquire);
        if last {
            // Not CopyDone: amid a large transaction the server would go on to its end.
            frontend::terminate(&mut message);
        }
        write.write_all(&message).await?;
        write.flush().await?;
        if last {
            return write.shutdown().await;
        }
    }
}

/// What is to be said now. A position is confirmed once, in a status of its own; the status that
/// stands names no flush position. A server that shuts down then waits only until we have *received*
/// what it sent (`WalSndDone` falls back to the write position), not until every peer has it; and a
/// walsender without a flush position never counts as a synchronous standby, for which commits wait.
fn statuses(shared: &Shared, confirmed: &mut u64, message: &mut BytesMut) {
    let flushed = shared.flushed.load(Ordering::Acquire);
    let written = shared.written.load(Ordering::Acquire).max(shared.received.load(Ordering::Acquire)).max(flushed);
    if flushed > *confirmed {
        status(written, flushed, false, message);
        *confirmed = flushed;
    }
    let reply = shared.ask_for_reply.swap(false, Ordering::AcqRel);
    status(written, Lsn::NONE.0, reply, message);
}

/// A Standby Status Update in a CopyData message.
fn status(written: u64, flushed: u64, reply: bool, message: &mut BytesMut) {
    message.put_u8(b'd');
    message.put_u32(4 + 1 + 8 * 4 + 1);
    message.put_u8(b'r');
    message.put_u64(written);
    message.put_u64(flushed);
    message.put_u64(flushed); // applied
    message.put_i64(micros_since_2000());
    message.put_u8(u8::from(reply));
}

fn micros_since_2000() -> i64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = unix.saturating_sub(Duration::from_secs(POSTGRES_EPOCH)).as_micros();
    i64::try_from(micros).unwrap_or(i64::MAX)
}
