//! How far a comparison is, kept in a file.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::Failure;
use crate::compare::{Checkpoint, TableReport};
use crate::sql::QualifiedName;

/// Does nothing if no file was named.
pub(super) struct Resume {
    file: Option<PathBuf>,
    state: State,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    nodes: Vec<String>,
    tables: Vec<String>,
    finished: Vec<TableReport>,
    /// Of the table after those.
    under_way: Option<(String, Checkpoint)>,
}

impl Resume {
    /// Reads the file if it is there.
    pub fn open(file: Option<&Path>, nodes: &[String], tables: &[QualifiedName]) -> Result<Self, Failure> {
        let fresh = State {
            nodes: nodes.to_vec(),
            tables: tables.iter().map(QualifiedName::plain).collect(),
            ..State::default()
        };
        let Some(file) = file else { return Ok(Self { file: None, state: fresh }) };
        let state = match fs::read(file) {
            Ok(bytes) => read(file, &bytes, &fresh)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => fresh,
            Err(error) => return Err(cannot("read", file, &error)),
        };
        Ok(Self { file: Some(file.to_owned()), state })
    }

    pub fn is_wanted(&self) -> bool {
        self.file.is_some()
    }

    pub fn finished(&self, table: &str) -> Option<TableReport> {
        self.state.finished.iter().find(|report| report.name == table).cloned()
    }

    pub fn checkpoint(&self, table: &str) -> Option<Checkpoint> {
        let (_, checkpoint) = self.state.under_way.as_ref().filter(|(of, _)| of == table)?;
        Some(checkpoint.clone())
    }

    pub fn note(&mut self, table: &str, checkpoint: &Checkpoint) -> Result<(), Failure> {
        self.state.under_way = Some((table.to_owned(), checkpoint.clone()));
        self.save()
    }

    pub fn finish(&mut self, report: &TableReport) -> Result<(), Failure> {
        if self.finished(&report.name).is_none() {
            self.state.finished.push(report.clone());
            self.state.under_way = None;
            self.save()?;
        }
        Ok(())
    }

    /// The comparison is complete.
    pub fn remove(self) {
        if let Some(file) = self.file {
            // If it stays, the next run only says the same once more.
            let _ = fs::remove_file(file);
        }
    }

    /// Whenever it is killed, the file is whole.
    fn save(&self) -> Result<(), Failure> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut beside = file.clone().into_os_string();
        beside.push(".new");
        let text = serde_json::to_vec(&self.state).map_err(std::io::Error::from)?;
        let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, file));
        written.map_err(|error| cannot("write", file, &error))
    }
}

fn read(file: &Path, bytes: &[u8], wanted: &State) -> Result<State, Failure> {
    let remove = format!("name another file, or remove {} to begin anew", file.display());
    let state: State = serde_json::from_slice(bytes).map_err(|_| {
        Failure::in_usage(format!("{} is not what a comparison has left behind", file.display()), remove.clone())
    })?;
    if (&state.nodes, &state.tables) != (&wanted.nodes, &wanted.tables) {
        let what = format!(
            "{} is of a comparison of {} on {}",
            file.display(),
            state.tables.join(", "),
            state.nodes.join(", ")
        );
        return Err(Failure::in_usage(what, remove));
    }
    Ok(state)
}

fn cannot(what: &str, file: &Path, error: &std::io::Error) -> Failure {
    Failure::at_run_time(format!("cannot {what} {}: {error}", file.display()))
}
