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
}

fn values(columns: &[WrittenColumn]) -> String {
    list(columns.iter().enumerate().map(|(i, column)| format!("v.c{i}::{}", column.cast_type)))
}

fn arrays(columns: &[WrittenColumn]) -> String {
    let parameters = list((1..=columns.len()).map(|i| format!("${i}::text[]")));
    let names = list((0..columns.len()).map(|i| format!("c{i}")));
    format!("unnest({parameters}) AS v({names})")
}

/// Writes each row, whether its key is there or not.
///
/// `rewrite_keys`: the key's type calls differently spelled values equal (citext, numeric), so a found row's key may
/// have to be respelled.
#[must_use]
pub fn upsert(table: &QualifiedName, columns: &[WrittenColumn], rewrite_keys: bool) -> String {
    let names = list(columns.iter().map(|column| &column.name));
    let key = list(columns.iter().filter(|column| column.is_key).map(|column| &column.name));
    let assigned: Vec<_> = columns.iter().filter(|column| rewrite_keys || !column.is_key).collect();
    let mut text = format!("INSERT INTO {table} AS t ({names}) OVERRIDING SYSTEM VALUE SELECT {}", values(columns));
    let _ = write!(text, " FROM {} ON CONFLICT ({key}) DO ", arrays(columns));
    if assigned.is_empty() {
        text.push_str("NOTHING");
    } else {
        let _ =
            write!(text, "UPDATE SET {}", list(assigned.iter().map(|c| format!("{} = excluded.{}", c.name, c.name))));
    }
    text
}

/// Writes the given columns of rows that are there; says how many were.
#[must_use]
pub fn update(table: &QualifiedName, columns: &[WrittenColumn]) -> String {
    let assigned = columns.iter().enumerate().filter(|(_, column)| !column.is_key);
    let assigned = list(assigned.map(|(i, column)| format!("{} = v.c{i}::{}", column.name, column.cast_type)));
    let mut text = format!("UPDATE {table} AS t SET {assigned} FROM {} WHERE ", arrays(columns));
    text.push_str(&matching(columns));
    text
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
    let joined: Vec<_> = key.iter().map(|column| format!("t.{0} = s.{0}", column.name)).collect();
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

fn matching(columns: &[WrittenColumn]) -> String {
    let keys = columns.iter().enumerate().filter(|(_, column)| column.is_key);
    let keys: Vec<_> = keys.map(|(i, column)| format!("t.{} = v.c{i}::{}", column.name, column.cast_type)).collect();
    keys.join(" AND ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<WrittenColumn> {
        let column = |name: &str, cast_type: &str, is_key| WrittenColumn {
            name: name.into(),
            cast_type: cast_type.into(),
            is_key,
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
