//! From an address to a server that is ready for a command.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::auth::authenticate;
use crate::cursor::Cursor;
use crate::error::{Error, Result, ServerError};
use crate::frame::{Frame, Frames};
use crate::options::{ConnectOptions, Host, Tls, TlsConfig};
use crate::transport::{Address, Transport, resolve};

/// What a server may send before it has been authenticated.
const LARGEST_BEFORE_LOGIN: usize = 64 * 1024;

/// An open connection.
pub(crate) struct Session {
    pub(crate) frames: Frames<Transport>,
    /// What the server reports: its version, encoding and so on.
    pub(crate) parameters: HashMap<String, String>,
    pub(crate) process_id: u32,
}

/// One try at one address.
#[derive(Clone, Copy)]
enum Attempt<'a> {
    Plain,
    Tls { config: &'a TlsConfig, optional: bool },
}

fn attempts<'a>(options: &'a ConnectOptions) -> Vec<Attempt<'a>> {
    if matches!(options.host, Host::Unix(_)) {
        return vec![Attempt::Plain];
    }
    let tls = |config: &'a TlsConfig, optional| Attempt::Tls { config, optional };
    match &options.tls {
        Tls::Disable => vec![Attempt::Plain],
        Tls::Allow(config) => vec![Attempt::Plain, tls(config, false)],
        Tls::Prefer(config) => vec![tls(config, true), Attempt::Plain],
        Tls::Require(config) => vec![tls(config, false)],
    }
}

/// Connects and logs in.
pub(crate) async fn open(options: &ConnectOptions) -> Result<Session> {
    let unreachable = |source| Error::Connect { target: options.target(), source };
    let addresses = within(options, async { resolve(&options.host, options.port).await.map_err(unreachable) }).await?;
    let mut outcome = Err(Error::Closed);
    for address in &addresses {
        outcome = open_address(options, address).await;
        // Only an address that cannot be reached is a reason to try another: the same server with
        // the same password gives the same answer.
        match &outcome {
            Err(Error::Connect { .. } | Error::ConnectTimeout { .. }) => {}
            _ => break,
        }
    }
    outcome
}

async fn open_address(options: &ConnectOptions, address: &Address) -> Result<Session> {
    let mut worth_telling: Option<Error> = None;
    for attempt in attempts(options) {
        let with_tls = matches!(attempt, Attempt::Tls { .. });
        match within(options, log_in(options, address, attempt)).await {
            Err(error @ (Error::Tls(_) | Error::TlsRefused | Error::HbaRejected(_))) => {
                // When both ways fail, the one with TLS is the one the user should mend.
                if worth_telling.is_none() || with_tls {
                    worth_telling = Some(error);
                }
            }
            other => return other,
        }
    }
    Err(worth_telling.unwrap_or(Error::Closed))
}

async fn within<T>(options: &ConnectOptions, work: impl Future<Output = Result<T>>) -> Result<T> {
    let limit = options.connect_timeout;
    if limit == Duration::ZERO {
        return work.await;
    }
    timeout(limit, work).await.unwrap_or_else(|_| Err(Error::ConnectTimeout { target: options.target(), after: limit }))
}

async fn log_in(options: &ConnectOptions, address: &Address, attempt: Attempt<'_>) -> Result<Session> {
    let mut transport = Transport::connect(address, &options.keepalives)
        .await
        .map_err(|source| Error::Connect { target: options.target(), source })?;
    if let Attempt::Tls { config, optional } = attempt {
        transport = transport.upgrade(config, optional).await?;
    }
    let mut message = BytesMut::new();
    frontend::startup_message(parameters(options), &mut message).map_err(|_| Error::InvalidOption {
        what: "a setting, the user or the database has a NUL byte in it".to_owned(),
    })?;
    transport.write_all(&message).await?;
    transport.flush().await?;
    let mut frames = Frames::new(transport);
    frames.limit(Some(LARGEST_BEFORE_LOGIN));
    authenticate(&mut frames, options).await?;
    frames.limit(None);
    until_ready(frames).await
}

fn parameters(options: &ConnectOptions) -> Vec<(&str, &str)> {
    let mut parameters = vec![
        ("user", options.user.as_str()),
        ("database", options.database.as_str()),
        ("replication", "database"),
        ("application_name", options.application_name.as_str()),
        ("client_encoding", "UTF8"),
    ];
    let settings = options.settings.iter();
    parameters.extend(settings.map(|(name, value)| (name.as_str(), value.as_str())));
    parameters
}

/// Takes what the server reports between login and its first prompt.
async fn until_ready(frames: Frames<Transport>) -> Result<Session> {
    let mut session = Session { frames, parameters: HashMap::new(), process_id: 0 };
    loop {
        let Frame { tag, body } = session.frames.next().await?;
        match tag {
            b'Z' => return Ok(session),
            b'S' => session.note_parameter(&body)?,
            b'K' => session.process_id = Cursor::new(&body).u32("process id")?,
            b'E' => return Err(ServerError::parse(&body)?.at_startup()),
            b'N' => {}
            other => {
                return Err(Error::Unexpected { tag: char::from(other), during: "before it was ready" });
            }
        }
    }
}

impl Session {
    pub(crate) fn note_parameter(&mut self, body: &[u8]) -> Result<()> {
        let mut cursor = Cursor::new(body);
        let name = cursor.string("name of a parameter")?;
        let value = cursor.string("value of a parameter")?;
        self.parameters.insert(name, value);
        Ok(())
    }
}
