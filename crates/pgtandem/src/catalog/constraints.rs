//! Keys, foreign keys, unique indexes and triggers of tables.

use super::tables::{TableShape, letter};
use crate::sql::{Ident, QualifiedName};
use std::collections::HashMap;
use tokio_postgres::{Error, GenericClient};

#[derive(Debug, Clone)]
pub struct ForeignKey {
    pub name: Ident,
    pub relid: u32,
    pub table: QualifiedName,
    pub columns: Vec<Ident>,
    pub referenced_relid: u32,
    pub referenced: QualifiedName,
    pub referenced_columns: Vec<Ident>,
    pub on_delete: ReferentialAction,
    pub on_update: ReferentialAction,
    pub deferrable: bool,
    /// Every row that is there fulfils it.
    pub validated: bool,
}

impl ForeignKey {
    /// From here on what belongs to `shapes` is known by the names that are the same on all nodes. What does not, but
    /// has such a name here, is none of them.
    pub(super) fn rename(&mut self, shapes: &[TableShape]) {
        for (relid, table, columns) in [
            (self.relid, &mut self.table, &mut self.columns),
            (self.referenced_relid, &mut self.referenced, &mut self.referenced_columns),
        ] {
            if let Some(shape) = shapes.iter().find(|shape| shape.relid == relid) {
                *table = shape.name.clone();
                columns.iter_mut().for_each(|name| *name = shape.naming.column(name.own_str()));
            } else if shapes.iter().any(|shape| shape.name == *table) {
                *table = table.alone();
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferentialAction {
    NoAction,
    Restrict,
    Cascade,
    SetNull,
    SetDefault,
}

impl ReferentialAction {
    /// Whether a change of the referenced row changes the referencing ones.
    pub fn writes(self) -> bool {
        matches!(self, Self::Cascade | Self::SetNull | Self::SetDefault)
    }

    fn from_letter(letter: char) -> Self {
        match letter {
            'r' => Self::Restrict,
            'c' => Self::Cascade,
            'n' => Self::SetNull,
            'd' => Self::SetDefault,
            _ => Self::NoAction,
        }
    }
}

#[derive(Debug, Clone)]
pub struct UniqueIndex {
    pub name: Ident,
    /// Key columns in order; `None` for an expression.
    pub columns: Vec<Option<Ident>>,
    pub partial: bool,
    pub deferrable: bool,
    pub nulls_not_distinct: bool,
    pub is_exclusion: bool,
    /// `CREATE UNIQUE INDEX ...`.
    pub definition: String,
}

#[derive(Debug, Clone)]
pub struct Trigger {
    pub name: Ident,
    pub firing: TriggerFiring,
    pub function: QualifiedName,
    /// `CREATE TRIGGER ...`.
    pub definition: String,
    /// Its function uses a foreign table or dblink: it is somebody's own way of writing to another database.
    pub reaches_out: bool,
}

/// `pg_trigger.tgenabled`: in which `session_replication_role` a trigger fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TriggerFiring {
    Disabled,
    /// The usual kind: not in sessions that replicate.
    Origin,
    Replica,
    Always,
}

/// Column names in the key's order, and the constraint's name if it is deferrable.
pub(super) async fn read_primary_keys(
    client: &impl GenericClient,
    relids: &[u32],
) -> Result<HashMap<u32, (Vec<Ident>, Option<Ident>)>, Error> {
    const QUERY: &str = "
        SELECT con.conrelid, CASE WHEN con.condeferrable THEN con.conname::text END,
               ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(con.conkey) WITH ORDINALITY AS k (attnum, place)
                     JOIN pg_catalog.pg_attribute a ON a.attrelid = con.conrelid AND a.attnum = k.attnum ORDER BY k.place)
        FROM pg_catalog.pg_constraint con WHERE con.contype = 'p' AND con.conrelid = ANY ($1)";
    let rows = client.query(QUERY, &[&relids]).await?;
    let deferrable = |row: &tokio_postgres::Row| row.get::<_, Option<String>>(1).map(Ident::new);
    Ok(rows.iter().map(|row| (row.get(0), (idents(row.get(2)), deferrable(row)))).collect())
}

/// Every one of the database.
pub async fn read_all_foreign_keys(client: &impl GenericClient) -> Result<Vec<ForeignKey>, Error> {
    foreign_keys(client, None).await
}

pub(super) async fn read_foreign_keys(client: &impl GenericClient, relids: &[u32]) -> Result<Vec<ForeignKey>, Error> {
    foreign_keys(client, Some(relids)).await
}

/// `relids`: tables that refer or are referred to.
async fn foreign_keys(client: &impl GenericClient, relids: Option<&[u32]>) -> Result<Vec<ForeignKey>, Error> {
    const QUERY: &str = "
        SELECT con.conname::text AS name, con.conrelid AS relid, n.nspname::text AS schema, c.relname::text AS table,
               con.confrelid AS referenced_relid, fn.nspname::text AS referenced_schema, fc.relname::text AS referenced_table,
               con.confdeltype::text AS on_delete, con.confupdtype::text AS on_update, con.condeferrable AS deferrable,
               con.convalidated AS validated,
               ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(con.conkey) WITH ORDINALITY AS k (attnum, place)
                     JOIN pg_catalog.pg_attribute a ON a.attrelid = con.conrelid AND a.attnum = k.attnum
                     ORDER BY k.place) AS columns,
               ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(con.confkey) WITH ORDINALITY AS k (attnum, place)
                     JOIN pg_catalog.pg_attribute a ON a.attrelid = con.confrelid AND a.attnum = k.attnum
                     ORDER BY k.place) AS referenced_columns
        FROM pg_catalog.pg_constraint con
        JOIN pg_catalog.pg_class c ON c.oid = con.conrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_class fc ON fc.oid = con.confrelid
        JOIN pg_catalog.pg_namespace fn ON fn.oid = fc.relnamespace
        WHERE con.contype = 'f' AND con.conparentid = 0 
          AND ($1::oid[] IS NULL OR con.conrelid = ANY ($1) OR con.confrelid = ANY ($1))
        ORDER BY n.nspname, c.relname, con.conname";
    let rows = client.query(QUERY, &[&relids]).await?;
    let keys = rows.iter().map(|row| ForeignKey {
        name: Ident::new(row.get::<_, String>("name")),
        relid: row.get("relid"),
        table: QualifiedName::new(row.get::<_, String>("schema"), row.get::<_, String>("table")),
        columns: idents(row.get("columns")),
        referenced_relid: row.get("referenced_relid"),
        referenced: QualifiedName::new(
            row.get::<_, String>("referenced_schema"),
            row.get::<_, String>("referenced_table"),
        ),
        referenced_columns: idents(row.get("referenced_columns")),
        on_delete: ReferentialAction::from_letter(letter(row, "on_delete")),
        on_update: ReferentialAction::from_letter(letter(row, "on_update")),
        deferrable: row.get("deferrable"),
        validated: row.get("validated"),
    });
    Ok(keys.collect())
}

/// Unique indexes and exclusion constraints, without primary keys.
pub(super) async fn read_unique_indexes(
    client: &impl GenericClient,
    relids: &[u32],
) -> Result<HashMap<u32, Vec<UniqueIndex>>, Error> {
    const QUERY: &str = "
        SELECT i.indrelid AS relid, c.relname::text AS name, i.indpred IS NOT NULL AS partial,
               NOT i.indimmediate AS deferrable, i.indisexclusion AS is_exclusion,
               -- the column exists from PostgreSQL 15 on
               coalesce((pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) AS nulls_not_distinct,
               pg_catalog.pg_get_indexdef(i.indexrelid) AS definition,
               ARRAY(SELECT a.attname::text FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) AS place
                     LEFT JOIN pg_catalog.pg_attribute a
                        ON a.attrelid = i.indrelid AND a.attnum = i.indkey[place] AND i.indkey[place] <> 0
                     ORDER BY place) AS columns
        FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = ANY ($1) AND (i.indisunique OR i.indisexclusion) AND NOT i.indisprimary AND i.indislive
        ORDER BY c.relname";
    let mut indexes: HashMap<u32, Vec<UniqueIndex>> = HashMap::new();
    for row in client.query(QUERY, &[&relids]).await? {
        let columns: Vec<Option<String>> = row.get("columns");
        indexes.entry(row.get("relid")).or_default().push(UniqueIndex {
            name: Ident::new(row.get::<_, String>("name")),
            columns: columns.into_iter().map(|name| name.map(Ident::new)).collect(),
            partial: row.get("partial"),
            deferrable: row.get("deferrable"),
            nulls_not_distinct: row.get("nulls_not_distinct"),
            is_exclusion: row.get("is_exclusion"),
            definition: row.get("definition"),
        });
    }
    Ok(indexes)
}

/// Triggers of the tables and of their partitions, without those that PostgreSQL made for constraints
/// and without the copies that partitions have of their parent's.
pub(super) async fn read_triggers(
    client: &impl GenericClient,
    relids: &[u32],
) -> Result<HashMap<u32, Vec<Trigger>>, Error> {
    const QUERY: &str = "
        SELECT wanted.root, t.tgname::text AS name, t.tgenabled::text AS firing, n.nspname::text AS function_schema,
               p.proname::text AS function_name, pg_catalog.pg_get_triggerdef(t.oid) AS definition,
               p.prosrc ~* 'dblink' OR EXISTS (
                   SELECT FROM pg_catalog.pg_foreign_table f JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver
                   JOIN pg_catalog.pg_class fc ON fc.oid = f.ftrelid
                   WHERE s.srvname !~ '^pgtandem_' AND pg_catalog.strpos(pg_catalog.lower(p.prosrc), pg_catalog.lower(fc.relname)) > 0
               ) AS reaches_out
        FROM pg_catalog.unnest($1::oid[]) AS wanted (root)
        CROSS JOIN LATERAL (SELECT wanted.root AS oid UNION
                            SELECT relid::oid FROM pg_catalog.pg_partition_tree(wanted.root)) AS part
        JOIN pg_catalog.pg_trigger t ON t.tgrelid = part.oid
        JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND n.nspname <> 'pgtandem'
        ORDER BY wanted.root, t.tgname";
    let mut triggers: HashMap<u32, Vec<Trigger>> = HashMap::new();
    for row in client.query(QUERY, &[&relids]).await? {
        triggers.entry(row.get("root")).or_default().push(Trigger {
            name: Ident::new(row.get::<_, String>("name")),
            firing: match letter(&row, "firing") {
                'D' => TriggerFiring::Disabled,
                'R' => TriggerFiring::Replica,
                'A' => TriggerFiring::Always,
                _ => TriggerFiring::Origin,
            },
            function: QualifiedName::new(
                row.get::<_, String>("function_schema"),
                row.get::<_, String>("function_name"),
            ),
            definition: row.get("definition"),
            reaches_out: row.get("reaches_out"),
        });
    }
    Ok(triggers)
}

fn idents(names: Vec<String>) -> Vec<Ident> {
    names.into_iter().map(Ident::new).collect()
}
