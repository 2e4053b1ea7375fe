//! What looks as if ids of a table stood there, though no foreign key says so: by name, by type, and by a look at the
//! rows where names alone do not tell.

use crate::catalog::{PlainColumn, TableShape};
use crate::config::Reference;
use crate::lifecycle::error::On;
use crate::lifecycle::{LifecycleError, OpenNode};
use crate::sql;

const DOING: &str = "looking for what may refer to a table";
/// Different values of a column that names classes; there are rarely more than ten.
const MOST_CLASSES: usize = 1000;
/// Rows of a table in whose jsonb columns keys are looked for.
const MOST_DOCUMENTS: usize = 10_000;

/// What none of `known` says anything of. `called`: the table's names.
pub(super) async fn candidates(
    node: &OpenNode,
    shape: &TableShape,
    called: &[&str],
    columns: &[PlainColumn],
    known: &[&Reference],
) -> Result<Vec<Reference>, LifecycleError> {
    let names = Names::of(called, shape);
    let is_known = |candidate: &Reference| {
        let is_key = candidate.table == shape.name && shape.is_key(&candidate.column);
        is_key || known.iter().any(|known| known.covers(candidate))
    };
    let mut found = Vec::new();
    for column in columns {
        if column.is_jsonb {
            found.extend(inside(node, column, &names).await?);
        } else if names.is_reference(column, shape) && fits(column, shape) {
            found.push(plain(column));
        } else if let Some(classes) = class_column(column, columns) {
            found.extend(of_class(node, column, classes, &names).await?);
        }
    }
    found.retain(|candidate| !is_known(candidate));
    Ok(found)
}

fn plain(column: &PlainColumn) -> Reference {
    Reference { table: column.table.clone(), column: column.name.clone(), path: Vec::new(), conditions: Vec::new() }
}

/// Numbers may be kept as texts.
fn fits(column: &PlainColumn, shape: &TableShape) -> bool {
    let key = shape.column(&shape.primary_key[0]);
    column.category == 'S' || key.is_some_and(|key| key.category == column.category)
}

/// The column that says of what kind the thing is whose id stands in this one, as Rails has it: `notable_type` beside
/// `notable_id`.
fn class_column<'a>(column: &PlainColumn, columns: &'a [PlainColumn]) -> Option<&'a PlainColumn> {
    let kind = format!("{}_type", column.name.as_str().strip_suffix("_id")?);
    columns.iter().find(|other| {
        other.table == column.table && other.name.as_str() == kind && other.category == 'S' && !other.is_jsonb
    })
}

async fn of_class(
    node: &OpenNode,
    column: &PlainColumn,
    classes: &PlainColumn,
    names: &Names,
) -> Result<Vec<Reference>, LifecycleError> {
    if !column.writable {
        return Ok(Vec::new());
    }
    let query = sql::some_values(&column.table, &classes.name, MOST_CLASSES);
    let values = node.client().query(&query, &[]).await.on(&node.name, DOING)?;
    let mut values: Vec<String> =
        values.iter().map(|row| row.get(0)).filter(|class: &String| names.is_class(class)).collect();
    values.sort();
    let conditions = values.into_iter().map(|class| vec![(classes.name.clone(), class)]);
    Ok(conditions.map(|conditions| Reference { conditions, ..plain(column) }).collect())
}

async fn inside(node: &OpenNode, column: &PlainColumn, names: &Names) -> Result<Vec<Reference>, LifecycleError> {
    if !column.writable {
        return Ok(Vec::new());
    }
    let query = sql::keys_inside(&column.table, &column.name, MOST_DOCUMENTS);
    let keys = node.client().query(&query, &[&names.keys()]).await.on(&node.name, DOING)?;
    Ok(keys.iter().map(|row| Reference { path: vec![row.get(0)], ..plain(column) }).collect())
}

/// What the table's rows may be called where they are referred to.
struct Names {
    /// `product`, and `products` itself.
    words: Vec<String>,
    /// The key's own name, if it is more than `id`.
    key: Option<String>,
}

impl Names {
    fn of(called: &[&str], shape: &TableShape) -> Self {
        let tables = called.iter().map(|name| name.to_lowercase());
        let mut words: Vec<String> = tables.flat_map(|table| [singular(&table), table]).collect();
        let mut seen = std::collections::HashSet::new();
        words.retain(|word| seen.insert(word.clone()));
        let key = shape.primary_key[0].as_str().to_lowercase();
        Self { words, key: (key != "id").then_some(key) }
    }

    fn is_reference(&self, column: &PlainColumn, shape: &TableShape) -> bool {
        let name = column.name.as_str().to_lowercase();
        let is_own = column.table == shape.name && name == "parent_id";
        let of_word = |word: &String| {
            name == format!("{word}_id") || name == format!("{word}id") || name.ends_with(&format!("_{word}_id"))
        };
        let of_key = |key: &String| name == *key || name.ends_with(&format!("_{key}"));
        is_own || self.words.iter().any(of_word) || self.key.as_ref().is_some_and(of_key)
    }

    /// `Product`, `Shop::Product`, `App\Models\Product`, `products`.
    fn is_class(&self, class: &str) -> bool {
        let last = class.rsplit([':', '\\', '.', '/']).next().unwrap_or(class);
        let bare = |text: &str| text.to_lowercase().replace('_', "");
        self.words.iter().any(|word| bare(word) == bare(last))
    }

    fn keys(&self) -> Vec<String> {
        let of_word = |word: &String| [format!("{word}_id"), camel(&format!("{word}_id"))];
        let mut keys: Vec<String> = self.words.iter().flat_map(of_word).chain(self.key.clone()).collect();
        keys.dedup();
        keys
    }
}

/// `order_line_id` as JavaScript writes it.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut text, word| {
        let mut chars = word.chars();
        text.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        text.push_str(chars.as_str());
        text
    })
}

/// Of English words, mostly.
fn singular(word: &str) -> String {
    const ODD: [(&str, &str); 4] = [("people", "person"), ("children", "child"), ("men", "man"), ("mice", "mouse")];
    if let Some((plural, one)) = ODD.iter().find(|(plural, _)| word.ends_with(plural)) {
        return format!("{}{one}", word.strip_suffix(plural).unwrap_or_default());
    }
    if let Some(stem) = word.strip_suffix("ies") {
        return format!("{stem}y");
    }
    let hissing = ["sses", "shes", "ches", "xes", "zes"].iter().any(|end| word.ends_with(end));
    let cut = if hissing { 2 } else { usize::from(word.ends_with('s') && !word.ends_with("ss")) };
    word[..word.len() - cut].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_known_by_what_one_row_is_called() {
        for (table, one) in [
            ("products", "product"),
            ("categories", "category"),
            ("addresses", "address"),
            ("boxes", "box"),
            ("order_lines", "order_line"),
            ("people", "person"),
            ("access", "access"),
        ] {
            assert_eq!(singular(table), one);
        }
        assert_eq!(camel("order_line_id"), "orderLineId");
        let names = Names { words: vec!["order_line".to_owned(), "order_lines".to_owned()], key: None };
        assert!(
            ["OrderLine", "Shop::OrderLine", "App\\Models\\OrderLine", "order_lines"].iter().all(|c| names.is_class(c))
        );
        assert!(!names.is_class("Order"));
    }
}
