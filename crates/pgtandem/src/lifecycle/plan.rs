//! `plan`: every step from what the nodes are to what the configuration asks for.
//!
//! A plan is made from surveys alone. `up` shows it, asks, and takes the steps in this order; each is left out once
//! it has been taken, so that an interrupted `up` goes on where it was and a repeated one has nothing to do.

use super::identity::{Identity, identities, slot_count};
use super::interleave::{Interleaving, interleavings};
use super::up::Renumbering;
use super::{LifecycleError, NodeSurvey};
use crate::catalog::{Column, Leaf, ReplicaIdentity, TableKind, TableShape};
use crate::config::{Capture, Config, Ids, Matching, Merge, Table};
use crate::sql::{self, Ident, Naming, QualifiedName, TableCapture};

#[derive(Debug, Clone)]
pub struct Plan {
    /// In the order of the configuration, as everywhere a node is given by its index.
    pub identities: Vec<Identity>,
    pub captures: Vec<Capture>,
    /// What each node calls the tables.
    pub namings: Vec<Vec<Naming>>,
    pub slot_count: i16,
    pub steps: Vec<Step>,
    /// What the steps that renumber rows would do now; empty until it has been looked at.
    pub renumberings: Vec<Renumbering>,
    /// What differs of tables that would be merged, in words; empty as long.
    pub differ: Vec<(QualifiedName, String)>,
}

#[derive(Debug, Clone)]
pub enum Step {
    /// A table that is no longer in the configuration leaves the link.
    Unlink {
        node: usize,
        id: i32,
        table: QualifiedName,
    },
    /// The schema `pgtandem`, with an outbox if changes are captured by triggers.
    Install {
        node: usize,
        capture: Capture,
    },
    /// The node learns of another one.
    AddPeer {
        node: usize,
        peer: usize,
    },
    SlotCount {
        node: usize,
    },
    /// Old rows are written to the WAL as far as we need them. `table` holds the rows: a leaf, if partitioned.
    ReplicaIdentity {
        node: usize,
        table: QualifiedName,
        from: ReplicaIdentity,
        to: ReplicaIdentity,
    },
    Publish {
        node: usize,
        create: bool,
        /// Generated columns as well. With REPLICA IDENTITY FULL the application's own updates would fail otherwise,
        /// from PostgreSQL 18 on.
        generated: bool,
        tables: Vec<QualifiedName>,
    },
    CreateSlot {
        node: usize,
    },
    /// Triggers that write the table's changes into the outbox.
    Capture {
        node: usize,
        table: QualifiedName,
        capture: TableCapture,
    },
    /// A trigger that writes to the other database by itself: every row would go twice.
    RetireTrigger {
        node: usize,
        table: QualifiedName,
        trigger: Ident,
    },
    /// The node keeps note of the table, as being linked.
    Register {
        node: usize,
        id: i32,
        table: Table,
        /// What the node calls it.
        naming: Naming,
        /// Those that deliveries write, in the node's order.
        columns: Vec<String>,
    },
    Policy {
        node: usize,
        id: i32,
        table: Table,
    },
    Interleave(Interleaving),
    /// Whatever is inserted moves the sequences behind these columns past it.
    Mirror {
        node: usize,
        id: i32,
        table: QualifiedName,
        columns: Vec<(Ident, u32)>,
    },
    /// No longer.
    EndMirror {
        node: usize,
        id: i32,
        table: QualifiedName,
    },
    /// What leads to the peer, and what its transactions arrive at.
    DirectPeer {
        node: usize,
        peer: usize,
    },
    /// So long an application's COMMIT waits for the peer from now on.
    DirectWait {
        node: usize,
        peer: usize,
        from_ms: i32,
        to_ms: i32,
        statements: Vec<String>,
    },
    /// From here on the table's changes go to the peer at COMMIT.
    DirectTable {
        node: usize,
        peer: usize,
        table: sql::DirectTable,
    },
    /// Ids come to mean the same on the nodes that have rows: the node's rows get others where they do not.
    Renumber {
        id: i32,
        table: QualifiedName,
        node: usize,
        against: usize,
        matching: Matching,
    },
    /// The rows become the same on all nodes, and the table live.
    Fill {
        id: i32,
        table: QualifiedName,
        rows: Rows,
    },
}

/// What is to be done about a table's rows, as it looks before `up`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows {
    /// No node has any.
    NoneYet,
    /// One node has rows: they are copied to these.
    Copy { from: usize, to: Vec<usize> },
    /// Several have: they are compared, merged if they differ and that is asked for, and copied to those that have none,
    /// if there are such.
    Compare { nodes: Vec<usize>, copy_to: Vec<usize>, merge: Merge, by: Ident },
}

impl Step {
    pub(super) fn as_install(&self) -> Option<(usize, Capture)> {
        match self {
            Self::Install { node, capture } => Some((*node, *capture)),
            _ => None,
        }
    }
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// What it has missed is settled among the nodes and tables that there were. A `rejoin` of it settles it, too.
fn refuse_while_one_is_left_behind(surveys: &[NodeSurvey]) -> Result<(), LifecycleError> {
    let links = || surveys.iter().filter_map(|survey| Some((survey, survey.link.as_ref()?)));
    for number in links().filter_map(|(_, link)| link.left_behind) {
        let left = links().find(|(_, link)| link.node.number == number);
        let name = match left {
            Some((_, link)) if link.rejoining => continue,
            Some((survey, _)) => survey.name.as_str(),
            // It is taken out of the configuration.
            None => continue,
        };
        return Err(LifecycleError::unsettled(name, "let `pgtandem run` settle that first"));
    }
    Ok(())
}

/// `surveys`: one per node of the configuration, in its order.
pub fn plan(config: &Config, surveys: &[NodeSurvey]) -> Result<Plan, LifecycleError> {
    let identities = identities(config, surveys)?;
    let slot_count = slot_count(config, surveys, &identities)?;
    let mut planner = Planner { config, surveys, identities: &identities, slot_count, steps: Vec::new() };
    planner.unlink();
    for node in 0..surveys.len() {
        planner.install(node);
    }
    planner.direct_peers();
    for node in 0..surveys.len() {
        planner.node(node);
    }
    let tables = parents_first(config, surveys);
    tables.iter().for_each(|table| planner.interleave(table));
    tables.iter().for_each(|table| planner.mirror(table));
    for table in &tables {
        planner.renumber(table)?;
    }
    tables.iter().for_each(|table| planner.fill(table));
    planner.direct_tables();
    let steps = planner.steps;
    if !steps.is_empty() {
        refuse_while_one_is_left_behind(surveys)?;
    }
    let captures = surveys.iter().map(|survey| survey.capture(config)).collect();
    let namings = surveys.iter().map(|survey| config.namings(&survey.name)).collect();
    Ok(Plan { identities, captures, namings, slot_count, steps, renumberings: Vec::new(), differ: Vec::new() })
}

/// Where foreign keys act on our rows too, a row's parent has to be there before it.
fn parents_first<'a>(config: &'a Config, surveys: &[NodeSurvey]) -> Vec<&'a Table> {
    let mut waiting: Vec<&Table> = config.tables.iter().collect();
    let mut ordered = Vec::new();
    while !waiting.is_empty() {
        let has_waiting_parent = |table: &&Table| {
            let shapes = surveys.iter().filter_map(|survey| survey.table(&table.name));
            let mut parents = shapes.flat_map(|shape| &shape.foreign_keys_out).map(|key| &key.referenced);
            parents.any(|parent| *parent != table.name && waiting.iter().any(|other| other.name == *parent))
        };
        // Tables that refer to each other in a circle: the first one begins.
        let next = waiting.iter().position(|table| !has_waiting_parent(table)).unwrap_or(0);
        ordered.push(waiting.remove(next));
    }
    ordered
}

/// What the replica identity of a table that holds rows must be.
///
/// With a TOAST table, values that an update leaves alone are missing in the WAL unless the whole old row is there.
/// Without one the primary key will do, and FULL does no harm, except with a virtual generated column: then PostgreSQL
/// would refuse the application's updates, and large values are read from the table instead.
pub fn wanted_identity(table: &TableShape, leaf: &Leaf) -> ReplicaIdentity {
    if table.has_virtual_column() {
        return ReplicaIdentity::Default;
    }
    match (&leaf.replica_identity, leaf.has_toast) {
        (ReplicaIdentity::Full, _) | (_, true) => ReplicaIdentity::Full,
        _ => ReplicaIdentity::Default,
    }
}

/// Whether a type's text depends only on settings that the trigger looks at: those of times, floats and bytea.
fn is_spelled_alike(column: &Column) -> bool {
    const ALIKE: [&str; 33] = [
        "bigint",
        "integer",
        "smallint",
        "numeric",
        "real",
        "double precision",
        "boolean",
        "text",
        "character varying",
        "character",
        "bpchar",
        "name",
        "citext",
        "uuid",
        "json",
        "jsonb",
        "bytea",
        "date",
        "timestamp without time zone",
        "timestamp with time zone",
        "time without time zone",
        "time with time zone",
        "interval",
        "inet",
        "cidr",
        "macaddr",
        "macaddr8",
        "bit",
        "bit varying",
        "point",
        "tsvector",
        "oid",
        "\"char\"",
    ];
    let name = column.base_type.strip_suffix("[]").unwrap_or(&column.base_type);
    column.type_kind == 'e' || ALIKE.contains(&name)
}

pub(super) struct Planner<'a> {
    pub(super) config: &'a Config,
    pub(super) surveys: &'a [NodeSurvey],
    identities: &'a [Identity],
    slot_count: i16,
    pub(super) steps: Vec<Step>,
}

impl Planner<'_> {
    fn unlink(&mut self) {
        for (node, survey) in self.surveys.iter().enumerate() {
            for linked in survey.link.iter().flat_map(|link| &link.tables) {
                if !self.config.tables.iter().any(|table| table.name == linked.name) {
                    self.steps.push(Step::Unlink { node, id: linked.id, table: linked.name.clone() });
                }
            }
        }
    }

    fn install(&mut self, node: usize) {
        let Some(link) = &self.surveys[node].link else {
            // Installing tells the node of all peers at once.
            let capture = self.surveys[node].capture(self.config);
            self.steps.push(Step::Install { node, capture });
            return;
        };
        for (peer, identity) in self.identities.iter().enumerate() {
            if !link.peers.iter().any(|known| known.incarnation == identity.incarnation) {
                self.steps.push(Step::AddPeer { node, peer });
            }
        }
        if link.node.slot_count != self.slot_count {
            self.steps.push(Step::SlotCount { node });
        }
    }

    fn node(&mut self, node: usize) {
        match self.surveys[node].capture(self.config) {
            Capture::Wal => self.publish(node),
            Capture::Trigger => self.capture(node),
        }
        self.retire_triggers(node);
        for table in &self.config.tables {
            let id = self.table_id(table);
            match self.surveys[node].linked(&table.name) {
                None => {
                    let shape = self.surveys[node].table(&table.name);
                    let written = shape.into_iter().flat_map(TableShape::written_columns);
                    let columns = written.map(|column| column.name.as_str().to_owned()).collect();
                    let naming = table.naming(&self.surveys[node].name);
                    self.steps.push(Step::Register { node, id, table: table.clone(), naming, columns });
                }
                Some(linked) if linked.resolve != table.resolve.to_string() || linked.ids != table.ids => {
                    self.steps.push(Step::Policy { node, id: linked.id, table: table.clone() });
                }
                Some(_) => {}
            }
        }
    }

    fn retire_triggers(&mut self, node: usize) {
        if !self.config.replace_triggers {
            return;
        }
        for table in self.config.tables.iter().filter_map(|table| self.surveys[node].table(&table.name)) {
            for trigger in table.own_sync_triggers() {
                let (table, trigger) = (table.name.clone(), trigger.name.clone());
                self.steps.push(Step::RetireTrigger { node, table, trigger });
            }
        }
    }

    fn capture(&mut self, node: usize) {
        let survey = &self.surveys[node];
        let captured = survey.link.iter().flat_map(|link| &link.captured).collect::<Vec<_>>();
        for table in &self.config.tables {
            let Some(shape) = survey.table(&table.name).filter(|shape| !captured.contains(&&shape.relid)) else {
                continue;
            };
            let equals = |name: &Ident| shape.column(name).map_or_else(|| "=".to_owned(), |c| c.equals.clone());
            let key = shape.primary_key.iter().map(|name| (name.clone(), equals(name))).collect();
            let spell = !shape.columns.iter().all(is_spelled_alike);
            let inserts_at_once = self.config.direct.is_some() && shape.kind == TableKind::Ordinary;
            let capture = TableCapture { id: self.table_id(table), key, spell, inserts_at_once };
            self.steps.push(Step::Capture { node, table: shape.name.clone(), capture });
        }
    }

    fn publish(&mut self, node: usize) {
        let survey = &self.surveys[node];
        for table in self.config.tables.iter().filter_map(|table| survey.table(&table.name)) {
            for leaf in &table.leaves {
                let (from, to) = (leaf.replica_identity.clone(), wanted_identity(table, leaf));
                if from != to {
                    self.steps.push(Step::ReplicaIdentity { node, table: leaf.name.clone(), from, to });
                }
            }
        }
        let published = survey.publication.as_ref().map(|publication| publication.tables.as_slice());
        let wanted = self.config.tables.iter().map(|table| table.naming(&survey.name).table);
        // The publication knows the node's own names only.
        let missing: Vec<QualifiedName> =
            wanted.filter(|table| !published.unwrap_or_default().contains(&table.own())).collect();
        if published.is_none() || !missing.is_empty() {
            let (create, generated) = (published.is_none(), survey.server.major() >= 18);
            self.steps.push(Step::Publish { node, create, generated, tables: missing });
        }
        if survey.slot.is_none() {
            self.steps.push(Step::CreateSlot { node });
        }
    }

    /// What some node calls it already, or else a number that none has used.
    pub(super) fn table_id(&self, table: &Table) -> i32 {
        let known =
            |table: &Table| self.surveys.iter().find_map(|survey| survey.linked(&table.name)).map(|linked| linked.id);
        known(table).unwrap_or_else(|| {
            let highest = self.surveys.iter().filter_map(|survey| Some(survey.link.as_ref()?.last_table_id)).max();
            let new = self.config.tables.iter().filter(|other| known(other).is_none());
            let place = new.take_while(|other| other.name != table.name).count();
            highest.unwrap_or(0) + 1 + i32::try_from(place).unwrap_or(i32::MAX)
        })
    }

    fn interleave(&mut self, table: &Table) {
        let slots = match table.ids {
            Ids::Interleave => self.slot_count,
            // All make the same numbers, and go on where they all are.
            Ids::Mirror => 1,
            Ids::Keep => return,
        };
        let all = interleavings(&table.name, self.surveys, self.identities, slots);
        self.steps.extend(all.into_iter().filter(|one| !one.is_done()).map(Step::Interleave));
    }

    /// The nodes whose rows are to become the same, and those that get them. Those that are linked with each other already
    /// are one: the first speaks for all.
    fn filled_and_empty(&self, table: &Table) -> (Vec<usize>, Vec<usize>) {
        let is_live = |node: &usize| self.surveys[*node].is_live(&table.name);
        let first_live = (0..self.surveys.len()).find(is_live);
        (0..self.surveys.len())
            .filter(|node| first_live == Some(*node) || !is_live(node))
            .partition(|node| is_live(node) || self.surveys[*node].filled.contains(&table.name))
    }

    fn renumber(&mut self, table: &Table) -> Result<(), LifecycleError> {
        let Some(matching) = &table.matching else { return Ok(()) };
        let id = self.table_id(table);
        let links = || self.surveys.iter().filter_map(|survey| survey.link.as_ref());
        // Its rows have been made the same already, by an `up` that did not come to its end.
        let is_filled = links().flat_map(|link| &link.copies).any(|copy| copy.object == id.to_string());
        let is_live = self.surveys.iter().any(|survey| survey.is_live(&table.name));
        let (filled, _) = self.filled_and_empty(table);
        if is_filled || is_live || filled.len() < 2 {
            return Ok(());
        }
        let [first, second] = filled[..] else {
            return Err(LifecycleError::refused(
                format!(
                    "{}: {} nodes hold rows, and `match` finds the same ones on two only",
                    table.name.plain(),
                    filled.len()
                ),
                "link two of the nodes first, and add the others when the first two are one",
            ));
        };
        let name = |node: usize| Some(self.surveys[node].name.as_str());
        let (node, against) = match matching.renumber.as_deref() {
            renumber if renumber == name(first) => (first, second),
            renumber if renumber.is_none() || renumber == name(second) => (second, first),
            _ => return Ok(()),
        };
        let (table, matching) = (table.name.clone(), matching.clone());
        self.steps.push(Step::Renumber { id, table, node, against, matching });
        Ok(())
    }

    fn fill(&mut self, table: &Table) {
        if self.surveys.iter().all(|survey| survey.is_live(&table.name)) {
            return;
        }
        let any_live = self.surveys.iter().any(|survey| survey.is_live(&table.name));
        let (filled, empty) = self.filled_and_empty(table);
        let rows = match filled.as_slice() {
            [] => Rows::NoneYet,
            [from] => Rows::Copy { from: *from, to: empty },
            _ => {
                // What is written to a table that is live already would have to reach its other nodes as well.
                let merge = if any_live { Merge::Refuse } else { table.merge.clone() };
                Rows::Compare { nodes: filled, copy_to: empty, merge, by: table.merge_by.clone() }
            }
        };
        self.steps.push(Step::Fill { id: self.table_id(table), table: table.name.clone(), rows });
    }
}
