//! Whether both sides hold the same rows: all of them are read and compared, column by column.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::error::DemoError;
use crate::cluster::Session;

const SHOWN: usize = 5;
const ROWS: &str = "SELECT id, to_jsonb(p) FROM products AS p ORDER BY id";

/// Both sides hold these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Equal {
    pub rows: usize,
}

pub(super) fn compare(sides: &[(&str, Session)]) -> Result<Equal, DemoError> {
    let mut texts = Vec::new();
    for (name, session) in sides {
        texts.push((*name, session.run(ROWS)?));
    }
    match difference(&texts) {
        None => Ok(Equal { rows: texts[0].1.lines().count() }),
        Some(difference) => Err(difference),
    }
}

fn difference(sides: &[(&str, String)]) -> Option<DemoError> {
    let mut rows: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (at, (_, text)) in sides.iter().enumerate() {
        for line in text.lines() {
            let (id, row) = line.split_once('|').unwrap_or((line, ""));
            rows.entry(id).or_insert_with(|| vec!["nothing"; sides.len()])[at] = row;
        }
    }
    rows.retain(|_, versions| versions.iter().any(|version| version != &versions[0]));
    if rows.is_empty() {
        return None;
    }
    let mut examples = String::new();
    for (id, versions) in rows.iter().take(SHOWN) {
        let _ = writeln!(examples, "  id {id}");
        for ((name, _), version) in sides.iter().zip(versions) {
            let _ = writeln!(examples, "    {name}: {version}");
        }
    }
    Some(DemoError::Differ { rows: rows.len(), examples })
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn every_kind_of_difference_counts() {
        let sides = |a: &str, b: &str| [("new", a.to_owned()), ("legacy", b.to_owned())];
        assert!(difference(&sides("1|a\n2|b", "1|a\n2|b")).is_none());
        assert!(difference(&sides("", "")).is_none());
        let text = difference(&sides("1|a\n2|b", "1|a\n2|c\n3|d")).unwrap().to_string();
        assert_eq!(
            text,
            "the two sides differ in 2 rows\n  id 2\n    new: b\n    legacy: c\n  id 3\n    new: nothing\n    legacy: d\n"
        );
    }
}
