//! Which columns the rows in an outbox have. A row says only whose they are: the table's, or the partition's.
//!
//! The catalog is looked at behind each read that brought something. A row with another number of values is older, and
//! has the columns that were there before; columns that were added stand last.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;
use wire::{Message, Old, Relation, RelationColumn, ReplicaIdentity, Tuple};

use super::CaptureError;
use super::read::OutboxRow;
use super::record;
use crate::capture::CapturedTables;

/// Between two looks, unless a row asks for one.
const LOOK: Duration = Duration::from_millis(200);

/// A column; one that the node computes does not travel.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    column: RelationColumn,
    is_generated: bool,
}

#[derive(Debug, Default)]
struct Shapes {
    /// The linked table.
    root: u32,
    schema: String,
    name: String,
    /// As they were, oldest first.
    columns: Vec<Vec<Known>>,
}

pub struct Columns {
    roots: Vec<u32>,
    /// By table that holds rows: a partition, or the linked table itself.
    shapes: HashMap<u32, Shapes>,
    /// What was last said of each linked table.
    said: HashMap<u32, Vec<Known>>,
    looked: Option<Instant>,
}

impl Columns {
    pub fn new(tables: &CapturedTables) -> Self {
        Self { roots: tables.keys().copied().collect(), shapes: HashMap::new(), said: HashMap::new(), looked: None }
    }

    /// Looks at the catalog, if it has been long.
    pub async fn look(&mut self, client: &Client) -> Result<(), CaptureError> {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return Ok(());
        }
        const QUERY: &str = "
            SELECT wanted.root, part.oid, n.nspname::text, c.relname::text, a.attname::text, a.atttypid, a.atttypmod,
                   a.attgenerated <> ''
            FROM pg_catalog.unnest($1::oid[]) AS wanted (root)
            CROSS JOIN LATERAL (SELECT wanted.root AS oid UNION
                                SELECT relid::oid FROM pg_catalog.pg_partition_tree(wanted.root)) AS part
            JOIN pg_catalog.pg_class c ON c.oid = wanted.root JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            JOIN pg_catalog.pg_attribute a ON a.attrelid = part.oid AND a.attnum > 0 AND NOT a.attisdropped
            ORDER BY part.oid, a.attnum";
        let rows = client.query(QUERY, &[&self.roots]).await?;
        let mut found: HashMap<u32, Shapes> = HashMap::new();
        for row in &rows {
            let shape = found.entry(row.get(1)).or_insert_with(|| Shapes {
                root: row.get(0),
                schema: row.get(2),
                name: row.get(3),
                columns: vec![Vec::new()],
            });
            let (type_oid, type_modifier) = (row.get(5), row.get(6));
            let column = RelationColumn { key: false, name: row.get(4), type_oid, type_modifier };
            shape.columns[0].push(Known { column, is_generated: row.get(7) });
        }
        for (relid, mut now) in found {
            let before = self.shapes.remove(&relid).unwrap_or_default();
            let current = now.columns.remove(0);
            now.columns = before.columns;
            if now.columns.last() != Some(&current) {
                now.columns.push(current);
            }
            self.shapes.insert(relid, now);
        }
        self.looked = Some(Instant::now());
        Ok(())
    }

    /// What the replication stream would say of this change.
    pub fn messages(&mut self, row: OutboxRow) -> Result<Vec<Message>, CaptureError> {
        let Some(shapes) = self.shapes.get(&row.relid) else {
            // Not linked any more, or dropped.
            return Ok(Vec::new());
        };
        let relation = shapes.root;
        if row.op == b'T' {
            let truncate = Message::Truncate { cascade: false, restart_identity: false, relations: vec![relation] };
            let columns = self.said.get(&relation).or(shapes.columns.last()).cloned().unwrap_or_default();
            return Ok(shapes.describe(columns, &mut self.said).into_iter().chain([truncate]).collect());
        }
        let read = |text: Option<String>| -> Result<Option<Vec<Option<Vec<u8>>>>, CaptureError> {
            let Some(text) = text else { return Ok(None) };
            let unreadable = || CaptureError::Unreadable(format!("{text:?} is no row"));
            record::fields(&text).map(Some).ok_or_else(unreadable)
        };
        let (old, new) = (read(row.old_row)?, read(row.new_row)?);
        let count = new.as_ref().or(old.as_ref()).map_or(0, Vec::len);
        let columns = shapes.with(count)?;
        let tuple = |fields: Option<Vec<Option<Vec<u8>>>>| -> Result<Tuple, CaptureError> {
            let fields = fields.unwrap_or_default();
            let kept = fields.iter().zip(&columns).filter(|(_, known)| !known.is_generated);
            let kept: Vec<Option<&[u8]>> = kept.map(|(field, _)| field.as_deref()).collect();
            record::tuple(kept.into_iter()).ok_or_else(|| CaptureError::Unreadable("a row is too long".to_owned()))
        };
        let change = match row.op {
            b'I' => Message::Insert { relation, new: tuple(new)? },
            b'U' => Message::Update { relation, old: None, new: tuple(new)? },
            b'K' => Message::Update { relation, old: Some(Old::Full(tuple(old)?)), new: tuple(new)? },
            b'D' => Message::Delete { relation, old: Old::Full(tuple(old)?) },
            op => return Err(CaptureError::Unreadable(format!("{:?} is no operation", char::from(op)))),
        };
        Ok(shapes.describe(columns, &mut self.said).into_iter().chain([change]).collect())
    }
}

impl Shapes {
    /// The columns of a row with so many values.
    fn with(&self, count: usize) -> Result<Vec<Known>, CaptureError> {
        let newest_first = || self.columns.iter().rev();
        let same = newest_first().find(|columns| columns.len() == count);
        let longer = || newest_first().find(|columns| columns.len() > count).map(|columns| &columns[..count]);
        let found = same.map(Vec::as_slice).or_else(longer);
        let unknown = || CaptureError::ColumnsUnknown { table: format!("{}.{}", self.schema, self.name) };
        found.map(<[Known]>::to_vec).ok_or_else(unknown)
    }

    /// How the rows of the linked table that follow are to be read, unless that was said.
    fn describe(&self, columns: Vec<Known>, said: &mut HashMap<u32, Vec<Known>>) -> Option<Message> {
        if said.get(&self.root) == Some(&columns) {
            return None;
        }
        let travelling = columns.iter().filter(|known| !known.is_generated).map(|known| known.column.clone());
        let relation = Relation {
            oid: self.root,
            namespace: self.schema.clone(),
            name: self.name.clone(),
            replica_identity: ReplicaIdentity::Full,
            columns: travelling.collect(),
        };
        said.insert(self.root, columns);
        Some(Message::Relation(Box::new(relation)))
    }
}
