//! The password file, `~/.pgpass`.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Secret;

/// What one line must match.
pub(super) struct Wanted<'a> {
    pub host: &'a str,
    pub port: u16,
    pub database: &'a str,
    pub user: &'a str,
}

/// What the file said. `Ignored` is told when the server then wants a password.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Password(Secret),
    NoEntry,
    NoFile,
    Ignored { file: PathBuf, why: String },
}

pub(super) fn look_up(file: &Path, wanted: &Wanted<'_>) -> Found {
    let ignored = |why: String| Found::Ignored { file: file.to_owned(), why };
    let metadata = match std::fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Found::NoFile,
        Err(error) => return ignored(format!("cannot be read: {error}")),
    };
    if !metadata.is_file() {
        return ignored("is not a plain file".to_owned());
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return ignored("may be read by others than its owner; run `chmod 600` on it".to_owned());
    }
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return ignored(format!("cannot be read: {error}")),
    };
    match text.lines().find_map(|line| password_of(line, wanted)) {
        Some(password) => Found::Password(Secret::new(password)),
        None => Found::NoEntry,
    }
}

fn password_of(line: &str, wanted: &Wanted<'_>) -> Option<String> {
    let line = line.trim_end_matches('\r');
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let port = wanted.port.to_string();
    let mut rest = line;
    for value in [wanted.host, &port, wanted.database, wanted.user] {
        let (field, wild, after) = field(rest)?;
        if !wild && field != value {
            return None;
        }
        rest = after;
    }
    // The password is the rest of the line, colons included; backslashes escape here too.
    let mut password = String::new();
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        password.extend(if c == '\\' { chars.next().or(Some('\\')) } else { Some(c) });
    }
    Some(password)
}

/// The field before the next unescaped colon, whether it is the bare wildcard, and what follows.
fn field(text: &str) -> Option<(String, bool, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            ':' => return Some((value, &text[..at] == "*", &text[at + 1..])),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => value.push(c),
        }
    }
    None
}
