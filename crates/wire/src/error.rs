//! What can go wrong on a replication connection.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::cursor::Cursor;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection to the address: nothing listens, no route, no such host, no such socket.
    #[error("cannot reach {target}: {source}")]
    Connect { target: String, source: io::Error },

    #[error("no connection to {target} within {after:?}")]
    ConnectTimeout { target: String, after: Duration },

    #[error("the server does not speak TLS, and TLS is required; turn it on there (ssl = on) or lower sslmode")]
    TlsRefused,

    /// The certificate does not match, is not trusted, or the two sides have no cipher in common.
    #[error("TLS: {0}")]
    Tls(#[source] io::Error),

    #[error("channel binding is required, but {why}; use a SCRAM password over TLS or lower channel_binding")]
    ChannelBinding { why: &'static str },

    #[error("the server asks for a password ({method}) and none is given")]
    PasswordMissing { method: &'static str },

    #[error("wrong password or no such user: {0}")]
    WrongPassword(#[source] Box<ServerError>),

    #[error("the server's pg_hba.conf does not let this connection in: {0}")]
    HbaRejected(#[source] Box<ServerError>),

    /// The other refusals of class 28: no such role, role may not log in, peer or ident mismatch.
    #[error("the server refuses the user: {0}")]
    UserRefused(#[source] Box<ServerError>),

    #[error(
        "the server asks for an authentication method that is not supported here: {method}; SCRAM, md5, password, trust and client certificates are"
    )]
    UnsupportedAuth { method: String },

    /// The server knows no proof of the password: it may be somebody else.
    #[error("the server did not prove that it knows the password: {why}")]
    ServerUnproven { why: String },

    #[error("{0}")]
    Server(#[source] Box<ServerError>),

    /// The other side went away without a word.
    #[error("the server closed the connection")]
    Closed,

    /// The server ended the stream in good order, as it does when it shuts down.
    #[error("the server ended the stream")]
    Ended,

    #[error("nothing was heard from the server for {after:?}, though it was asked to answer")]
    Silent { after: Duration },

    #[error("malformed message from the server: {what}, at byte {at}")]
    Malformed { what: &'static str, at: usize },

    #[error("the server sent a message of type {tag:?} {during}")]
    Unexpected { tag: char, during: &'static str },

    /// An option that cannot be sent, such as a setting with a NUL byte in it.
    #[error("invalid option: {what}")]
    InvalidOption { what: String },

    #[error("connection lost: {0}")]
    Io(#[source] io::Error),
}

impl Error {
    /// What the server itself said, whatever it led to.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            Error::Server(error)
            | Error::WrongPassword(error)
            | Error::HbaRejected(error)
            | Error::UserRefused(error) => Some(error),
            _ => None,
        }
    }

    /// SQLSTATE, where the server sent one.
    pub fn code(&self) -> Option<&str> {
        self.server().map(|error| error.code.as_str())
    }

    pub(crate) fn malformed(what: &'static str, at: usize) -> Self {
        Error::Malformed { what, at }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        // TLS 1.3 reports a refused client certificate on the first read after the handshake, so any
        // read can bring a TLS error.
        let tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
        if tls {
            Error::Tls(error)
        } else if error.kind() == io::ErrorKind::UnexpectedEof {
            Error::Closed
        } else {
            Error::Io(error)
        }
    }
}

/// An ErrorResponse of the server, field by field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerError {
    /// ERROR, FATAL or PANIC, never translated.
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// The call stack in the server, as its `CONTEXT` line.
    pub context: Option<String>,
    /// The server's C function that raised it: the one field that tells apart errors of one SQLSTATE
    /// in every language.
    pub routine: Option<String>,
}

impl ServerError {
    pub(crate) fn parse(body: &[u8]) -> Result<Self> {
        let mut fields = Cursor::new(body);
        let mut error = ServerError::default();
        loop {
            let field = fields.u8("error field")?;
            if field == 0 {
                return Ok(error);
            }
            let value = String::from_utf8_lossy(fields.cstr("error text")?).into_owned();
            match field {
                b'V' => error.severity = value,
                // Sent before V, and translated: only for servers that send no V.
                b'S' if error.severity.is_empty() => error.severity = value,
                b'C' => error.code = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                b'W' => error.context = Some(value),
                b'R' => error.routine = Some(value),
                // Source file, line, position and names of objects: nothing here needs them.
                _ => {}
            }
        }
    }

    /// The error of a connection that is not yet open, where class 28 deserves a name of its own.
    pub(crate) fn at_startup(self) -> Error {
        let refused_by_hba = self.routine.as_deref() == Some("ClientAuthentication");
        match self.code.as_str() {
            "28P01" => Error::WrongPassword(Box::new(self)),
            "28000" if refused_by_hba => Error::HbaRejected(Box::new(self)),
            "28000" => Error::UserRefused(Box::new(self)),
            _ => Error::Server(Box::new(self)),
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.code, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, " Hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ServerError {}
