//! Reading whole tables out and in.

use std::fmt::Write as _;

use super::{Ident, Literal, QualifiedName, WrittenColumn, list};

/// Reads a table's rows out. `whole`: it is no partitioned one, so that the shorter way may be taken.
pub fn copy_out(table: &QualifiedName, columns: &[Ident], whole: bool, binary: bool) -> String {
    let (columns, format) = (list(columns), format_option(binary));
    match whole {
        true => format!("COPY {table} ({columns}) TO STDOUT{format}"),
        false => format!("COPY (SELECT {columns} FROM {table}) TO STDOUT{format}"),
    }
}

/// Reads rows out whose keys are one integer: a bit for each key from `first` on, the lowest one of a byte first.
pub fn copy_integers_out(
    table: &QualifiedName,
    columns: &[Ident],
    (key, first, wanted): (&Ident, i64, &[u8]),
    binary: bool,
) -> String {
    let last = first.saturating_add(i64::try_from(wanted.len() * 8).unwrap_or(i64::MAX) - 1);
    let mut bits = String::with_capacity(wanted.len() * 2);
    for byte in wanted {
        let _ = write!(bits, "{byte:02x}");
    }
    let within = format!("t.{key} >= ({first}) AND t.{key} <= ({last})");
    // The one condition is for the index; the other keeps the bits from being asked about other keys, in whatever order
    // conditions are tried.
    format!(
        "COPY (SELECT {} FROM {table} AS t WHERE {within} AND CASE WHEN {within} THEN \
         pg_catalog.get_bit('\\x{bits}'::pg_catalog.bytea, (t.{key} - ({first}))::pg_catalog.int4) = 1 ELSE false END) \
         TO STDOUT{}",
        list(columns.iter().map(|column| format!("t.{column}"))),
        format_option(binary)
    )
}

/// Reads rows out that have these keys: texts, column by column.
pub fn copy_keys_out(
    table: &QualifiedName,
    columns: &[Ident],
    key: &[WrittenColumn],
    texts: &[Vec<&str>],
    binary: bool,
) -> String {
    let arrays = list(texts.iter().map(|texts| format!("{}::pg_catalog.text[]", Literal(&array_literal(texts)))));
    let names = list((0..key.len()).map(|at| format!("c{at}")));
    let equal =
        key.iter().enumerate().map(|(at, column)| format!("t.{} {} {}", column.name, column.equals, column.value(at)));
    format!(
        "COPY (SELECT {} FROM unnest({arrays}) AS v({names}) JOIN {table} AS t ON {}) TO STDOUT{}",
        list(columns.iter().map(|column| format!("t.{column}"))),
        equal.collect::<Vec<_>>().join(" AND "),
        format_option(binary)
    )
}

/// How an array of texts is spelled.
fn array_literal(texts: &[&str]) -> String {
    let mut literal = String::with_capacity(texts.iter().map(|text| text.len() + 3).sum::<usize>() + 2);
    literal.push('{');
    for (at, text) in texts.iter().enumerate() {
        literal.push_str(if at == 0 { "\"" } else { ",\"" });
        for character in text.chars() {
            if matches!(character, '"' | '\\') {
                literal.push('\\');
            }
            literal.push(character);
        }
        literal.push('"');
    }
    literal.push('}');
    literal
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
    let names = list(columns.iter().map(|column| Literal(column.as_str()).to_string()));
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
