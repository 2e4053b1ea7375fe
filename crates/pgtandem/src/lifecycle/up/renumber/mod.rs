//! Ids that mean different things on two nodes: the rows of one node get others before anything is merged, and whatever
//! refers to them there follows.
//!
//! It is done in passes. Each compares the rows in snapshots (`find`), and then goes through what it found, in short
//! transactions on the node that is renumbered (`write`). What a pass decides about a row depends on nothing but the
//! matched columns, and these are looked at again under the row's lock. A row that was changed meanwhile, or whose place is
//! still taken, is left to the next pass. When a pass finds nothing, that is noted, durably: from then on equal ids mean
//! the same, and rows that come to differ in their matched columns are changed rows, not other ones.

mod candidates;
mod find;
mod references;
mod write;

pub(in crate::lifecycle) use references::{References, resolve as resolve_references};

use super::Work;
use crate::catalog::TableShape;
use crate::config::{Ids, Matching, spell_table_name};
use crate::lifecycle::error::On;
use crate::lifecycle::plan::Step;
use crate::lifecycle::{LifecycleError, OpenNode};
use crate::link::{self, RestoreKind};
use crate::sql::{self, QualifiedName};
use find::Moves;

/// Each takes care of what the one before could not, which is little.
const MOST_PASSES: usize = 30;
const EXAMPLES: usize = 3;

/// What is to be renumbered, as it looks before anything is done.
#[derive(Debug, Clone)]
pub struct Renumbering {
    pub table: QualifiedName,
    pub node: String,
    /// The node whose rows keep their ids.
    pub against: String,
    pub matched: Vec<String>,
    /// Rows that get new ids.
    pub new_ids: u64,
    /// Rows that get the ids that the same things have on the other node.
    pub joined: u64,
    /// Of each kind the first few.
    pub examples: Vec<Example>,
    /// Where ids of the table stand, beside its key.
    pub references: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Example {
    pub old: String,
    /// None: it is drawn when it is needed.
    pub new: Option<String>,
    /// Of the matched columns; none: NULL.
    pub values: Vec<Option<String>>,
}

/// How many rows got which ids.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moved {
    pub new_ids: u64,
    pub joined: u64,
}

impl Moved {
    fn add(&mut self, others: Self) {
        self.new_ids += others.new_ids;
        self.joined += others.joined;
    }
}

/// One table whose rows are looked at.
pub(super) struct Task<'a> {
    pub id: i32,
    pub table: &'a QualifiedName,
    /// Its rows get other ids.
    pub node: usize,
    pub against: usize,
    pub matching: &'a Matching,
    pub shape: &'a TableShape,
    /// Collisions are done with: only rows that one side lacks may still be the same.
    pub settled: bool,
}

impl Work<'_> {
    /// Before anything is changed, and without changing anything.
    pub(super) async fn preview_renumbering(&mut self) -> Result<(), LifecycleError> {
        let mut found = Vec::new();
        for step in &self.plan.steps {
            let Step::Renumber { id, table, node, against, matching } = step else { continue };
            let task = self.task(*id, table, *node, *against, matching).await?;
            found.push(self.preview(&task).await?);
        }
        self.plan.renumberings = found;
        Ok(())
    }

    async fn preview(&self, task: &Task<'_>) -> Result<Renumbering, LifecycleError> {
        let session = self.nodes[task.node].another().await?;
        let moves = self.find_moves(task, &session).await?;
        let mut references = Vec::new();
        if moves.count() > 0 {
            self.require_renumbering(task, &moves)?;
            let found = self.references_of(task).await?;
            // What the server cannot do shows before the first row is written.
            let statement = renumbered(task.shape, moves.matched.clone(), &found).renumber(&found.holders);
            session.client().prepare(&statement).await.on(&session.name, "preparing to renumber rows")?;
            references = found.shown(&task.shape.name.own());
        }
        let examples = session.client().query(&sql::first_moves(EXAMPLES), &[]).await;
        let examples = examples.on(&session.name, "looking for rows to renumber")?;
        Ok(Renumbering {
            table: task.table.clone(),
            node: self.nodes[task.node].name.clone(),
            against: self.nodes[task.against].name.clone(),
            matched: task.matching.columns.iter().map(|name| name.as_str().to_owned()).collect(),
            new_ids: moves.collisions,
            joined: moves.joined,
            examples: examples
                .iter()
                .map(|row| Example { old: row.get(0), new: row.get(1), values: row.get(2) })
                .collect(),
            references,
        })
    }

    pub(super) async fn renumber(
        &mut self,
        id: i32,
        table: &QualifiedName,
        node: usize,
        against: usize,
        matching: &Matching,
    ) -> Result<(), LifecycleError> {
        let task = self.task(id, table, node, against, matching).await?;
        let writer = self.nodes[node].another().await?;
        let mut moved = Moved::default();
        // Whoever takes it back has to know where to.
        self.note(&task, &writer, task.settled).await?;
        for pass in 0.. {
            let moves = self.find_moves(&task, &writer).await?;
            if moves.count() == 0 {
                break;
            }
            if pass == MOST_PASSES {
                return Err(LifecycleError::refused(
                    format!(
                        "{}: {} rows on {} that should get other ids keep changing",
                        table.plain(),
                        moves.count(),
                        writer.name
                    ),
                    "run `pgtandem up` again when the applications write less to them",
                ));
            }
            self.require_renumbering(&task, &moves)?;
            let references = self.references_of(&task).await?;
            moved.add(self.write_moves(&task, &moves, &references, &writer).await?);
        }
        let Moved { new_ids, joined } = moved;
        if new_ids + joined > 0 {
            let what =
                format!("{new_ids} rows got new ids on {}, {joined} the ids of the same rows elsewhere", writer.name);
            self.progress.merged(table, &what);
        }
        self.note(&task, &writer, true).await
    }

    /// `settled`: ids mean the same from now on.
    async fn note(&self, task: &Task<'_>, writer: &OpenNode, settled: bool) -> Result<(), LifecycleError> {
        let references: Vec<String> = task.matching.references.iter().map(ToString::to_string).collect();
        let before = serde_json::json!({ "references": references });
        let after = settled.then(|| serde_json::json!({ "settled": true }));
        let (client, object) = (writer.client(), task.id.to_string());
        let noted = async {
            client.batch_execute("BEGIN").await?;
            link::delete_restore(client, RestoreKind::Renumber, &object).await?;
            link::save_restore(client, RestoreKind::Renumber, &object, &before, after.as_ref()).await?;
            client.batch_execute("COMMIT").await
        };
        noted.await.on(&writer.name, "noting what the ids mean")
    }

    async fn task<'t>(
        &'t self,
        id: i32,
        table: &'t QualifiedName,
        node: usize,
        against: usize,
        matching: &'t Matching,
    ) -> Result<Task<'t>, LifecycleError> {
        let here = &self.nodes[node];
        let shape = self.shape(node, table).ok_or_else(|| {
            LifecycleError::refused(format!("node {}: {} is gone", here.name, table.plain()), "make it again")
        })?;
        let settled = match self.surveys[node].link {
            None => false,
            Some(_) => {
                let noted = link::read_restore(here.client(), RestoreKind::Renumber, &id.to_string()).await;
                let noted = noted.on(&here.name, "looking whether ids mean the same on all nodes")?;
                noted.is_some_and(|noted| noted.after.is_some())
            }
        };
        Ok(Task { id, table, node, against, matching, shape, settled })
    }

    async fn references_of(&self, task: &Task<'_>) -> Result<References, LifecycleError> {
        references::find(&self.nodes[task.node], &self.surveys[task.node], task.shape, task.matching).await
    }

    /// The configuration must have said whose rows get other ids, and there must be ids to give.
    fn require_renumbering(&self, task: &Task<'_>, moves: &Moves) -> Result<(), LifecycleError> {
        let names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        let (here, there) = (names[task.node], names[task.against]);
        let table = task.table.plain();
        let matched: Vec<&str> = task.matching.columns.iter().map(|name| name.as_str()).collect();
        let matched = matched.join(", ");
        if task.matching.renumber.is_none() {
            let what = format!(
                "{table}, by {matched}: ids that mean different things on {there} and {here}: {}; things that have \
                 different ids there: {}",
                moves.collisions + moves.colliding_joins,
                moves.joined
            );
            let remedy = format!(
                "see them with `pgtandem diff`, and say in pgtandem.toml whose rows get other ids (docs/merging.md):\n\
                 \n  [[tables]]\n  name = \"{}\"\n  renumber = \"{here}\"   # or \"{there}\"\n\nand run it again",
                spell_table_name(task.table).replace('"', "\\\"")
            );
            return Err(LifecycleError::refused(what, remedy));
        }
        let needs_new = moves.collisions + moves.colliding_joins > 0;
        if needs_new && self.key_sequence(task).is_none() {
            return Err(LifecycleError::refused(
                format!("{table} on {here}: no sequence makes its ids, so there are no new ones to give"),
                "give its key a sequence (serial or identity, and ids = \"interleave\"), or say in `renumber` another node whose \
                 key has one",
            ));
        }
        Ok(())
    }

    /// One whose values no other node makes.
    fn key_sequence(&self, task: &Task<'_>) -> Option<&QualifiedName> {
        if self.config.tables.iter().any(|table| table.name == *task.table && table.ids != Ids::Interleave) {
            return None;
        }
        let sequences = self.surveys[task.node].key_sequences(task.shape);
        sequences.into_iter().find(|sequence| sequence.column == task.shape.primary_key[0]).map(|found| &found.name)
    }
}

/// As statements are made of it.
pub(in crate::lifecycle) fn renumbered(
    shape: &TableShape,
    matched: Vec<(crate::sql::Ident, crate::sql::Canonical)>,
    references: &References,
) -> sql::Renumbered {
    let key = &shape.primary_key[0];
    let column = shape.column(key);
    sql::Renumbered {
        table: shape.name.clone(),
        key: key.clone(),
        key_type: column.map_or_else(|| "pg_catalog.int8".to_owned(), |column| column.cast_type.clone()),
        key_is_fixed: column.is_some_and(|column| shape.written(column).is_fixed),
        columns: shape.written_columns().map(|column| column.name.clone()).collect(),
        own_spots: references.own.clone(),
        matched,
    }
}

/// Of each pair the old id, which becomes the new one, here and wherever it stands.
pub(in crate::lifecycle) async fn move_ids<'m>(
    node: &OpenNode,
    renumbered: &sql::Renumbered,
    references: &References,
    moved: impl Iterator<Item = (&'m str, &'m str)>,
) -> Result<(), tokio_postgres::Error> {
    let (old, new): (Vec<&str>, Vec<&str>) = moved.unzip();
    let by_old = old.iter().zip(new).map(|(old, new)| ((*old).to_owned(), new.into()));
    let by_old = serde_json::Value::Object(by_old.collect());
    node.client().execute(&renumbered.renumber(&references.holders), &[&old, &by_old]).await?;
    Ok(())
}
