//! What may refer to a table without a foreign key, and what a table's rows must fulfil.

use super::TableShape;
use crate::sql::{Ident, QualifiedName};
use tokio_postgres::{Error, GenericClient};

/// A column of any table of the applications that holds a number, a text, a uuid or a jsonb.
#[derive(Debug, Clone)]
pub struct PlainColumn {
    pub table: QualifiedName,
    pub relid: u32,
    pub name: Ident,
    /// As it can stand in a cast.
    pub cast_type: String,
    /// `N`, `S` or `U`, as `pg_type.typcategory` has it.
    pub category: char,
    pub is_jsonb: bool,
    /// We may read and write the table.
    pub writable: bool,
}

/// Partitions stand for themselves in their parent.
pub async fn read_plain_columns(client: &impl GenericClient) -> Result<Vec<PlainColumn>, Error> {
    const QUERY: &str = "
        SELECT n.nspname::text, c.relname::text, c.oid, a.attname::text, pg_catalog.format_type(a.atttypid, NULL),
               b.typcategory::text, b.oid = 'pg_catalog.jsonb'::regtype,
               pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_table_privilege(c.oid, 'UPDATE')
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        JOIN pg_catalog.pg_type b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
        WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
          AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgtandem') AND n.nspname !~ '^pg_(toast|temp_|toast_temp_)'
          AND a.attgenerated = ''
          AND (b.oid IN ('pg_catalog.int2'::regtype, 'pg_catalog.int4'::regtype, 'pg_catalog.int8'::regtype,
                         'pg_catalog.uuid'::regtype, 'pg_catalog.jsonb'::regtype)
               OR b.typcategory = 'S')
        ORDER BY 1, 2, a.attnum";
    let rows = client.query(QUERY, &[]).await?;
    let columns = rows.iter().map(|row| PlainColumn {
        table: QualifiedName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
        relid: row.get(2),
        name: Ident::new(row.get::<_, String>(3)),
        cast_type: row.get(4),
        category: row.get::<_, &str>(5).chars().next().unwrap_or_default(),
        is_jsonb: row.get(6),
        writable: row.get(7),
    });
    Ok(columns.collect())
}

/// A CHECK constraint of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckConstraint {
    pub name: Ident,
    pub columns: Vec<Ident>,
    /// Its condition, as SQL.
    pub condition: String,
}

pub async fn read_check_constraints(
    client: &impl GenericClient,
    table: &TableShape,
) -> Result<Vec<CheckConstraint>, Error> {
    const QUERY: &str = "
        SELECT con.conname::text, pg_catalog.pg_get_expr(con.conbin, con.conrelid),
               ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                     WHERE a.attrelid = con.conrelid AND a.attnum = ANY (con.conkey) ORDER BY a.attnum)
        FROM pg_catalog.pg_constraint con WHERE con.contype = 'c' AND con.conrelid = $1 ORDER BY con.conname";
    let rows = client.query(QUERY, &[&table.relid]).await?;
    let constraints = rows.iter().map(|row| CheckConstraint {
        name: Ident::new(row.get::<_, String>(0)),
        condition: row.get(1),
        columns: row.get::<_, Vec<&str>>(2).into_iter().map(|name| table.naming.column(name)).collect(),
    });
    Ok(constraints.collect())
}
