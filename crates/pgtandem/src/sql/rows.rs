//! The set-wise statements of a delivery. Values arrive as one `text[]` per column and are cast on the server, so that
//! one path serves every type of every version; rows meet by key, columns by name.

use std::fmt::Write as _;

use super::{Ident, QualifiedName, list};

/// A column as a delivery writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenColumn {
    pub name: Ident,
    /// The type without its modifier. With a modifier an explicit cast would silently cut a value off; without one the
    /// assignment to the column checks it.
    pub cast_type: String,
    pub is_key: bool,
    /// The operator by which the type's values are equal.
    pub equals: String,
    /// GENERATED ALWAYS AS IDENTITY: a row can be inserted with a value of ours, but no UPDATE may set it.
    pub is_fixed: bool,
}

impl WrittenColumn {
    /// The value with number `at` as the column's type.
    pub(super) fn value(&self, at: usize) -> String {
        match self.cast_type.as_str() {
            // The cast from text takes names only; the type's own input also takes `-` and numbers, which it writes.
            "regclass" => format!("pg_catalog.regclassin(pg_catalog.textout(v.c{at}))"),
            cast_type => format!("v.c{at}::{cast_type}"),
        }
    }
}

pub(super) fn values(columns: &[WrittenColumn]) -> String {
    list(columns.iter().enumerate().map(|(at, column)| column.value(at)))
}

pub(super) fn arrays(columns: &[WrittenColumn]) -> String {
    let parameters = list((1..=columns.len()).map(|i| format!("${i}::text[]")));
    let names = list((0..columns.len()).map(|i| format!("c{i}")));
    format!("unnest({parameters}) AS v({names})")
}

/// Fails where a text is no value of its column's type.
#[must_use]
pub fn probe_values(columns: &[WrittenColumn]) -> String {
    format!("SELECT {} FROM {}", values(columns), arrays(columns))
}

/// Writes each row, whether its key is there or not.
///
/// `rewrite_keys`: the key's type calls differently spelled values equal (citext, numeric), so a found row's key may
/// have to be respelled. A found row whose identity differs cannot be written and is left as it is.
#[must_use]
pub fn upsert(table: &QualifiedName, columns: &[WrittenColumn], rewrite_keys: bool) -> String {
    let names = list(columns.iter().map(|column| &column.name));
    let key = list(columns.iter().filter(|column| column.is_key).map(|column| &column.name));
    let fixed: Vec<_> = columns.iter().filter(|column| column.is_fixed && !column.is_key).collect();
    let rewrite_keys = rewrite_keys || !fixed.is_empty();
    let assigned = columns.iter().filter(|column| (rewrite_keys || !column.is_key) && !column.is_fixed);
    let assigned: Vec<_> = assigned.map(|column| format!("{0} = excluded.{0}", column.name)).collect();
    let mut text = format!("INSERT INTO {table} AS t ({names}) OVERRIDING SYSTEM VALUE SELECT {}", values(columns));
    let _ = write!(text, " FROM {} ON CONFLICT ({key}) DO ", arrays(columns));
    if assigned.is_empty() {
        text.push_str("NOTHING");
    } else {
        let _ = write!(text, "UPDATE SET {}", assigned.join(", "));
    }
    for column in fixed {
        let _ = write!(text, " WHERE t.{0} IS NOT DISTINCT FROM excluded.{0}", column.name);
    }
    text
}

/// What [`counted_upsert`] raises when a row was left out. A code of our own.
pub const NOT_WRITTEN: &str = "PT002";

/// As [`upsert`], but fails unless every row was written: for tables where something may leave rows out silently.
#[must_use]
pub fn counted_upsert(table: &QualifiedName, columns: &[WrittenColumn], rewrite_keys: bool) -> String {
    let upsert = upsert(table, columns, rewrite_keys);
    if upsert.ends_with("NOTHING") {
        return upsert;
    }
    let refuse = refuse(NOT_WRITTEN, "a trigger on the table keeps the row from being written");
    format!(
        "WITH written AS ({upsert} RETURNING 1) SELECT {refuse} FROM (SELECT pg_catalog.count(*) AS n FROM written) AS w \
         WHERE w.n <> pg_catalog.cardinality($1)"
    )
}

/// Writes rows whose keys are there, and fails unless all of them are. Shorter than [`upsert`] on the server: no row is
/// looked for twice or locked before it is written.
#[must_use]
pub fn counted_update(table: &QualifiedName, columns: &[WrittenColumn]) -> String {
    let assigned = columns.iter().enumerate().filter(|(_, column)| !column.is_key);
    let assigned = list(assigned.map(|(at, column)| format!("{} = {}", column.name, column.value(at))));
    let refuse = refuse(NOT_WRITTEN, "a row that was to be updated is not there");
    format!(
        "WITH written AS (UPDATE {table} AS t SET {assigned} FROM {} WHERE {} RETURNING 1) \
         SELECT {refuse} FROM (SELECT pg_catalog.count(*) AS n FROM written) AS w WHERE w.n <> pg_catalog.cardinality($1)",
        arrays(columns),
        matching(columns)
    )
}

/// Fails when one of the keys is still there.
#[must_use]
pub fn refuse_present(table: &QualifiedName, key: &[WrittenColumn]) -> String {
    let refuse = refuse(NOT_WRITTEN, "a trigger on the table keeps the row from being deleted");
    format!("SELECT {refuse} WHERE EXISTS (SELECT FROM {table} AS t JOIN {} ON {})", arrays(key), matching(key))
}

/// Fails when one of the rows has values of `unique` that another row has, too. For constraints that are deferrable:
/// PostgreSQL checks them by a trigger, which does not fire in a session that replicates.
#[must_use]
pub fn refuse_duplicates(
    table: &QualifiedName,
    key: &[WrittenColumn],
    constraint: &Ident,
    unique: &[(Ident, String)],
) -> String {
    let message = format!("duplicate key value violates unique constraint {constraint}");
    let same =
        unique.iter().map(|(name, equals)| format!("o.{name} {equals} t.{name}")).collect::<Vec<_>>().join(" AND ");
    format!(
        "SELECT {} WHERE EXISTS (SELECT FROM {} JOIN {table} AS t ON {} JOIN {table} AS o ON {same} \
         WHERE (o.tableoid, o.ctid) <> (t.tableoid, t.ctid))",
        refuse("23505", &message),
        arrays(key),
        matching(key)
    )
}

/// What every statement that writes rows does first.
#[must_use]
pub fn lock_for_writing(table: &QualifiedName) -> String {
    format!("LOCK TABLE {table} IN ROW EXCLUSIVE MODE")
}

/// Locks rows, so that nobody can refer to them any more who does not already.
#[must_use]
pub fn lock_rows(table: &QualifiedName, key: &[WrittenColumn]) -> String {
    format!("SELECT FROM {table} AS t JOIN {} ON {} FOR UPDATE OF t", arrays(key), matching(key))
}

/// Fails when rows of `child` refer to one of the rows: the child's column, the column it refers to,
/// the operator by which they are equal.
#[must_use]
pub fn refuse_referenced(
    table: &QualifiedName,
    key: &[WrittenColumn],
    child: &QualifiedName,
    columns: &[(Ident, Ident, String)],
) -> String {
    let message = format!("rows of {child} that were not deleted with it still refer to it");
    let refers =
        columns.iter().map(|(from, to, equals)| format!("c.{from} {equals} t.{to}")).collect::<Vec<_>>().join(" AND ");
    format!(
        "SELECT {} WHERE EXISTS (SELECT FROM {} JOIN {table} AS t ON {} JOIN {child} AS c ON {refers})",
        refuse("23503", &message),
        arrays(key),
        matching(key)
    )
}

/// Gives rows a new key where it is free: the old key's values come first, then the new one's. So columns that only
/// this node has stay with the row, and so do rows that refer to it.
#[must_use]
pub fn move_rows(table: &QualifiedName, key: &[WrittenColumn]) -> String {
    let both: Vec<_> = key.iter().chain(key).cloned().collect();
    let width = key.len();
    let assigned = list(key.iter().enumerate().map(|(i, c)| format!("{} = {}", c.name, c.value(width + i))));
    let taken: Vec<_> =
        key.iter().enumerate().map(|(i, c)| format!("o.{} {} {}", c.name, c.equals, c.value(width + i))).collect();
    format!(
        "UPDATE {table} AS t SET {assigned} FROM {} WHERE {} AND NOT EXISTS (SELECT FROM {table} AS o WHERE {})",
        arrays(&both),
        matching(key),
        taken.join(" AND ")
    )
}

/// As [`move_rows`] where no UPDATE may set the key: the row is copied; the one under the old key is still there.
#[must_use]
pub fn copy_rows(table: &QualifiedName, key: &[WrittenColumn], columns: &[Ident]) -> String {
    let both: Vec<_> = key.iter().chain(key).cloned().collect();
    let width = key.len();
    let values = columns.iter().map(|name| match key.iter().position(|of_key| of_key.name == *name) {
        Some(at) => key[at].value(width + at),
        None => format!("t.{name}"),
    });
    format!(
        "INSERT INTO {table} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {table} AS t JOIN {} ON {} \
         ON CONFLICT DO NOTHING",
        list(columns),
        list(values),
        arrays(&both),
        matching(key)
    )
}

/// One row's values as texts; parameters are the key's texts.
#[must_use]
pub fn select_values(table: &QualifiedName, key: &[WrittenColumn], columns: &[Ident]) -> String {
    let columns = list(columns.iter().map(|name| format!("t.{name}::text")));
    let parameters = list((0..key.len()).map(|i| format!("${}::text AS c{i}", i + 1)));
    format!("SELECT {columns} FROM {table} AS t, (SELECT {parameters}) AS v WHERE {}", matching(key))
}

fn refuse(sqlstate: &str, message: &str) -> String {
    format!("pgtandem.refuse({}, {})", super::Literal(sqlstate), super::Literal(message))
}

/// Deletes rows by key; `key` are the key columns in key order.
#[must_use]
pub fn delete(table: &QualifiedName, key: &[WrittenColumn]) -> String {
    format!("DELETE FROM {table} AS t USING {} WHERE {}", arrays(key), matching(key))
}

/// As [`delete`], answering with the number (from 1) of each key that was found.
#[must_use]
pub fn delete_found(table: &QualifiedName, key: &[WrittenColumn]) -> String {
    let parameters = list((1..=key.len()).map(|i| format!("${i}::text[]")));
    let names = list((0..key.len()).map(|i| format!("c{i}")));
    let keys = format!("unnest({parameters}) WITH ORDINALITY AS v({names}, number)");
    format!("DELETE FROM {table} AS t USING {keys} WHERE {} RETURNING v.number", matching(key))
}

/// As [`delete`], keeping what was deleted in a temporary table made for it.
#[must_use]
pub fn stash(table: &QualifiedName, key: &[WrittenColumn], stash: &Ident) -> [String; 2] {
    [
        format!("CREATE TEMPORARY TABLE {stash} ON COMMIT DROP AS SELECT t.* FROM {table} AS t WITH NO DATA"),
        format!("WITH gone AS ({} RETURNING t.*) INSERT INTO pg_temp.{stash} SELECT * FROM gone", delete(table, key)),
    ]
}

/// Puts the columns that a delivery does not carry (those only this node has: `own`) of each stashed row back.
#[must_use]
pub fn unstash(table: &QualifiedName, key: &[WrittenColumn], own: &[Ident], stash: &Ident) -> String {
    let assigned = list(own.iter().map(|name| format!("{name} = s.{name}")));
    let joined: Vec<_> = key.iter().map(|column| format!("t.{0} {1} s.{0}", column.name, column.equals)).collect();
    format!("UPDATE {table} AS t SET {assigned} FROM pg_temp.{stash} AS s WHERE {}", joined.join(" AND "))
}

#[must_use]
pub fn truncate<'a>(tables: impl IntoIterator<Item = &'a QualifiedName>) -> String {
    format!("TRUNCATE {}", list(tables))
}

/// Deletes every row: what is left where TRUNCATE is refused because an unlinked table refers to this one.
#[must_use]
pub fn delete_all(table: &QualifiedName) -> String {
    format!("DELETE FROM {table}")
}

pub(super) fn matching(columns: &[WrittenColumn]) -> String {
    let keys = columns.iter().enumerate().filter(|(_, column)| column.is_key);
    let equal =
        |(at, column): (usize, &WrittenColumn)| format!("t.{} {} {}", column.name, column.equals, column.value(at));
    keys.map(equal).collect::<Vec<_>>().join(" AND ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<WrittenColumn> {
        let column = |name: &str, cast_type: &str, is_key| WrittenColumn {
            name: name.into(),
            cast_type: cast_type.into(),
            is_key,
            equals: "=".into(),
            is_fixed: false,
        };
        vec![column("id", "bigint", true), column("na\"me", "text", false)]
    }

    #[test]
    fn statements_quote_names_and_cast_values() {
        let table = QualifiedName::new("public", "products");
        assert_eq!(
            upsert(&table, &columns(), false),
            "INSERT INTO \"public\".\"products\" AS t (\"id\", \"na\"\"me\") OVERRIDING SYSTEM VALUE \
             SELECT v.c0::bigint, v.c1::text FROM unnest($1::text[], $2::text[]) AS v(c0, c1) \
             ON CONFLICT (\"id\") DO UPDATE SET \"na\"\"me\" = excluded.\"na\"\"me\""
        );
        assert!(upsert(&table, &columns()[..1], false).ends_with("DO NOTHING"));
        assert_eq!(
            delete(&table, &columns()[..1]),
            "DELETE FROM \"public\".\"products\" AS t USING unnest($1::text[]) AS v(c0) WHERE t.\"id\" = v.c0::bigint"
        );
    }
}
