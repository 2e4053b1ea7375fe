//! Keys whose rows differ, as a comparison finds them: counted, and kept for the merge.

use super::missing::{MissingRows, Spool, Way};
use crate::compare::{Found, Missing, Watch};
use crate::lifecycle::{LifecycleError, Progress};
use crate::sql::QualifiedName;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};

/// One key: its texts, node by node.
pub(in crate::lifecycle) type Key = Vec<Vec<String>>;

/// What is kept of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::lifecycle) enum Keep {
    Nothing,
    /// All keys that are not the same everywhere, for so many nodes.
    Keys {
        nodes: usize,
    },
    /// For a merge of so many nodes' rows: the keys that are contested, and by themselves those that some nodes only lack.
    /// These get the preferred node's row where that has one, else the first one's.
    /// `integers`: the key is one.
    Merge {
        nodes: usize,
        preferred: Option<usize>,
        integers: bool,
    },
}

/// Watches a comparison. The keys go to unlinked temporary files: nothing may be written before all of the table has
/// been seen, and there may be millions.
pub(in crate::lifecycle) struct Differences<'a> {
    table: QualifiedName,
    total: u64,
    progress: &'a dyn Progress,
    keep: Keep,
    /// Keys that several nodes have, with rows that differ.
    pub contested: u64,
    /// All keys that are not the same everywhere.
    pub keys: u64,
    spool: Option<BufWriter<File>>,
    missing: BTreeMap<Way, Spool>,
    failed: Option<io::Error>,
}

impl<'a> Differences<'a> {
    pub fn new(
        table: &QualifiedName,
        total: u64,
        progress: &'a dyn Progress,
        keep: Keep,
    ) -> Result<Self, LifecycleError> {
        let spool = match keep {
            Keep::Nothing => None,
            Keep::Keys { .. } | Keep::Merge { .. } => {
                Some(BufWriter::new(tempfile::tempfile().map_err(|error| no_room(&error))?))
            }
        };
        let (table, missing) = (table.clone(), BTreeMap::new());
        Ok(Self { table, total, progress, keep, contested: 0, keys: 0, spool, missing, failed: None })
    }

    /// From the first one on; without those that [`Self::take_missing`] answers with.
    pub fn into_keys(self) -> Result<Keys, LifecycleError> {
        let Some(spool) = self.spool else { return Ok(Keys(None)) };
        if let Some(error) = self.failed {
            return Err(no_room(&error));
        }
        let file = spool.into_inner().map_err(io::IntoInnerError::into_error);
        let rewound = file.and_then(|mut file| file.rewind().map(|()| file));
        Ok(Keys(Some(BufReader::new(rewound.map_err(|error| no_room(&error))?))))
    }

    /// What nodes lack, by whence it comes and where it goes.
    pub fn take_missing(&mut self) -> Result<Vec<(Way, MissingRows)>, LifecycleError> {
        if let Some(error) = &self.failed {
            return Err(no_room(error));
        }
        let spools = std::mem::take(&mut self.missing).into_iter();
        spools.map(|(way, spool)| Ok((way, spool.into_rows()?))).collect()
    }

    fn keep(&mut self, keys: &[Vec<String>]) {
        let Some(spool) = &mut self.spool else { return };
        let written = serde_json::to_writer(&mut *spool, keys).map_err(io::Error::from);
        if let Err(error) = written.and_then(|()| spool.write_all(b"\n")) {
            self.failed.get_or_insert(error);
        }
    }

    fn keep_missing(&mut self, missing: &Missing<'_>, (nodes, preferred, integers): (usize, Option<usize>, bool)) {
        let has = |node: &usize| missing.on & 1 << node != 0;
        let Some(from) = preferred.filter(has).or_else(|| (0..nodes).find(has)) else { return };
        for to in (0..nodes).filter(|node| !has(node)) {
            let way = Way { from, to };
            let spool = match self.missing.entry(way) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => match Spool::new(integers) {
                    Ok(spool) => entry.insert(spool),
                    Err(error) => {
                        self.failed.get_or_insert(error);
                        return;
                    }
                },
            };
            if let Err(error) = spool.write(missing, from) {
                self.failed.get_or_insert(error);
            }
        }
    }
}

impl Watch for Differences<'_> {
    fn rows(&mut self, done: u64) {
        self.progress.rows(&self.table, done, self.total.max(done));
    }

    fn found(&mut self, found: &Found) {
        self.keys += 1;
        self.contested += u64::from(found.is_contested());
        if !matches!(self.keep, Keep::Merge { .. }) || found.is_contested() || found.is_everywhere() {
            self.keep(&found.keys);
        }
    }

    fn missing(&mut self, missing: &Missing<'_>) {
        self.keys += u64::from(!missing.is_found);
        match self.keep {
            Keep::Merge { nodes, preferred, integers } => self.keep_missing(missing, (nodes, preferred, integers)),
            Keep::Keys { nodes } if !missing.is_found => self.keep(&missing.texts(nodes)),
            Keep::Keys { .. } | Keep::Nothing => {}
        }
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

pub(super) fn no_room(error: &io::Error) -> LifecycleError {
    LifecycleError::refused(
        format!("the keys that differ could not be kept in a temporary file: {error}"),
        "make room in the directory for temporary files, or name another one in TMPDIR",
    )
}
