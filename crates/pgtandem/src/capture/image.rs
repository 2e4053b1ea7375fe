//! A row as it was read off a node: the shape it came in, then one text value per column.
//!
//! Layout: shape id (u32, little endian), then per column an i32 (big endian) length and that many bytes. The lengths
//! are those of PostgreSQL's binary arrays, so that a delivery copies a value with its length into a column's array
//! as it stands. -1 is NULL; -2 says that the server did not send an unchanged TOAST value.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::shape::ShapeId;

const NULL: i32 = -1;
const UNCHANGED: i32 = -2;

/// Bytes of images that live in memory, of the whole process.
static RESIDENT_BYTES: AtomicUsize = AtomicUsize::new(0);

/// How much memory all images take together, in bytes.
#[must_use]
pub fn resident_bytes() -> usize {
    RESIDENT_BYTES.load(Ordering::Relaxed)
}

/// One value of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    /// The server left out a TOASTed value because the update did not touch it.
    Unchanged,
    Text(&'a [u8]),
}

/// Cheap to clone; the bytes are in memory or in a local file that may be lost with the process.
#[derive(Debug, Clone)]
pub enum Image {
    Memory(Resident),
    Spilled(Spilled),
}

#[derive(Debug)]
pub struct Resident(Arc<[u8]>);

#[derive(Debug, Clone)]
pub struct Spilled {
    file: Arc<File>,
    place: Place,
    len: u32,
    is_partial: bool,
}

/// Offset in the file and shape, in one word: of what is spilled there may be millions.
#[derive(Debug, Clone, Copy)]
struct Place(u64);

impl Place {
    /// The offset may grow to one TiB.
    const SHAPE_BITS: u32 = 24;

    fn new(offset: u64, shape: ShapeId) -> io::Result<Self> {
        let number = u64::from(shape.number());
        if offset >> (u64::BITS - Self::SHAPE_BITS) != 0 || number >> Self::SHAPE_BITS != 0 {
            return Err(io::Error::other("a transaction is too large for its temporary file (1 TiB)"));
        }
        Ok(Self(offset << Self::SHAPE_BITS | number))
    }

    fn offset(self) -> u64 {
        self.0 >> Self::SHAPE_BITS
    }

    fn shape(self) -> ShapeId {
        ShapeId((self.0 & ((1 << Self::SHAPE_BITS) - 1)) as u32)
    }
}

impl Clone for Resident {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        if let Some(bytes) = Arc::get_mut(&mut self.0) {
            RESIDENT_BYTES.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
    }
}

impl Image {
    #[must_use]
    pub fn in_memory(bytes: &[u8]) -> Self {
        RESIDENT_BYTES.fetch_add(bytes.len(), Ordering::Relaxed);
        Self::Memory(Resident(bytes.into()))
    }

    /// # Errors
    /// When the offset is beyond what can be told.
    pub fn in_file(file: Arc<File>, offset: u64, len: u32, shape: ShapeId) -> io::Result<Self> {
        Ok(Self::Spilled(Spilled { file, place: Place::new(offset, shape)?, len, is_partial: shape.is_partial() }))
    }

    #[must_use]
    pub fn shape(&self) -> ShapeId {
        match self {
            Self::Memory(resident) => shape_of(&resident.0),
            Self::Spilled(spilled) if spilled.is_partial => spilled.place.shape().partial(),
            Self::Spilled(spilled) => spilled.place.shape(),
        }
    }

    /// A value is not known: the row cannot be written.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.shape().is_partial()
    }

    /// The bytes, read back from the file if they were spilled.
    pub fn load(&self) -> io::Result<Loaded<'_>> {
        match self {
            Self::Memory(resident) => Ok(Loaded::Borrowed(&resident.0)),
            Self::Spilled(spilled) => {
                let mut bytes = vec![0; spilled.len as usize];
                spilled.file.read_exact_at(&mut bytes, spilled.place.offset())?;
                Ok(Loaded::Owned(bytes))
            }
        }
    }

    /// How many bytes the image has, wherever they are.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        match self {
            Self::Memory(resident) => resident.0.len(),
            Self::Spilled(spilled) => spilled.len as usize,
        }
    }
}

/// The shape named at the start of an image's bytes.
#[must_use]
pub fn shape_of(bytes: &[u8]) -> ShapeId {
    ShapeId(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// The bytes of an image, for as long as they are looked at.
#[derive(Debug)]
pub enum Loaded<'a> {
    Borrowed(&'a [u8]),
    Owned(Vec<u8>),
}

impl Loaded<'_> {
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }

    /// Each value together with its length word, as a binary array holds it.
    #[must_use]
    pub fn raw_values(&self) -> RawValues<'_> {
        RawValues { rest: &self.bytes()[4..] }
    }

    pub fn values(&self) -> impl Iterator<Item = Value<'_>> {
        self.raw_values().map(|raw| match i32::from_be_bytes([raw[0], raw[1], raw[2], raw[3]]) {
            NULL => Value::Null,
            UNCHANGED => Value::Unchanged,
            _ => Value::Text(&raw[4..]),
        })
    }
}

/// See [`Loaded::raw_values`].
#[derive(Debug)]
pub struct RawValues<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for RawValues<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let head = self.rest.first_chunk::<4>()?;
        let len = usize::try_from(i32::from_be_bytes(*head)).unwrap_or(0);
        let (value, rest) = self.rest.split_at_checked(4 + len)?;
        self.rest = rest;
        Some(value)
    }
}

/// Builds the bytes of an image; kept and cleared between rows so that a row costs one allocation.
#[derive(Debug, Default)]
pub struct ImageBuilder {
    bytes: Vec<u8>,
}

impl ImageBuilder {
    pub fn start(&mut self, shape: ShapeId) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&shape.0.to_le_bytes());
    }

    pub fn push(&mut self, value: Value<'_>) {
        match value {
            Value::Null => self.bytes.extend_from_slice(&NULL.to_be_bytes()),
            Value::Unchanged => {
                let shape = shape_of(&self.bytes).partial();
                self.bytes[..4].copy_from_slice(&shape.0.to_le_bytes());
                self.bytes.extend_from_slice(&UNCHANGED.to_be_bytes());
            }
            Value::Text(text) => {
                let len = i32::try_from(text.len()).expect("PostgreSQL values are below 1 GiB");
                self.bytes.extend_from_slice(&len.to_be_bytes());
                self.bytes.extend_from_slice(text);
            }
        }
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hub's window holds one for each key.
    #[test]
    fn a_state_is_three_words() {
        assert_eq!((size_of::<Image>(), size_of::<hub::State<Image>>()), (24, 24));
    }

    #[test]
    fn an_image_gives_back_what_was_put_in_also_from_a_file() {
        let mut builder = ImageBuilder::default();
        builder.start(ShapeId(7));
        let values = [Value::Text(b"1"), Value::Null, Value::Unchanged, Value::Text(b"")];
        values.iter().for_each(|value| builder.push(*value));
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(builder.bytes(), 10).unwrap();
        let len = u32::try_from(builder.bytes().len()).unwrap();
        for image in
            [Image::in_memory(builder.bytes()), Image::in_file(Arc::new(file), 10, len, ShapeId(7).partial()).unwrap()]
        {
            assert_eq!(image.shape(), ShapeId(7).partial());
            let loaded = image.load().unwrap();
            assert_eq!(loaded.values().collect::<Vec<_>>(), values);
        }
    }
}
