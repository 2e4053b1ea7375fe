//! Rows that some nodes lack and others have, all the same: their keys and hashes, kept until they are copied.

use super::differences::no_room;
use crate::compare::{Missing, MissingKey};
use crate::lifecycle::LifecycleError;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};

const BUFFER: usize = 1 << 16;

/// Numbers of nodes among those whose rows are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::lifecycle) struct Way {
    pub from: usize,
    pub to: usize,
}

/// Those that go one way, about in the order of the comparison.
pub(super) struct Spool {
    file: BufWriter<File>,
    integers: bool,
}

impl Spool {
    /// `integers`: the key is one.
    pub fn new(integers: bool) -> io::Result<Self> {
        Ok(Self { file: BufWriter::with_capacity(BUFFER, tempfile::tempfile()?), integers })
    }

    pub fn write(&mut self, missing: &Missing<'_>, from: usize) -> io::Result<()> {
        let file = &mut self.file;
        file.write_all(&missing.spelling.to_le_bytes())?;
        let texts = match missing.key {
            MissingKey::Integer(key) => return file.write_all(&key.to_le_bytes()),
            MissingKey::Texts(texts) => texts.get(from).map_or(&[][..], Vec::as_slice),
        };
        if self.integers {
            let key: i64 = texts.first().and_then(|text| text.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
            return file.write_all(&key.to_le_bytes());
        }
        file.write_all(&(texts.len() as u64).to_le_bytes())?;
        for text in texts {
            file.write_all(&(text.len() as u64).to_le_bytes())?;
            file.write_all(text.as_bytes())?;
        }
        Ok(())
    }

    pub fn into_rows(self) -> Result<MissingRows, LifecycleError> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error);
        let rewound = file.and_then(|mut file| file.rewind().map(|()| file));
        let file = BufReader::with_capacity(BUFFER, rewound.map_err(|error| no_room(&error))?);
        Ok(MissingRows { file, integers: self.integers })
    }
}

pub(in crate::lifecycle) struct MissingRows {
    file: BufReader<File>,
    integers: bool,
}

/// As the node that has them spells them.
#[derive(Debug, Clone)]
pub(in crate::lifecycle) enum MissingKeys {
    Integers(Vec<i64>),
    Texts(Vec<Vec<String>>),
}

/// Some of them.
#[derive(Debug, Clone)]
pub(in crate::lifecycle) struct MissingBatch {
    pub keys: MissingKeys,
    /// The hashes of their spelling, on the first node that has the row.
    pub spellings: Vec<i64>,
}

impl MissingRows {
    /// At most `count`, and not many more bytes of keys; none: that was all.
    pub fn next(&mut self, count: usize, most_bytes: usize) -> Result<MissingBatch, LifecycleError> {
        let (mut integers, mut all_texts, mut spellings, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
        while spellings.len() < count && bytes < most_bytes {
            let Some(spelling) = self.number().map_err(|error| no_room(&error))? else { break };
            spellings.push(spelling);
            if self.integers {
                integers.push(self.rest_of_row().map_err(|error| no_room(&error))?);
            } else {
                let texts = self.texts().map_err(|error| no_room(&error))?;
                bytes += texts.iter().map(String::len).sum::<usize>();
                all_texts.push(texts);
            }
        }
        let keys = if self.integers { MissingKeys::Integers(integers) } else { MissingKeys::Texts(all_texts) };
        Ok(MissingBatch { keys, spellings })
    }

    fn texts(&mut self) -> io::Result<Vec<String>> {
        let count = self.rest_of_row()?;
        let mut texts = Vec::new();
        for _ in 0..count {
            let length = usize::try_from(self.rest_of_row()?).unwrap_or_default();
            let mut text = vec![0; length];
            self.file.read_exact(&mut text)?;
            texts.push(String::from_utf8_lossy(&text).into_owned());
        }
        Ok(texts)
    }

    /// None: the end.
    fn number(&mut self) -> io::Result<Option<i64>> {
        if self.file.fill_buf()?.is_empty() {
            return Ok(None);
        }
        self.rest_of_row().map(Some)
    }

    fn rest_of_row(&mut self) -> io::Result<i64> {
        let mut bytes = [0; 8];
        self.file.read_exact(&mut bytes)?;
        Ok(i64::from_le_bytes(bytes))
    }
}

impl MissingBatch {
    pub fn len(&self) -> usize {
        self.spellings.len()
    }

    pub fn texts(&self, at: usize) -> Vec<String> {
        match &self.keys {
            MissingKeys::Integers(keys) => vec![keys[at].to_string()],
            MissingKeys::Texts(keys) => keys[at].clone(),
        }
    }

    /// In parts of at most so many.
    pub fn split(&self, most: usize) -> Vec<Self> {
        let part = |from: usize| {
            let part = from..self.len().min(from + most);
            let keys = match &self.keys {
                MissingKeys::Integers(keys) => MissingKeys::Integers(keys[part.clone()].to_vec()),
                MissingKeys::Texts(keys) => MissingKeys::Texts(keys[part.clone()].to_vec()),
            };
            Self { keys, spellings: self.spellings[part].to_vec() }
        };
        (0..self.len()).step_by(most.max(1)).map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(integers: bool, keys: &[MissingKey<'_>]) -> MissingRows {
        let mut spool = Spool::new(integers).unwrap();
        for (key, spelling) in keys.iter().zip(7..) {
            spool.write(&Missing { key: *key, on: 1, spelling, is_found: false }, 0).unwrap();
        }
        spool.into_rows().unwrap()
    }

    #[test]
    fn keys_are_read_as_they_were_written() {
        let of = |text: &str| vec![vec![text.to_owned(), "\n".to_owned()]];
        let (one, two) = (of("a"), of(""));
        let mut texts = rows(false, &[MissingKey::Texts(&one), MissingKey::Texts(&two)]);
        let batch = texts.next(10, 100).unwrap();
        assert_eq!((batch.texts(0), batch.texts(1), batch.spellings), (one[0].clone(), two[0].clone(), vec![7, 8]));
        assert_eq!(texts.next(10, 100).unwrap().len(), 0);
        let number = vec![vec!["-5".to_owned()]];
        let mut integers = rows(true, &[MissingKey::Integer(3), MissingKey::Texts(&number)]);
        assert_eq!(integers.next(1, 100).unwrap().texts(0), ["3"]);
        let batch = integers.next(1, 100).unwrap();
        assert_eq!((batch.texts(0), batch.spellings), (vec!["-5".to_owned()], vec![8]));
    }

    #[test]
    fn a_batch_is_split_into_parts() {
        let keys: Vec<MissingKey<'_>> = (0..5).map(MissingKey::Integer).collect();
        let parts = rows(true, &keys).next(10, 100).unwrap().split(2);
        assert_eq!(parts.iter().map(MissingBatch::len).collect::<Vec<_>>(), [2, 2, 1]);
        assert_eq!((parts[2].texts(0), parts[2].spellings[0]), (vec!["4".to_owned()], 11));
    }
}
