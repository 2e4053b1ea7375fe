//! A blocking SQL session, for callers that are no async code: the demo's applications and tests.

use std::fmt::Write;
use std::path::Path;
use std::sync::mpsc as blocking;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::error::SqlError;

/// One connection, driven by a thread of its own; so it may also be used from within a runtime.
pub struct Session {
    name: String,
    database: String,
    requests: Option<mpsc::UnboundedSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

struct Request {
    sql: String,
    answer: blocking::Sender<Answer>,
}

type Answer = Result<String, tokio_postgres::Error>;

/// A statement that was sent and may still be at work (or waiting for a lock).
pub struct Pending<'a> {
    session: &'a Session,
    sql: String,
    answer: blocking::Receiver<Answer>,
    arrived: Option<Answer>,
}

impl Session {
    /// Through the socket in `socket_dir`, without password. `name` is the server's, for messages.
    pub fn connect(name: &str, socket_dir: &Path, port: u16, user: &str, database: &str) -> Result<Session, SqlError> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(socket_dir).port(port).user(user).dbname(database).application_name("pgtandem cluster");
        Session::with_config(name, config)
    }

    pub fn with_config(name: &str, config: tokio_postgres::Config) -> Result<Session, SqlError> {
        let (requests, inbox) = mpsc::unbounded_channel();
        let (ready, connected) = blocking::channel();
        let database = config.get_dbname().unwrap_or_default().to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(serve(config, inbox, ready)),
                Err(e) => drop(ready.send(Err(format!("no runtime: {e}")))),
            }
        });
        let mut session = Session { name: name.to_owned(), database, requests: Some(requests), thread: Some(thread) };
        match connected.recv() {
            Ok(Ok(())) => Ok(session),
            failure => {
                session.requests = None;
                let message = failure.map_or_else(|e| e.to_string(), |r| r.unwrap_err());
                Err(SqlError {
                    name: name.to_owned(),
                    database: session.database.clone(),
                    statement: "(connect)".to_owned(),
                    message,
                    sqlstate: None,
                })
            }
        }
    }

    /// Runs statements as `psql -At -c` would: one implicit transaction, fields joined by `|`,
    /// one line per row, NULL empty, no newline at the end.
    pub fn run(&self, sql: impl Into<String>) -> Result<String, SqlError> {
        self.send(sql).wait()
    }

    /// As `run`, without waiting for the answer. Statements of a session run one after the other.
    pub fn send(&self, sql: impl Into<String>) -> Pending<'_> {
        let sql = sql.into();
        let (answer, receiver) = blocking::channel();
        if let Some(requests) = &self.requests {
            // When the thread has ended, the receiver says so.
            let _ = requests.send(Request { sql: sql.clone(), answer });
        }
        Pending { session: self, sql, answer: receiver, arrived: None }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Pending<'_> {
    pub fn is_done(&mut self) -> bool {
        if self.arrived.is_none() {
            self.arrived = self.answer.try_recv().ok();
        }
        self.arrived.is_some()
    }

    pub fn wait(self) -> Result<String, SqlError> {
        let answer = match self.arrived {
            Some(answer) => Ok(answer),
            None => self.answer.recv(),
        };
        let (message, sqlstate) = match answer {
            Ok(Ok(text)) => return Ok(text),
            Ok(Err(e)) => (describe(&e), e.code().map(|code| code.code().to_owned())),
            Err(_) => ("the session has ended".to_owned(), None),
        };
        Err(SqlError {
            name: self.session.name.clone(),
            database: self.session.database.clone(),
            statement: shorten(self.sql),
            message,
            sqlstate,
        })
    }
}

async fn serve(
    config: tokio_postgres::Config,
    mut inbox: mpsc::UnboundedReceiver<Request>,
    ready: blocking::Sender<Result<(), String>>,
) {
    // The configuration's own timeout ends with the handshake of TCP; a frozen server, whose
    // kernel does that for it, would keep us for ever.
    let limit = config.get_connect_timeout().copied();
    let limit = limit.unwrap_or(Duration::from_secs(30));
    let (client, connection) = match tokio::time::timeout(limit, config.connect(NoTls)).await {
        Ok(Ok(both)) => both,
        Ok(Err(e)) => return drop(ready.send(Err(describe(&e)))),
        Err(_) => return drop(ready.send(Err(format!("timed out after {limit:?}")))),
    };
    // An error of the connection reaches the caller as the error of its statement.
    let connection = tokio::spawn(connection);
    let _ = ready.send(Ok(()));
    while let Some(request) = inbox.recv().await {
        let answer = client.simple_query(&request.sql).await;
        let _ = request.answer.send(answer.map(as_text));
    }
    drop(client);
    // So that the backend is gone when the session is: DROP DATABASE right after it works. A
    // frozen server would keep us here for ever, and nothing is lost by not waiting for it.
    let _ = tokio::time::timeout(Duration::from_secs(1), connection).await;
}

fn as_text(messages: Vec<SimpleQueryMessage>) -> String {
    let mut text = String::new();
    for message in messages {
        if let SimpleQueryMessage::Row(row) = message {
            for column in 0..row.len() {
                let separator = if column == 0 { "" } else { "|" };
                let value = row.get(column).unwrap_or_default();
                write!(text, "{separator}{value}").expect("a String takes all");
            }
            text.push('\n');
        }
    }
    text.pop();
    text
}

fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        let mut text = format!("{}: {} ({})", db.severity(), db.message(), db.code().code());
        for (label, part) in [("DETAIL", db.detail()), ("HINT", db.hint()), ("WHERE", db.where_())] {
            if let Some(part) = part {
                write!(text, "\n{label}: {part}").expect("a String takes all");
            }
        }
        return text;
    }
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn shorten(sql: String) -> String {
    const LONGEST: usize = 2000;
    match sql.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &sql[..end]),
        None => sql,
    }
}
