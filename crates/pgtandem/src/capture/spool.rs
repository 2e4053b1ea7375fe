//! The changes of one source transaction until its commit is read: in memory, or in a local file once they are many.
//! Small ones go to a file when they are whole, while memory is short; many of them share one.
//!
//! Files are unlinked when they are made, so they go with the process; what is in them can always be read again from
//! the node, which keeps it until it is acknowledged.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use hub::{Change, Key, Op, State, TableId};

use super::image::{Image, resident_bytes, shape_of};

/// A transaction whose images take more than this goes to a file, in bytes.
const TRANSACTION_LIMIT_BYTES: usize = 4 << 20;
/// While all images take more than this, every transaction goes to a file, in bytes.
const RESIDENT_LIMIT_BYTES: usize = 48 << 20;

/// A file that small transactions share takes about this many bytes.
const SHARED_FILE_BYTES: u64 = 64 << 20;

/// The file that small transactions share at the moment, and how much of it is used. One that is full lives on as long
/// as images in it are needed.
#[derive(Debug, Default)]
pub struct SharedFile(Option<(Arc<File>, u64)>);

impl SharedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<(Arc<File>, u64)> {
        let (file, used) = match self.0.take() {
            Some((file, used)) if used < SHARED_FILE_BYTES => (file, used),
            _ => (Arc::new(tempfile::tempfile()?), 0),
        };
        file.write_all_at(bytes, used)?;
        self.0 = Some((Arc::clone(&file), used + bytes.len() as u64));
        Ok((file, used))
    }
}

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
        if self.image_bytes > TRANSACTION_LIMIT_BYTES {
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
    pub fn finish(self, shared: &mut SharedFile) -> io::Result<Spooled> {
        match self.file {
            None if self.image_bytes == 0 || resident_bytes() <= RESIDENT_LIMIT_BYTES => {
                Ok(Spooled::Memory(self.changes))
            }
            None => {
                let mut bytes = Vec::with_capacity(2 * self.image_bytes);
                self.changes.iter().try_for_each(|change| encode(change, &mut bytes))?;
                let (file, start) = shared.append(&bytes)?;
                Ok(Spooled::File { file, start, count: self.changes.len() as u64 })
            }
            Some(writer) => {
                let count = writer.count;
                let file = writer.file.into_inner().map_err(io::IntoInnerError::into_error)?;
                Ok(Spooled::File { file: Arc::new(file), start: 0, count })
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
    File { file: Arc<File>, start: u64, count: u64 },
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
            Self::File { file, start, count } => Ok(SpooledChanges::File(SpoolReader::open(file, start, count))),
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
        Ok(Self { file, count: 0, scratch: Vec::new() })
    }

    fn write(&mut self, change: &Change<Image>) -> io::Result<()> {
        self.scratch.clear();
        encode(change, &mut self.scratch)?;
        self.file.write_all(&self.scratch)?;
        self.count += 1;
        Ok(())
    }
}

fn encode(change: &Change<Image>, record: &mut Vec<u8>) -> io::Result<()> {
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
    Ok(())
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
    record.extend(key.table().0.to_le_bytes());
    put_len(record, key.bytes().len());
    record.extend_from_slice(key.bytes());
}

fn put(record: &mut Vec<u8>, image: &Image) -> io::Result<()> {
    let loaded = image.load()?;
    put_len(record, image.byte_len());
    record.extend_from_slice(loaded.bytes());
    Ok(())
}

/// A file read from a place of our own: others write to it and read it meanwhile.
#[derive(Debug)]
struct FileFrom {
    file: Arc<File>,
    at: u64,
}

impl Read for FileFrom {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(into, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for FileFrom {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(_) => None,
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

/// Reads the changes back; their images stay in the file.
#[derive(Debug)]
pub struct SpoolReader {
    file: Arc<File>,
    input: io::BufReader<FileFrom>,
    offset: u64,
    left: u64,
    error: Option<io::Error>,
}

impl SpoolReader {
    fn open(file: Arc<File>, start: u64, count: u64) -> Self {
        let reading = FileFrom { file: Arc::clone(&file), at: start };
        let input = io::BufReader::with_capacity(64 << 10, reading);
        Self { file, input, offset: start, left: count, error: None }
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
        Ok(Key::new(table, bytes))
    }

    fn image(&mut self) -> io::Result<Image> {
        let len = self.len()?;
        let start = self.offset;
        let shape = shape_of(&self.bytes::<4>()?);
        let rest = len - 4;
        self.input.seek_relative(i64::from(rest))?;
        self.offset += u64::from(rest);
        Image::in_file(Arc::clone(&self.file), start, len, shape)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_transactions_share_a_file_and_are_read_back_whole() {
        let mut shared = SharedFile::default();
        let change = |n: u8| {
            let key = Key::new(TableId(1), vec![n; 5]);
            let bytes: Vec<u8> =
                [7, 0, 0, 0].into_iter().chain(std::iter::repeat_n(n, usize::from(n) * 1000)).collect();
            Change::Row { key, op: Op::Update, state: State::Present(Image::in_memory(&bytes)) }
        };
        let mut places = Vec::new();
        for n in 1..=3 {
            let mut bytes = Vec::new();
            for _ in 0..n {
                encode(&change(n), &mut bytes).unwrap();
            }
            let (file, start) = shared.append(&bytes).unwrap();
            places.push(Spooled::File { file, start, count: u64::from(n) });
        }
        for (n, spooled) in (1..=3).zip(places) {
            let mut changes = spooled.into_changes().unwrap();
            let read: Vec<_> = changes.by_ref().collect();
            assert!(changes.failed().is_none());
            assert_eq!(read.len(), usize::from(n));
            for change in read {
                let Change::Row { key, state: State::Present(image), .. } = change else { panic!("a row was put in") };
                assert_eq!(key.bytes(), &vec![n; 5]);
                let loaded = image.load().unwrap();
                assert_eq!(loaded.bytes().len(), 4 + usize::from(n) * 1000);
                assert!(loaded.bytes()[4..].iter().all(|byte| *byte == n));
            }
        }
    }
}
