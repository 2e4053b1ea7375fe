//! Bytes to messages.

use bytes::{Buf, Bytes};

use super::tuple::{self, Tuple};
use super::{Message, Old, Relation, RelationColumn, ReplicaIdentity};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::options::ProtoVersion;

/// Decodes the messages of one connection, in order: protocol 2 has a state, as messages between
/// `StreamStart` and `StreamStop` are laid out differently.
#[derive(Debug, Clone)]
pub struct Decoder {
    proto_version: ProtoVersion,
    in_stream: bool,
}

/// A message and, inside a streamed piece, the (sub)transaction it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    pub xid: Option<u32>,
    pub message: Message,
}

const TRAILING: &str = "bytes behind the end of the message";
const OUT_OF_PLACE: &str = "message out of place in a streamed transaction";

impl Decoder {
    pub fn new(proto_version: ProtoVersion) -> Self {
        Decoder { proto_version, in_stream: false }
    }

    /// Decodes one message. After an error the decoder's state is as before it.
    pub fn decode(&mut self, bytes: Bytes) -> Result<Decoded> {
        let mut cursor = Cursor::new(&bytes);
        let tag = cursor.u8("type of message")?;
        // In order of frequency.
        match tag {
            b'I' | b'U' | b'D' => return self.row(tag, bytes),
            b'R' | b'Y' | b'T' | b'M' => return self.prefixed(tag, bytes),
            _ => {}
        }
        let message = match tag {
            b'B' | b'C' if self.in_stream => return Err(Error::malformed(OUT_OF_PLACE, 0)),
            b'B' => begin(&mut cursor)?,
            b'C' => commit(&mut cursor)?,
            b'O' => Message::Origin {
                lsn: Lsn(cursor.u64("position of the origin")?),
                name: cursor.string("name of the origin")?,
            },
            b'S' | b'E' | b'c' | b'A' if self.proto_version == ProtoVersion::V2 => self.streaming(tag, &mut cursor)?,
            _ => return Err(Error::malformed("type of message", 0)),
        };
        cursor.end(TRAILING)?;
        match message {
            Message::StreamStart { .. } => self.in_stream = true,
            Message::StreamStop => self.in_stream = false,
            _ => {}
        }
        Ok(Decoded { xid: None, message })
    }

    #[inline]
    fn xid(&self, cursor: &mut Cursor<'_>) -> Result<Option<u32>> {
        match self.in_stream {
            true => cursor.u32("transaction of a streamed change").map(Some),
            false => Ok(None),
        }
    }

    /// Insert, update and delete. A row ends its message, so the new row is what is left of `bytes`
    /// after cutting off what comes before: no reference count is touched.
    fn row(&self, tag: u8, mut bytes: Bytes) -> Result<Decoded> {
        let mut cursor = Cursor::new(&bytes);
        cursor.u8("type of message")?;
        let xid = self.xid(&mut cursor)?;
        let relation = cursor.u32("relation")?;
        let mut kind = cursor.u8("kind of row")?;
        let mut old = None;
        if matches!(kind, b'K' | b'O') && tag != b'I' {
            let start = cursor.at();
            tuple::skip(&mut cursor)?;
            old = Some((kind, start, cursor.at()));
            if tag == b'U' {
                kind = cursor.u8("kind of row")?;
            }
        }
        let expected = match tag {
            b'D' => old.is_some(),
            _ => kind == b'N',
        };
        if !expected {
            return Err(Error::malformed("kind of row", cursor.at() - 1));
        }
        let new_start = cursor.at();
        if tag != b'D' {
            tuple::skip(&mut cursor)?;
        }
        cursor.end(TRAILING)?;

        let old = old.map(|(kind, start, end)| {
            let tuple = Tuple::checked(bytes.slice(start..end));
            match kind {
                b'K' => Old::Key(tuple),
                _ => Old::Full(tuple),
            }
        });
        bytes.advance(new_start);
        let message = match (tag, old) {
            (b'I', _) => Message::Insert { relation, new: Tuple::checked(bytes) },
            (b'D', Some(old)) => Message::Delete { relation, old },
            (_, old) => Message::Update { relation, old, new: Tuple::checked(bytes) },
        };
        Ok(Decoded { xid, message })
    }

    /// The other messages that carry a transaction inside a streamed piece.
    fn prefixed(&self, tag: u8, bytes: Bytes) -> Result<Decoded> {
        let mut cursor = Cursor::new(&bytes);
        cursor.u8("type of message")?;
        let xid = self.xid(&mut cursor)?;
        let message = match tag {
            b'R' => Message::Relation(Box::new(relation(&mut cursor)?)),
            b'Y' => Message::Type {
                oid: cursor.u32("type")?,
                namespace: namespace(&mut cursor)?,
                name: cursor.string("name of a type")?,
            },
            b'T' => truncate(&mut cursor)?,
            _ => logical_message(&mut cursor, &bytes)?,
        };
        cursor.end(TRAILING)?;
        Ok(Decoded { xid, message })
    }

    fn streaming(&self, tag: u8, cursor: &mut Cursor<'_>) -> Result<Message> {
        // Pieces do not nest, and a transaction's end never stands inside a piece.
        if self.in_stream != (tag == b'E') {
            return Err(Error::malformed(OUT_OF_PLACE, 0));
        }
        Ok(match tag {
            b'S' => Message::StreamStart {
                xid: cursor.u32("streamed transaction")?,
                first_segment: cursor.bool("mark of the first piece")?,
            },
            b'E' => Message::StreamStop,
            b'c' => {
                let xid = cursor.u32("streamed transaction")?;
                Message::StreamCommit {
                    xid,
                    flags: cursor.u8("flags of a commit")?,
                    commit_lsn: Lsn(cursor.u64("position of a commit")?),
                    end_lsn: Lsn(cursor.u64("end of a commit")?),
                    commit_time_micros: cursor.i64("commit time")?,
                }
            }
            _ => Message::StreamAbort {
                xid: cursor.u32("streamed transaction")?,
                subxid: cursor.u32("streamed subtransaction")?,
            },
        })
    }
}

fn begin(cursor: &mut Cursor<'_>) -> Result<Message> {
    Ok(Message::Begin {
        final_lsn: Lsn(cursor.u64("position of a commit")?),
        commit_time_micros: cursor.i64("commit time")?,
        xid: cursor.u32("transaction")?,
    })
}

fn commit(cursor: &mut Cursor<'_>) -> Result<Message> {
    Ok(Message::Commit {
        flags: cursor.u8("flags of a commit")?,
        commit_lsn: Lsn(cursor.u64("position of a commit")?),
        end_lsn: Lsn(cursor.u64("end of a commit")?),
        commit_time_micros: cursor.i64("commit time")?,
    })
}

/// An empty name stands for `pg_catalog`.
fn namespace(cursor: &mut Cursor<'_>) -> Result<String> {
    let name = cursor.string("name of a schema")?;
    Ok(if name.is_empty() { "pg_catalog".to_owned() } else { name })
}

fn relation(cursor: &mut Cursor<'_>) -> Result<Relation> {
    let oid = cursor.u32("relation")?;
    let namespace = namespace(cursor)?;
    let name = cursor.string("name of a relation")?;
    let replica_identity = match cursor.u8("replica identity")? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        _ => return Err(Error::malformed("replica identity", cursor.at() - 1)),
    };
    let count = usize::from(cursor.u16("number of columns")?);
    // A column takes ten bytes at least: no more room than the message can fill.
    let mut columns = Vec::with_capacity(count.min(cursor.remaining() / 10));
    for _ in 0..count {
        columns.push(RelationColumn {
            key: cursor.u8("flags of a column")? & 1 != 0,
            name: cursor.string("name of a column")?,
            type_oid: cursor.u32("type of a column")?,
            type_modifier: cursor.i32("type modifier")?,
        });
    }
    Ok(Relation { oid, namespace, name, replica_identity, columns })
}

fn truncate(cursor: &mut Cursor<'_>) -> Result<Message> {
    let count = cursor.u32("number of truncated relations")? as usize;
    let flags = cursor.u8("flags of a truncate")?;
    let mut relations = Vec::with_capacity(count.min(cursor.remaining() / 4));
    for _ in 0..count {
        relations.push(cursor.u32("truncated relation")?);
    }
    Ok(Message::Truncate { cascade: flags & 1 != 0, restart_identity: flags & 2 != 0, relations })
}

fn logical_message(cursor: &mut Cursor<'_>, bytes: &Bytes) -> Result<Message> {
    let transactional = cursor.u8("flags of a message")? & 1 != 0;
    let lsn = Lsn(cursor.u64("position of a message")?);
    let prefix = cursor.string("prefix of a message")?;
    let length = cursor.u32("length of a message")? as usize;
    let start = cursor.at();
    cursor.take(length, "content of a message")?;
    Ok(Message::Message { transactional, lsn, prefix, content: bytes.slice(start..cursor.at()) })
}
