//! The replication connection to the server that an SQL session found.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use rustls_pki_types::ServerName;
use wire::{ConnectOptions, ReplicationClient, Tls, TlsConfig};

use super::endpoint::{ChannelBinding, Endpoint, Host, Place};
use super::error::{ConnectError, ConnectFault, find};
use super::passfile::Found;
use super::tls::{TlsMode, server_name};

impl Endpoint {
    /// Options for a replication connection to one host, usually [`Session::host`](super::Session): capture and
    /// deliveries must go to the same server. Reads passwords and certificates now, so make them anew to reconnect.
    pub fn replication_options(
        &self,
        host: &Host,
        application_name: &str,
        settings: &[(&str, &str)],
    ) -> Result<ConnectOptions, ConnectError> {
        let place = match &host.place {
            Place::Unix(directory) => wire::Host::Unix(directory.clone()),
            Place::Tcp { name, address } => wire::Host::Tcp(name.clone().unwrap_or_default(), *address),
        };
        let mut options = ConnectOptions::new(place, &self.user, &self.database);
        options.port = host.port;
        options.password = self.password_for(host);
        options.application_name = application_name.to_owned();
        options.tls = self.replication_tls(host).map_err(|fault| self.error(host, fault))?;
        options.channel_binding = match self.channel_binding {
            ChannelBinding::Disable => wire::ChannelBinding::Disable,
            ChannelBinding::Prefer => wire::ChannelBinding::Prefer,
            ChannelBinding::Require => wire::ChannelBinding::Require,
        };
        let own = self.options.iter().map(|own| ("options", own.as_str()));
        options.settings =
            own.chain(settings.iter().copied()).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        options.connect_timeout = self.connect_timeout.unwrap_or(Duration::ZERO);
        options.keepalives = wire::Keepalives {
            disabled: self.keepalives.is_none(),
            idle: self.keepalives.map(|keepalives| keepalives.idle),
            interval: self.keepalives.and_then(|keepalives| keepalives.interval),
            count: self.keepalives.and_then(|keepalives| keepalives.count),
            user_timeout: self.tcp_user_timeout,
        };
        Ok(options)
    }

    /// Opens a replication connection, with the same faults as an SQL session has.
    pub async fn connect_replication(
        &self,
        host: &Host,
        options: &ConnectOptions,
    ) -> Result<ReplicationClient, ConnectError> {
        ReplicationClient::connect(options).await.map_err(|error| {
            let pass_file = match self.password(host) {
                Found::Ignored { file, why } => Some(format!("{} was ignored: it {why}", file.display())),
                Found::Password(_) | Found::NoEntry | Found::NoFile => None,
            };
            self.error(host, ConnectFault::of_replication(&error, host, pass_file))
        })
    }

    fn replication_tls(&self, host: &Host) -> Result<Tls, ConnectFault> {
        let (name, address) = match &host.place {
            Place::Unix(_) => return Ok(Tls::Disable),
            Place::Tcp { name, address } => (name.as_deref(), *address),
        };
        // A name that no certificate can bear is replaced by an address, which is not sent to the server.
        let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let server_name =
            ServerName::try_from(server_name(name, address)).unwrap_or_else(|_| ServerName::from(address));
        let config = || {
            let config = self.tls.client_config()?;
            Ok(TlsConfig { config, server_name })
        };
        Ok(match self.tls.mode {
            TlsMode::Disable => Tls::Disable,
            TlsMode::Allow => Tls::Allow(config()?),
            TlsMode::Prefer => Tls::Prefer(config()?),
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => Tls::Require(config()?),
        })
    }

    fn error(&self, host: &Host, fault: ConnectFault) -> ConnectError {
        ConnectError { endpoint: self.at(host).to_string(), fault }
    }
}

impl ConnectFault {
    /// What a replication connection that could not be made means.
    fn of_replication(error: &wire::Error, host: &Host, pass_file: Option<String>) -> Self {
        use wire::Error;
        let detail = error.to_string();
        if let Some(server) = error.server() {
            return Self::of_server(&server.code, &server.message, pass_file);
        }
        match error {
            Error::Connect { source, .. } => Self::of_unreachable(source, host),
            Error::ConnectTimeout { target, after } => Self::TimedOut { address: target.clone(), after: *after },
            Error::TlsRefused => Self::TlsNotOffered,
            Error::Tls(source) => match find::<rustls::Error>(source) {
                Some(tls) => Self::of_tls(tls),
                None => Self::TlsFailed { detail },
            },
            Error::PasswordMissing { .. } => Self::PasswordMissing { pass_file },
            Error::ChannelBinding { .. } | Error::UnsupportedAuth { .. } | Error::ServerUnproven { .. } => {
                Self::Authentication { detail }
            }
            Error::Closed | Error::Ended | Error::Silent { .. } | Error::Io(_) => Self::Broken { detail },
            Error::Malformed { .. } | Error::Unexpected { .. } | Error::InvalidOption { .. } => {
                Self::Protocol { detail }
            }
            Error::WrongPassword(_) | Error::HbaRejected(_) | Error::UserRefused(_) | Error::Server(_) => {
                Self::Server { sqlstate: String::new(), message: detail }
            }
        }
    }

    fn of_unreachable(error: &io::Error, host: &Host) -> Self {
        let detail = error.to_string();
        match (error.kind(), &host.place) {
            (io::ErrorKind::ConnectionRefused, _) => Self::Refused { address: host.to_string() },
            (io::ErrorKind::NotFound, Place::Unix(directory)) => {
                Self::SocketMissing { path: PathBuf::from(directory).join(format!(".s.PGSQL.{}", host.port)) }
            }
            // The system has no number for a name that is not found.
            (_, Place::Tcp { name: Some(name), .. }) if error.raw_os_error().is_none() => {
                Self::HostNotFound { host: name.clone(), detail }
            }
            _ => Self::Unreachable { address: host.to_string(), detail },
        }
    }
}
