//! Why a connection could not be made, what to do about it, and whether to try again.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustls::CertificateError;

/// A connection that could not be made.
#[derive(Debug)]
pub struct ConnectError {
    /// `new_app on db1.example:5432 as app`
    pub endpoint: String,
    pub fault: ConnectFault,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot connect to {}: {}", self.endpoint, self.fault)
    }
}

impl std::error::Error for ConnectError {}

/// What kept us from connecting.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFault {
    #[error("the host name {host} cannot be resolved: {detail}")]
    HostNotFound { host: String, detail: String },
    #[error("nothing accepts connections at {address}")]
    Refused { address: String },
    #[error("there is no server socket {}", path.display())]
    SocketMissing { path: PathBuf },
    #[error("{address} cannot be reached: {detail}")]
    Unreachable { address: String, detail: String },
    #[error("no answer from {address} within {} s", after.as_secs())]
    TimedOut { address: String, after: Duration },
    #[error("the server does not offer TLS")]
    TlsNotOffered,
    #[error("the server's certificate is not trusted: {detail}")]
    CertificateNotTrusted { detail: String },
    #[error("the server's certificate is not for {expected} but for {presented}")]
    CertificateNameMismatch { expected: String, presented: String },
    #[error("the server's certificate is out of date: {detail}")]
    CertificateExpired { detail: String },
    #[error("the server's certificate cannot be used: {detail}")]
    CertificateUnusable { detail: String },
    #[error("{} {detail}", file.display())]
    RootCertificate { file: PathBuf, detail: String },
    #[error("the client certificate or key {} {detail}", file.display())]
    ClientCertificate { file: PathBuf, detail: String },
    #[error("the TLS handshake failed: {detail}")]
    TlsFailed { detail: String },
    #[error("the server asks for a password and there is none{}", note(pass_file))]
    PasswordMissing { pass_file: Option<String> },
    #[error("{message}{}", note(pass_file))]
    PasswordWrong { message: String, pass_file: Option<String> },
    #[error("the server does not admit us: {message}")]
    NotAdmitted { message: String },
    #[error("{message}")]
    NoConnectPrivilege { message: String },
    #[error("{message}")]
    DatabaseMissing { message: String },
    #[error("the server has no connection left: {message}")]
    TooManyConnections { message: String },
    #[error("the server is not ready: {message}")]
    NotReady { message: String },
    #[error("no usable way to authenticate: {detail}")]
    Authentication { detail: String },
    #[error("none of the servers is what target_session_attrs asks for ({wanted})")]
    NoSuitableHost { wanted: &'static str },
    #[error("the connection broke while it was being made: {detail}")]
    Broken { detail: String },
    #[error("the server refused with SQLSTATE {sqlstate}: {message}")]
    Server { sqlstate: String, message: String },
    #[error("what answers does not speak PostgreSQL's protocol: {detail}")]
    Protocol { detail: String },
    /// A list of hosts, none of which would do.
    #[error("{}", listed(.0))]
    EveryHost(Vec<(String, ConnectFault)>),
}

fn note(pass_file: &Option<String>) -> String {
    pass_file.as_ref().map_or(String::new(), |note| format!(" ({note})"))
}

fn listed(faults: &[(String, ConnectFault)]) -> String {
    let lines: Vec<String> = faults.iter().map(|(host, fault)| format!("{host}: {fault}")).collect();
    lines.join("; ")
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retry {
    /// It may pass by itself: keep trying, with backoff.
    Soon,
    /// A person has to change something on the server or in a file: say so, and keep trying, more slowly.
    AfterPerson,
    /// Not without another configuration of pgtandem.
    Never,
}

impl ConnectError {
    pub fn retry(&self) -> Retry {
        self.fault.retry()
    }

    /// Whether it may pass by itself.
    pub fn is_transient(&self) -> bool {
        self.retry() == Retry::Soon
    }

    pub fn remedy(&self) -> String {
        self.fault.remedy()
    }
}

impl ConnectFault {
    pub fn retry(&self) -> Retry {
        match self {
            Self::HostNotFound { .. }
            | Self::Refused { .. }
            | Self::SocketMissing { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::TooManyConnections { .. }
            | Self::NotReady { .. }
            | Self::NoSuitableHost { .. }
            | Self::Broken { .. } => Retry::Soon,
            // All of these live on the server or in files that are read anew each time.
            Self::TlsNotOffered
            | Self::CertificateNotTrusted { .. }
            | Self::CertificateNameMismatch { .. }
            | Self::CertificateExpired { .. }
            | Self::CertificateUnusable { .. }
            | Self::RootCertificate { .. }
            | Self::ClientCertificate { .. }
            | Self::TlsFailed { .. }
            | Self::PasswordMissing { .. }
            | Self::PasswordWrong { .. }
            | Self::NotAdmitted { .. }
            | Self::NoConnectPrivilege { .. }
            | Self::DatabaseMissing { .. }
            | Self::Authentication { .. }
            | Self::Protocol { .. } => Retry::AfterPerson,
            Self::Server { sqlstate, .. } => retry_of(sqlstate),
            // One host that may come back is enough.
            Self::EveryHost(faults) => faults.iter().map(|(_, fault)| fault.retry()).min().unwrap_or(Retry::Soon),
        }
    }

    pub fn remedy(&self) -> String {
        let Self::EveryHost(faults) = self else {
            return self.own_remedy().to_owned();
        };
        let mut remedies: Vec<String> = Vec::new();
        for (_, fault) in faults {
            let remedy = fault.remedy();
            if !remedies.contains(&remedy) {
                remedies.push(remedy);
            }
        }
        remedies.join("; ")
    }

    fn own_remedy(&self) -> &'static str {
        match self {
            Self::HostNotFound { .. } => {
                "check the host name in the connection string, and the name service of this machine"
            }
            Self::Refused { .. } => {
                "check that the server runs, that its listen_addresses and port fit the connection string, and the firewall"
            }
            Self::SocketMissing { .. } => {
                "check that the server runs and the port is right; give host=DIRECTORY (its unix_socket_directories) or a host name"
            }
            Self::Unreachable { .. } => "check the network between this machine and the server",
            Self::TimedOut { .. } => "check the network and firewall; connect_timeout sets how long to wait",
            Self::TlsNotOffered => "set `ssl = on` on the server, or use sslmode=prefer if the network can be trusted",
            Self::CertificateNotTrusted { .. } => {
                "give the certificate of the authority that signed it: sslrootcert=FILE (or sslrootcert=system for a public one)"
            }
            Self::CertificateNameMismatch { .. } => {
                "connect by a name in the certificate (hostaddr can hold the address), or use sslmode=verify-ca"
            }
            Self::CertificateExpired { .. } => "renew the server's certificate, and check this machine's clock",
            Self::CertificateUnusable { .. } => {
                "have it reissued as an X.509 version 3 server certificate with a subject alternative name"
            }
            Self::RootCertificate { .. } => "correct sslrootcert or sslcrl, or the file",
            Self::ClientCertificate { .. } => "correct sslcert and sslkey, or the files and their permissions",
            Self::TlsFailed { .. } => {
                "see the server's log; with clientcert in pg_hba.conf a client certificate is needed (sslcert, sslkey)"
            }
            Self::PasswordMissing { .. } => {
                "put it into ~/.pgpass (chmod 600), into PGPASSWORD, or write ${VARIABLE} for it in the connection string"
            }
            Self::PasswordWrong { .. } => {
                "correct the password where it is kept (connection string, PGPASSWORD or ~/.pgpass)"
            }
            Self::NotAdmitted { .. } => {
                "add a line for this user, database and address to the server's pg_hba.conf and reload it, \
                 and check that the role exists and may log in"
            }
            Self::NoConnectPrivilege { .. } => "run on that server: GRANT CONNECT ON DATABASE … TO …",
            Self::DatabaseMissing { .. } => "correct the database name, or create the database",
            Self::TooManyConnections { .. } => {
                "end idle connections, or raise max_connections or the role's or database's limit"
            }
            Self::NotReady { .. } => "wait until it has started; its log says what it is doing",
            Self::Authentication { .. } => {
                "use scram-sha-256, md5, password, cert, peer or trust in the server's pg_hba.conf; channel binding needs TLS"
            }
            Self::NoSuitableHost { .. } => "check which server is the primary, or correct target_session_attrs",
            Self::Broken { .. } => "see the server's log",
            Self::Server { .. } => {
                "see the server's log; correct the options of the connection string if it names them"
            }
            Self::Protocol { .. } => "check host and port: another service may be listening there",
            Self::EveryHost(_) => "see what each of the hosts needs",
        }
    }

    /// Whether the server itself turned us away, so that libpq would not try the next host of a list.
    pub(super) fn is_refusal_of_login(&self) -> bool {
        matches!(
            self,
            Self::PasswordMissing { .. }
                | Self::PasswordWrong { .. }
                | Self::NotAdmitted { .. }
                | Self::NoConnectPrivilege { .. }
                | Self::DatabaseMissing { .. }
                | Self::Authentication { .. }
        )
    }

    /// What a failed connection attempt of tokio-postgres means.
    pub(super) fn of_attempt(error: &tokio_postgres::Error, address: &str, pass_file: Option<String>) -> Self {
        if let Some(server) = error.as_db_error() {
            return Self::of_server(server.code().code(), server.message(), pass_file);
        }
        let detail = error.source().map_or_else(|| error.to_string(), |source| source.to_string());
        if let Some(tls) = find::<rustls::Error>(error) {
            return Self::of_tls(tls);
        }
        if let Some(io) = find::<io::Error>(error) {
            return match io.kind() {
                io::ErrorKind::ConnectionRefused => Self::Refused { address: address.to_owned() },
                io::ErrorKind::NotFound => Self::SocketMissing { path: PathBuf::from(address) },
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
                    Self::Broken { detail: io.to_string() }
                }
                _ if io.raw_os_error().is_none() => Self::Protocol { detail: io.to_string() },
                _ => Self::Unreachable { address: address.to_owned(), detail: io.to_string() },
            };
        }
        // tokio-postgres has no types for these; the tests notice if its words change.
        match detail.as_str() {
            "password missing" => Self::PasswordMissing { pass_file },
            "server does not support TLS" => Self::TlsNotOffered,
            _ if error.is_closed() => Self::Broken { detail: "the server closed it".to_owned() },
            _ if error.to_string().starts_with("authentication error")
                || error.to_string().contains("unsupported authentication") =>
            {
                Self::Authentication { detail }
            }
            _ => Self::Protocol { detail },
        }
    }

    pub(super) fn of_server(code: &str, message: &str, pass_file: Option<String>) -> Self {
        let message = message.to_owned();
        match code {
            "28P01" => Self::PasswordWrong { message, pass_file },
            "28000" => Self::NotAdmitted { message },
            "42501" => Self::NoConnectPrivilege { message },
            "3D000" => Self::DatabaseMissing { message },
            "53300" => Self::TooManyConnections { message },
            "57P03" => Self::NotReady { message },
            other => Self::Server { sqlstate: other.to_owned(), message },
        }
    }

    pub(super) fn of_tls(error: &rustls::Error) -> Self {
        let rustls::Error::InvalidCertificate(fault) = error else {
            return Self::TlsFailed { detail: error.to_string() };
        };
        let detail = fault.to_string();
        match fault {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::CertificateExpired { detail },
            CertificateError::NotValidForNameContext { expected, presented } => Self::CertificateNameMismatch {
                expected: expected.to_str().into_owned(),
                presented: if presented.is_empty() { "no name at all".to_owned() } else { presented.join(", ") },
            },
            CertificateError::NotValidForName => {
                Self::CertificateNameMismatch { expected: "this host".to_owned(), presented: "another".to_owned() }
            }
            CertificateError::UnknownIssuer => {
                Self::CertificateNotTrusted { detail: "none of the root certificates signed it".to_owned() }
            }
            CertificateError::Revoked | CertificateError::BadSignature | CertificateError::UnknownRevocationStatus => {
                Self::CertificateNotTrusted { detail }
            }
            _ => Self::CertificateUnusable { detail },
        }
    }
}

/// What to do about a server's refusal that has no name of its own here.
/// What a server said, in one line: tokio-postgres shows a server's error as "db error" only.
#[must_use]
pub fn in_words(error: &tokio_postgres::Error) -> String {
    let Some(server) = error.as_db_error() else {
        return error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
    };
    let mut text = server.message().to_owned();
    for more in [server.detail(), server.hint()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more);
    }
    text
}

fn retry_of(sqlstate: &str) -> Retry {
    match sqlstate.get(..2) {
        // connection, resources, operator, system, internal
        Some("08" | "53" | "57" | "58" | "XX") => Retry::Soon,
        // our own startup parameters, or the `options` of the connection string
        Some("22" | "42") => Retry::Never,
        _ => Retry::AfterPerson,
    }
}

/// The first error of this type in the chain of causes, looking into `io::Error`s too.
pub(super) fn find<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .map(|inner| inner as &(dyn std::error::Error + 'static));
        next = inner.or_else(|| error.source());
    }
    None
}
