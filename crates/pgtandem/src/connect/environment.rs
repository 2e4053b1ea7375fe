//! What the process stands in: variables, home directory, user name, well-known directories.
//!
//! It is a value and not the process's own environment, so that tests run side by side.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The surroundings that connection parameters and `pgtandem.toml` are resolved in.
#[derive(Clone)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    home: Option<PathBuf>,
    os_user: Option<String>,
    /// Where `pg_service.conf` is sought when `PGSYSCONFDIR` is not set.
    system_directories: Vec<PathBuf>,
    /// Where servers keep their sockets when no host is given; libpq calls both `localhost` in `.pgpass`.
    socket_directories: Vec<PathBuf>,
}

impl Environment {
    /// The surroundings of this process.
    pub fn of_process() -> Self {
        let account = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
        let variables: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        // libpq takes HOME first and the account's directory where HOME is unset.
        let home = variables
            .get("HOME")
            .filter(|home| !home.is_empty())
            .map(PathBuf::from)
            .or_else(|| account.as_ref().map(|account| account.dir.clone()));
        Self {
            variables,
            home,
            os_user: account.map(|account| account.name),
            // What `pg_config --sysconfdir` says on Debian, on the PGDG packages for RHEL, and when built from source.
            system_directories: ["/etc/postgresql-common", "/etc/sysconfig/pgsql", "/usr/local/pgsql/etc"]
                .map(PathBuf::from)
                .to_vec(),
            socket_directories: ["/var/run/postgresql", "/tmp"].map(PathBuf::from).to_vec(),
        }
    }

    /// Nothing but what is set afterwards; for tests.
    pub fn empty() -> Self {
        Self {
            variables: BTreeMap::new(),
            home: None,
            os_user: None,
            system_directories: Vec::new(),
            socket_directories: vec![PathBuf::from("/var/run/postgresql")],
        }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    pub fn with_home(mut self, home: impl Into<PathBuf>) -> Self {
        self.home = Some(home.into());
        self
    }

    pub fn with_os_user(mut self, user: &str) -> Self {
        self.os_user = Some(user.to_owned());
        self
    }

    pub fn with_socket_directories(mut self, directories: Vec<PathBuf>) -> Self {
        self.socket_directories = directories;
        self
    }

    /// A variable's value, the empty text included.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// A variable's value where it is set to something.
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }

    pub fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    pub fn os_user(&self) -> Option<&str> {
        self.os_user.as_deref()
    }

    pub fn system_directories(&self) -> Vec<PathBuf> {
        match self.filled("PGSYSCONFDIR") {
            Some(directory) => vec![PathBuf::from(directory)],
            None => self.system_directories.clone(),
        }
    }

    pub fn socket_directories(&self) -> &[PathBuf] {
        &self.socket_directories
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The variables hold PGPASSWORD and whatever else a deployment keeps there.
        f.debug_struct("Environment").field("home", &self.home).field("os_user", &self.os_user).finish_non_exhaustive()
    }
}
