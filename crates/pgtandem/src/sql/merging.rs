//! Making two filled tables one.

use super::rows::{WrittenColumn, arrays, matching};
use super::{Ident, QualifiedName, ROW_VERSION, list};

/// Which node's value is the largest, as `order` sees it: NULL is less than any, and of equal ones the first is taken.
/// Parameters: one `text[]` per node, then one `boolean[]` per node: whether it has the row.
pub fn newest(order: &str, nodes: usize) -> String {
    let values = list((1..=nodes).map(|i| format!("${i}::text[]")));
    let present = list((nodes + 1..=2 * nodes).map(|i| format!("${i}::boolean[]")));
    let names = list((0..nodes).map(|i| format!("c{i}")).chain((0..nodes).map(|i| format!("p{i}"))));
    let rows = list((0..nodes).map(|i| format!("({i}, v.c{i}::{order}, v.p{i})")));
    format!(
        "SELECT w.node FROM unnest({values}, {present}) WITH ORDINALITY AS v({names}, place), \
         LATERAL (SELECT x.node FROM (VALUES {rows}) AS x(node, value, present) WHERE x.present \
                  ORDER BY x.value DESC NULLS LAST, x.node LIMIT 1) AS w ORDER BY v.place"
    )
}

/// Writes over rows that are still the very versions that were read (the last parameter). One whose identity differs
/// cannot be written and is left as it is.
pub fn overwrite(table: &QualifiedName, columns: &[WrittenColumn]) -> String {
    let mut all = columns.to_vec();
    let version = WrittenColumn {
        name: Ident::new("version"),
        cast_type: "text".to_owned(),
        is_key: false,
        equals: "=".to_owned(),
        is_fixed: false,
    };
    all.push(version);
    let places = || columns.iter().enumerate().filter(|(_, column)| !column.is_key);
    let assigned = places().filter(|(_, column)| !column.is_fixed);
    let assigned = list(assigned.map(|(at, column)| format!("{} = {}", column.name, column.value(at))));
    let fixed = places().filter(|(_, column)| column.is_fixed);
    let fixed: String =
        fixed.map(|(at, column)| format!(" AND t.{} IS NOT DISTINCT FROM {}", column.name, column.value(at))).collect();
    format!(
        "UPDATE {table} AS t SET {assigned} FROM {} WHERE {} AND {ROW_VERSION} = v.c{}{fixed}",
        arrays(&all),
        matching(columns),
        columns.len()
    )
}

/// Writes rows as they are, so that capture reads them once more: those that are still the very versions that were read
/// (the last parameter). Answers with their places in the arrays. `column`: one that an UPDATE may set.
pub fn touch(table: &QualifiedName, key: &[WrittenColumn], column: &Ident) -> String {
    format!(
        "UPDATE {table} AS t SET {column} = t.{column} FROM {} WHERE {} AND {ROW_VERSION} = v.version RETURNING v.place",
        versions(key),
        matching(key)
    )
}

/// As [`touch`], but deletes them.
pub fn remove(table: &QualifiedName, key: &[WrittenColumn]) -> String {
    format!(
        "DELETE FROM {table} AS t USING {} WHERE {} AND {ROW_VERSION} = v.version RETURNING v.place",
        versions(key),
        matching(key)
    )
}

fn versions(key: &[WrittenColumn]) -> String {
    let parameters = list((1..=key.len() + 1).map(|i| format!("${i}::text[]")));
    let names = list((0..key.len()).map(|i| format!("c{i}")));
    format!("unnest({parameters}) WITH ORDINALITY AS v({names}, version, place)")
}
