//! Tables and their columns.

use super::constraints::{self, ForeignKey, Trigger, TriggerFiring, UniqueIndex};
use super::types::{INTERVAL, NUMERIC, TIME, TIMESTAMP, TIMESTAMPTZ, TIMETZ};
use crate::sql::{Ident, Naming, QualifiedName, WrittenColumn};
use std::collections::HashMap;
use tokio_postgres::{Error, GenericClient, Row};

#[derive(Debug, Clone)]
pub struct TableShape {
    pub relid: u32,
    pub name: QualifiedName,
    /// What its node calls it and its columns.
    pub naming: Naming,
    pub kind: TableKind,
    pub persistence: Persistence,
    pub owner: String,
    /// To be made a member of its owner would be to be made a superuser.
    pub owner_is_superuser: bool,
    /// In the order of the table; dropped ones left out.
    pub columns: Vec<Column>,
    /// Column names in the key's order; empty if there is no primary key.
    pub primary_key: Vec<Ident>,
    /// The primary key's name, if it is deferrable.
    pub deferrable_pk: Option<Ident>,
    pub replica_identity: ReplicaIdentity,
    /// Whether values may be stored out of line: the table, or any leaf of a partitioned one, has a TOAST table.
    pub has_toast: bool,
    /// Where the rows are: the table itself, or the leaves of a partitioned one.
    pub leaves: Vec<Leaf>,
    /// Columns that say in which of its own partitions a row is; what these are partitioned by does not count.
    pub partitioned_by: Vec<Ident>,
    /// Is itself a partition of another table.
    pub is_partition: bool,
    /// Takes part in table inheritance (not partitioning), as parent or child.
    pub inherits: bool,
    pub row_security: bool,
    pub row_security_forced: bool,
    pub foreign_keys_out: Vec<ForeignKey>,
    pub foreign_keys_in: Vec<ForeignKey>,
    /// Without the primary key's own.
    pub unique_indexes: Vec<UniqueIndex>,
    /// The application's; those behind foreign keys are not listed.
    pub triggers: Vec<Trigger>,
    /// The planner's guess; -1 if never analysed.
    pub estimated_rows: i64,
    pub bytes: i64,
}

impl TableShape {
    pub fn column(&self, name: &Ident) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == *name)
    }

    pub fn is_key(&self, column: &Ident) -> bool {
        self.primary_key.contains(column)
    }

    /// PostgreSQL can neither publish such a column nor leave it out of REPLICA IDENTITY FULL.
    pub fn has_virtual_column(&self) -> bool {
        self.columns.iter().any(|column| column.generated == Some(Generated::Virtual))
    }

    /// Triggers at work that write to another database, which somebody has made by hand.
    pub fn own_sync_triggers(&self) -> impl Iterator<Item = &Trigger> {
        let at_work = |trigger: &&Trigger| trigger.reaches_out && trigger.firing != TriggerFiring::Disabled;
        self.triggers.iter().filter(at_work)
    }

    /// The columns whose values travel: all but those a node computes itself.
    pub fn written_columns(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.generated.is_none())
    }

    /// A column of this table as statements write it.
    pub fn written(&self, column: &Column) -> WrittenColumn {
        WrittenColumn {
            name: column.name.clone(),
            cast_type: column.cast_type.clone(),
            is_key: self.is_key(&column.name),
            equals: column.equals.clone(),
            is_fixed: column.identity == Some(Identity::Always),
        }
    }

    /// With nothing but the node's own names, to be compared with what else is read of its catalog.
    #[must_use]
    pub fn own(&self) -> Self {
        let mut own = self.clone();
        own.naming = Naming::plain(self.name.own());
        own.name = self.name.own();
        own.columns.iter_mut().for_each(|column| column.name = column.name.own());
        let indexed = own.unique_indexes.iter_mut().flat_map(|index| index.columns.iter_mut().flatten());
        let keys = own.foreign_keys_out.iter_mut().chain(&mut own.foreign_keys_in);
        let keyed = keys.flat_map(|key| {
            (key.table, key.referenced) = (key.table.own(), key.referenced.own());
            key.columns.iter_mut().chain(&mut key.referenced_columns)
        });
        for name in own.primary_key.iter_mut().chain(&mut own.partitioned_by).chain(indexed).chain(keyed) {
            *name = name.own();
        }
        own
    }

    /// The key's columns in key order.
    pub fn key_columns(&self) -> Vec<WrittenColumn> {
        let key = self.primary_key.iter().filter_map(|name| self.column(name));
        key.map(|column| self.written(column)).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    Ordinary,
    Partitioned,
    /// A view, foreign table, ...: `pg_class.relkind`. Cannot be linked.
    Other(char),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    Permanent,
    Unlogged,
    Temporary,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    Nothing,
    Full,
    Index(Ident),
}

impl ReplicaIdentity {
    pub fn is_full(&self) -> bool {
        *self == Self::Full
    }

    /// What stands after REPLICA IDENTITY.
    pub fn sql(&self) -> String {
        match self {
            Self::Default => "DEFAULT".to_owned(),
            Self::Nothing => "NOTHING".to_owned(),
            Self::Full => "FULL".to_owned(),
            Self::Index(index) => format!("USING INDEX {index}"),
        }
    }
}

/// A table that holds rows.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub relid: u32,
    pub name: QualifiedName,
    pub replica_identity: ReplicaIdentity,
    pub has_toast: bool,
    /// Its columns stand in another order than those of the table it belongs to.
    pub is_reordered: bool,
}

#[derive(Debug, Clone)]
pub struct Column {
    pub name: Ident,
    pub attnum: i16,
    /// With modifiers: `character varying(255)`.
    pub type_text: String,
    /// Without, as it can stand in a cast: `character varying`, `"bit"`, `bpchar`.
    pub cast_type: String,
    pub type_oid: u32,
    /// The type below domains; the type itself if it is none.
    pub base_type_oid: u32,
    /// Its name, without modifiers.
    pub base_type: String,
    /// The operator by which the type's values are equal, as SQL writes it whatever is searched.
    pub equals: String,
    /// `pg_type.typcategory` of the base type: types of one category convert into each other.
    pub category: char,
    /// `pg_type.typtype` of the column's own type: b(ase), c(omposite), d(omain), e(num), r(ange), m(ultirange).
    pub type_kind: char,
    pub typmod: i32,
    pub not_null: bool,
    pub has_default: bool,
    /// The default's SQL, or the expression of a generated column.
    pub default_sql: Option<String>,
    pub generated: Option<Generated>,
    pub identity: Option<Identity>,
    /// False for a nondeterministic collation: values that differ in bytes may be equal.
    pub deterministic: bool,
    /// Its values sort by their bytes: on every server the same.
    pub sorts_by_bytes: bool,
}

impl Column {
    /// A row without a value for this column can be inserted.
    pub fn may_be_left_out(&self) -> bool {
        !self.not_null || self.has_default || self.generated.is_some() || self.identity.is_some()
    }

    /// Some of its values would be other ones in `there`, without an error: digits behind the point, of a number or of
    /// seconds.
    pub fn is_rounded_in(&self, there: &Self) -> bool {
        const ALL: i32 = 6;
        let both = |oid: u32| self.base_type_oid == oid && there.base_type_oid == oid;
        if there.typmod < 0 {
            return false;
        }
        if both(NUMERIC) {
            // A modifier is made of precision and scale, which may be negative, and the length of a header.
            let scale = |column: &Self| (((column.typmod - 4) & 0x7ff) ^ 1024) - 1024;
            return self.typmod < 0 || scale(self) > scale(there);
        }
        let digits = |column: &Self| if column.typmod < 0 { ALL } else { column.typmod.min(ALL) };
        let is_time = |column: &Self| [TIME, TIMETZ, TIMESTAMP, TIMESTAMPTZ].contains(&column.base_type_oid);
        is_time(self) && is_time(there) && digits(self) > digits(there) || both(INTERVAL) && self.typmod != there.typmod
    }

    /// Type identity and binary format are the same on all servers.
    pub fn is_builtin(&self) -> bool {
        const FIRST_NORMAL_OID: u32 = 16384;
        self.type_oid < FIRST_NORMAL_OID
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generated {
    Stored,
    /// PostgreSQL 18.
    Virtual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    Always,
    ByDefault,
}

/// What an application's user may want to link: every table that is not the system's, an extension's, ours,
/// or a partition of another.
pub async fn list_tables(client: &impl GenericClient) -> Result<Vec<QualifiedName>, Error> {
    const QUERY: &str = "
        SELECT n.nspname::text, c.relname::text
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
          AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgtandem') AND n.nspname !~ '^pg_(toast|temp_|toast_temp_)'
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass
                          AND d.objid = c.oid AND d.deptype = 'e')
        ORDER BY 1, 2";
    let rows = client.query(QUERY, &[]).await?;
    Ok(rows.iter().map(|row| QualifiedName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect())
}

/// The shapes of those tables that exist, in the order given. From here on they, and their columns, are known by the
/// names that are the same on all nodes.
pub async fn read_tables(client: &impl GenericClient, namings: &[Naming]) -> Result<Vec<TableShape>, Error> {
    const QUERY: &str = "
        SELECT wanted.place, c.oid AS relid, c.relkind::text AS kind,
               c.relpersistence::text AS persistence, pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
               coalesce((SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.oid = c.relowner), false)
                   AS owner_is_superuser,
               c.relispartition AS is_partition, c.relrowsecurity AS row_security,
               c.relforcerowsecurity AS row_security_forced,
               EXISTS (SELECT FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
                       WHERE (i.inhrelid = c.oid OR i.inhparent = c.oid) AND p.relkind <> 'p') AS inherits,
               ARRAY(SELECT a.attname::text FROM pg_catalog.pg_partitioned_table p
                     JOIN pg_catalog.pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = ANY (p.partattrs)
                     WHERE p.partrelid = c.oid) AS partitioned_by,
               c.relreplident::text AS replica_identity,
               (SELECT ic.relname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
                WHERE i.indrelid = c.oid AND i.indisreplident LIMIT 1) AS identity_index_name,
               c.reltuples::bigint AS estimated_rows, pg_catalog.pg_table_size(c.oid) AS bytes
        FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted (schema, name, place)
        JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.schema
        JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
        ORDER BY wanted.place";
    let schemas: Vec<&str> = namings.iter().map(|naming| naming.table.schema.own_str()).collect();
    let tables: Vec<&str> = namings.iter().map(|naming| naming.table.name.own_str()).collect();
    let rows = client.query(QUERY, &[&schemas, &tables]).await?;
    let naming = |row: &Row| usize::try_from(row.get::<_, i64>("place") - 1).ok().and_then(|at| namings.get(at));
    let mut shapes: Vec<TableShape> = rows.iter().filter_map(|row| Some(table(row, naming(row)?))).collect();
    let relids: Vec<u32> = shapes.iter().map(|shape| shape.relid).collect();

    let mut columns = read_columns(client, &relids).await?;
    let mut leaves = read_leaves(client, &relids).await?;
    let mut keys = constraints::read_primary_keys(client, &relids).await?;
    let mut unique_indexes = constraints::read_unique_indexes(client, &relids).await?;
    let mut triggers = constraints::read_triggers(client, &relids).await?;
    let mut foreign_keys = constraints::read_foreign_keys(client, &relids).await?;
    foreign_keys.iter_mut().for_each(|key| key.rename(&shapes));
    for shape in &mut shapes {
        let relid = shape.relid;
        shape.columns = columns.remove(&relid).unwrap_or_default();
        shape.columns.iter_mut().for_each(|column| column.name = shape.naming.column(column.name.own_str()));
        shape.leaves = leaves.remove(&relid).unwrap_or_default();
        shape.has_toast = shape.leaves.iter().any(|leaf| leaf.has_toast);
        (shape.primary_key, shape.deferrable_pk) = keys.remove(&relid).unwrap_or_default();
        shape.unique_indexes = unique_indexes.remove(&relid).unwrap_or_default();
        let indexed = shape.unique_indexes.iter_mut().flat_map(|index| index.columns.iter_mut().flatten());
        for name in shape.primary_key.iter_mut().chain(indexed) {
            *name = shape.naming.column(name.own_str());
        }
        shape.triggers = triggers.remove(&relid).unwrap_or_default();
        shape.foreign_keys_out = foreign_keys.iter().filter(|key| key.relid == relid).cloned().collect();
        shape.foreign_keys_in = foreign_keys.iter().filter(|key| key.referenced_relid == relid).cloned().collect();
    }
    Ok(shapes)
}

fn table(row: &Row, naming: &Naming) -> TableShape {
    let partitioned_by = row.get::<_, Vec<&str>>("partitioned_by");
    TableShape {
        relid: row.get("relid"),
        name: naming.table.clone(),
        kind: match letter(row, "kind") {
            'r' => TableKind::Ordinary,
            'p' => TableKind::Partitioned,
            other => TableKind::Other(other),
        },
        persistence: match letter(row, "persistence") {
            'u' => Persistence::Unlogged,
            't' => Persistence::Temporary,
            _ => Persistence::Permanent,
        },
        owner: row.get("owner"),
        owner_is_superuser: row.get("owner_is_superuser"),
        columns: Vec::new(),
        primary_key: Vec::new(),
        deferrable_pk: None,
        replica_identity: replica_identity(row),
        has_toast: false,
        leaves: Vec::new(),
        partitioned_by: partitioned_by.into_iter().map(|name| naming.column(name)).collect(),
        naming: naming.clone(),
        is_partition: row.get("is_partition"),
        inherits: row.get("inherits"),
        row_security: row.get("row_security"),
        row_security_forced: row.get("row_security_forced"),
        foreign_keys_out: Vec::new(),
        foreign_keys_in: Vec::new(),
        unique_indexes: Vec::new(),
        triggers: Vec::new(),
        estimated_rows: row.get("estimated_rows"),
        bytes: row.get("bytes"),
    }
}

fn replica_identity(row: &Row) -> ReplicaIdentity {
    match letter(row, "replica_identity") {
        'n' => ReplicaIdentity::Nothing,
        'f' => ReplicaIdentity::Full,
        // 'i' without an index: it has been dropped, and PostgreSQL acts as with NOTHING.
        'i' => row
            .get::<_, Option<String>>("identity_index_name")
            .map_or(ReplicaIdentity::Nothing, |name| ReplicaIdentity::Index(Ident::new(name))),
        _ => ReplicaIdentity::Default,
    }
}

async fn read_leaves(client: &impl GenericClient, relids: &[u32]) -> Result<HashMap<u32, Vec<Leaf>>, Error> {
    const QUERY: &str = "
        SELECT wanted.root, c.oid AS relid, n.nspname::text AS schema, c.relname::text AS name,
               c.relreplident::text AS replica_identity, c.reltoastrelid <> 0 AS has_toast,
               (SELECT pg_catalog.array_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
               IS DISTINCT FROM
               (SELECT pg_catalog.array_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = wanted.root AND a.attnum > 0 AND NOT a.attisdropped) AS is_reordered,
               (SELECT ic.relname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
                WHERE i.indrelid = c.oid AND i.indisreplident LIMIT 1) AS identity_index_name
        FROM pg_catalog.unnest($1::oid[]) AS wanted (root)
        CROSS JOIN LATERAL (SELECT wanted.root AS oid UNION
                            SELECT relid::oid FROM pg_catalog.pg_partition_tree(wanted.root) WHERE isleaf) AS leaf
        JOIN pg_catalog.pg_class c ON c.oid = leaf.oid AND c.relkind = 'r'
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        ORDER BY wanted.root, n.nspname, c.relname";
    let mut leaves: HashMap<u32, Vec<Leaf>> = HashMap::new();
    for row in client.query(QUERY, &[&relids]).await? {
        leaves.entry(row.get("root")).or_default().push(Leaf {
            relid: row.get("relid"),
            name: QualifiedName::new(row.get::<_, String>("schema"), row.get::<_, String>("name")),
            replica_identity: replica_identity(&row),
            has_toast: row.get("has_toast"),
            is_reordered: row.get("is_reordered"),
        });
    }
    Ok(leaves)
}

/// About how many rows each of these tables has, their partitions included; what was never analysed is judged by its size.
pub async fn estimate_rows(client: &impl GenericClient, relids: &[u32]) -> Result<HashMap<u32, i64>, Error> {
    const SMALLEST_ROW: i64 = 100;
    const QUERY: &str = "
        SELECT wanted.root,
               pg_catalog.sum(CASE WHEN c.reltuples > 0 THEN c.reltuples
                                   ELSE pg_catalog.pg_table_size(c.oid) / $2 END)::bigint
        FROM pg_catalog.unnest($1::oid[]) AS wanted (root)
        CROSS JOIN LATERAL (SELECT wanted.root AS oid UNION
                            SELECT relid::oid FROM pg_catalog.pg_partition_tree(wanted.root)) AS part
        JOIN pg_catalog.pg_class c ON c.oid = part.oid AND c.relkind <> 'p'
        GROUP BY wanted.root";
    let rows = client.query(QUERY, &[&relids, &SMALLEST_ROW]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn read_columns(client: &impl GenericClient, relids: &[u32]) -> Result<HashMap<u32, Vec<Column>>, Error> {
    const QUERY: &str = "
        SELECT a.attrelid AS relid, a.attname::text AS name, a.attnum,
               pg_catalog.format_type(a.atttypid, a.atttypmod) AS type_text,
               pg_catalog.format_type(a.atttypid, -1) AS cast_type,
               a.atttypid AS type_oid, base.oid AS base_type_oid, base.typcategory::text AS category,
               pg_catalog.format_type(base.oid, -1) AS base_type, coalesce(equal.operator, '=') AS equals,
               t.typtype::text AS type_kind, a.atttypmod AS typmod,
               a.attnotnull OR (t.typtype = 'd' AND t.typnotnull) AS not_null,
               a.atthasdef AND a.attgenerated = '' AS has_default,
               pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS default_sql,
               a.attgenerated::text AS generated, a.attidentity::text AS identity,
               coalesce(co.collisdeterministic, true) AS deterministic,
               coalesce(co.collprovider = 'c' AND co.collcollate IN ('C', 'POSIX')
                        OR co.collprovider = 'd' AND default_collation.by_bytes, false) AS sorts_by_bytes
        FROM pg_catalog.pg_attribute a
        JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        CROSS JOIN LATERAL (
            WITH RECURSIVE below (oid, typtype, typbasetype) AS (
                SELECT t.oid, t.typtype, t.typbasetype
                UNION ALL
                SELECT b.oid, b.typtype, b.typbasetype FROM below
                JOIN pg_catalog.pg_type b ON b.oid = below.typbasetype AND below.typtype = 'd')
            SELECT below.oid, pt.typcategory FROM below JOIN pg_catalog.pg_type pt ON pt.oid = below.oid
            WHERE below.typtype <> 'd') AS base
        -- Of types that are not PostgreSQL's own: their operators are in schemas that are not searched.
        LEFT JOIN LATERAL (
            SELECT pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname) AS operator
            FROM pg_catalog.pg_opclass oc
            JOIN pg_catalog.pg_am am ON am.oid = oc.opcmethod AND am.amname = 'btree'
            JOIN pg_catalog.pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3
                AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
            JOIN pg_catalog.pg_operator o ON o.oid = ao.amopopr
            JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
            WHERE oc.opcdefault AND oc.opcintype = base.oid LIMIT 1) AS equal ON true
        LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation
        CROSS JOIN (
            -- The provider can be another than libc from PostgreSQL 15 on.
            SELECT d.datcollate IN ('C', 'POSIX')
                   AND coalesce(pg_catalog.to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' AS by_bytes
            FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) AS default_collation
        WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attrelid, a.attnum";
    let mut columns: HashMap<u32, Vec<Column>> = HashMap::new();
    for row in client.query(QUERY, &[&relids]).await? {
        columns.entry(row.get("relid")).or_default().push(column(&row));
    }
    Ok(columns)
}

fn column(row: &Row) -> Column {
    Column {
        name: Ident::new(row.get::<_, String>("name")),
        attnum: row.get("attnum"),
        type_text: row.get("type_text"),
        cast_type: row.get("cast_type"),
        type_oid: row.get("type_oid"),
        base_type_oid: row.get("base_type_oid"),
        base_type: row.get("base_type"),
        equals: row.get("equals"),
        category: letter(row, "category"),
        type_kind: letter(row, "type_kind"),
        typmod: row.get("typmod"),
        not_null: row.get("not_null"),
        has_default: row.get("has_default"),
        default_sql: row.get("default_sql"),
        generated: match letter(row, "generated") {
            's' => Some(Generated::Stored),
            'v' => Some(Generated::Virtual),
            _ => None,
        },
        identity: match letter(row, "identity") {
            'a' => Some(Identity::Always),
            'd' => Some(Identity::ByDefault),
            _ => None,
        },
        deterministic: row.get("deterministic"),
        sorts_by_bytes: row.get("sorts_by_bytes"),
    }
}

/// A column of PostgreSQL's internal type `"char"`, read as text; a blank stands for none.
pub(super) fn letter(row: &Row, column: &str) -> char {
    row.get::<_, &str>(column).chars().next().unwrap_or(' ')
}
