//! What can go wrong while starting and stopping servers, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::account::Account;

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("no PostgreSQL server (14 or newer) was found on this machine\nlooked in: {looked_in}\n{INSTALL}")]
    NotFound { looked_in: String },

    #[error("PGTANDEM_PG_BIN is {}, but {why}\nset it to the directory that holds `postgres` and `initdb`, or unset it", dir.display())]
    BadBin { dir: PathBuf, why: String },

    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },

    #[error(
        "server {name}: user {user} may not run {}: {source}\nmake the file and every directory above it readable for {user} (chmod a+rX), or set PGTANDEM_PG_BIN to an installation that is",
        program.display()
    )]
    MayNotRun { name: String, user: String, program: PathBuf, source: io::Error },

    #[error(
        "running as root, and there is neither a user `postgres` nor a user `nobody` to run the server as\nPostgreSQL refuses to run as root: create one (useradd --system postgres), or run as an ordinary user"
    )]
    NoServerUser,

    #[error("server {name}: {program} failed\n{output}")]
    NoData { name: String, program: String, output: String },

    #[error("server {name} did not start: {why}\nend of its log:\n{log}")]
    Start { name: String, why: String, log: String },

    #[error("server {name} did not stop within {seconds} s\nend of its log:\n{log}")]
    Stop { name: String, seconds: u64, log: String },

    #[error("server {name} {state}")]
    State { name: String, state: &'static str },

    #[error("signal to server {name}: {source}")]
    Signal { name: String, source: nix::Error },

    #[error(transparent)]
    Sql(#[from] SqlError),
}

const INSTALL: &str = "\
install one:
  Debian, Ubuntu: apt-get install postgresql
  Fedora, RHEL:   dnf install postgresql-server
  macOS:          brew install postgresql@17
or set PGTANDEM_PG_BIN to the directory that holds `postgres` and `initdb`";

/// A statement that a server refused, or a server that could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("server {name}, database {database}: {message}\nstatement: {statement}")]
pub struct SqlError {
    pub name: String,
    pub database: String,
    pub statement: String,
    pub message: String,
    /// None when the server was not reached or went away.
    pub sqlstate: Option<String>,
}

impl ClusterError {
    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        ClusterError::Io { what, path: path.to_owned(), source }
    }

    pub(super) fn spawn(name: &str, account: &Account, command: &Command, source: io::Error) -> Self {
        let program = PathBuf::from(command.get_program());
        if source.kind() == io::ErrorKind::PermissionDenied {
            ClusterError::MayNotRun { name: name.to_owned(), user: account.name.clone(), program, source }
        } else {
            ClusterError::io("run", &program, source)
        }
    }
}

pub type Result<T, E = ClusterError> = std::result::Result<T, E>;
