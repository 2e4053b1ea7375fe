//! Where PostgreSQL's programs are on this machine.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::{ClusterError, Result};

/// The oldest release that has all we use (`pgoutput` messages, proto_version 2).
const OLDEST: u32 = 14;

/// A directory with `postgres` and `initdb`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgBin {
    dir: PathBuf,
    version: Version,
}

/// `17.10`, or `18beta1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    text: String,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Version {
    /// From what `postgres --version` prints: `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
    fn parse(output: &str) -> Option<Version> {
        let text = output.split_once("(PostgreSQL) ")?.1;
        let text = text.split_whitespace().next()?;
        let digits = |s: &str| -> String { s.chars().take_while(char::is_ascii_digit).collect() };
        let major = digits(text).parse().ok()?;
        let minor = text
            .split_once('.')
            .map_or(0, |(_, rest)| digits(rest).parse().expect("a dot in a version is followed by a number"));
        Some(Version { major, minor, text: text.to_owned() })
    }
}

impl PgBin {
    /// `PGTANDEM_PG_BIN`, then the newest installation found in the usual places.
    pub fn find() -> Result<PgBin> {
        if let Some(dir) = env::var_os("PGTANDEM_PG_BIN").filter(|dir| !dir.is_empty()) {
            return PgBin::in_dir(Path::new(&dir));
        }
        // Debian's directory comes first: several versions stand side by side there, and the
        // `postgres` in PATH, if any, is a wrapper or an arbitrary one of them.
        let mut looked_in = Vec::new();
        for place in usual_places() {
            let newest = place
                .dirs
                .iter()
                .filter_map(|dir| PgBin::in_dir(dir).ok())
                .max_by_key(|bin| (bin.version.major, bin.version.minor));
            match newest {
                Some(bin) => return Ok(bin),
                None => looked_in.push(place.name),
            }
        }
        Err(ClusterError::NotFound { looked_in: looked_in.join(", ") })
    }

    /// The programs in this directory, which must hold a whole server of a version we support.
    pub fn in_dir(dir: &Path) -> Result<PgBin> {
        let bad = |why: String| ClusterError::BadBin { dir: dir.to_owned(), why };
        for program in ["postgres", "initdb"] {
            if !dir.join(program).is_file() {
                return Err(bad(format!("there is no `{program}` in it")));
            }
        }
        let output = Command::new(dir.join("postgres"))
            .arg("--version")
            .output()
            .map_err(|e| bad(format!("`postgres --version` there cannot be run: {e}")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = Version::parse(&text).ok_or_else(|| {
            let said = String::from_utf8_lossy(&output.stderr);
            bad(format!("`postgres --version` there says: {text}{said}"))
        })?;
        if version.major < OLDEST {
            return Err(bad(format!("it holds PostgreSQL {version}, and pgtandem needs {OLDEST} or newer")));
        }
        Ok(PgBin { dir: dir.to_owned(), version })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn version(&self) -> &Version {
        &self.version
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

struct Place {
    name: &'static str,
    dirs: Vec<PathBuf>,
}

fn usual_places() -> Vec<Place> {
    let pg_config = Command::new("pg_config").arg("--bindir").output();
    let pg_config = pg_config.ok().filter(|o| o.status.success());
    let path = env::var_os("PATH").unwrap_or_default();
    vec![
        Place { name: "/usr/lib/postgresql/*/bin", dirs: below("/usr/lib/postgresql", "", "bin") },
        Place {
            name: "`pg_config --bindir`",
            dirs: pg_config.map(|o| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim())).into_iter().collect(),
        },
        Place { name: "PATH", dirs: env::split_paths(&path).collect() },
        Place { name: "/usr/pgsql-*/bin", dirs: below("/usr", "pgsql-", "bin") },
        Place {
            name: "Homebrew",
            dirs: ["/opt/homebrew/opt", "/usr/local/opt", "/home/linuxbrew/.linuxbrew/opt"]
                .iter()
                .flat_map(|opt| below(opt, "postgresql", "bin"))
                .collect(),
        },
        Place { name: "Postgres.app", dirs: below("/Applications/Postgres.app/Contents/Versions", "", "bin") },
    ]
}

/// `parent/<prefix…>/last` for every entry there is.
fn below(parent: &str, prefix: &str, last: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().join(last))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_every_packager_prints_them() {
        let parse = |s| Version::parse(s).map(|v| (v.major, v.minor, v.to_string()));
        let debian = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        assert_eq!(parse(debian), Some((15, 18, "15.18".into())));
        assert_eq!(parse("postgres (PostgreSQL) 18beta1"), Some((18, 0, "18beta1".into())));
        assert_eq!(parse("postgres (PostgreSQL) 19devel").map(|v| v.0), Some(19));
        assert_eq!(parse("bash: no such file"), None);
    }

    #[test]
    fn a_directory_without_a_server_is_named_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let message = PgBin::in_dir(dir.path()).unwrap_err().to_string();
        assert!(message.contains("there is no `postgres` in it"), "{message}");
        assert!(message.contains(&dir.path().display().to_string()), "{message}");
    }
}
