//! Where and how to connect: an `Endpoint`, resolved once from its connection string and surroundings.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::params::{ParameterFault, ParameterFaults, Parameters};
use super::passfile::{self, Found, Wanted};
use super::tls::TlsSettings;
use super::{Environment, Secret, conninfo};

pub(super) const DEFAULT_PORT: u16 = 5432;
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A place to connect to, with everything libpq would have taken into account.
///
/// Files it refers to (password file, certificates) are read at each connection, so that they can be
/// renewed while the hub runs.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub hosts: Vec<Host>,
    pub user: String,
    pub database: String,
    pub(super) password: PasswordSource,
    pub tls: TlsSettings,
    pub channel_binding: ChannelBinding,
    /// `options`: command-line options for the server, for example `-c work_mem=64MB`.
    pub options: Option<String>,
    /// Per address, from the first packet to the end of authentication. None waits for ever.
    pub connect_timeout: Option<Duration>,
    pub keepalives: Option<Keepalives>,
    /// How long sent data may stay unacknowledged before the system gives the connection up.
    pub tcp_user_timeout: Option<Duration>,
    pub session_attributes: SessionAttributes,
    /// `load_balance_hosts=random`
    pub shuffle_hosts: bool,
}

/// One server of an endpoint's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub place: Place,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `address` (`hostaddr`) spares the name lookup; the name is still what certificates are checked against.
    Tcp { name: Option<String>, address: Option<IpAddr> },
    /// The directory of the socket `.s.PGSQL.<port>`.
    Unix(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalives {
    pub idle: Duration,
    pub interval: Option<Duration>,
    pub count: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// `target_session_attrs`: which of several servers will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionAttributes {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum PasswordSource {
    Given(Secret),
    /// Read anew for each connection.
    File {
        file: PathBuf,
        default_socket_directories: Vec<PathBuf>,
    },
    /// There is no home directory that could hold a password file.
    Nowhere,
}

impl Endpoint {
    /// Resolves a URL or keyword string the way libpq does. All faults are reported together.
    pub fn resolve(text: &str, environment: &Environment) -> Result<Self, ParameterFaults> {
        let string = conninfo::parse(text).map_err(|fault| ParameterFaults(vec![fault]))?;
        let parameters = Parameters::gather(string, environment)?;
        Resolver { parameters, environment, faults: Vec::new() }.run()
    }

    /// The same endpoint with only this one of its hosts, for a second connection to the server a session found.
    pub fn at(&self, host: &Host) -> Self {
        Self { hosts: vec![host.clone()], ..self.clone() }
    }

    /// Whether both lead to the same database of the same server, as far as the parameters tell.
    pub fn leads_to_same_database(&self, other: &Self) -> bool {
        self.database == other.database && self.hosts.iter().any(|host| other.hosts.contains(host))
    }

    /// The password for one host, looked up now.
    pub(super) fn password(&self, host: &Host) -> Found {
        match &self.password {
            PasswordSource::Given(secret) => Found::Password(secret.clone()),
            PasswordSource::Nowhere => Found::NoFile,
            PasswordSource::File { file, default_socket_directories } => {
                let name = match &host.place {
                    Place::Unix(directory) if default_socket_directories.contains(directory) => "localhost".to_owned(),
                    Place::Unix(directory) => directory.display().to_string(),
                    Place::Tcp { name: Some(name), .. } => name.clone(),
                    Place::Tcp { name: None, address } => {
                        address.map(|address| address.to_string()).unwrap_or_else(|| "localhost".to_owned())
                    }
                };
                let wanted = Wanted { host: &name, port: host.port, database: &self.database, user: &self.user };
                passfile::look_up(file, &wanted)
            }
        }
    }

    /// The password for one host as the replication connection needs it.
    pub fn password_for(&self, host: &Host) -> Option<Secret> {
        match self.password(host) {
            Found::Password(secret) => Some(secret),
            Found::NoEntry | Found::NoFile | Found::Ignored { .. } => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Unix(directory) => write!(f, "{}:{}", directory.display(), self.port),
            Place::Tcp { name: Some(name), .. } if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Place::Tcp { name: Some(name), .. } => write!(f, "{name}:{}", self.port),
            Place::Tcp { address: Some(IpAddr::V6(address)), .. } => write!(f, "[{address}]:{}", self.port),
            Place::Tcp { address: Some(address), .. } => write!(f, "{address}:{}", self.port),
            Place::Tcp { name: None, address: None } => write!(f, "localhost:{}", self.port),
        }
    }
}

/// For people: `new_app on db1.example:5432 as app`.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.hosts.iter().map(Host::to_string).collect();
        write!(f, "{} on {} as {}", self.database, hosts.join(","), self.user)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self}, {:?})", self.tls.mode)
    }
}

struct Resolver<'a> {
    parameters: Parameters,
    environment: &'a Environment,
    faults: Vec<ParameterFault>,
}

impl Resolver<'_> {
    fn run(mut self) -> Result<Endpoint, ParameterFaults> {
        let user = self.user();
        let database = self.parameters.get("dbname").unwrap_or(&user).to_owned();
        let hosts = self.hosts();
        let tls = TlsSettings::resolve(&self.parameters, self.environment, &hosts, &mut self.faults);
        let endpoint = Endpoint {
            password: self.password_source(),
            channel_binding: self.choice(
                "channel_binding",
                ChannelBinding::Prefer,
                &[
                    ("disable", ChannelBinding::Disable),
                    ("prefer", ChannelBinding::Prefer),
                    ("require", ChannelBinding::Require),
                ],
            ),
            options: self.parameters.get("options").map(str::to_owned),
            connect_timeout: self.connect_timeout(),
            keepalives: self.keepalives(),
            tcp_user_timeout: self
                .whole_number("tcp_user_timeout")
                .filter(|milliseconds| *milliseconds > 0)
                .map(|milliseconds| Duration::from_millis(milliseconds.unsigned_abs())),
            session_attributes: self.choice(
                "target_session_attrs",
                SessionAttributes::Any,
                &[
                    ("any", SessionAttributes::Any),
                    ("read-write", SessionAttributes::ReadWrite),
                    ("read-only", SessionAttributes::ReadOnly),
                    ("primary", SessionAttributes::Primary),
                    ("standby", SessionAttributes::Standby),
                    ("prefer-standby", SessionAttributes::PreferStandby),
                ],
            ),
            shuffle_hosts: self.choice("load_balance_hosts", false, &[("disable", false), ("random", true)]),
            hosts,
            user,
            database,
            tls,
        };
        if self.faults.is_empty() { Ok(endpoint) } else { Err(ParameterFaults(self.faults)) }
    }

    fn user(&mut self) -> String {
        match self.parameters.get("user").or(self.environment.os_user()) {
            Some(user) => user.to_owned(),
            None => {
                self.faults.push(ParameterFault::of(
                    "user",
                    "no user is given, and this process's user id has no name",
                    "add the user: postgres://USER@…, or set PGUSER",
                ));
                String::new()
            }
        }
    }

    fn password_source(&self) -> PasswordSource {
        if let Some(password) = self.parameters.get("password") {
            return PasswordSource::Given(Secret::new(password));
        }
        let file = match self.parameters.get("passfile") {
            Some(file) => Some(PathBuf::from(file)),
            None => self.environment.home().map(|home| home.join(".pgpass")),
        };
        match file {
            Some(file) => PasswordSource::File {
                file,
                default_socket_directories: self.environment.socket_directories().to_vec(),
            },
            None => PasswordSource::Nowhere,
        }
    }

    /// libpq's rules: `hostaddr` and `host` pair up by position, one port serves all.
    fn hosts(&mut self) -> Vec<Host> {
        let list = |name: &str| -> Vec<String> {
            self.parameters
                .get(name)
                .map(|list| list.split(',').map(|item| item.trim().to_owned()).collect())
                .unwrap_or_default()
        };
        let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
        let count = names.len().max(addresses.len()).max(1);
        for (name, found) in [("host", names.len()), ("hostaddr", addresses.len()), ("port", ports.len())] {
            let fits = found == 0 || found == count || (name == "port" && found == 1);
            if !fits {
                self.faults.push(ParameterFault::of(
                    name,
                    format!("{count} hosts are given but {found} values of `{name}`"),
                    format!("give as many values of `{name}` as there are hosts"),
                ));
            }
        }
        (0..count)
            .map(|index| {
                let port = self.port(ports.get(index).or(ports.first()).map_or("", String::as_str));
                let name = names.get(index).map_or("", String::as_str);
                let address = addresses.get(index).map_or("", String::as_str);
                Host { place: self.place(name, address, port), port }
            })
            .collect()
    }

    fn port(&mut self, text: &str) -> u16 {
        match text.parse() {
            _ if text.is_empty() => DEFAULT_PORT,
            Ok(port) if port > 0 => port,
            _ => {
                let fault = ParameterFault::of("port", "the port is not a number from 1 to 65535", "correct the port");
                if !self.faults.contains(&fault) {
                    self.faults.push(fault);
                }
                DEFAULT_PORT
            }
        }
    }

    fn place(&mut self, name: &str, address: &str, port: u16) -> Place {
        let address = match address.parse::<IpAddr>() {
            _ if address.is_empty() => None,
            Ok(address) => Some(address),
            Err(_) => {
                self.faults.push(ParameterFault::of(
                    "hostaddr",
                    format!("`{address}` is not an IP address"),
                    "give an address such as 192.0.2.7 or 2001:db8::7, or use `host` for a name",
                ));
                None
            }
        };
        if name.starts_with('@') {
            self.faults.push(ParameterFault::of(
                "host",
                "sockets in the abstract namespace are not supported",
                "give the directory of the server's socket, or its host name",
            ));
        }
        match (name, address) {
            ("", None) => Place::Unix(self.socket_directory(port)),
            (name, None) if name.starts_with('/') => Place::Unix(PathBuf::from(name)),
            ("", address) => Place::Tcp { name: None, address },
            (name, address) => Place::Tcp { name: Some(name.to_owned()), address },
        }
    }

    /// libpq knows one directory, set when it was built; we look where the socket is.
    fn socket_directory(&self, port: u16) -> PathBuf {
        let directories = self.environment.socket_directories();
        let has_socket = |directory: &&PathBuf| directory.join(format!(".s.PGSQL.{port}")).exists();
        directories
            .iter()
            .find(has_socket)
            .or(directories.first())
            .cloned()
            .unwrap_or_else(|| Path::new("/tmp").to_owned())
    }

    fn connect_timeout(&mut self) -> Option<Duration> {
        if self.parameters.get("connect_timeout").is_none() {
            return Some(DEFAULT_CONNECT_TIMEOUT);
        }
        // Zero and less mean no limit, as in libpq, which also never waits less than two seconds.
        self.whole_number("connect_timeout")
            .filter(|seconds| *seconds > 0)
            .map(|seconds| Duration::from_secs(seconds.unsigned_abs().max(2)))
    }

    fn keepalives(&mut self) -> Option<Keepalives> {
        let seconds = |number: Option<i64>| number.filter(|n| *n > 0).map(|n| Duration::from_secs(n.unsigned_abs()));
        let on = self.whole_number("keepalives") != Some(0);
        let keepalives = Keepalives {
            // The system's default of two hours would leave a dead peer unnoticed.
            idle: seconds(self.whole_number("keepalives_idle")).unwrap_or(Duration::from_secs(60)),
            interval: seconds(self.whole_number("keepalives_interval")),
            count: self.whole_number("keepalives_count").and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0),
        };
        on.then_some(keepalives)
    }

    fn whole_number(&mut self, name: &str) -> Option<i64> {
        let text = self.parameters.get(name)?;
        match text.trim().parse::<i32>() {
            Ok(number) => Some(number.into()),
            Err(_) => {
                self.faults.push(ParameterFault::of(
                    name,
                    format!("`{name}` is not a whole number: {text}"),
                    format!("give a number, for example {name}=10"),
                ));
                None
            }
        }
    }

    fn choice<T: Copy>(&mut self, name: &str, default: T, choices: &[(&str, T)]) -> T {
        choose(&self.parameters, name, default, choices, &mut self.faults)
    }
}

pub(super) fn choose<T: Copy>(
    parameters: &Parameters,
    name: &str,
    default: T,
    choices: &[(&str, T)],
    faults: &mut Vec<ParameterFault>,
) -> T {
    let Some(text) = parameters.get(name) else {
        return default;
    };
    if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
        return *choice;
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    faults.push(ParameterFault::of(
        name,
        format!("`{text}` is not a value of `{name}`"),
        format!("use one of: {}", words.join(", ")),
    ));
    default
}
