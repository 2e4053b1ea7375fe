//! Decisions, merged over all nodes that can be reached.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::SystemTime;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value as Json;

use super::observer::{Away, Observer};
use super::verdict::timestamp;
use crate::connect::Session;
use crate::link::{self, Decision, DecisionFilter, Installed};
use crate::sql::QualifiedName;

/// A conflict and how it was decided.
#[derive(Debug, Clone, Serialize)]
pub struct Conflict {
    /// What `pgtandem conflicts show` and `undo` call it.
    pub name: String,
    pub table: String,
    /// Column names of the primary key and their values as text.
    pub key: Json,
    pub kind: String,
    pub winner: Side,
    pub loser: Side,
    /// The policy that decided: `newest` or `prefer:NODE`.
    pub policy: String,
    pub why: String,
    pub decided_at: Option<Timestamp>,
    /// When the row that lost was put back, if it was.
    pub undone_at: Option<Timestamp>,
    #[serde(skip)]
    decided: SystemTime,
    /// `None` if the table is not linked any more.
    #[serde(skip)]
    pub linked_as: Option<QualifiedName>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Side {
    pub node: String,
    pub position: String,
    /// When it was committed; later than that only where a slow clock had to be corrected.
    pub stamp: Option<Timestamp>,
    /// Column names and values as text; null: the row was deleted.
    pub row: Option<Json>,
}

/// What to read.
#[derive(Debug, Clone, Default)]
pub struct ConflictFilter {
    pub table: Option<QualifiedName>,
    pub since: Option<SystemTime>,
    /// How its name begins.
    pub name: Option<String>,
    pub limit: i64,
}

/// Newest first; with the nodes that could not be asked, and why. `None` if no node knows the filter's table.
///
/// # Errors
/// When no node can be asked: why, for each.
pub async fn read_conflicts(
    names: &[&str],
    observer: &mut Observer<'_>,
    filter: &ConflictFilter,
) -> (Result<Vec<Conflict>, NoConflicts>, Vec<(String, Away)>) {
    let mut away = Vec::new();
    let mut none = Some(NoConflicts::NothingLinked);
    // A decision is numbered differently on every node, and written when the node was delivered to.
    let mut merged: HashMap<Identity, Conflict> = HashMap::new();
    for (name, session) in names.iter().zip(observer.sessions().await) {
        let read = match session {
            Ok(session) => read_from(session, filter).await.map_err(|error| Away::of_sql(&error)),
            Err(why) => Err(why),
        };
        match read {
            Err(why) => away.push(((*name).to_owned(), why)),
            Ok(Read::NotLinked) => {}
            Ok(Read::UnknownTable) => none = none.map(|_| NoConflicts::UnknownTable),
            Ok(Read::Decisions(decisions, words)) => {
                none = None;
                for decision in decisions {
                    let conflict = words.conflict(&decision);
                    let earlier = merged.entry(identity(&decision)).or_insert_with(|| conflict.clone());
                    let undone_at = earlier.undone_at.or(conflict.undone_at);
                    if conflict.decided < earlier.decided {
                        *earlier = conflict;
                    }
                    earlier.undone_at = undone_at;
                }
            }
        }
    }
    let mut conflicts: Vec<Conflict> = merged.into_values().collect();
    conflicts.sort_by(|a, b| (b.decided, &b.winner.position).cmp(&(a.decided, &a.winner.position)));
    conflicts.truncate(usize::try_from(filter.limit).unwrap_or(usize::MAX));
    (none.map_or(Ok(conflicts), Err), away)
}

/// Why there are no conflicts to speak of, on any node that could be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoConflicts {
    NothingLinked,
    /// The table that was asked for is not linked.
    UnknownTable,
}

/// What one node said.
enum Read {
    NotLinked,
    UnknownTable,
    Decisions(Vec<Decision>, Words),
}

/// Table, key, and node and position of both sides.
type Identity = (i32, Vec<u8>, i16, u64, i16, u64);

fn identity(decision: &Decision) -> Identity {
    let Decision { table_id, key_bytes, winner_node, winner_position, loser_node, loser_position, .. } = decision;
    let (winner, loser) = ((*winner_position).into(), (*loser_position).into());
    (*table_id, key_bytes.clone(), *winner_node, winner, *loser_node, loser)
}

/// What numbers mean.
struct Words {
    tables: BTreeMap<i32, (QualifiedName, Vec<String>)>,
    nodes: BTreeMap<i16, String>,
}

async fn read_from(session: &Session, filter: &ConflictFilter) -> Result<Read, tokio_postgres::Error> {
    let client = &session.client;
    if link::is_installed(client).await? != Installed::Yes {
        return Ok(Read::NotLinked);
    }
    let tables = link::read_linked_tables(client).await?;
    let peers = link::read_peers(client).await?;
    let words = Words {
        tables: tables.iter().map(|table| (table.id, (table.name.clone(), table.columns.clone()))).collect(),
        nodes: peers.into_iter().map(|peer| (peer.number, peer.name)).collect(),
    };
    let table_id = match &filter.table {
        None => None,
        Some(name) => match tables.iter().find(|table| table.name == *name) {
            Some(table) => Some(table.id),
            None => return Ok(Read::UnknownTable),
        },
    };
    let filter = DecisionFilter { table_id, since: filter.since, name: filter.name.clone(), limit: Some(filter.limit) };
    Ok(Read::Decisions(link::list_decisions(client, &filter).await?, words))
}

impl Words {
    fn conflict(&self, decision: &Decision) -> Conflict {
        let node = |number: i16| self.nodes.get(&number).cloned().unwrap_or_else(|| format!("node {number}"));
        let linked = self.tables.get(&decision.table_id);
        let unlinked = || format!("table {} (not linked any more)", decision.table_id);
        let columns = linked.map_or(&[][..], |(_, columns)| columns);
        let row = |row: &Option<Json>| row.as_ref().map(|row| in_order(row, columns));
        Conflict {
            name: decision.name.clone(),
            table: linked.map_or_else(unlinked, |(name, _)| name.plain()),
            key: decision.key.clone(),
            kind: decision.kind.clone(),
            winner: Side {
                node: node(decision.winner_node),
                position: decision.winner_position.to_string(),
                stamp: timestamp(decision.winner_stamp),
                row: row(&decision.winner_row),
            },
            loser: Side {
                node: node(decision.loser_node),
                position: decision.loser_position.to_string(),
                stamp: timestamp(decision.loser_stamp),
                row: row(&decision.loser_row),
            },
            policy: decision.policy.clone(),
            why: decision.why.clone(),
            decided_at: timestamp(decision.decided_at),
            undone_at: decision.undone_at.and_then(timestamp),
            decided: decision.decided_at,
            linked_as: linked.map(|(name, _)| name.clone()),
        }
    }
}

/// A jsonb has an order of its own; people know the table's.
fn in_order(row: &Json, columns: &[String]) -> Json {
    let Json::Object(values) = row else { return row.clone() };
    let mut sorted: Vec<(&String, &Json)> = values.iter().collect();
    sorted.sort_by_key(|(name, _)| columns.iter().position(|column| column == *name).unwrap_or(usize::MAX));
    Json::Object(sorted.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

impl Conflict {
    /// No two changes that met: rows that were there before the table was linked.
    #[must_use]
    pub fn is_of_a_merge(&self) -> bool {
        self.kind == link::MERGE || self.kind == link::REPAIR
    }

    /// Columns of both rows, the winner's order first.
    #[must_use]
    pub fn columns(&self) -> Vec<&str> {
        let rows = [&self.winner.row, &self.loser.row];
        let names = rows.into_iter().flatten().filter_map(Json::as_object).flat_map(|row| row.keys());
        let mut seen = HashSet::new();
        names.map(String::as_str).filter(|name| seen.insert(*name)).collect()
    }
}
