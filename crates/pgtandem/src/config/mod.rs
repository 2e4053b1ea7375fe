//! `pgtandem.toml`: reading it, and saying what is wrong with it.
//!
//! `docs/config.md` describes every key. Reading never stops at the first fault: [`ConfigFaults`] holds all.

mod direct;
mod interpolate;
mod mask;
mod matching;
mod measure;
mod names;
mod read;
mod report;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::connect::{Endpoint, Environment};
use crate::sql::{Ident, Naming, QualifiedName};

pub use matching::{Matching, Reference};
pub use measure::read_interval;
pub use names::spell_table_name;
pub use report::{ConfigFault, ConfigFaults};

/// What is linked and how.
#[derive(Debug, Clone)]
pub struct Config {
    pub file: PathBuf,
    /// In the order of the file.
    pub nodes: Vec<Node>,
    /// In the order of the file.
    pub tables: Vec<Table>,
    pub hub: HubSettings,
    /// None: changes are streamed. Otherwise the application's own transaction delivers them.
    pub direct: Option<DirectSettings>,
    /// Asked for on the command line: triggers that write to the other database are put out of action while linked.
    pub replace_triggers: bool,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
    pub endpoint: Endpoint,
    /// None: by what the server is.
    pub capture: Option<Capture>,
    /// In direct mode: how the peer's server reaches this node, if not as we do.
    pub direct_endpoint: Option<Endpoint>,
    /// Line of the file, for messages that come later.
    pub line: usize,
}

/// How a node's changes are read off it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    /// From its WAL.
    Wal,
    /// From an outbox that triggers fill.
    Trigger,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What it is called everywhere in pgtandem, and on the nodes that call it nothing else.
    pub name: QualifiedName,
    /// By node, where that calls it or its columns otherwise.
    pub namings: BTreeMap<String, Naming>,
    pub resolve: Resolve,
    pub ids: Ids,
    pub merge: Merge,
    /// The column that tells which of two rows is newer.
    pub merge_by: Ident,
    /// Which rows are the same although their ids differ, or differ although their ids are the same.
    pub matching: Option<Matching>,
    /// Line of the file, for messages that come later.
    pub line: usize,
}

/// Who wins a conflict. `Display` is the spelling of the config and of `pgtandem.linked_table`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolve {
    /// The later write.
    Newest,
    /// The write of the node with this name; between two others, the later one.
    Prefer(String),
}

/// How rows that differ become the same when tables that are filled on several nodes are linked. `Display` is the
/// spelling of the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merge {
    /// Not at all: they are linked only if they are equal.
    Refuse,
    /// The row whose column `merge_by` is larger.
    Newest,
    /// The row of the node with this name; where it has none, that of the node that comes first in the config.
    Prefer(String),
    /// Rows that some nodes lack are copied, and no row is overwritten.
    OnlyMissing,
}

/// Whether serial and identity keys of the nodes are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// Each node draws its own residues, so that all can insert at once.
    Interleave,
    /// In direct mode: whatever is inserted moves the sequences of both nodes past it, so that both count on.
    Mirror,
    /// Sequences stay as they are: keys come from elsewhere, or only one node inserts.
    Keep,
}

/// Where `merge_by` is not given.
pub const MERGE_BY: &str = "updated_at";

/// The section `[hub]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// A connection that says nothing for this long is given up and opened anew.
    pub silence_timeout: Duration,
    /// How often the hub confirms what it has read, and writes its status.
    pub status_interval: Duration,
    /// How many residues of ids are reserved: the most nodes there can ever be.
    pub id_slots: u16,
    /// Decisions are kept for this long, and as long as all of a node take no more than that.
    pub keep_conflicts_days: u32,
    pub keep_conflicts_mib: u32,
    /// How often the hub compares the tables, at low load; none: never.
    pub verify_every: Option<Duration>,
    /// So much WAL (or outbox) a node keeps for a peer that is away, in bytes.
    pub keep_wal: u64,
    /// A merge that is older can no longer be undone.
    pub confirm_after_days: u32,
}

/// `mode = "direct"` and the section `[direct]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectSettings {
    /// So long an application's COMMIT waits for the peer.
    pub wait: Duration,
}

impl Default for DirectSettings {
    fn default() -> Self {
        Self { wait: Duration::from_secs(2) }
    }
}

impl Default for HubSettings {
    fn default() -> Self {
        Self {
            silence_timeout: Duration::from_secs(30),
            status_interval: Duration::from_millis(1000),
            id_slots: 4,
            keep_conflicts_days: 90,
            keep_conflicts_mib: 1024,
            verify_every: None,
            keep_wal: 1 << 30,
            confirm_after_days: 7,
        }
    }
}

/// Reads a table's name as the file spells it: `products`, `shop.products` or `"My Schema"."T"`.
///
/// # Errors
/// What is wrong with it, and how to write it.
pub fn read_table_name(text: &str) -> Result<QualifiedName, String> {
    names::table_name(text).map_err(|(what, remedy)| format!("{what}; {remedy}"))
}

pub const DEFAULT_FILE: &str = "pgtandem.toml";

impl Config {
    /// Which file to read: the one of `-c`, else of `PGTANDEM_CONFIG`, else `pgtandem.toml` in the working directory.
    pub fn locate(option: Option<&Path>, environment: &Environment) -> PathBuf {
        match (option, environment.filled("PGTANDEM_CONFIG")) {
            (Some(file), _) => file.to_owned(),
            (None, Some(file)) => PathBuf::from(file),
            (None, None) => PathBuf::from(DEFAULT_FILE),
        }
    }

    /// In direct mode a peer's changes are taken for unseen only while they wait in its outbox: there nothing is let go of.
    pub fn keep_wal(&self) -> u64 {
        if self.direct.is_some() { u64::MAX } else { self.hub.keep_wal }
    }

    pub fn load(file: &Path, environment: &Environment) -> Result<Self, ConfigFaults> {
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(file, &text, environment),
            Err(error) => Err(ConfigFaults::unreadable(file, &error)),
        }
    }

    /// Reads the text of a config; `file` is only its name in messages.
    pub fn parse(file: &Path, text: &str, environment: &Environment) -> Result<Self, ConfigFaults> {
        read::read(file, text, environment)
    }

    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    pub fn table(&self, name: &QualifiedName) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == *name)
    }

    /// What the node calls a table and its columns.
    pub fn naming(&self, node: &str, table: &QualifiedName) -> Naming {
        self.table(table).map_or_else(|| Naming::plain(table.clone()), |table| table.naming(node))
    }

    /// Of all tables, in the order of the file.
    pub fn namings(&self, node: &str) -> Vec<Naming> {
        self.tables.iter().map(|table| table.naming(node)).collect()
    }
}

impl Table {
    /// What the node calls it and its columns.
    pub fn naming(&self, node: &str) -> Naming {
        self.namings.get(node).cloned().unwrap_or_else(|| Naming::plain(self.name.clone()))
    }
}

impl fmt::Display for Resolve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("newest"),
            Self::Prefer(node) => write!(f, "prefer:{node}"),
        }
    }
}

impl Capture {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wal => "wal",
            Self::Trigger => "trigger",
        }
    }
}

impl fmt::Display for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Merge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuse => f.write_str("refuse"),
            Self::Newest => f.write_str("newest"),
            Self::Prefer(node) => write!(f, "prefer:{node}"),
            Self::OnlyMissing => f.write_str("only-missing"),
        }
    }
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interleave => "interleave",
            Self::Mirror => "mirror",
            Self::Keep => "keep",
        })
    }
}

#[cfg(test)]
mod tests;
