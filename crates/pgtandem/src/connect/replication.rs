//! The same endpoint for a replication connection.

use std::time::Duration;

use rustls_pki_types::ServerName;
use wire::{ConnectOptions, Tls, TlsConfig};

use super::endpoint::{ChannelBinding, Endpoint, Host, Place};
use super::error::{ConnectError, ConnectFault};
use super::tls::{TlsMode, server_name};

impl Endpoint {
    /// What `wire` needs to connect to `host`: the one of the endpoint's hosts to which an SQL session was opened.
    ///
    /// # Errors
    /// When a certificate or key cannot be read.
    pub fn replication(
        &self,
        host: &Host,
        application_name: &str,
        settings: &[(&str, &str)],
    ) -> Result<ConnectOptions, ConnectError> {
        let place = match &host.place {
            Place::Unix(directory) => wire::Host::Unix(directory.clone()),
            Place::Tcp { name, address } => wire::Host::Tcp(name.clone().unwrap_or_default(), *address),
        };
        let mut options = ConnectOptions::new(place, self.user.clone(), self.database.clone());
        options.port = host.port;
        options.password = self.password_for(host).map(|secret| wire::Secret::new(secret.reveal()));
        application_name.clone_into(&mut options.application_name);
        options.settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        options.connect_timeout = self.connect_timeout.unwrap_or(Duration::ZERO);
        options.channel_binding = match self.channel_binding {
            ChannelBinding::Disable => wire::ChannelBinding::Disable,
            ChannelBinding::Prefer => wire::ChannelBinding::Prefer,
            ChannelBinding::Require => wire::ChannelBinding::Require,
        };
        match &self.keepalives {
            None => options.keepalives.disabled = true,
            Some(keepalives) => {
                options.keepalives.idle = Some(keepalives.idle);
                options.keepalives.interval = keepalives.interval;
                options.keepalives.count = keepalives.count;
            }
        }
        options.keepalives.user_timeout = self.tcp_user_timeout;
        options.tls = self.wire_tls(host).map_err(|fault| ConnectError { endpoint: self.to_string(), fault })?;
        Ok(options)
    }

    fn wire_tls(&self, host: &Host) -> Result<Tls, ConnectFault> {
        let Place::Tcp { name, address } = &host.place else { return Ok(Tls::Disable) };
        if self.tls.mode == TlsMode::Disable {
            return Ok(Tls::Disable);
        }
        let name = match address {
            Some(address) => server_name(name.as_deref(), *address),
            None => name.clone().unwrap_or_else(|| "localhost".to_owned()),
        };
        let server_name = ServerName::try_from(name.clone())
            .map_err(|error| ConnectFault::HostNotFound { host: name, detail: error.to_string() })?;
        let config = TlsConfig { config: self.tls.client_config()?, server_name };
        Ok(match self.tls.mode {
            TlsMode::Disable => Tls::Disable,
            TlsMode::Allow => Tls::Allow(config),
            TlsMode::Prefer => Tls::Prefer(config),
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => Tls::Require(config),
        })
    }
}
