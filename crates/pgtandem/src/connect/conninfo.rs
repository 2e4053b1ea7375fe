//! The two spellings of a connection string that libpq reads: URLs and `keyword=value` lists.
//!
//! No message here repeats a piece of the string that could be part of a password.

use super::params::{Assignments, ParameterFault};

const SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];

const ESCAPE_IT: &str = "in a URL, write the characters `:` `/` `@` `?` `#` `%` of a user name or password \
                         percent-encoded, for example %40 for `@`";

/// Reads a URL or a keyword string into keyword/value pairs, in order.
pub(super) fn parse(text: &str) -> Result<Assignments, ParameterFault> {
    let text = text.trim();
    match SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)) {
        Some(rest) => parse_url(rest),
        None if text.contains("://") && !text.contains('=') => {
            Err(ParameterFault::new("this is not a PostgreSQL URL", "begin it with postgres:// or postgresql://"))
        }
        None => parse_keywords(text),
    }
}

fn parse_url(rest: &str) -> Result<Assignments, ParameterFault> {
    let mut assignments = Assignments::default();
    // As libpq does: the user part ends at the first `@` before the first `/`.
    let authority_end = rest.find('/').unwrap_or(rest.len());
    let hosts_start = match rest[..authority_end].find('@') {
        Some(at) => {
            let (user, password) = match rest[..at].split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (&rest[..at], None),
            };
            assignments.push_filled("user", decode(user, "user")?);
            if let Some(password) = password {
                assignments.push_filled("password", decode(password, "password")?);
            }
            at + 1
        }
        None => 0,
    };
    let (place, query) = rest[hosts_start..].split_once('?').unwrap_or((&rest[hosts_start..], ""));
    let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
    if database.contains('@') {
        // Most often a password with a `/` in it: everything before would be read as host and port.
        return Err(ParameterFault::new("there is an `@` after the first `/` of this URL", ESCAPE_IT));
    }
    push_hosts(&mut assignments, hosts)?;
    assignments.push_filled("dbname", decode(database, "dbname")?);
    push_query(&mut assignments, query)?;
    Ok(assignments)
}

fn push_hosts(assignments: &mut Assignments, list: &str) -> Result<(), ParameterFault> {
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    if list.contains('@') {
        return Err(ParameterFault::new("there is more than one `@` before the first `/` of this URL", ESCAPE_IT));
    }
    for item in list.split(',') {
        let (host, port) = match item.strip_prefix('[') {
            Some(inner) => {
                let Some((address, after)) = inner.split_once(']') else {
                    return Err(ParameterFault::of(
                        "host",
                        "an IPv6 address in this URL has no closing `]`",
                        "write it as [::1] or [::1]:5432",
                    ));
                };
                match after.strip_prefix(':') {
                    Some(port) => (address, port),
                    None if after.is_empty() => (address, ""),
                    None => {
                        return Err(ParameterFault::of(
                            "host",
                            "something other than `:port` follows the `]` of an IPv6 address in this URL",
                            ESCAPE_IT,
                        ));
                    }
                }
            }
            None => item.split_once(':').unwrap_or((item, "")),
        };
        let port = decode(port, "port")?;
        if !port.chars().all(|c| c.is_ascii_digit()) {
            return Err(ParameterFault::of(
                "port",
                "what stands where the port belongs in this URL is not a number",
                ESCAPE_IT,
            ));
        }
        hosts.push(decode(host, "host")?);
        ports.push(port);
    }
    if hosts.iter().any(|host| !host.is_empty()) {
        assignments.push("host", hosts.join(","));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        assignments.push("port", ports.join(","));
    }
    Ok(())
}

fn push_query(assignments: &mut Assignments, query: &str) -> Result<(), ParameterFault> {
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(ParameterFault::new(
                "a query parameter of this URL has no value",
                "write it as ?name=value&name=value",
            ));
        };
        let (name, value) = (decode(name, "query")?, decode(value, "query")?);
        // JDBC's spelling, which libpq accepts too.
        if name == "ssl" && value == "true" {
            assignments.push("sslmode", "require".to_owned());
        } else {
            assignments.push(&name, value);
        }
    }
    Ok(())
}

fn decode(text: &str, part: &str) -> Result<String, ParameterFault> {
    let fault = || {
        ParameterFault::new(
            format!("the {part} part of this URL has a `%` that is not followed by two hexadecimal digits"),
            "write a literal `%` as %25",
        )
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| (b as char).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(fault());
        };
        bytes.push((high * 16 + low) as u8);
    }
    match String::from_utf8(bytes) {
        Ok(decoded) if !decoded.contains('\0') => Ok(decoded),
        _ => Err(ParameterFault::new(
            format!("the {part} part of this URL does not decode to text"),
            "percent-encode UTF-8 bytes, and no %00",
        )),
    }
}

fn parse_keywords(text: &str) -> Result<Assignments, ParameterFault> {
    let mut assignments = Assignments::default();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(assignments);
        }
        let mut name = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            name.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next_if_eq(&'=').is_none() || name.is_empty() {
            // The word itself stays out of the message: it may be the tail of an unquoted password.
            return Err(ParameterFault::new(
                "this connection string has a word that is not of the form keyword=value",
                "put values with spaces in single quotes: password='two words'; or write a postgres:// URL",
            ));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let value = match chars.next_if_eq(&'\'') {
            Some(_) => quoted(&mut chars, &name)?,
            None => unquoted(&mut chars),
        };
        assignments.push(&name, value);
    }
}

fn unquoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut value = String::new();
    while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
        value.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    value
}

fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, name: &str) -> Result<String, ParameterFault> {
    let mut value = String::new();
    while let Some(c) = chars.next() {
        match c {
            '\'' => return Ok(value),
            '\\' => value.extend(chars.next()),
            _ => value.push(c),
        }
    }
    Err(ParameterFault::of(
        name,
        format!("the quoted value of `{name}` has no closing single quote"),
        "close it; inside quotes write \\' for a quote and \\\\ for a backslash",
    ))
}
