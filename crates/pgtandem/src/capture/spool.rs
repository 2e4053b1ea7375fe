//! The changes of one source transaction until its commit is read: in memory, or in a local file once they are many.
//!
//! The file is unlinked when it is made, so it goes with the process; what is in it can always be read again from the
//! node, which keeps it until it is acknowledged.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use hub::{Change, Key, Op, State, TableId};

use super::image::{Image, resident_bytes, shape_of};

/// A transaction whose images take more than this goes to a file, in bytes.
const TRANSACTION_LIMIT_BYTES: usize = 4 << 20;
/// While all images take more than this, every transaction goes to a file, in bytes.
const RESIDENT_LIMIT_BYTES: usize = 48 << 20;

/// Collects the changes of one transaction.
#[derive(Debug, Default)]
pub struct Spool {
    changes: Vec<Change<Image>>,
    image_bytes: usize,
    file: Option<SpoolWriter>,
}

#[derive(Debug)]
struct SpoolWriter {
    file: BufWriter<File>,
    offset: u64,
    count: u64,
    scratch: Vec<u8>,
}

impl Spool {
    /// # Errors
    /// When the temporary directory cannot take the file.
    pub fn push(&mut self, change: Change<Image>) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            return file.write(&change);
        }
        self.image_bytes += image_bytes(&change);
        self.changes.push(change);
        if self.image_bytes > TRANSACTION_LIMIT_BYTES || resident_bytes() > RESIDENT_LIMIT_BYTES {
            let mut file = SpoolWriter::create()?;
            for change in std::mem::take(&mut self.changes) {
                file.write(&change)?;
            }
            self.file = Some(file);
        }
        Ok(())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.file.is_none()
    }

    /// # Errors
    /// When the file cannot be written to its end.
    pub fn finish(self) -> io::Result<Spooled> {
        match self.file {
            None => Ok(Spooled::Memory(self.changes)),
            Some(writer) => {
                let count = writer.count;
                let file = writer.file.into_inner().map_err(io::IntoInnerError::into_error)?;
                Ok(Spooled::File { file: Arc::new(file), count })
            }
        }
    }
}

fn image_bytes(change: &Change<Image>) -> usize {
    match change {
        Change::Row { state: State::Present(image), .. } => image.byte_len(),
        Change::KeyChange { image, image_under_old_key, .. } => image.byte_len() + image_under_old_key.byte_len(),
        Change::Row { state: State::Absent, .. } | Change::Truncate { .. } => 0,
    }
}

/// A whole transaction's changes, to be judged in order.
#[derive(Debug)]
pub enum Spooled {
    Memory(Vec<Change<Image>>),
    File { file: Arc<File>, count: u64 },
}

impl Spooled {
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Memory(changes) => changes.len(),
            Self::File { count, .. } => usize::try_from(*count).unwrap_or(usize::MAX),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands every change to `take`; a file that cannot be read back ends it with the error.
    ///
    /// # Errors
    /// When the spill file cannot be read back.
    pub fn into_changes(self) -> io::Result<SpooledChanges> {
        match self {
            Self::Memory(changes) => Ok(SpooledChanges::Memory(changes.into_iter())),
            Self::File { file, count } => SpoolReader::open(file, count).map(SpooledChanges::File),
        }
    }
}

/// The changes in order. Where reading fails, it ends early and [`SpooledChanges::failed`] says so: a hub that judged
/// part of a transaction must be thrown away and recovered.
#[derive(Debug)]
pub enum SpooledChanges {
    Memory(std::vec::IntoIter<Change<Image>>),
    File(SpoolReader),
}

impl SpooledChanges {
    pub fn failed(&mut self) -> Option<io::Error> {
        match self {
            Self::Memory(_) => None,
            Self::File(reader) => reader.error.take(),
        }
    }
}

impl Iterator for SpooledChanges {
    type Item = Change<Image>;

    fn next(&mut self) -> Option<Change<Image>> {
        match self {
            Self::Memory(changes) => changes.next(),
            Self::File(reader) => reader.next(),
        }
    }
}

const ROW: u8 = b'R';
const GONE: u8 = b'D';
const KEY_CHANGE: u8 = b'K';
const TRUNCATE: u8 = b'T';

impl SpoolWriter {
    fn create() -> io::Result<Self> {
        let file = BufWriter::with_capacity(256 << 10, tempfile::tempfile()?);
        Ok(Self { file, offset: 0, count: 0, scratch: Vec::new() })
    }

    fn write(&mut self, change: &Change<Image>) -> io::Result<()> {
        let record = &mut self.scratch;
        record.clear();
        match change {
            Change::Row { key, op, state: State::Present(image) } => {
                record.extend([ROW, op_tag(*op)]);
                put_key(record, key);
                put(record, image)?;
            }
            Change::Row { key, op, state: State::Absent } => {
                record.extend([GONE, op_tag(*op)]);
                put_key(record, key);
            }
            Change::KeyChange { from, to, image, image_under_old_key } => {
                record.extend([KEY_CHANGE, 0]);
                put_key(record, from);
                put_key(record, to);
                put(record, image)?;
                put(record, image_under_old_key)?;
            }
            Change::Truncate { tables } => {
                record.extend([TRUNCATE, 0]);
                put_len(record, tables.len());
                tables.iter().for_each(|table| record.extend(table.0.to_le_bytes()));
            }
        }
        self.file.write_all(record)?;
        self.offset += record.len() as u64;
        self.count += 1;
        Ok(())
    }
}

fn op_tag(op: Op) -> u8 {
    match op {
        Op::Insert => 0,
        Op::Update => 1,
        Op::Delete => 2,
        Op::Truncate => 3,
    }
}

fn put_len(record: &mut Vec<u8>, len: usize) {
    record.extend(u32::try_from(len).expect("below 4 GiB").to_le_bytes());
}

fn put_key(record: &mut Vec<u8>, key: &Key) {
    record.extend(key.table.0.to_le_bytes());
    put_len(record, key.bytes.len());
    record.extend_from_slice(&key.bytes);
}

fn put(record: &mut Vec<u8>, image: &Image) -> io::Result<()> {
    let loaded = image.load()?;
    put_len(record, image.byte_len());
    record.extend_from_slice(loaded.bytes());
    Ok(())
}

/// Reads the changes back; their images stay in the file.
#[derive(Debug)]
pub struct SpoolReader {
    file: Arc<File>,
    input: io::BufReader<File>,
    offset: u64,
    left: u64,
    error: Option<io::Error>,
}

impl SpoolReader {
    fn open(file: Arc<File>, count: u64) -> io::Result<Self> {
        let mut reading = file.try_clone()?;
        reading.seek(SeekFrom::Start(0))?;
        Ok(Self { file, input: io::BufReader::with_capacity(256 << 10, reading), offset: 0, left: count, error: None })
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.offset += N as u64;
        Ok(bytes)
    }

    fn len(&mut self) -> io::Result<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn key(&mut self) -> io::Result<Key> {
        let table = TableId(self.len()?);
        let mut bytes = vec![0; self.len()? as usize];
        self.input.read_exact(&mut bytes)?;
        self.offset += bytes.len() as u64;
        Ok(Key { table, bytes: bytes.into() })
    }

    fn image(&mut self) -> io::Result<Image> {
        let len = self.len()?;
        let start = self.offset;
        let shape = shape_of(&self.bytes::<4>()?);
        let rest = len - 4;
        self.input.seek_relative(i64::from(rest))?;
        self.offset += u64::from(rest);
        Ok(Image::in_file(Arc::clone(&self.file), start, len, shape))
    }

    fn change(&mut self) -> io::Result<Change<Image>> {
        let [kind, tag] = self.bytes()?;
        let op = [Op::Insert, Op::Update, Op::Delete, Op::Truncate].into_iter().find(|op| op_tag(*op) == tag);
        let op = op.ok_or_else(|| io::Error::other("the spill file was damaged"))?;
        Ok(match kind {
            ROW => Change::Row { key: self.key()?, op, state: State::Present(self.image()?) },
            GONE => Change::Row { key: self.key()?, op, state: State::Absent },
            KEY_CHANGE => {
                let (from, to) = (self.key()?, self.key()?);
                Change::KeyChange { from, to, image: self.image()?, image_under_old_key: self.image()? }
            }
            TRUNCATE => {
                let count = self.len()?;
                let tables = (0..count).map(|_| self.len().map(TableId)).collect::<io::Result<_>>()?;
                Change::Truncate { tables }
            }
            _ => return Err(io::Error::other("the spill file was damaged")),
        })
    }
}

impl Iterator for SpoolReader {
    type Item = Change<Image>;

    fn next(&mut self) -> Option<Change<Image>> {
        self.left = self.left.checked_sub(1)?;
        match self.change() {
            Ok(change) => Some(change),
            Err(error) => {
                self.left = 0;
                self.error = Some(error);
                None
            }
        }
    }
}
