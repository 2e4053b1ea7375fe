//! Keys whose rows differ, as a comparison finds them: counted, and kept for the merge.

use crate::compare::{Found, Watch};
use crate::lifecycle::{LifecycleError, Progress};
use crate::sql::QualifiedName;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};

/// One key: its texts, node by node.
pub(in crate::lifecycle) type Key = Vec<Vec<String>>;

/// Watches a comparison. The keys go to an unlinked temporary file: nothing may be written before all of the table has
/// been seen, and there may be millions.
pub(in crate::lifecycle) struct Differences<'a> {
    table: &'a QualifiedName,
    total: u64,
    progress: &'a dyn Progress,
    /// Keys that several nodes have, with rows that differ.
    pub contested: u64,
    /// All keys that are not the same everywhere.
    pub keys: u64,
    spool: Option<BufWriter<File>>,
    failed: Option<io::Error>,
}

impl<'a> Differences<'a> {
    /// `keep`: the keys will be asked for.
    pub fn new(
        table: &'a QualifiedName,
        total: u64,
        progress: &'a dyn Progress,
        keep: bool,
    ) -> Result<Self, LifecycleError> {
        let spool =
            if keep { Some(BufWriter::new(tempfile::tempfile().map_err(|error| no_room(&error))?)) } else { None };
        Ok(Self { table, total, progress, contested: 0, keys: 0, spool, failed: None })
    }

    /// From the first one on.
    pub fn into_keys(self) -> Result<Keys, LifecycleError> {
        let Some(spool) = self.spool else { return Ok(Keys(None)) };
        if let Some(error) = self.failed {
            return Err(no_room(&error));
        }
        let file = spool.into_inner().map_err(io::IntoInnerError::into_error);
        let rewound = file.and_then(|mut file| file.rewind().map(|()| file));
        Ok(Keys(Some(BufReader::new(rewound.map_err(|error| no_room(&error))?))))
    }

    fn keep(&mut self, keys: &[Vec<String>]) {
        let Some(spool) = &mut self.spool else { return };
        let written = serde_json::to_writer(&mut *spool, keys).map_err(io::Error::from);
        if let Err(error) = written.and_then(|()| spool.write_all(b"\n")) {
            self.failed.get_or_insert(error);
        }
    }
}

impl Watch for Differences<'_> {
    fn rows(&mut self, done: u64) {
        self.progress.rows(self.table, done, self.total.max(done));
    }

    fn found(&mut self, found: &Found) {
        self.keys += 1;
        self.contested += u64::from(found.is_contested());
        self.keep(&found.keys);
    }

    fn missing(&mut self, keys: &[Vec<String>]) {
        self.keys += 1;
        self.keep(keys);
    }
}

pub(in crate::lifecycle) struct Keys(Option<BufReader<File>>);

impl Keys {
    /// Of keys that are known otherwise.
    pub fn of(keys: impl Iterator<Item = Key>) -> Result<Self, LifecycleError> {
        let spool = || {
            let mut file = BufWriter::new(tempfile::tempfile()?);
            for key in keys {
                serde_json::to_writer(&mut file, &key)?;
                file.write_all(b"\n")?;
            }
            let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.rewind()?;
            Ok(BufReader::new(file))
        };
        spool().map(|file| Self(Some(file))).map_err(|error: io::Error| no_room(&error))
    }

    /// Begins again with the first one.
    pub fn rewind(&mut self) -> Result<(), LifecycleError> {
        self.0.as_mut().map_or(Ok(()), Seek::rewind).map_err(|error| no_room(&error))
    }

    /// At most `count`; none: that was all.
    pub fn next(&mut self, count: usize) -> Result<Vec<Key>, LifecycleError> {
        let Some(file) = &mut self.0 else { return Ok(Vec::new()) };
        let mut keys = Vec::new();
        for line in file.lines().take(count) {
            let key = line.and_then(|line| serde_json::from_str(&line).map_err(io::Error::from));
            keys.push(key.map_err(|error| no_room(&error))?);
        }
        Ok(keys)
    }
}

fn no_room(error: &io::Error) -> LifecycleError {
    LifecycleError::refused(
        format!("the keys that differ could not be kept in a temporary file: {error}"),
        "make room in the directory for temporary files, or name another one in TMPDIR",
    )
}
