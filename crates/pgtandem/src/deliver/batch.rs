//! The rows of a delivery, put in order and cut into set-wise statements.

use std::collections::HashMap;
use std::io;

use hub::{DeliveryRow, State, TableId};
use tokio_postgres::Statement;

use super::arrays::TextArray;
use super::target::TargetTables;
use crate::capture::{Image, ShapeId, key};

/// A statement takes no more rows than this.
const BATCH_ROWS: usize = 4_096;
/// A statement's values take no more than about this, in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// What one statement does; statements are prepared once per form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    Delete(TableId),
    Upsert(TableId, ShapeId),
}

/// A prepared form.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub statement: Statement,
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
/// them in upserts, then by key, so that row locks are taken in one order.
#[must_use]
pub fn place<'a>(rows: impl Iterator<Item = &'a DeliveryRow<Image>>, tables: &TargetTables) -> Vec<Placed<'a>> {
    let mut placed = Vec::new();
    for row in rows {
        let form = match &row.state {
            State::Absent => Form::Delete(row.key.table),
            State::Present(image) => Form::Upsert(row.key.table, image.shape()),
        };
        placed.push(Placed { form, row });
    }
    let rank = |table: TableId| tables.get(&table).map_or(0, |table| table.rank);
    let order = |p: &Placed<'_>| match p.form {
        Form::Delete(table) => (0, usize::MAX - rank(table)),
        Form::Upsert(table, _) => (1, rank(table)),
    };
    placed.sort_unstable_by(|a, b| {
        (order(a), a.form).cmp(&(order(b), b.form)).then_with(|| a.row.key.bytes.cmp(&b.row.key.bytes))
    });
    placed
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
        bytes += push_row(placed.row, prepared, &mut parameters)?;
        row_count += 1;
    }
    let (taken, rest) = rows.split_at(row_count);
    *rows = rest;
    Ok(Some(Batch { form: first.form, parameters, rows: taken }))
}

fn push_row(row: &DeliveryRow<Image>, prepared: &Prepared, parameters: &mut [TextArray]) -> io::Result<usize> {
    let mut bytes = 0;
    match &row.state {
        State::Absent => {
            for (raw, parameter) in key::raw_parts(&row.key.bytes).zip(parameters) {
                parameter.push_raw(raw);
                bytes += raw.len();
            }
        }
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
