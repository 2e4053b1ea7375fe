//! Reading whole tables out and in.

use super::{Ident, QualifiedName, list};

/// Reads a table's rows out. `whole`: it is no partitioned one, so that the shorter way may be taken.
pub fn copy_out(table: &QualifiedName, columns: &[Ident], whole: bool, binary: bool) -> String {
    let (columns, format) = (list(columns), format_option(binary));
    match whole {
        true => format!("COPY {table} ({columns}) TO STDOUT{format}"),
        false => format!("COPY (SELECT {columns} FROM {table}) TO STDOUT{format}"),
    }
}

pub fn copy_in(table: &QualifiedName, columns: &[Ident], binary: bool) -> String {
    format!("COPY {table} ({}) FROM STDIN{}", list(columns), format_option(binary))
}

fn format_option(binary: bool) -> &'static str {
    if binary { " (FORMAT binary)" } else { "" }
}

/// Where rows wait that cannot be copied straight in.
pub fn copy_table() -> QualifiedName {
    QualifiedName::new("pg_temp", "pgtandem_copy")
}

pub fn create_copy_table(like: &QualifiedName, columns: &[Ident]) -> String {
    format!(
        "CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {} FROM {like} WITH NO DATA",
        copy_table().name,
        list(columns)
    )
}

/// Moves over what does not clash; the rest stays.
pub fn insert_from_copy_table(table: &QualifiedName, columns: &[Ident], key: &[Ident]) -> String {
    let (columns, key, copy) = (list(columns), list(key), copy_table());
    format!(
        "WITH moved AS (INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {copy} \
                        ON CONFLICT DO NOTHING RETURNING {key}) \
         DELETE FROM {copy} WHERE ({key}) IN (SELECT {key} FROM moved)"
    )
}

/// The key's texts, and the row as JSON of texts.
pub fn rest_of_copy_table(key: &[Ident], columns: &[Ident]) -> String {
    let names = list(columns.iter().map(|column| super::Literal(column.as_str()).to_string()));
    format!(
        "SELECT ARRAY[{}], pg_catalog.jsonb_object(ARRAY[{names}], ARRAY[{}]) FROM {}",
        texts(key),
        texts(columns),
        copy_table()
    )
}

fn texts(columns: &[Ident]) -> String {
    list(columns.iter().map(|column| format!("{column}::pg_catalog.text")))
}

pub fn holds_rows(table: &QualifiedName) -> String {
    format!("SELECT EXISTS (SELECT FROM {table})")
}
