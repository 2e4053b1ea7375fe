//! Commands on a replication connection.

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::AsyncWriteExt;

use std::fmt::Write;
use std::time::Duration;

use crate::cursor::Cursor;
use crate::error::{Error, Result, ServerError};
use crate::feedback::Feedback;
use crate::frame::Frame;
use crate::lsn::Lsn;
use crate::options::{ConnectOptions, Origin, PgOutputOptions};
use crate::quote::{Ident, Literal};
use crate::startup::{self, Session};
use crate::stream::Stream;

/// A replication connection that waits for a command. One command at a time; `start` turns it into a
/// stream.
///
/// The methods are not cancel-safe: a connection on which one was dropped half-way is of no more use.
pub struct ReplicationClient {
    pub(crate) session: Session,
    status_interval: Duration,
    pub(crate) silence_timeout: Option<Duration>,
}

/// The answer to IDENTIFY_SYSTEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    pub system_identifier: String,
    pub timeline: u32,
    /// How far the server has flushed its log.
    pub wal_position: Lsn,
    pub database: String,
}

/// A slot that has just been made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedSlot {
    /// The slot sends every transaction that commits after this position, and none before it.
    pub consistent_point: Lsn,
    /// Shows the database as of `consistent_point` (SET TRANSACTION SNAPSHOT). Valid until the next
    /// command on this connection, or its end.
    pub snapshot: Option<String>,
}

type Row = Vec<Option<String>>;

impl ReplicationClient {
    pub async fn connect(options: &ConnectOptions) -> Result<Self> {
        Ok(ReplicationClient {
            session: startup::open(options).await?,
            status_interval: options.status_interval,
            silence_timeout: options.silence_timeout,
        })
    }

    /// What the server reports of itself, such as `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.session.parameters.get(name).map(String::as_str)
    }

    /// The server's major version: 15 for 15.18 and for 15beta1.
    pub fn server_major(&self) -> u32 {
        let version = self.parameter("server_version").unwrap_or_default();
        let digits = version.split(|c: char| !c.is_ascii_digit()).next();
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }

    /// The server process that serves this connection (`pg_stat_replication.pid`).
    pub fn process_id(&self) -> u32 {
        self.session.process_id
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&mut self) -> bool {
        self.session.frames.input().is_tls()
    }

    pub async fn identify_system(&mut self) -> Result<SystemIdentity> {
        let row = self.one_row("IDENTIFY_SYSTEM").await?;
        Ok(SystemIdentity {
            system_identifier: text(&row, 0)?.to_owned(),
            timeline: parsed(&row, 1)?,
            wal_position: parsed(&row, 2)?,
            database: text(&row, 3)?.to_owned(),
        })
    }

    /// Makes a logical slot for pgoutput. Waits until every transaction that is open now has ended.
    pub async fn create_slot(&mut self, name: &str, temporary: bool, export_snapshot: bool) -> Result<CreatedSlot> {
        let temporary = if temporary { " TEMPORARY" } else { "" };
        // The older form, without parentheses, is the one that 14 knows; later ones keep it for it.
        let snapshot = match (self.server_major() >= 15, export_snapshot) {
            (true, true) => "(SNAPSHOT 'export')",
            (true, false) => "(SNAPSHOT 'nothing')",
            (false, true) => "EXPORT_SNAPSHOT",
            (false, false) => "NOEXPORT_SNAPSHOT",
        };
        let command = format!("CREATE_REPLICATION_SLOT {}{temporary} LOGICAL pgoutput {snapshot}", Ident(name));
        let row = self.one_row(&command).await?;
        Ok(CreatedSlot { consistent_point: parsed(&row, 1)?, snapshot: row.get(2).cloned().flatten() })
    }

    /// Drops a slot. If it is in use: waits until it no longer is, or else fails.
    pub async fn drop_slot(&mut self, name: &str, wait: bool) -> Result<()> {
        let wait = if wait { " WAIT" } else { "" };
        let command = format!("DROP_REPLICATION_SLOT {}{wait}", Ident(name));
        self.query(&command).await.map(drop)
    }

    /// Starts to stream from a slot: every transaction that commits after `from`, or after what the
    /// slot has confirmed, whichever is later.
    ///
    /// Must be called on a tokio runtime, where it starts the task that sends feedback.
    pub async fn start(self, slot: &str, from: Lsn, options: &PgOutputOptions) -> Result<(Stream, Feedback)> {
        let feedback = Feedback::new();
        Ok((self.stream(slot, from, options, feedback.clone()).await?, feedback))
    }

    pub(crate) async fn stream(
        mut self,
        slot: &str,
        from: Lsn,
        options: &PgOutputOptions,
        feedback: Feedback,
    ) -> Result<Stream> {
        let status_interval = self.status_interval().await?;
        self.send_query(&start_command(slot, from, options)).await?;
        loop {
            let Frame { tag, body } = self.session.frames.next().await?;
            match tag {
                b'W' => break,
                b'E' => return Err(server_error(&body)?),
                b'S' | b'N' => {}
                other => return Err(unexpected(other, "in answer to START_REPLICATION")),
            }
        }
        let (frames, write) = self.session.frames.map(|transport| transport.split());
        feedback.spawn(write, status_interval);
        Ok(Stream::new(frames, feedback, options.proto_version, self.silence_timeout))
    }

    /// The server ends a connection that says nothing for `wal_sender_timeout`, so a status must go
    /// out well before.
    async fn status_interval(&mut self) -> Result<Duration> {
        let row = self.one_row("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'").await?;
        let timeout = Duration::from_millis(parsed(&row, 0)?);
        let most = match timeout {
            Duration::ZERO => Duration::MAX,
            timeout => timeout / 3,
        };
        let least = Duration::from_millis(1);
        Ok(self.status_interval.min(most).max(least))
    }

    pub(crate) async fn send_query(&mut self, query: &str) -> Result<()> {
        let mut message = BytesMut::new();
        frontend::query(query, &mut message)
            .map_err(|_| Error::InvalidOption { what: "a name has a NUL byte in it".to_owned() })?;
        let transport = self.session.frames.input();
        transport.write_all(&message).await?;
        transport.flush().await?;
        Ok(())
    }

    pub(crate) async fn one_row(&mut self, query: &str) -> Result<Row> {
        let mut rows = self.query(query).await?;
        match rows.len() {
            1 => Ok(rows.remove(0)),
            _ => Err(Error::malformed("number of rows in an answer", 0)),
        }
    }

    /// A command or a simple query; its rows as text.
    pub(crate) async fn query(&mut self, query: &str) -> Result<Vec<Row>> {
        self.send_query(query).await?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            let frame = match self.session.frames.next().await {
                Ok(frame) => frame,
                // A fatal error is followed by the end, not by a prompt.
                Err(lost) => return Err(failure.unwrap_or(lost)),
            };
            match frame.tag {
                b'D' => rows.push(data_row(&frame.body)?),
                b'E' => failure = Some(server_error(&frame.body)?),
                b'S' => self.session.note_parameter(&frame.body)?,
                b'T' | b'C' | b'I' | b'N' => {}
                b'Z' => return failure.map_or(Ok(rows), Err),
                other => return Err(unexpected(other, "in answer to a command")),
            }
        }
    }
}

pub(crate) fn server_error(body: &[u8]) -> Result<Error> {
    Ok(Error::Server(Box::new(ServerError::parse(body)?)))
}

pub(crate) fn unexpected(tag: u8, during: &'static str) -> Error {
    Error::Unexpected { tag: char::from(tag), during }
}

fn data_row(body: &[u8]) -> Result<Row> {
    let mut cursor = Cursor::new(body);
    let count = cursor.u16("number of columns")?;
    let mut row = Vec::with_capacity(usize::from(count).min(cursor.remaining() / 4));
    for _ in 0..count {
        let length = cursor.i32("length of a value")?;
        row.push(match usize::try_from(length) {
            Ok(length) => {
                let value = cursor.take(length, "value")?;
                Some(String::from_utf8_lossy(value).into_owned())
            }
            Err(_) => None,
        });
    }
    cursor.end("bytes behind a row")?;
    Ok(row)
}

fn text(row: &[Option<String>], index: usize) -> Result<&str> {
    match row.get(index) {
        Some(Some(value)) => Ok(value),
        _ => Err(Error::malformed("answer of a command", index)),
    }
}

pub(crate) fn parsed<T: std::str::FromStr>(row: &[Option<String>], index: usize) -> Result<T> {
    let parsed = text(row, index)?.parse();
    parsed.map_err(|_| Error::malformed("answer of a command", index))
}

/// What the output plugin is told.
pub(crate) fn start_options(options: &PgOutputOptions) -> Vec<(&'static str, String)> {
    let mut publications = String::new();
    for name in &options.publication {
        if !publications.is_empty() {
            publications.push(',');
        }
        let _ = write!(publications, "{}", Ident(name));
    }
    let mut named =
        vec![("proto_version", options.proto_version.number().to_string()), ("publication_names", publications)];
    let wanted = [
        (options.binary, "binary", "true"),
        (options.messages, "messages", "true"),
        (options.streaming, "streaming", "on"),
        (options.origin == Some(Origin::None), "origin", "none"),
        (options.origin == Some(Origin::Any), "origin", "any"),
    ];
    named.extend(wanted.iter().filter(|(wanted, ..)| *wanted).map(|(_, name, value)| (*name, (*value).to_owned())));
    named
}

fn start_command(slot: &str, from: Lsn, options: &PgOutputOptions) -> String {
    let options: Vec<_> =
        start_options(options).iter().map(|(name, value)| format!("{name} {}", Literal(value))).collect();
    format!("START_REPLICATION SLOT {} LOGICAL {from} ({})", Ident(slot), options.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_command_quotes_names_and_lists_options() {
        let options =
            PgOutputOptions { messages: true, origin: Some(Origin::None), ..PgOutputOptions::new(["a\"b", "it's"]) };
        assert_eq!(
            start_command("s", Lsn(0x1_0000_00FF), &options),
            r#"START_REPLICATION SLOT "s" LOGICAL 1/FF (proto_version '1', publication_names '"a""b","it''s"', messages 'true', origin 'none')"#
        );
    }
}
