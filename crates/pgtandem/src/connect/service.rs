//! Connection service files: `~/.pg_service.conf` and `pg_service.conf`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::Environment;
use super::params::{Assignments, ParameterFault};

pub(super) struct Service {
    pub parameters: Assignments,
    /// For messages: which service of which file.
    pub origin: String,
}

/// The service that the string or `PGSERVICE` names, from the first file that defines it.
pub(super) fn load(string: &Assignments, environment: &Environment) -> Result<Option<Service>, ParameterFault> {
    let name = string.get("service").or_else(|| environment.get("PGSERVICE"));
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let files = candidates(string, environment);
    for file in &files {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(ParameterFault::of(
                    "service",
                    format!("cannot read the service file {}: {error}", file.display()),
                    "make it a text file this user may read",
                ));
            }
        };
        if let Some(parameters) = section(&text, name, file)? {
            let origin = format!("service `{name}` of {}", file.display());
            return Ok(Some(Service { parameters, origin }));
        }
    }
    let sought: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    Err(ParameterFault::of(
        "service",
        format!("no service file defines the service `{name}`"),
        format!("add a section [{name}] to one of: {}", sought.join(", ")),
    ))
}

/// The user's file before the system's, as libpq documents.
fn candidates(string: &Assignments, environment: &Environment) -> Vec<PathBuf> {
    let own = string
        .get("servicefile")
        .filter(|file| !file.is_empty())
        .or_else(|| environment.filled("PGSERVICEFILE"))
        .map(PathBuf::from)
        .or_else(|| environment.home().map(|home| home.join(".pg_service.conf")));
    let system = environment.system_directories().into_iter().map(|directory| directory.join("pg_service.conf"));
    own.into_iter().chain(system).collect()
}

fn section(text: &str, name: &str, file: &Path) -> Result<Option<Assignments>, ParameterFault> {
    let mut found: Option<Assignments> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with('[') {
            if found.is_some() {
                break;
            }
            if line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) == Some(name) {
                found = Some(Assignments::default());
            }
            continue;
        }
        let Some(parameters) = &mut found else {
            continue;
        };
        let at = format!("{}, line {}", file.display(), number + 1);
        let Some((key, value)) = line.split_once('=') else {
            return Err(ParameterFault::of(
                "service",
                format!("{at}: this line is not of the form keyword=value"),
                "correct the service file",
            ));
        };
        if key != key.trim_end() {
            // libpq takes the space for a part of the keyword; psql would fail on the same file.
            return Err(ParameterFault::of(
                "service",
                format!("{at}: there is a space before the `=`"),
                "write keyword=value without spaces around the `=`",
            ));
        }
        if key == "service" {
            return Err(ParameterFault::of(
                "service",
                format!("{at}: a service cannot refer to another service"),
                "remove the line",
            ));
        }
        // The first one of a section counts, as in libpq.
        if parameters.get(key).is_none() {
            parameters.push(key, value.to_owned());
        }
    }
    Ok(found)
}
