//! pgoutput's messages as the server writes them: the decoder's other half, for tests only.

use wire::{Column, Decoded, Lsn, Message, Old, Relation, ReplicaIdentity, Tuple};

/// A row's bytes.
pub fn tuple<'a>(columns: impl IntoIterator<Item = Column<'a>>) -> Vec<u8> {
    let mut count = 0u16;
    let mut values = Vec::new();
    for column in columns {
        count += 1;
        let (kind, value) = match column {
            Column::Null => (b'n', None),
            Column::UnchangedToast => (b'u', None),
            Column::Text(value) => (b't', Some(value)),
            Column::Binary(value) => (b'b', Some(value)),
        };
        values.push(kind);
        if let Some(value) = value {
            let length = u32::try_from(value.len()).expect("short value");
            values.extend_from_slice(&length.to_be_bytes());
            values.extend_from_slice(value);
        }
    }
    let mut row = count.to_be_bytes().to_vec();
    row.append(&mut values);
    row
}

#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    fn i64(&mut self, value: i64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    fn lsn(&mut self, value: Lsn) -> &mut Self {
        self.raw(&value.0.to_be_bytes())
    }

    fn string(&mut self, value: &str) -> &mut Self {
        self.raw(value.as_bytes()).u8(0)
    }

    /// `pg_catalog` is sent as an empty name.
    fn namespace(&mut self, name: &str) -> &mut Self {
        self.string(if name == "pg_catalog" { "" } else { name })
    }

    fn tuple(&mut self, kind: u8, tuple: &Tuple) -> &mut Self {
        self.u8(kind).raw(&self::tuple(tuple.columns()))
    }

    fn old(&mut self, old: &Old) -> &mut Self {
        match old {
            Old::Key(tuple) => self.tuple(b'K', tuple),
            Old::Full(tuple) => self.tuple(b'O', tuple),
        }
    }

    fn relation(&mut self, relation: &Relation) -> &mut Self {
        self.u32(relation.oid).namespace(&relation.namespace).string(&relation.name).u8(
            match relation.replica_identity {
                ReplicaIdentity::Default => b'd',
                ReplicaIdentity::Nothing => b'n',
                ReplicaIdentity::Full => b'f',
                ReplicaIdentity::Index => b'i',
            },
        );
        let count = u16::try_from(relation.columns.len()).expect("few columns");
        self.raw(&count.to_be_bytes());
        for column in &relation.columns {
            self.u8(u8::from(column.key))
                .string(&column.name)
                .u32(column.type_oid)
                .raw(&column.type_modifier.to_be_bytes());
        }
        self
    }
}

/// A message's bytes.
pub fn message(Decoded { xid, message }: &Decoded) -> Vec<u8> {
    let mut out = Out::default();
    out.u8(tag(message));
    if let Some(xid) = xid {
        out.u32(*xid);
    }
    body(&mut out, message);
    out.0
}

fn tag(message: &Message) -> u8 {
    match message {
        Message::Begin { .. } => b'B',
        Message::Commit { .. } => b'C',
        Message::Origin { .. } => b'O',
        Message::Relation(_) => b'R',
        Message::Type { .. } => b'Y',
        Message::Insert { .. } => b'I',
        Message::Update { .. } => b'U',
        Message::Delete { .. } => b'D',
        Message::Truncate { .. } => b'T',
        Message::Message { .. } => b'M',
        Message::StreamStart { .. } => b'S',
        Message::StreamStop => b'E',
        Message::StreamCommit { .. } => b'c',
        Message::StreamAbort { .. } => b'A',
    }
}

fn body(out: &mut Out, message: &Message) {
    match message {
        Message::Begin { .. }
        | Message::Commit { .. }
        | Message::Origin { .. }
        | Message::StreamStart { .. }
        | Message::StreamStop
        | Message::StreamCommit { .. }
        | Message::StreamAbort { .. } => boundary(out, message),
        Message::Relation(relation) => {
            out.relation(relation);
        }
        Message::Type { oid, namespace, name } => {
            out.u32(*oid).namespace(namespace).string(name);
        }
        Message::Insert { relation, new } => {
            out.u32(*relation).tuple(b'N', new);
        }
        Message::Update { relation, old, new } => {
            out.u32(*relation);
            if let Some(old) = old {
                out.old(old);
            }
            out.tuple(b'N', new);
        }
        Message::Delete { relation, old } => {
            out.u32(*relation).old(old);
        }
        Message::Truncate { cascade, restart_identity, relations } => {
            let count = u32::try_from(relations.len()).expect("few relations");
            let flags = u8::from(*cascade) | u8::from(*restart_identity) << 1;
            out.u32(count).u8(flags);
            for relation in relations {
                out.u32(*relation);
            }
        }
        Message::Message { transactional, lsn, prefix, content } => {
            let length = u32::try_from(content.len()).expect("short content");
            out.u8(u8::from(*transactional)).lsn(*lsn).string(prefix);
            out.u32(length).raw(content);
        }
    }
}

/// Where transactions and their pieces begin and end.
fn boundary(out: &mut Out, message: &Message) {
    match message {
        Message::Begin { final_lsn, commit_time_micros, xid } => {
            out.lsn(*final_lsn).i64(*commit_time_micros).u32(*xid);
        }
        Message::Commit { flags, commit_lsn, end_lsn, commit_time_micros } => {
            out.u8(*flags).lsn(*commit_lsn).lsn(*end_lsn);
            out.i64(*commit_time_micros);
        }
        Message::Origin { lsn, name } => {
            out.lsn(*lsn).string(name);
        }
        Message::StreamStart { xid, first_segment } => {
            out.u32(*xid).u8(u8::from(*first_segment));
        }
        Message::StreamCommit { xid, flags, commit_lsn, end_lsn, commit_time_micros } => {
            out.u32(*xid).u8(*flags).lsn(*commit_lsn).lsn(*end_lsn);
            out.i64(*commit_time_micros);
        }
        Message::StreamAbort { xid, subxid } => {
            out.u32(*xid).u32(*subxid);
        }
        _ => {}
    }
}
