//! What the caller chooses: where and as whom to connect, and what to read.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;

use crate::secret::Secret;

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name, and the address to use instead of looking it up (`hostaddr`).
    Tcp(String, Option<IpAddr>),
    /// The directory that holds `.s.PGSQL.<port>`.
    Unix(PathBuf),
}

/// As libpq's `sslmode`; which certificates to trust is a matter of the config. A Unix socket never
/// uses TLS, as with libpq.
#[derive(Debug, Clone)]
pub enum Tls {
    Disable,
    /// Plain first; TLS when the server insists.
    Allow(TlsConfig),
    /// TLS first; plain when the server has none or does not let a TLS connection in.
    Prefer(TlsConfig),
    Require(TlsConfig),
}

#[derive(Clone)]
pub struct TlsConfig {
    pub config: Arc<rustls::ClientConfig>,
    pub server_name: ServerName<'static>,
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The config holds trust anchors and perhaps a client key: of no use in a log.
        f.debug_struct("TlsConfig").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Whether SCRAM must be bound to the server's certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    #[default]
    Prefer,
    Require,
}

/// TCP keepalives; `None` in a field leaves the system's own value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keepalives {
    pub disabled: bool,
    pub idle: Option<Duration>,
    pub interval: Option<Duration>,
    pub count: Option<u32>,
    /// How long sent data may stay unacknowledged (Linux only).
    pub user_timeout: Option<Duration>,
}

/// How to reach a database, and how patient to be.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    pub host: Host,
    pub port: u16,
    pub user: String,
    pub password: Option<Secret>,
    pub database: String,
    pub application_name: String,
    pub tls: Tls,
    pub channel_binding: ChannelBinding,
    /// Server settings sent as startup parameters, such as `DateStyle`. They hold for the values in
    /// the stream too.
    pub settings: Vec<(String, String)>,
    /// For each address tried, until the server is ready for a command; zero waits for ever.
    pub connect_timeout: Duration,
    pub keepalives: Keepalives,
    /// How often a status is sent unasked. Shortened to a third of the server's
    /// `wal_sender_timeout` where that is less.
    pub status_interval: Duration,
    /// How long the server may say nothing at all while `Stream::next` waits. Halfway it is asked to
    /// answer. `None` waits for ever.
    pub silence_timeout: Option<Duration>,
}

impl ConnectOptions {
    pub fn new(host: Host, user: impl Into<String>, database: impl Into<String>) -> Self {
        ConnectOptions {
            host,
            port: 5432,
            user: user.into(),
            password: None,
            database: database.into(),
            application_name: "pgtandem".to_owned(),
            tls: Tls::Disable,
            channel_binding: ChannelBinding::default(),
            settings: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            keepalives: Keepalives::default(),
            status_interval: Duration::from_secs(1),
            silence_timeout: Some(Duration::from_secs(60)),
        }
    }

    /// The address for messages to a person.
    pub(crate) fn target(&self) -> String {
        match &self.host {
            Host::Tcp(name, None) => format!("{name}:{}", self.port),
            Host::Tcp(name, Some(address)) if name.is_empty() => {
                format!("{address} port {}", self.port)
            }
            Host::Tcp(name, Some(address)) => format!("{name} ({address}) port {}", self.port),
            Host::Unix(directory) => {
                format!("{}/.s.PGSQL.{}", directory.display(), self.port)
            }
        }
    }
}

/// The version of pgoutput's protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProtoVersion {
    /// Whole transactions, in commit order.
    #[default]
    V1,
    /// Also large transactions in pieces before they commit, if `streaming` is on.
    V2,
}

impl ProtoVersion {
    pub(crate) fn number(self) -> u8 {
        match self {
            ProtoVersion::V1 => 1,
            ProtoVersion::V2 => 2,
        }
    }
}

/// Which changes the server sends, by where they came from. Needs PostgreSQL 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Only changes without a replication origin.
    None,
    Any,
}

/// What pgoutput is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PgOutputOptions {
    pub proto_version: ProtoVersion,
    pub publication: Vec<String>,
    /// Values in binary where a type has a send function.
    pub binary: bool,
    /// Also what `pg_logical_emit_message` wrote.
    pub messages: bool,
    /// Needs `ProtoVersion::V2`.
    pub streaming: bool,
    pub origin: Option<Origin>,
}

impl PgOutputOptions {
    /// Protocol 1, values as text, nothing but row changes.
    pub fn new<P: Into<String>>(publication: impl IntoIterator<Item = P>) -> Self {
        PgOutputOptions { publication: publication.into_iter().map(Into::into).collect(), ..PgOutputOptions::default() }
    }
}
