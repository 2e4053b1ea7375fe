//! Row messages become whole transactions of changes, wherever they come from.
//!
//! A transaction's changes are collected until its commit, then handed on at once.

use std::collections::HashMap;
use std::sync::Arc;

use hub::{Change, Key, Micros, Op, Position, State, TableId};
use wire::{Column, Message, Old, Tuple};

use super::key::Spelling;
use super::relation::{CapturedTables, RelationPlan, SourceColumn, plan};
use super::source::Source;
use super::{CaptureError, Image, ImageBuilder, Shapes, SharedFile, Spool, Spooled, Value, key};

/// Prefix of the logical message that opens every transaction of ours.
const OWN_PREFIX: &str = "pgtandem";

/// What a node's stream says, in commit order.
#[derive(Debug)]
pub enum Captured {
    Transaction {
        position: Position,
        time: Micros,
        changes: Spooled,
    },
    /// Every change up to here has been read; a transaction of ours or one without linked tables ends here, or the
    /// server had nothing.
    Passed(Position),
    /// A linked table's shape as its next rows will have it.
    Shape {
        table: TableId,
        columns: Vec<SourceColumn>,
    },
}

/// Puts one node's transactions together.
pub struct Assembler {
    source: Source,
    tables: Arc<CapturedTables>,
    shapes: Shapes,
    /// What the messages that open our own transactions begin with.
    secret: String,
    /// Transactions up to here have been judged before the stream was (re)opened.
    judged: Position,
    relations: HashMap<u32, Option<RelationPlan>>,
    open: Option<Open>,
    /// A delete on a partitioned table that may turn out to be the first half of an update.
    leaving: Option<Leaving>,
    /// For small transactions while memory is short.
    shared_file: SharedFile,
    builder: ImageBuilder,
    key_bytes: Vec<u8>,
}

/// A row that was deleted from a partition. An update that moves a row to another partition is in the WAL as a delete
/// and an insert right behind it, with the same key but for the columns that say where it belongs.
struct Leaving {
    relation: u32,
    plan: RelationPlan,
    key: Key,
    old: Tuple,
}

/// The transaction that is being read.
struct Open {
    position: Position,
    time: Micros,
    xid: u32,
    spool: Spool,
    /// Its changes are not collected: it is ours, or was judged before.
    skipped: bool,
}

impl Assembler {
    #[must_use]
    pub fn new(
        source: Source,
        tables: Arc<CapturedTables>,
        shapes: Shapes,
        secret: &uuid::Uuid,
        judged: Position,
    ) -> Self {
        Self {
            source,
            tables,
            shapes,
            secret: secret.to_string(),
            judged,
            relations: HashMap::new(),
            open: None,
            leaving: None,
            shared_file: SharedFile::default(),
            builder: ImageBuilder::default(),
            key_bytes: Vec::new(),
        }
    }

    /// # Errors
    /// When the message is not what belongs there, or what it needs cannot be had.
    pub async fn take(&mut self, message: Message) -> Result<Option<Captured>, CaptureError> {
        let goes_on = match &message {
            Message::Insert { relation, .. } => {
                self.leaving.as_ref().is_some_and(|leaving| leaving.relation == *relation)
            }
            // The new partition's shape may come in between.
            Message::Relation(_) | Message::Type { .. } => true,
            _ => false,
        };
        if !goes_on {
            self.left()?;
        }
        match message {
            Message::Begin { final_lsn, commit_time_micros, xid } => {
                let position = Position(final_lsn.0);
                let skipped = position <= self.judged;
                let time = Micros(commit_time_micros);
                self.open = Some(Open { position, time, xid, spool: Spool::default(), skipped });
            }
            Message::Commit { .. } => return self.commit().map(Some),
            Message::Relation(relation) => return self.relation(&relation),
            Message::Message { transactional: true, prefix, content, .. } if prefix == OWN_PREFIX => {
                if content.starts_with(self.secret.as_bytes()) {
                    self.open_transaction()?.skipped = true;
                }
            }
            Message::Insert { relation, new } => {
                self.learn(relation, &[Some(&new)]).await?;
                self.insert(relation, &new)?;
            }
            Message::Update { relation, old, new } => {
                self.learn(relation, &[Some(&new), old.as_ref().map(Old::tuple)]).await?;
                self.update(relation, old.as_ref(), &new).await?;
            }
            Message::Delete { relation, old } => {
                self.learn(relation, &[Some(old.tuple())]).await?;
                self.delete(relation, old)?;
            }
            Message::Truncate { relations, .. } => self.truncate(&relations)?,
            Message::Origin { .. } | Message::Type { .. } | Message::Message { .. } => {}
            Message::StreamStart { .. }
            | Message::StreamStop
            | Message::StreamCommit { .. }
            | Message::StreamAbort { .. } => return Err(CaptureError::OutOfOrder("a piece of an open transaction")),
        }
        Ok(None)
    }

    fn open_transaction(&mut self) -> Result<&mut Open, CaptureError> {
        self.open.as_mut().ok_or(CaptureError::OutOfOrder("a change outside a transaction"))
    }

    fn commit(&mut self) -> Result<Captured, CaptureError> {
        let open = self.open.take().ok_or(CaptureError::OutOfOrder("a commit outside a transaction"))?;
        if open.skipped || open.spool.is_empty() {
            return Ok(Captured::Passed(open.position));
        }
        Ok(Captured::Transaction {
            position: open.position,
            time: open.time,
            changes: open.spool.finish(&mut self.shared_file)?,
        })
    }

    fn relation(&mut self, relation: &wire::Relation) -> Result<Option<Captured>, CaptureError> {
        let Some(table) = self.tables.get(&relation.oid) else {
            self.relations.insert(relation.oid, None);
            return Ok(None);
        };
        let (plan, columns) = plan(table, relation, &self.shapes)?;
        self.relations.insert(relation.oid, Some(plan));
        Ok(Some(Captured::Shape { table: table.id, columns }))
    }

    /// How to read rows of `relation`; `None` when they do not matter: not linked, skipped, or already in the rows
    /// that were copied when the table was linked.
    fn plan_for(&mut self, relation: u32) -> Result<Option<RelationPlan>, CaptureError> {
        let open = self.open.as_ref().ok_or(CaptureError::OutOfOrder("a change outside a transaction"))?;
        if open.skipped {
            return Ok(None);
        }
        let known = self.relations.get(&relation).ok_or(CaptureError::OutOfOrder("a row of an unknown table"))?;
        Ok(known.as_ref().filter(|plan| open.position >= plan.start).cloned())
    }

    fn push(&mut self, change: Change<Image>) -> Result<(), CaptureError> {
        Ok(self.open_transaction()?.spool.push(change)?)
    }

    /// Keys whose equality only the node knows are looked up before they are needed.
    async fn learn(&mut self, relation: u32, tuples: &[Option<&Tuple>]) -> Result<(), CaptureError> {
        let asks = self.relations.get(&relation).is_some_and(|plan| plan.as_ref().is_some_and(|plan| plan.asks));
        if !asks {
            return Ok(());
        }
        let Some(plan) = self.plan_for(relation)? else { return Ok(()) };
        for tuple in tuples.iter().flatten() {
            for (at, column) in &*plan.key {
                if let (Spelling::CaseFolded, Some(Column::Text(text))) = (column.spelling, tuple.column(*at)) {
                    self.source.learn(text).await?;
                }
            }
        }
        Ok(())
    }

    fn insert(&mut self, relation: u32, new: &Tuple) -> Result<(), CaptureError> {
        let Some(plan) = self.plan_for(relation)? else { return Ok(()) };
        let key = self.key(&plan, new)?;
        let image = self.image(&plan, new, None, None, &[]);
        let moved = self.leaving.take_if(|leaving| leaving.key != key && leaving.becomes(new));
        if let Some(Leaving { key: from, old, .. }) = moved {
            let image_under_old_key = self.image(&plan, new, None, Some(&old), &[]);
            return self.push(Change::KeyChange { from, to: key, image, image_under_old_key });
        }
        self.left()?;
        self.push(Change::Row { key, op: Op::Insert, state: State::Present(image) })
    }

    async fn update(&mut self, relation: u32, old: Option<&Old>, new: &Tuple) -> Result<(), CaptureError> {
        let Some(plan) = self.plan_for(relation)? else { return Ok(()) };
        let key = self.key(&plan, new)?;
        let full = match old {
            Some(Old::Full(tuple)) => Some(tuple),
            Some(Old::Key(_)) | None => None,
        };
        let lacking = lacking(new, full);
        let asked = if lacking.is_empty() { Vec::new() } else { self.ask(&plan, new, &lacking).await? };
        let image = self.image(&plan, new, full, None, &asked);
        let from = old.map(|old| self.key(&plan, old.tuple())).transpose()?;
        match (from, old) {
            (Some(from), Some(old)) if from != key => {
                let image_under_old_key = self.image(&plan, new, full, Some(old.tuple()), &asked);
                self.push(Change::KeyChange { from, to: key, image, image_under_old_key })
            }
            _ => self.push(Change::Row { key, op: Op::Update, state: State::Present(image) }),
        }
    }

    /// Values that the server left out, by their places in the row; none when the row is gone.
    async fn ask(
        &mut self,
        plan: &RelationPlan,
        new: &Tuple,
        lacking: &[usize],
    ) -> Result<Vec<(usize, Option<String>)>, CaptureError> {
        let text = |at: usize| match new.column(at) {
            Some(Column::Text(text)) => String::from_utf8_lossy(text).into_owned(),
            _ => String::new(),
        };
        let key: Vec<_> = plan.key.iter().map(|(at, column)| (column.column.clone(), text(*at))).collect();
        let columns: Vec<_> = lacking.iter().map(|at| plan.columns[*at].clone()).collect();
        let xid = self.open_transaction()?.xid;
        let found = self.source.values(&plan.name, &key, &columns, xid).await?;
        Ok(lacking.iter().copied().zip(found.into_iter().flatten()).collect())
    }

    fn delete(&mut self, relation: u32, old: Old) -> Result<(), CaptureError> {
        let Some(plan) = self.plan_for(relation)? else { return Ok(()) };
        let key = self.key(&plan, old.tuple())?;
        if plan.kept_in_move.is_empty() {
            return self.push(Change::Row { key, op: Op::Delete, state: State::Absent });
        }
        let (Old::Key(old) | Old::Full(old)) = old;
        self.leaving = Some(Leaving { relation, plan, key, old });
        Ok(())
    }

    /// It was a delete after all.
    fn left(&mut self) -> Result<(), CaptureError> {
        match self.leaving.take() {
            Some(Leaving { key, .. }) => self.push(Change::Row { key, op: Op::Delete, state: State::Absent }),
            None => Ok(()),
        }
    }

    fn truncate(&mut self, relations: &[u32]) -> Result<(), CaptureError> {
        let mut tables = Vec::new();
        for relation in relations {
            tables.extend(self.plan_for(*relation)?.map(|plan| plan.table));
        }
        if tables.is_empty() { Ok(()) } else { self.push(Change::Truncate { tables }) }
    }

    fn key(&mut self, plan: &RelationPlan, tuple: &Tuple) -> Result<Key, CaptureError> {
        self.key_bytes.clear();
        for (at, column) in &*plan.key {
            let Some(Column::Text(text)) = tuple.column(*at) else {
                return Err(CaptureError::KeyMissing { table: plan.name.plain() });
            };
            match column.spelling {
                Spelling::CaseFolded => key::push_part(&self.source.folded(text), &mut self.key_bytes),
                spelling => key::encode(std::iter::once((spelling, text)), &mut self.key_bytes),
            }
        }
        Ok(Key::new(plan.table, &self.key_bytes))
    }

    /// The row whole: values the server left out are taken from `old` or from `asked`, key columns from `old_key`
    /// where given.
    fn image(
        &mut self,
        plan: &RelationPlan,
        new: &Tuple,
        old: Option<&Tuple>,
        old_key: Option<&Tuple>,
        asked: &[(usize, Option<String>)],
    ) -> Image {
        self.builder.start(plan.shape);
        for (at, column) in new.columns().enumerate() {
            let of_key = old_key.filter(|_| plan.key.iter().any(|(key_at, _)| *key_at == at));
            let column = match of_key {
                Some(tuple) => tuple.column(at).unwrap_or(column),
                None => column,
            };
            let column = match (column, old) {
                (Column::UnchangedToast, Some(old)) => old.column(at).unwrap_or(column),
                _ => column,
            };
            let value = match column {
                Column::Null => Value::Null,
                Column::UnchangedToast => match asked.iter().find(|(place, _)| *place == at) {
                    Some((_, Some(text))) => Value::Text(text.as_bytes()),
                    Some((_, None)) => Value::Null,
                    None => Value::Unchanged,
                },
                Column::Text(text) | Column::Binary(text) => Value::Text(text),
            };
            self.builder.push(value);
        }
        Image::in_memory(self.builder.bytes())
    }
}

impl Leaving {
    fn becomes(&self, new: &Tuple) -> bool {
        self.plan.kept_in_move.iter().all(|at| self.old.column(*at) == new.column(*at))
    }
}

/// Places of the values that neither image has.
fn lacking(new: &Tuple, old: Option<&Tuple>) -> Vec<usize> {
    let is_left_out = |column: Column<'_>| matches!(column, Column::UnchangedToast);
    let places = new
        .columns()
        .enumerate()
        .filter(|(at, column)| is_left_out(*column) && old.is_none_or(|old| old.column(*at).is_none_or(is_left_out)));
    places.map(|(at, _)| at).collect()
}
