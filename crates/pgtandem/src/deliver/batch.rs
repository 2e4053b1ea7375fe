//! The rows of a delivery, put in order and cut into set-wise statements.

use std::collections::HashMap;
use std::io;

use hub::{DeliveryRow, Key, State, TableId};
use tokio_postgres::Statement;

use super::arrays::TextArray;
use super::target::TargetTables;
use crate::capture::{Image, ShapeId, Shapes, key};

/// A statement takes no more rows than this.
const BATCH_ROWS: usize = 4_096;
/// A statement's values take no more than about this, in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// What one statement does; statements are prepared once per form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// Of the old half of a key change: the row takes the new key, where it may.
    Move(TableId),
    Delete(TableId),
    Upsert(TableId, ShapeId),
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
    /// Upsert: for each value of an image, the parameter it goes to, if any.
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
    placed.extend(moves(&key_changes, tables, shapes));
    let rank = |table: TableId| tables.get(&table).map_or(0, |table| table.rank);
    let is_parent = |table: TableId| tables.get(&table).is_some_and(|table| !table.referrers.is_empty());
    let order = |p: &Placed<'_>| match p.form {
        Form::Move(table) => (0, rank(table)),
        Form::Delete(table) if is_parent(table) => (3, usize::MAX - rank(table)),
        Form::Delete(table) => (1, usize::MAX - rank(table)),
        Form::Upsert(table, _) => (2, rank(table)),
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
    let (mut row_count, mut bytes) = (0, 0);
    for placed in rows.iter().take(BATCH_ROWS) {
        if placed.form != first.form || bytes > BATCH_BYTES {
            break;
        }
        bytes += match placed.form {
            Form::Move(_) => {
                push_keys(std::iter::once(&placed.row.key).chain(placed.row.pair.as_deref()), &mut parameters)
            }
            Form::Delete(_) | Form::Upsert(..) => push_row(placed.row, prepared, &mut parameters)?,
        };
        row_count += 1;
    }
    let (taken, rest) = rows.split_at(row_count);
    *rows = rest;
    Ok(Some(Batch { form: first.form, parameters, rows: taken }))
}

fn push_row(row: &DeliveryRow<Image>, prepared: &Prepared, parameters: &mut [TextArray]) -> io::Result<usize> {
    let mut bytes = 0;
    match &row.state {
        State::Absent => bytes += push_keys([&row.key], parameters),
        State::Present(image) => {
            let loaded = image.load()?;
            for (raw, parameter) in loaded.raw_values().zip(&prepared.parameter_of) {
                if let Some(parameter) = parameter {
                    parameters[*parameter].push_raw(raw);
                    bytes += raw.len();
                }
            }
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
