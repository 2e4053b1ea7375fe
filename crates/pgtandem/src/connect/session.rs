//! Opening an SQL session.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::config::{ChannelBinding as WireBinding, SslMode};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Notification};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::endpoint::{ChannelBinding, Endpoint, Host, Place, SessionAttributes};
use super::error::{ConnectError, ConnectFault};
use super::passfile::Found;
use super::tls::{TlsMode, server_name};

/// An open SQL session. It ends when `client` is dropped.
pub struct Session {
    pub client: Client,
    /// What `LISTEN` brings. Dropping the receiver is fine.
    pub notifications: mpsc::UnboundedReceiver<Notification>,
    /// Ends with the connection, and says why where it broke.
    pub task: JoinHandle<Result<(), tokio_postgres::Error>>,
    /// Which host of the endpoint's list this is.
    pub host: Host,
}

/// How one attempt uses TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Plain,
    /// TLS if the server offers it.
    IfOffered,
    Tls,
}

/// Whose statements have no limit, nor have its transactions. The setting is there from PostgreSQL 17 on; a server refuses one
/// that it does not know where a session begins.
const NO_TRANSACTION_TIMEOUT: &str = "SELECT pg_catalog.set_config('transaction_timeout', '0', false)
    WHERE pg_catalog.current_setting('transaction_timeout', true) <> '0'";

impl Endpoint {
    /// Opens a session. `application_name` is what `pg_stat_activity` shows; `settings` are set before the
    /// first statement and are what RESET and DISCARD go back to.
    pub async fn connect(&self, application_name: &str, settings: &[(&str, &str)]) -> Result<Session, ConnectError> {
        let mut hosts: Vec<&Host> = self.hosts.iter().collect();
        if self.shuffle_hosts {
            hosts.sort_by_cached_key(|_| uuid::Uuid::new_v4());
        }
        let config = self.base_config(application_name, settings);
        let session = async {
            let session = self.connect_to_any(&hosts, &config).await?;
            if settings.contains(&("statement_timeout", "0")) {
                let unlimited = session.client.batch_execute(NO_TRANSACTION_TIMEOUT).await;
                unlimited.map_err(|error| ConnectFault::of_attempt(&error, &session.host.to_string(), None))?;
            }
            Ok(session)
        };
        session.await.map_err(|fault| ConnectError { endpoint: self.to_string(), fault })
    }

    async fn connect_to_any(&self, hosts: &[&Host], config: &Config) -> Result<Session, ConnectFault> {
        let mut faults = Vec::new();
        // prefer-standby takes a second round in which any server will do.
        let rounds: &[SessionAttributes] = match self.session_attributes {
            SessionAttributes::PreferStandby => &[SessionAttributes::Standby, SessionAttributes::Any],
            ref other => std::slice::from_ref(other),
        };
        for wanted in rounds {
            faults.clear();
            for host in hosts {
                match self.connect_to(host, config).await {
                    Ok(session) => match fits(&session.client, *wanted).await {
                        Ok(true) => return Ok(session),
                        Ok(false) => {
                            let wanted = wanted.keyword();
                            faults.push((host.to_string(), ConnectFault::NoSuitableHost { wanted }));
                        }
                        Err(error) => {
                            let fault = ConnectFault::of_attempt(&error, &host.to_string(), None);
                            faults.push((host.to_string(), fault));
                        }
                    },
                    // As in libpq: only servers that are away make it go on to the next one.
                    Err(fault) if fault.is_refusal_of_login() => return Err(fault),
                    Err(fault) => faults.push((host.to_string(), fault)),
                }
            }
        }
        match faults.len() {
            1 => Err(faults.remove(0).1),
            _ => Err(ConnectFault::EveryHost(faults)),
        }
    }

    async fn connect_to(&self, host: &Host, config: &Config) -> Result<Session, ConnectFault> {
        let mut config = config.clone();
        config.port(host.port);
        let pass_file = match self.password(host) {
            Found::Password(password) => {
                config.password(password.expose());
                None
            }
            Found::NoEntry => Some("the password file has no matching line".to_owned()),
            Found::NoFile => None,
            Found::Ignored { file, why } => Some(format!("{} was ignored: it {why}", file.display())),
        };
        let (name, addresses) = match &host.place {
            Place::Unix(directory) => {
                config.host_path(directory).ssl_mode(SslMode::Disable);
                let socket = directory.join(format!(".s.PGSQL.{}", host.port)).display().to_string();
                return self.attempt(&config, None, host, &socket, &pass_file).await;
            }
            Place::Tcp { name, address: Some(address) } => (name.as_deref(), vec![*address]),
            Place::Tcp { name: Some(name), address: None } => {
                (Some(name.as_str()), look_up(name, host.port, self.connect_timeout).await?)
            }
            Place::Tcp { name: None, address: None } => {
                (Some("localhost"), look_up("localhost", host.port, self.connect_timeout).await?)
            }
        };
        let mut last = ConnectFault::HostNotFound {
            host: name.unwrap_or_default().to_owned(),
            detail: "it has no address".to_owned(),
        };
        for address in addresses {
            let mut config = config.clone();
            config.host(server_name(name, address)).hostaddr(address);
            match self.connect_by_tls_mode(&config, host, &pass_file).await {
                Err(fault) if !fault.is_refusal_of_login() => last = fault,
                done => return done,
            }
        }
        Err(last)
    }

    /// sslmode allow and prefer are two attempts.
    async fn connect_by_tls_mode(
        &self,
        config: &Config,
        host: &Host,
        pass_file: &Option<String>,
    ) -> Result<Session, ConnectFault> {
        let attempts: &[Attempt] = match self.tls.mode {
            TlsMode::Disable => &[Attempt::Plain],
            TlsMode::Allow => &[Attempt::Plain, Attempt::Tls],
            TlsMode::Prefer => &[Attempt::IfOffered, Attempt::Plain],
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => &[Attempt::Tls],
        };
        let mut first: Option<ConnectFault> = None;
        for attempt in attempts {
            let outcome = self.attempt_with(*attempt, config, host, pass_file).await;
            match (outcome, first) {
                (Ok(session), _) => return Ok(session),
                (Err(fault), None) if other_way_may_help(&fault) => first = Some(fault),
                (Err(fault), None) => return Err(fault),
                // The second answer counts only where it says more than "not this way either".
                (Err(ConnectFault::NotAdmitted { .. } | ConnectFault::TlsNotOffered), Some(fault)) => {
                    return Err(fault);
                }
                (Err(fault), Some(_)) => return Err(fault),
            }
        }
        Err(first.unwrap_or(ConnectFault::TlsNotOffered))
    }

    async fn attempt_with(
        &self,
        attempt: Attempt,
        config: &Config,
        host: &Host,
        pass_file: &Option<String>,
    ) -> Result<Session, ConnectFault> {
        let mut config = config.clone();
        let tls = match attempt {
            Attempt::Plain => {
                config.ssl_mode(SslMode::Disable);
                None
            }
            Attempt::IfOffered => {
                config.ssl_mode(SslMode::Prefer);
                Some(self.tls.client_config()?)
            }
            Attempt::Tls => {
                config.ssl_mode(SslMode::Require);
                Some(self.tls.client_config()?)
            }
        };
        let address = host.to_string();
        self.attempt(&config, tls, host, &address, pass_file).await
    }

    async fn attempt(
        &self,
        config: &Config,
        tls: Option<Arc<ClientConfig>>,
        host: &Host,
        address: &str,
        pass_file: &Option<String>,
    ) -> Result<Session, ConnectFault> {
        let connecting = async {
            match tls {
                // tokio-postgres's connection types differ with and without TLS: each is driven by its own task.
                Some(tls) => {
                    let tls = MakeRustlsConnect::new(ClientConfig::clone(&tls));
                    let (client, connection) = config.connect(tls).await?;
                    Ok(drive(client, connection, host))
                }
                None => {
                    let (client, connection) = config.connect(NoTls).await?;
                    Ok(drive(client, connection, host))
                }
            }
        };
        let outcome = match self.connect_timeout {
            Some(after) => tokio::time::timeout(after, connecting)
                .await
                .map_err(|_| ConnectFault::TimedOut { address: address.to_owned(), after })?,
            None => connecting.await,
        };
        outcome.map_err(|error| ConnectFault::of_attempt(&error, address, pass_file.clone()))
    }

    fn base_config(&self, application_name: &str, settings: &[(&str, &str)]) -> Config {
        let mut config = Config::new();
        config
            .user(&self.user)
            .dbname(&self.database)
            .application_name(application_name)
            .channel_binding(match self.channel_binding {
                ChannelBinding::Disable => WireBinding::Disable,
                ChannelBinding::Prefer => WireBinding::Prefer,
                ChannelBinding::Require => WireBinding::Require,
            })
            .keepalives(self.keepalives.is_some());
        if let Some(keepalives) = &self.keepalives {
            config.keepalives_idle(keepalives.idle);
            if let Some(interval) = keepalives.interval {
                config.keepalives_interval(interval);
            }
            if let Some(count) = keepalives.count {
                config.keepalives_retries(count);
            }
        }
        if let Some(timeout) = self.tcp_user_timeout {
            config.tcp_user_timeout(timeout);
        }
        let options = startup_options(self.options.as_deref(), settings);
        if !options.is_empty() {
            config.options(options);
        }
        config
    }
}

/// The server splits `options` at spaces; a backslash makes the next character literal.
fn startup_options(own: Option<&str>, settings: &[(&str, &str)]) -> String {
    let mut options: Vec<String> = own.map(str::to_owned).into_iter().collect();
    for (name, value) in settings {
        let mut option = format!("-c {name}=");
        for c in value.chars() {
            if c.is_ascii_whitespace() || c == '\\' {
                option.push('\\');
            }
            option.push(c);
        }
        options.push(option);
    }
    options.join(" ")
}

async fn look_up(name: &str, port: u16, limit: Option<Duration>) -> Result<Vec<IpAddr>, ConnectFault> {
    let looking = tokio::net::lookup_host((name, port));
    let found: io::Result<Vec<IpAddr>> = match limit {
        Some(after) => match tokio::time::timeout(after, looking).await {
            Ok(found) => found.map(|addresses| addresses.map(|address| address.ip()).collect()),
            Err(_) => {
                let address = format!("the name service, asked for {name},");
                return Err(ConnectFault::TimedOut { address, after });
            }
        },
        None => looking.await.map(|addresses| addresses.map(|address| address.ip()).collect()),
    };
    found.map_err(|error| ConnectFault::HostNotFound { host: name.to_owned(), detail: error.to_string() })
}

/// Whether connecting with TLS instead of without, or the reverse, can change this outcome.
fn other_way_may_help(fault: &ConnectFault) -> bool {
    matches!(
        fault,
        ConnectFault::NotAdmitted { .. }
            | ConnectFault::TlsNotOffered
            | ConnectFault::TlsFailed { .. }
            | ConnectFault::CertificateUnusable { .. }
            // A server without TLS never asks for what cannot be read.
            | ConnectFault::ClientCertificate { .. }
            | ConnectFault::Broken { .. }
    )
}

fn drive<S, T>(client: Client, mut connection: tokio_postgres::Connection<S, T>, host: &Host) -> Session
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, notifications) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        while let Some(message) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            match message? {
                // Nobody has to listen.
                AsyncMessage::Notification(notification) => drop(sender.send(notification)),
                AsyncMessage::Notice(notice) => tracing::debug!("server says {notice}"),
                _ => {}
            }
        }
        Ok(())
    });
    Session { client, notifications, task, host: host.clone() }
}

async fn fits(client: &Client, wanted: SessionAttributes) -> Result<bool, tokio_postgres::Error> {
    let query = match wanted {
        SessionAttributes::Any | SessionAttributes::PreferStandby => return Ok(true),
        SessionAttributes::ReadWrite | SessionAttributes::ReadOnly => {
            "SELECT pg_catalog.current_setting('transaction_read_only')::boolean"
        }
        SessionAttributes::Primary | SessionAttributes::Standby => "SELECT pg_catalog.pg_is_in_recovery()",
    };
    let restricted: bool = client.query_one(query, &[]).await?.get(0);
    Ok(match wanted {
        SessionAttributes::ReadOnly | SessionAttributes::Standby => restricted,
        _ => !restricted,
    })
}

impl SessionAttributes {
    fn keyword(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::ReadWrite => "read-write",
            Self::ReadOnly => "read-only",
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::PreferStandby => "prefer-standby",
        }
    }
}
