//! libpq's connection keywords: which we obey, which make no difference to us, which we refuse and why.

use std::fmt;

use super::Environment;

/// Something wrong with a connection string or with what it refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterFault {
    /// The keyword or variable at fault, where there is one.
    pub parameter: Option<String>,
    pub message: String,
    pub remedy: String,
}

impl ParameterFault {
    pub(super) fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { parameter: None, message: message.into(), remedy: remedy.into() }
    }

    pub(super) fn of(parameter: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { parameter: Some(parameter.to_owned()), ..Self::new(message, remedy) }
    }
}

/// Everything that is wrong with one connection string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterFaults(pub Vec<ParameterFault>);

impl fmt::Display for ParameterFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{}; {}", fault.message, fault.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for ParameterFaults {}

/// Keyword/value pairs of one source, in order; a later one wins over an earlier one, as in libpq.
#[derive(Default)]
pub(super) struct Assignments(Vec<(String, String)>);

impl Assignments {
    pub fn push(&mut self, name: &str, value: String) {
        self.0.push((name.to_owned(), value));
    }

    pub fn push_filled(&mut self, name: &str, value: String) {
        if !value.is_empty() {
            self.push(name, value);
        }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

#[derive(Clone, Copy)]
enum Use {
    Obeyed,
    /// Accepted and without effect on us.
    NoEffect,
    /// Only these values, because they say what we do anyway.
    Only(&'static [&'static str], &'static str),
    Refused(&'static str),
}

struct Keyword {
    name: &'static str,
    variable: &'static str,
    used: Use,
}

const fn keyword(name: &'static str, variable: &'static str, used: Use) -> Keyword {
    Keyword { name, variable, used }
}

const REMOVE: &str = "remove it";
const NO_OAUTH: &str = "OAuth is not supported; use a password, a client certificate or peer authentication";

/// Every keyword of libpq 14 to 18, with its environment variable.
#[rustfmt::skip]
const KEYWORDS: &[Keyword] = &[
    keyword("service", "PGSERVICE", Use::Obeyed),
    keyword("servicefile", "PGSERVICEFILE", Use::Obeyed),
    keyword("host", "PGHOST", Use::Obeyed),
    keyword("hostaddr", "PGHOSTADDR", Use::Obeyed),
    keyword("port", "PGPORT", Use::Obeyed),
    keyword("dbname", "PGDATABASE", Use::Obeyed),
    keyword("user", "PGUSER", Use::Obeyed),
    keyword("password", "PGPASSWORD", Use::Obeyed),
    keyword("passfile", "PGPASSFILE", Use::Obeyed),
    keyword("channel_binding", "PGCHANNELBINDING", Use::Obeyed),
    keyword("connect_timeout", "PGCONNECT_TIMEOUT", Use::Obeyed),
    keyword("options", "PGOPTIONS", Use::Obeyed),
    keyword("keepalives", "", Use::Obeyed),
    keyword("keepalives_idle", "", Use::Obeyed),
    keyword("keepalives_interval", "", Use::Obeyed),
    keyword("keepalives_count", "", Use::Obeyed),
    keyword("tcp_user_timeout", "", Use::Obeyed),
    keyword("sslmode", "PGSSLMODE", Use::Obeyed),
    keyword("sslrootcert", "PGSSLROOTCERT", Use::Obeyed),
    keyword("sslcert", "PGSSLCERT", Use::Obeyed),
    keyword("sslkey", "PGSSLKEY", Use::Obeyed),
    keyword("sslcertmode", "PGSSLCERTMODE", Use::Only(&["allow", "disable"], "use allow or disable")),
    keyword("sslcrl", "PGSSLCRL", Use::Obeyed),
    keyword("sslsni", "PGSSLSNI", Use::Obeyed),
    keyword("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Use::Obeyed),
    keyword("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Use::Obeyed),
    keyword("target_session_attrs", "PGTARGETSESSIONATTRS", Use::Obeyed),
    keyword("load_balance_hosts", "PGLOADBALANCEHOSTS", Use::Obeyed),
    // We name our own sessions, so that they can be told apart in pg_stat_activity.
    keyword("application_name", "PGAPPNAME", Use::NoEffect),
    keyword("fallback_application_name", "", Use::NoEffect),
    // We always speak UTF-8.
    keyword("client_encoding", "PGCLIENTENCODING", Use::NoEffect),
    keyword("krbsrvname", "PGKRBSRVNAME", Use::NoEffect),
    keyword("gsslib", "PGGSSLIB", Use::NoEffect),
    keyword("gssdelegation", "PGGSSDELEGATION", Use::NoEffect),
    keyword("max_protocol_version", "PGMAXPROTOCOLVERSION", Use::NoEffect),
    keyword("min_protocol_version", "PGMINPROTOCOLVERSION", Use::Only(&["3.0"], REMOVE)),
    keyword("gssencmode", "PGGSSENCMODE", Use::Only(&["disable", "prefer"],
        "GSSAPI encryption is not supported; use TLS: sslmode=verify-full")),
    keyword("sslnegotiation", "PGSSLNEGOTIATION", Use::Only(&["postgres"],
        "direct TLS is not supported; remove it, every server also offers the usual negotiation")),
    keyword("sslcompression", "PGSSLCOMPRESSION", Use::Only(&["0"], "TLS compression is insecure and not supported; remove it")),
    keyword("sslpassword", "", Use::Refused(
        "encrypted keys are not supported; decrypt the key once with `openssl pkey -in client.key -out plain.key`, \
         make it readable by its owner only, and give it as sslkey")),
    keyword("sslcrldir", "PGSSLCRLDIR", Use::Refused("give the revocation list as one file with sslcrl")),
    keyword("sslkeylogfile", "", Use::Refused(REMOVE)),
    keyword("requirepeer", "PGREQUIREPEER", Use::Refused("remove it; put the socket in a directory only the server can write to")),
    keyword("require_auth", "PGREQUIREAUTH", Use::Refused(
        "remove it; to insist on SCRAM with a proven server use channel_binding=require and sslmode=verify-full")),
    keyword("replication", "", Use::Refused("remove it; pgtandem opens its replication connection itself")),
    keyword("scram_client_key", "", Use::Refused("give the password instead")),
    keyword("scram_server_key", "", Use::Refused("give the password instead")),
    keyword("oauth_issuer", "", Use::Refused(NO_OAUTH)),
    keyword("oauth_client_id", "", Use::Refused(NO_OAUTH)),
    keyword("oauth_client_secret", "", Use::Refused(NO_OAUTH)),
    keyword("oauth_scope", "", Use::Refused(NO_OAUTH)),
];

/// Whether libpq knows this as a connection parameter.
pub(crate) fn is_keyword(name: &str) -> bool {
    KEYWORDS.iter().any(|known| known.name == name)
}

/// The parameters of one connection, put together from their sources.
pub(super) struct Parameters {
    values: Assignments,
}

impl Parameters {
    /// Connection string over service file over environment, as libpq documents; defaults come later.
    pub fn gather(string: Assignments, environment: &Environment) -> Result<Self, ParameterFaults> {
        let mut faults = Vec::new();
        check_names(&string, "", &mut faults);
        let service = match super::service::load(&string, environment) {
            Ok(Some(service)) => {
                check_names(&service.parameters, &format!(" (in {})", service.origin), &mut faults);
                Some(service)
            }
            Ok(None) => None,
            Err(fault) => {
                faults.push(fault);
                None
            }
        };
        let mut values = Assignments::default();
        for known in KEYWORDS {
            let service_value = service.as_ref().and_then(|service| service.parameters.get(known.name));
            let (value, source) = match string.get(known.name).or(service_value) {
                Some(value) => (value, known.name),
                None if known.variable.is_empty() => continue,
                None => match environment.get(known.variable) {
                    Some(value) => (value, known.variable),
                    None => continue,
                },
            };
            if value.is_empty() {
                continue; // everywhere in libpq an empty value means the default
            }
            match known.used {
                Use::Obeyed => values.push(known.name, value.to_owned()),
                Use::NoEffect => {}
                Use::Only(allowed, _) if allowed.contains(&value) => values.push(known.name, value.to_owned()),
                Use::Only(_, remedy) => {
                    faults.push(ParameterFault::of(source, format!("{source}={value} is not supported"), remedy))
                }
                Use::Refused(remedy) => {
                    faults.push(ParameterFault::of(source, format!("{source} is not supported"), remedy));
                }
            }
        }
        if faults.is_empty() { Ok(Self { values }) } else { Err(ParameterFaults(faults)) }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        debug_assert!(is_keyword(name), "{name} is not a keyword");
        self.values.get(name)
    }
}

fn check_names(assignments: &Assignments, origin: &str, faults: &mut Vec<ParameterFault>) {
    for (name, _) in assignments.iter() {
        if is_keyword(name) {
            continue;
        }
        let close = super::spelling::closest(name, KEYWORDS.iter().map(|known| known.name));
        let remedy = match close {
            Some(close) => format!("did you mean `{close}`?"),
            None => "remove it; docs/connecting.md lists the parameters".to_owned(),
        };
        faults.push(ParameterFault::of(name, format!("unknown connection parameter `{name}`{origin}"), remedy));
    }
}
