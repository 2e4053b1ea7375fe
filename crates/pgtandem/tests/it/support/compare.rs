//! Whether all nodes hold the same, and if not, what differs.

use std::collections::BTreeMap;
use std::fmt::Write;

/// None: all the same. Otherwise which rows (lines) are on which nodes only.
pub fn difference(contents: &[(String, String)]) -> Option<String> {
    const SHOWN: usize = 20;
    // row -> how often on each node
    let mut rows: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (node, (_, text)) in contents.iter().enumerate() {
        for row in text.lines() {
            rows.entry(row).or_insert_with(|| vec![0; contents.len()])[node] += 1;
        }
    }
    rows.retain(|_, counts| counts.iter().any(|count| *count != counts[0]));
    if rows.is_empty() {
        return None;
    }
    let mut report = String::new();
    for (name, text) in contents {
        let count = text.lines().count();
        writeln!(report, "{name}: {count} rows").expect("a String takes all");
    }
    for (row, counts) in rows.iter().take(SHOWN) {
        let at: Vec<String> = contents
            .iter()
            .zip(counts)
            .filter(|(_, count)| **count > 0)
            .map(|((name, _), count)| match count {
                1 => name.clone(),
                _ => format!("{name} ({count} times)"),
            })
            .collect();
        writeln!(report, "only on {}: {row}", at.join(", ")).expect("a String takes all");
    }
    if rows.len() > SHOWN {
        let more = rows.len() - SHOWN;
        writeln!(report, "and {more} more").expect("a String takes all");
    }
    Some(report)
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn a_difference_names_the_rows_and_where_they_are() {
        let of = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(difference(&[of("new", "1\n2"), of("legacy", "2\n1")]), None);
        assert_eq!(difference(&[of("new", ""), of("legacy", "")]), None);
        let report = difference(&[of("new", "1\n2"), of("legacy", "1\n3"), of("third", "1\n1\n3")]);
        assert_eq!(
            report.unwrap(),
            "new: 2 rows\nlegacy: 2 rows\nthird: 3 rows\n\
             only on new, legacy, third (2 times): 1\nonly on new: 2\nonly on legacy, third: 3\n"
        );
    }
}
