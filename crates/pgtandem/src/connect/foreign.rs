//! An endpoint as PostgreSQL's own servers are told of it: options of a foreign server and of a user mapping.

use super::endpoint::{Endpoint, Place};
use super::tls::TlsMode;

/// By libpq's names.
pub type ForeignOptions = Vec<(&'static str, String)>;

impl Endpoint {
    /// Where it is. `options`, `connect_timeout` and the like are the caller's to add.
    #[must_use]
    pub fn server_options(&self) -> ForeignOptions {
        let host = |place: &Place| match place {
            Place::Tcp { name: Some(name), .. } => name.clone(),
            Place::Tcp { name: None, address } => {
                address.map_or_else(|| "localhost".to_owned(), |address| address.to_string())
            }
            Place::Unix(directory) => directory.display().to_string(),
        };
        let hosts: Vec<String> = self.hosts.iter().map(|one| host(&one.place)).collect();
        let ports: Vec<String> = self.hosts.iter().map(|one| one.port.to_string()).collect();
        let mut options = vec![("host", hosts.join(",")), ("port", ports.join(",")), ("dbname", self.database.clone())];
        let mode = match self.tls.mode {
            TlsMode::Disable => Some("disable"),
            TlsMode::Allow => Some("allow"),
            TlsMode::Prefer => None,
            TlsMode::Require => Some("require"),
            TlsMode::VerifyCa => Some("verify-ca"),
            TlsMode::VerifyFull => Some("verify-full"),
        };
        options.extend(mode.map(|mode| ("sslmode", mode.to_owned())));
        options
    }

    /// Who connects. The password, if there is one, is as it is now: it will stand in the other node's catalog.
    #[must_use]
    pub fn user_options(&self) -> ForeignOptions {
        let password = self.hosts.first().and_then(|host| self.password_for(host));
        let mut options = vec![("user", self.user.clone())];
        options.extend(password.map(|password| ("password", password.expose().to_owned())));
        options
    }
}
