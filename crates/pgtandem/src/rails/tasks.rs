//! `lib/tasks/db_connection.rake`: what Rails people call to make and remove a link.

use super::app::App;
use super::settings::prefix;
use askama::Template;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Component, Path, PathBuf};

/// The tasks of one application.
#[derive(Template)]
#[template(path = "db_connection.rake", escape = "none")]
pub struct Tasks {
    node: Side,
    peers: Vec<Side>,
    tables: Vec<String>,
    /// From the application's root.
    config: String,
}

struct Side {
    name: String,
    prefix: String,
}

#[derive(Debug, thiserror::Error)]
pub enum TasksError {
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    #[error("cannot write {}: {error}", .file.display())]
    Write { file: PathBuf, error: std::io::Error },
}

impl Tasks {
    /// `tables`: those of the schema `public`. `config`: where pgtandem.toml is.
    #[must_use]
    pub fn new(app: &App, peers: &[String], tables: Vec<String>, config: &Path) -> Self {
        let side = |name: &String| Side { name: name.clone(), prefix: prefix(name) };
        let config = way(&app.place.root, config);
        Self { node: side(&app.place.name), peers: peers.iter().map(side).collect(), tables, config }
    }

    #[must_use]
    pub fn file(root: &Path) -> PathBuf {
        root.join("lib/tasks/db_connection.rake")
    }

    /// # Errors
    /// When there is such a file and it may not be written over.
    pub fn write(&self, root: &Path, force: bool) -> Result<PathBuf, TasksError> {
        let file = Self::file(root);
        let failed = |error: std::io::Error| match error.kind() {
            ErrorKind::AlreadyExists => TasksError::Exists(file.clone()),
            _ => TasksError::Write { file: file.clone(), error },
        };
        let text = self.render().map_err(|error| failed(std::io::Error::other(error)))?;
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).create_new(!force);
        let mut out = options.open(&file).map_err(failed)?;
        out.write_all(text.as_bytes()).map_err(failed)?;
        Ok(file)
    }
}

/// How to get from the one place to the other, so that both can be moved together; absolute where there is no way.
fn way(from: &Path, to: &Path) -> String {
    let full = |path: &Path| {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = std::fs::canonicalize(directory).ok()?;
        Some(path.file_name().map_or_else(|| directory.clone(), |name| directory.join(name)))
    };
    let (Ok(from), Some(to)) = (std::fs::canonicalize(from), full(to)) else { return to.display().to_string() };
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    let way: PathBuf = up.chain(to.components().skip(shared)).collect();
    way.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_found_from_the_application() {
        let dir = tempfile::tempdir().unwrap();
        let app = dir.path().join("apps/legacy");
        std::fs::create_dir_all(&app).unwrap();
        assert_eq!(way(&app, &dir.path().join("pgtandem.toml")), "../../pgtandem.toml");
        assert_eq!(way(&app, &app.join("pgtandem.toml")), "pgtandem.toml");
    }
}
