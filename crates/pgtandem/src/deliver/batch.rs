//! The rows of a delivery, put in order and cut into set-wise statements.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;
use hub::{DeliveryRow, Key, Presence, State, TableId};
use tokio_postgres::Statement;

use super::arrays::TextArray;
use super::copy_text::CopyText;
use super::target::{TargetTable, TargetTables};
pub use super::trust::Trust;
use crate::capture::{Image, ShapeId, Shapes, key};

/// A statement takes no more rows than this.
const BATCH_ROWS: usize = 4_096;
/// A statement's values take no more than about this, in bytes.
const BATCH_BYTES: usize = 1 << 20;
/// A COPY takes a round trip of its own, so it takes more.
const COPY_ROWS: usize = 16_384;
/// For fewer rows a form of their own is not worth its statement.
const WORTH_A_FORM: usize = 64;

/// What one statement does; statements are prepared once per form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// Of the old half of a key change: the row takes the new key, where it may.
    Move(TableId),
    Delete(TableId),
    Upsert(TableId, ShapeId),
    /// The row is expected to be there.
    Update(TableId, ShapeId),
    /// The row is expected not to be there.
    Insert(TableId, ShapeId),
}

/// A prepared form.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub statement: Statement,
    /// Run before the statement and after it, with the keys' values; they fail when the rows must not be written.
    pub before: Vec<Statement>,
    pub after: Vec<Statement>,
    /// Which of the parameters are the key's, in key order.
    pub key: Vec<usize>,
    /// Where whole rows are written: for each value of an image, the parameter (of a COPY: the column) it goes to, if
    /// any; in the order of the values.
    pub parameter_of: Vec<Option<usize>>,
    pub parameters: usize,
}

pub type PreparedForms = HashMap<Form, Prepared>;

/// A row on its way, with the form it takes.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'a> {
    pub form: Form,
    pub row: &'a DeliveryRow<Image>,
}

/// Rows in the order in which they are written: deletes before upserts, children before parents in deletes and after
/// them in upserts, then by key, so that row locks are taken in one order. Where foreign keys are enforced, a parent
/// goes last: its children may have been given to another one.
#[must_use]
pub fn place<'a>(
    rows: impl Iterator<Item = &'a DeliveryRow<Image>>,
    tables: &TargetTables,
    shapes: &Shapes,
    trust: Trust,
) -> Vec<Placed<'a>> {
    let mut placed = Vec::with_capacity(rows.size_hint().1.unwrap_or(0));
    let mut key_changes = Vec::new();
    for row in rows {
        let form = match &row.state {
            State::Absent => Form::Delete(row.key.table),
            State::Present(image) => Form::Upsert(row.key.table, image.shape()),
        };
        placed.push(Placed { form, row });
        if row.pair.is_some() {
            key_changes.push(row);
        }
    }
    if trust == Trust::Presence && placed.len() >= WORTH_A_FORM {
        expect(&mut placed, tables);
    }
    placed.extend(moves(&key_changes, tables, shapes));
    let rank = |table: TableId| tables.get(&table).map_or(0, |table| table.rank);
    let is_parent = |table: TableId| tables.get(&table).is_some_and(|table| !table.referrers.is_empty());
    let order = |p: &Placed<'_>| match p.form {
        Form::Move(table) => (0, rank(table)),
        Form::Delete(table) if is_parent(table) => (3, usize::MAX - rank(table)),
        Form::Delete(table) => (1, usize::MAX - rank(table)),
        Form::Upsert(table, _) | Form::Update(table, _) | Form::Insert(table, _) => (2, rank(table)),
    };
    placed.sort_unstable_by(|a, b| {
        // Nearly all comparisons are within one form.
        if a.form == b.form {
            return a.row.key.bytes.cmp(&b.row.key.bytes);
        }
        (order(a), a.form).cmp(&(order(b), b.form))
    });
    placed
}

/// Gives many rows that are expected to be there, or not to be, the form for that.
fn expect(placed: &mut [Placed<'_>], tables: &TargetTables) {
    let expected = |placed: &Placed<'_>| {
        let Form::Upsert(id, shape) = placed.form else { return None };
        let table = tables.get(&id)?;
        match placed.row.presence {
            Presence::Present if table.may_update() => Some(Form::Update(id, shape)),
            Presence::Absent if table.may_copy() => Some(Form::Insert(id, shape)),
            _ => None,
        }
    };
    let wanted: Vec<Option<Form>> = placed.iter().map(expected).collect();
    let mut counts: HashMap<Form, usize> = HashMap::new();
    for form in wanted.iter().flatten() {
        *counts.entry(*form).or_default() += 1;
    }
    counts.retain(|_, count| *count >= WORTH_A_FORM);
    for (placed, form) in placed.iter_mut().zip(wanted) {
        if let Some(form) = form.filter(|form| counts.contains_key(form)) {
            placed.form = form;
        }
    }
}

impl TargetTable {
    /// Rows can be copied in: nothing has to be looked at behind them.
    fn may_copy(&self) -> bool {
        self.is_replica && !self.row_security && !self.may_leave_out && self.unchecked.is_empty()
    }

    /// Rows can be updated by key, all columns but the key's.
    fn may_update(&self) -> bool {
        let free = |column: &super::TargetColumn| !column.is_fixed || self.key.contains(&column.name);
        self.may_copy() && !self.key_is_spelled && self.columns.len() > self.key.len() && self.columns.iter().all(free)
    }
}

/// Old halves of key changes whose row is to stay itself, and whose new key nobody else takes.
fn moves<'a>(rows: &[&'a DeliveryRow<Image>], tables: &TargetTables, shapes: &Shapes) -> Vec<Placed<'a>> {
    let mut images = HashMap::new();
    for row in rows {
        if let State::Present(image) = &row.state {
            images.insert(&row.key, image);
        }
    }
    let is_moved = |row: &DeliveryRow<Image>| {
        let table = tables.get(&row.key.table)?;
        let image = images.get(row.pair.as_deref()?)?;
        table.moves(&shapes.get(image.shape())).then_some(())
    };
    let moved = rows.iter().filter(|row| matches!(row.state, State::Absent) && is_moved(row).is_some());
    moved.map(|row| Placed { form: Form::Move(row.key.table), row }).collect()
}

/// One statement's parameters.
#[derive(Debug)]
pub struct Batch<'p> {
    pub form: Form,
    pub parameters: Vec<TextArray>,
    /// What a COPY sends instead.
    pub copy: Bytes,
    pub rows: &'p [Placed<'p>],
}

/// Takes the next batch off the front of `rows`.
///
/// # Errors
/// When an image was spilled and cannot be read back.
pub fn next_batch<'p>(rows: &mut &'p [Placed<'p>], forms: &PreparedForms) -> io::Result<Option<Batch<'p>>> {
    let Some(first) = rows.first() else { return Ok(None) };
    let prepared = &forms[&first.form];
    let mut parameters: Vec<TextArray> = (0..prepared.parameters).map(|_| TextArray::default()).collect();
    let mut copy = CopyText::default();
    let (mut row_count, mut bytes) = (0, 0);
    let most = if matches!(first.form, Form::Insert(..)) { COPY_ROWS } else { BATCH_ROWS };
    for placed in rows.iter().take(most) {
        if placed.form != first.form || bytes > BATCH_BYTES {
            break;
        }
        bytes += match placed.form {
            Form::Move(_) => {
                push_keys(std::iter::once(&placed.row.key).chain(placed.row.pair.as_deref()), &mut parameters)
            }
            Form::Delete(_) => push_keys([&placed.row.key], &mut parameters),
            Form::Upsert(..) | Form::Update(..) => {
                push_row(placed.row, prepared, |parameter, raw| parameters[parameter].push_raw(raw))?
            }
            Form::Insert(..) => {
                let bytes = push_row(placed.row, prepared, |_, raw| copy.push_raw(raw))?;
                copy.end_row();
                bytes
            }
        };
        row_count += 1;
    }
    let (taken, rest) = rows.split_at(row_count);
    *rows = rest;
    Ok(Some(Batch { form: first.form, parameters, copy: copy.freeze(), rows: taken }))
}

fn push_row(row: &DeliveryRow<Image>, prepared: &Prepared, mut push: impl FnMut(usize, &[u8])) -> io::Result<usize> {
    let State::Present(image) = &row.state else { return Ok(0) };
    let loaded = image.load()?;
    let mut bytes = 0;
    for (raw, parameter) in loaded.raw_values().zip(&prepared.parameter_of) {
        if let Some(parameter) = parameter {
            push(*parameter, raw);
            bytes += raw.len();
        }
    }
    Ok(bytes)
}

fn push_keys<'k>(keys: impl IntoIterator<Item = &'k Key>, parameters: &mut [TextArray]) -> usize {
    let parts = keys.into_iter().flat_map(|key| key::raw_parts(&key.bytes));
    let mut bytes = 0;
    for (raw, parameter) in parts.zip(parameters) {
        parameter.push_raw(raw);
        bytes += raw.len();
    }
    bytes
}

/// A value of the row is not known.
#[must_use]
pub fn is_partial(row: &DeliveryRow<Image>) -> bool {
    matches!(&row.state, State::Present(image) if image.is_partial())
}
