//! A row as it came.

use std::fmt;

use bytes::Bytes;

use crate::cursor::Cursor;
use crate::error::{Error, Result};

/// A row: one slice of bytes in pgoutput's own form, checked once when decoded, so that reading its
/// columns cannot fail.
///
/// A fresh tuple shares the read buffer (256 KiB) and keeps all of it alive. To keep a row for long,
/// keep `compact()`.
#[derive(Clone, PartialEq, Eq)]
pub struct Tuple {
    bytes: Bytes,
}

/// One value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column<'a> {
    Null,
    /// A large value that the update did not touch; the server does not send it.
    UnchangedToast,
    /// As the type's output function writes it, in UTF-8.
    Text(&'a [u8]),
    /// As the type's send function writes it.
    Binary(&'a [u8]),
}

impl Tuple {
    /// Takes over bytes that `raw` gave out earlier; checks them as if they came from a server.
    pub fn from_raw(bytes: Bytes) -> Result<Self> {
        let mut cursor = Cursor::new(&bytes);
        skip(&mut cursor)?;
        cursor.end("bytes behind a row")?;
        Ok(Tuple { bytes })
    }

    /// The caller has walked over exactly these bytes with `skip`.
    pub(super) fn checked(bytes: Bytes) -> Self {
        Tuple { bytes }
    }

    /// The row in pgoutput's form, to be stored and read back with `from_raw`.
    pub fn raw(&self) -> &Bytes {
        &self.bytes
    }

    /// The same row in an allocation of its own, no larger than it needs to be.
    pub fn compact(&self) -> Tuple {
        Tuple { bytes: Bytes::copy_from_slice(&self.bytes) }
    }

    /// How many columns there are.
    pub fn len(&self) -> usize {
        usize::from(u16::from_be_bytes([self.bytes[0], self.bytes[1]]))
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub fn columns(&self) -> Columns<'_> {
        Columns { rest: &self.bytes[2..], left: self.len() }
    }

    /// The column at `index`; walks over those before it.
    pub fn column(&self, index: usize) -> Option<Column<'_>> {
        self.columns().nth(index)
    }

    /// Whether a value is missing because it is large and was not touched.
    pub fn has_unchanged_toast(&self) -> bool {
        self.columns().any(|column| column == Column::UnchangedToast)
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.columns()).finish()
    }
}

impl<'a> IntoIterator for &'a Tuple {
    type Item = Column<'a>;
    type IntoIter = Columns<'a>;

    fn into_iter(self) -> Columns<'a> {
        self.columns()
    }
}

/// The columns of a row, in the order of its `Relation`.
#[derive(Debug, Clone)]
pub struct Columns<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Columns<'a> {
    type Item = Column<'a>;

    #[inline]
    fn next(&mut self) -> Option<Column<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (&kind, rest) = self.rest.split_first()?;
        let column = match kind {
            b'n' => {
                self.rest = rest;
                return Some(Column::Null);
            }
            b'u' => {
                self.rest = rest;
                return Some(Column::UnchangedToast);
            }
            // Checked when decoded: a length and that many bytes follow.
            _ => {
                let (length, rest) = rest.split_first_chunk::<4>()?;
                let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
                self.rest = rest;
                value
            }
        };
        Some(match kind {
            b't' => Column::Text(column),
            _ => Column::Binary(column),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Columns<'_> {}

/// Walks over one row, checking all of it.
#[inline]
pub(super) fn skip(cursor: &mut Cursor<'_>) -> Result<()> {
    let count = cursor.u16("number of columns")?;
    // The server counts in a signed number.
    if count > i16::MAX as u16 {
        return Err(Error::malformed("number of columns", cursor.at() - 2));
    }
    for _ in 0..count {
        match cursor.u8("kind of a column")? {
            b'n' | b'u' => {}
            b't' | b'b' => {
                // A negative length is a huge one, and more than is left.
                let length = cursor.u32("length of a value")?;
                cursor.take(length as usize, "value")?;
            }
            _ => return Err(Error::malformed("kind of a column", cursor.at() - 1)),
        }
    }
    Ok(())
}
