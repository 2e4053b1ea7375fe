//! Reading what was missed: many changes with one answer.
//!
//! A walsender sends every message by itself and looks for news from us after each. On TCP those two system calls take
//! seven eighths of its time (`perf`, PostgreSQL 15); the rest is decoding. `pg_logical_slot_get_binary_changes` decodes
//! the same and answers in pieces of eight kilobytes. It also confirms what it gives, so it is asked of a temporary copy
//! of the slot, while the slot itself stays where the reader's confirmations have it. What it gives is collected in the
//! server first, in memory up to `work_mem`, then in a temporary file, so it is asked for in portions.
//!
//! Every such call decodes again from the copy's `restart_lsn`, which moves with the server's records of running
//! transactions (every 15 seconds, and held back by a long transaction); decoding again costs a fifth of decoding for an
//! answer. So a portion is at least twice as large as that distance. Where the distance is too large, streaming is better.

use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::time::timeout;

use crate::client::{ReplicationClient, parsed, server_error, start_options, unexpected};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::feedback::Feedback;
use crate::frame::Frame;
use crate::lsn::Lsn;
use crate::options::PgOutputOptions;
use crate::pgoutput::{Decoder, Message};
use crate::quote::Literal;
use crate::stream::Stream;

/// The least that is asked for at once, in bytes of WAL. The reader waits for the whole of it to be decoded.
const PORTION: u64 = 8 << 20;
/// The least portion, in distances between where a call begins to decode and where it begins to answer.
const DISTANCES: u64 = 2;
/// From this distance on, streaming is better.
const FARTHEST: u64 = 128 << 20;
/// The slot itself is moved after so many bytes: that reads them once more.
const CONFIRM_EVERY: u64 = 64 << 20;
/// What may be left for streaming: so much, or this part of what a call would decode again, which would cost as much.
const REST: u64 = 1 << 20;
const REST_OF_DISTANCE: u64 = 16;

/// COPY's binary format: a signature, flags and the length of an extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What [`Backlog::next`] gives.
#[derive(Debug)]
pub enum Missed {
    Message(Message),
    /// Every transaction that committed before this has been given.
    ReadUpTo(Lsn),
}

/// The changes a slot has kept. Dropping it ends the connection.
pub struct Backlog {
    client: ReplicationClient,
    slot: String,
    copy: String,
    options: PgOutputOptions,
    decoder: Decoder,
    feedback: Feedback,
    phase: Phase,
    reached: Lsn,
    confirmed: Lsn,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Asking,
    /// The answer's first row is still to come.
    Answered,
    Rows,
}

/// Where the copy of the slot is.
struct Place {
    restart: Lsn,
    confirmed: Lsn,
    flushed: Lsn,
}

impl ReplicationClient {
    /// Begins to read what `slot` has kept and what is committed meanwhile, until little of it is left; then
    /// [`Backlog::start`] goes on. The session has made a temporary slot `copy` for it, for which the server needs a free
    /// place (`max_replication_slots`).
    ///
    /// # Errors
    /// The inner one: the server does not want to; the connection is as good as before.
    pub async fn read_missed(
        mut self,
        slot: &str,
        copy: &str,
        options: &PgOutputOptions,
    ) -> Result<Result<Backlog, (Self, Error)>> {
        let make =
            format!("SELECT pg_catalog.pg_copy_logical_replication_slot({}, {}, true)", Literal(slot), Literal(copy));
        match unless_silent(self.silence_timeout, self.query(&make)).await {
            Ok(_) => {}
            Err(error @ Error::Server(_)) => return Ok(Err((self, error))),
            Err(error) => return Err(error),
        }
        let mut backlog = Backlog {
            client: self,
            slot: slot.to_owned(),
            copy: copy.to_owned(),
            options: options.clone(),
            decoder: Decoder::new(options.proto_version),
            feedback: Feedback::new(),
            phase: Phase::Asking,
            reached: Lsn::NONE,
            confirmed: Lsn::NONE,
        };
        backlog.confirmed = backlog.place().await?.confirmed;
        Ok(Ok(backlog))
    }
}

impl Backlog {
    /// Takes confirmations from now on, and those of the stream that follows.
    pub fn feedback(&self) -> Feedback {
        self.feedback.clone()
    }

    /// What comes next; `None` when it is time for [`Backlog::start`].
    ///
    /// Not cancel-safe. After an error it is of no more use.
    ///
    /// # Errors
    /// `Error::Silent` when the server takes longer than the connection's `silence_timeout` for a portion.
    pub async fn next(&mut self) -> Result<Option<Missed>> {
        loop {
            if self.phase == Phase::Asking {
                let place = self.place().await?;
                let stands = place.confirmed <= self.reached;
                self.reached = self.reached.max(place.confirmed);
                let behind = place.confirmed.0.saturating_sub(place.restart.0);
                let left = place.flushed.0.saturating_sub(place.confirmed.0);
                if stands || left <= REST.max(behind / REST_OF_DISTANCE) || behind > FARTHEST {
                    return Ok(None);
                }
                self.confirm().await?;
                self.ask(place.confirmed, PORTION.max(DISTANCES * behind)).await?;
                self.phase = Phase::Answered;
                return Ok(Some(Missed::ReadUpTo(place.confirmed)));
            }
            if let Some(message) = self.row().await? {
                return Ok(Some(Missed::Message(message)));
            }
        }
    }

    /// Goes on by streaming.
    pub async fn start(mut self) -> Result<Stream> {
        let limit = self.client.silence_timeout;
        let began = async {
            self.client.drop_slot(&self.copy, false).await?;
            self.client.stream(&self.slot, self.reached, &self.options, self.feedback).await
        };
        unless_silent(limit, began).await
    }

    /// Moves the slot itself, if that is worth it.
    async fn confirm(&mut self) -> Result<()> {
        let flushed = self.feedback.flushed().min(self.reached);
        if flushed.0.saturating_sub(self.confirmed.0) < CONFIRM_EVERY {
            return Ok(());
        }
        let slot = Literal(&self.slot);
        let advance = format!("SELECT pg_catalog.pg_replication_slot_advance({slot}, '{flushed}')");
        unless_silent(self.client.silence_timeout, self.client.query(&advance)).await?;
        self.confirmed = flushed;
        Ok(())
    }

    async fn place(&mut self) -> Result<Place> {
        let query = format!(
            "SELECT restart_lsn, confirmed_flush_lsn, pg_catalog.pg_current_wal_flush_lsn() \
             FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
            Literal(&self.copy)
        );
        let row = &unless_silent(self.client.silence_timeout, self.client.one_row(&query)).await?;
        Ok(Place { restart: parsed(row, 0)?, confirmed: parsed(row, 1)?, flushed: parsed(row, 2)? })
    }

    async fn ask(&mut self, from: Lsn, bytes: u64) -> Result<()> {
        // A transaction in pieces would be of no use: it is decoded when it has been committed.
        let whole = PgOutputOptions { streaming: false, ..self.options.clone() };
        let mut options = String::new();
        for (name, value) in start_options(&whole) {
            options.push_str(&format!(", {}, {}", Literal(name), Literal(&value)));
        }
        let until = Lsn(from.0.saturating_add(bytes));
        let query = format!(
            "COPY (SELECT data FROM pg_catalog.pg_logical_slot_get_binary_changes({}, '{until}', NULL{options})) \
             TO STDOUT (FORMAT binary)",
            Literal(&self.copy)
        );
        self.client.send_query(&query).await
    }

    /// The next row of the answer; `None` after the last.
    async fn row(&mut self) -> Result<Option<Message>> {
        loop {
            let Frame { tag, body } = self.frame().await?;
            match tag {
                b'd' => {
                    let first = std::mem::replace(&mut self.phase, Phase::Rows) == Phase::Answered;
                    if let Some(data) = value(body, first)? {
                        return Ok(Some(self.decoder.decode(data)?.message));
                    }
                }
                b'Z' => {
                    self.phase = Phase::Asking;
                    return Ok(None);
                }
                b'E' => return Err(server_error(&body)?),
                // The beginning and the end of the copy.
                b'H' | b'c' | b'C' | b'N' | b'S' => {}
                other => return Err(unexpected(other, "amid what was missed")),
            }
        }
    }

    async fn frame(&mut self) -> Result<Frame> {
        if let Some(frame) = self.client.session.frames.buffered()? {
            return Ok(frame);
        }
        unless_silent(self.client.silence_timeout, self.client.session.frames.next()).await
    }
}

async fn unless_silent<T>(limit: Option<Duration>, answer: impl Future<Output = Result<T>>) -> Result<T> {
    let after = limit.unwrap_or(Duration::MAX);
    timeout(after, answer).await.unwrap_or(Err(Error::Silent { after }))
}

/// The value of a row of one column, as COPY has it in binary; `None`: the mark behind the last row.
fn value(mut body: Bytes, first: bool) -> Result<Option<Bytes>> {
    if first {
        if !body.starts_with(HEADER) {
            return Err(Error::malformed("beginning of a copy", 0));
        }
        body.advance(HEADER.len());
    }
    let mut cursor = Cursor::new(&body);
    match cursor.u16("number of columns")? {
        1 => {}
        u16::MAX => return cursor.end("bytes behind a copy").map(|()| None),
        _ => return Err(Error::malformed("number of columns", 0)),
    }
    let length = cursor.u32("length of a value")? as usize;
    let at = cursor.at();
    cursor.take(length, "value")?;
    cursor.end("bytes behind a row")?;
    Ok(Some(body.slice(at..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: &[u8]) -> Vec<u8> {
        let length = u32::try_from(value.len()).expect("short");
        [&[0, 1], &length.to_be_bytes()[..], value].concat()
    }

    #[test]
    fn values_come_out_and_nothing_that_is_cut_short_or_too_long() {
        let first = [HEADER, &row(b"abc")].concat();
        assert_eq!(value(first.clone().into(), true).expect("a row"), Some(Bytes::from_static(b"abc")));
        assert_eq!(value(row(b"").into(), false).expect("a row"), Some(Bytes::new()));
        assert_eq!(value(Bytes::from_static(&[0xff, 0xff]), false).expect("the end"), None);
        for length in 0..first.len() {
            assert!(value(first[..length].to_vec().into(), true).is_err(), "{length} bytes");
        }
        assert!(value([first, vec![0]].concat().into(), true).is_err());
        assert!(value(Bytes::from_static(&[0, 1, 0xff, 0xff, 0xff, 0xff]), false).is_err(), "no value");
        assert!(value(Bytes::from_static(&[0, 2, 0, 0, 0, 0]), false).is_err(), "two columns");
    }

    #[test]
    fn a_server_with_nothing_to_tell_sends_header_and_end_at_once() {
        assert_eq!(value([HEADER, &[0xff, 0xff]].concat().into(), true).expect("the end"), None);
    }
}
