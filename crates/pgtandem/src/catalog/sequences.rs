//! Sequences that make the keys of tables.

use super::tables::{TableShape, letter};
use crate::sql::{self, Ident, QualifiedName, SequenceOptions};
use tokio_postgres::{Error, GenericClient};

#[derive(Debug, Clone)]
pub struct Sequence {
    pub oid: u32,
    pub name: QualifiedName,
    /// The table and column it makes values for.
    pub relid: u32,
    pub column: Ident,
    pub served_by: ServedBy,
    /// `smallint`, `integer` or `bigint`: what the sequence itself may reach.
    pub type_text: String,
    pub options: SequenceOptions,
    pub last_value: i64,
    /// False: the next value is `last_value` itself.
    pub is_called: bool,
    /// Otherwise it is not known what it made last.
    pub is_readable: bool,
    /// May be altered by us (or by a role we are a member of).
    pub is_ours_to_alter: bool,
}

impl Sequence {
    /// The highest value handed out so far, if any was. With a negative increment the lowest.
    pub fn used(&self) -> Option<i64> {
        self.is_called.then_some(self.last_value)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServedBy {
    /// GENERATED ... AS IDENTITY.
    Identity,
    /// `serial`: owned by the column.
    Serial,
    /// Only named in the column's default; other columns may use it too.
    Default,
}

/// The sequences behind columns of these tables: of identity columns, and those that a column's default draws from.
pub async fn read_sequences(client: &impl GenericClient, tables: &[TableShape]) -> Result<Vec<Sequence>, Error> {
    const QUERY: &str = "
        SELECT DISTINCT ON (s.seqrelid, a.attrelid, a.attnum)
               s.seqrelid AS oid, n.nspname::text AS schema, c.relname::text AS name, a.attrelid AS relid,
               a.attname::text AS column, link.served_by, pg_catalog.format_type(s.seqtypid, NULL) AS type_text,
               s.seqincrement, s.seqstart, s.seqmin, s.seqmax, s.seqcache, s.seqcycle,
               pg_catalog.pg_has_role(c.relowner, 'USAGE') AS is_ours_to_alter,
               pg_catalog.has_sequence_privilege(s.seqrelid, 'SELECT') AS is_readable
        FROM (SELECT d.objid AS sequence, d.refobjid AS relid, d.refobjsubid AS attnum, 'i' AS served_by
              FROM pg_catalog.pg_depend d
              WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
                AND d.deptype = 'i' AND d.refobjid = ANY ($1)
              UNION ALL
              SELECT d.refobjid, def.adrelid, def.adnum,
                     CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_depend own
                                       WHERE own.classid = 'pg_catalog.pg_class'::regclass AND own.objid = d.refobjid
                                         AND own.deptype = 'a' AND own.refobjid = def.adrelid
                                         AND own.refobjsubid = def.adnum) THEN 's' ELSE 'd' END
              FROM pg_catalog.pg_attrdef def
              JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = def.oid
                                         AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'n'
              WHERE def.adrelid = ANY ($1)) AS link
        JOIN pg_catalog.pg_sequence s ON s.seqrelid = link.sequence
        JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_attribute a ON a.attrelid = link.relid AND a.attnum = link.attnum
        ORDER BY s.seqrelid, a.attrelid, a.attnum";
    let relids: Vec<u32> = tables.iter().map(|table| table.relid).collect();
    let mut sequences = Vec::new();
    for row in client.query(QUERY, &[&relids]).await? {
        let relid = row.get("relid");
        let Some(table) = tables.iter().find(|table| table.relid == relid) else { continue };
        let name = QualifiedName::new(row.get::<_, String>("schema"), row.get::<_, String>("name"));
        // What may not be read may not be altered either, which `check` reports.
        let (last_value, is_called) = if row.get("is_readable") {
            let state = client.query_one(&sql::sequence_state(&name), &[]).await?;
            (state.get(0), state.get(1))
        } else {
            (row.get("seqstart"), false)
        };
        sequences.push(Sequence {
            oid: row.get("oid"),
            relid,
            column: table.naming.column(row.get("column")),
            served_by: match letter(&row, "served_by") {
                'i' => ServedBy::Identity,
                's' => ServedBy::Serial,
                _ => ServedBy::Default,
            },
            type_text: row.get("type_text"),
            options: SequenceOptions {
                increment: row.get("seqincrement"),
                start: row.get("seqstart"),
                min: row.get("seqmin"),
                max: row.get("seqmax"),
                cache: row.get("seqcache"),
                cycle: row.get("seqcycle"),
            },
            last_value,
            is_called,
            is_readable: row.get("is_readable"),
            is_ours_to_alter: row.get("is_ours_to_alter"),
            name,
        });
    }
    Ok(sequences)
}
