//! Reading the changes.

use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::time::{Instant, sleep, timeout};

use crate::client::{server_error, unexpected};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::feedback::Feedback;
use crate::frame::{Frame, Frames};
use crate::lsn::Lsn;
use crate::options::ProtoVersion;
use crate::pace::{Pace, REST};
use crate::pgoutput::{Decoded, Decoder, Message};
use crate::transport::ReadHalf;

/// Once nothing can be sent any more, how long to go on listening for the reason: the server says it
/// before it closes.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the server sent. Times are its own, in microseconds since 2000-01-01 00:00 UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Message {
        wal_start: Lsn,
        wal_end: Lsn,
        sent_micros: i64,
        /// The (sub)transaction a change belongs to, inside a piece of a streamed transaction.
        xid: Option<u32>,
        message: Message,
    },
    /// The server has read its log up to `wal_end` and had nothing for us.
    Keepalive {
        wal_end: Lsn,
        sent_micros: i64,
        /// Answered already.
        reply_requested: bool,
    },
}

/// The changes of one slot. Dropping it ends the connection; `stop` ends it in good order.
pub struct Stream {
    frames: Frames<ReadHalf>,
    feedback: Feedback,
    decoder: Decoder,
    silence_timeout: Option<Duration>,
    silence: Silence,
    pace: Pace,
    /// When the feedback task was found to have given up.
    send_failed: Option<Instant>,
}

/// How long `next` has waited since the server was last heard. Time spent elsewhere is not counted:
/// while nobody reads, the server has no way to be heard.
#[derive(Default)]
struct Silence {
    waited: Duration,
    asked: bool,
}

/// Adds the time it lives to the silence, also when the future that holds it is dropped.
struct Waiting<'a> {
    silence: &'a mut Silence,
    since: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.silence.waited += self.since.elapsed();
    }
}

impl Stream {
    pub(crate) fn new(
        frames: Frames<ReadHalf>,
        feedback: Feedback,
        proto_version: ProtoVersion,
        silence_timeout: Option<Duration>,
    ) -> Self {
        Stream {
            frames,
            feedback,
            decoder: Decoder::new(proto_version),
            silence_timeout,
            silence: Silence::default(),
            pace: Pace::new(Instant::now()),
            send_failed: None,
        }
    }

    /// The next event. Cancel-safe: nothing is lost if the future is dropped, and time waited in
    /// dropped futures counts as silence all the same.
    ///
    /// After an error the stream is of no more use.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.try_next()? {
                return Ok(event);
            }
            self.wait().await?;
        }
    }

    /// The next event if it has been received already; never waits. To take in a batch what one
    /// read brought.
    pub fn try_next(&mut self) -> Result<Option<Event>> {
        while let Some(frame) = self.frames.buffered()? {
            if let Some(event) = self.event(frame)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Sends a last status and ends the connection, so that the slot is free as soon as this
    /// returns. Waits `patience` at most: amid a large transaction the server may be slow to notice.
    pub async fn stop(mut self, patience: Duration) -> Result<()> {
        self.feedback.hang_up();
        let drained = timeout(patience, async {
            loop {
                while self.frames.buffered()?.is_some() {}
                if self.frames.fill().await? == 0 {
                    return Ok(());
                }
            }
        });
        match drained.await {
            // The end of the connection is what was asked for, in whatever form it comes.
            Ok(Ok(()) | Err(Error::Io(_) | Error::Closed)) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Silent { after: patience }),
        }
    }

    fn event(&mut self, frame: Frame) -> Result<Option<Event>> {
        match frame.tag {
            b'd' => self.copy_data(frame.body).map(Some),
            b'E' => Err(server_error(&frame.body)?),
            // A notice; a setting that changed with a reload.
            b'N' | b'S' => Ok(None),
            // CopyDone, CommandComplete: how a server that shuts down takes its leave.
            b'c' | b'C' => Err(Error::Ended),
            other => Err(unexpected(other, "in the stream")),
        }
    }

    fn copy_data(&mut self, mut body: Bytes) -> Result<Event> {
        let mut cursor = Cursor::new(&body);
        match cursor.u8("kind of stream data")? {
            b'w' => {
                let wal_start = Lsn(cursor.u64("start of stream data")?);
                let wal_end = Lsn(cursor.u64("end of stream data")?);
                let sent_micros = cursor.i64("time of stream data")?;
                body.advance(1 + 8 * 3);
                let Decoded { xid, message } = self.decoder.decode(body)?;
                Ok(Event::Message { wal_start, wal_end, sent_micros, xid, message })
            }
            b'k' => {
                let wal_end = Lsn(cursor.u64("end of a keepalive")?);
                let sent_micros = cursor.i64("time of a keepalive")?;
                let reply_requested = cursor.bool("reply mark of a keepalive")?;
                cursor.end("bytes behind a keepalive")?;
                self.feedback.received(wal_end);
                if reply_requested {
                    self.feedback.flush_now();
                }
                Ok(Event::Keepalive { wal_end, sent_micros, reply_requested })
            }
            _ => Err(Error::malformed("kind of stream data", 0)),
        }
    }

    /// Waits until something has been received.
    async fn wait(&mut self) -> Result<()> {
        let waiting = Waiting { silence: &mut self.silence, since: Instant::now() };
        if self.pace.is_fast() {
            sleep(REST).await;
        }
        loop {
            let waited = waiting.silence.waited + waiting.since.elapsed();
            let limit = match (self.send_failed, self.silence_timeout) {
                (Some(since), _) => Some(LAST_WORDS.saturating_sub(since.elapsed())),
                (None, Some(timeout)) if waiting.silence.asked => Some(timeout.saturating_sub(waited)),
                (None, Some(timeout)) => Some((timeout / 2).saturating_sub(waited)),
                (None, None) => None,
            };
            // Reading comes first: after a long pause elsewhere, what has arrived is not silence.
            tokio::select! {
                biased;
                read = self.frames.fill() => {
                    let read = read?;
                    if read == 0 {
                        return Err(Error::Closed);
                    }
                    self.pace.read(read, Instant::now());
                    // `waiting` adds its own time when it is dropped, so that goes first.
                    drop(waiting);
                    self.silence = Silence::default();
                    return Ok(());
                }
                () = self.feedback.failed(), if self.send_failed.is_none() => {
                    self.send_failed = Some(Instant::now());
                }
                () = sleep(limit.unwrap_or_default()), if limit.is_some() => {
                    if self.send_failed.is_some() {
                        let failure = self.feedback.take_failure();
                        return Err(failure.map_or(Error::Closed, Error::from));
                    }
                    if waiting.silence.asked {
                        let after = self.silence_timeout.unwrap_or_default();
                        return Err(Error::Silent { after });
                    }
                    waiting.silence.asked = true;
                    self.feedback.ask_for_reply();
                }
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.feedback.abort();
    }
}
