//! Every value that differs, one per line: of a row that all nodes have, the columns that are not the same; of a row that
//! some lack, all columns. An empty field is NULL (or no row), a quoted empty one an empty text.

use crate::compare::Found;

pub(super) fn head(nodes: &[String]) -> String {
    let fields = ["table", "key", "on", "column"].into_iter().map(str::to_owned).chain(nodes.iter().cloned());
    fields.map(|field| quoted(&field)).collect::<Vec<_>>().join(",")
}

pub(super) fn lines(table: &str, columns: &[String], nodes: &[String], found: &Found) -> Vec<String> {
    let on: Vec<&str> = found.on().into_iter().map(|node| nodes[node].as_str()).collect();
    let start = [table, &key(&found.key), &on.join(" ")].map(quoted).join(",");
    let all = !found.is_everywhere();
    let wanted = (0..columns.len()).filter(|at| all || found.differs[*at]);
    wanted
        .map(|at| {
            let value = |row: &Option<Vec<Option<String>>>| match row.as_ref().and_then(|row| row[at].as_deref()) {
                Some(text) => quoted(text),
                None => String::new(),
            };
            let values = found.rows.iter().map(value).collect::<Vec<_>>().join(",");
            format!("{start},{},{values}", quoted(&columns[at]))
        })
        .collect()
}

/// A key of several columns is a line of CSV itself.
pub(super) fn key(texts: &[String]) -> String {
    texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(",")
}

pub(in crate::cli) fn quoted(text: &str) -> String {
    let plain = !text.is_empty() && !text.contains([',', '"', '\n', '\r']) && text.trim() == text;
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_no_row_and_an_empty_text_are_told_apart() {
        let row = |text: Option<&str>| Some(vec![Some("1,2".to_owned()), text.map(str::to_owned)]);
        let nodes = ["new".to_owned(), "legacy".to_owned()];
        let columns = ["id".to_owned(), "a \"b\"".to_owned()];
        let mut found = Found {
            key: vec!["1,2".to_owned()],
            rows: vec![row(Some("")), row(None)],
            differs: vec![false, true],
            keys: Vec::new(),
        };
        assert_eq!(head(&nodes), "table,key,on,column,new,legacy");
        assert_eq!(lines("t", &columns, &nodes, &found), [r#"t,"""1,2""",new legacy,"a ""b""","","#]);
        found.rows[1] = None;
        let expected = [r#"t,"""1,2""",new,id,"1,2","#, r#"t,"""1,2""",new,"a ""b""","","#];
        assert_eq!(lines("t", &columns, &nodes, &found), expected);
    }
}
