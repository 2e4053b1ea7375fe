//! The rows of a delivery, cut into set-wise statements.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;
use hub::{DeliveryRow, Key, State};
use tokio_postgres::Statement;

use super::arrays::TextArray;
use super::copy_text::CopyText;
use super::placement::{Form, Placed};
use crate::capture::{Image, key};

/// A statement takes no more rows than this.
const BATCH_ROWS: usize = 4_096;
/// A statement's values take no more than about this, in bytes.
const BATCH_BYTES: usize = 1 << 20;
/// A COPY takes a round trip of its own, so it takes more.
const COPY_ROWS: usize = 16_384;
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

/// One statement's parameters.
#[derive(Debug)]
pub struct Batch<'p> {
    pub form: Form,
    pub parameters: Vec<TextArray>,
    /// What a COPY sends instead.
    pub copy: Bytes,
    pub rows: Vec<Placed<'p>>,
}

/// The first batch of `rows`.
///
/// # Errors
/// When an image was spilled and cannot be read back.
pub fn next_batch<'p>(rows: impl Iterator<Item = Placed<'p>>, forms: &PreparedForms) -> io::Result<Option<Batch<'p>>> {
    let mut rows = rows.peekable();
    let Some(first) = rows.peek().copied() else { return Ok(None) };
    let prepared = &forms[&first.form];
    let mut parameters: Vec<TextArray> = (0..prepared.parameters).map(|_| TextArray::default()).collect();
    let mut copy = CopyText::default();
    let (mut taken, mut bytes) = (Vec::new(), 0);
    let most = if matches!(first.form, Form::Insert(..)) { COPY_ROWS } else { BATCH_ROWS };
    while let Some(placed) = rows.next_if(|next| next.form == first.form && bytes <= BATCH_BYTES && taken.len() < most)
    {
        bytes += match placed.form {
            Form::Move(_) => push_keys(std::iter::once(&placed.row.key).chain(&placed.row.pair), &mut parameters),
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
        taken.push(placed);
    }
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
    let parts = keys.into_iter().flat_map(|key| key::raw_parts(key.bytes()));
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
