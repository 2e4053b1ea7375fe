//! A comparison for a program (docs/json.md).

use serde_json::{Map, Value, json};

use crate::compare::{Clash, Found, Orphans, Overlap, Report, TableReport};

pub(super) fn json(report: &Report) -> Value {
    let tables: Vec<Value> = report.tables.iter().map(|table| Named { table, nodes: &report.nodes }.json()).collect();
    json!({ "equal": report.is_equal(), "nodes": report.nodes, "tables": tables })
}

/// A table, and the nodes' names.
struct Named<'a> {
    table: &'a TableReport,
    nodes: &'a [String],
}

impl Named<'_> {
    fn json(&self) -> Value {
        let Self { table, .. } = self;
        let tally = &table.tally;
        let key: Vec<&String> = table.key.iter().map(|at| &table.columns[*at]).collect();
        let partial =
            tally.partial.iter().map(|partial| json!({ "on": self.names(&partial.on), "keys": partial.keys }));
        json!({
            "name": table.name,
            "equal": tally.is_equal(),
            "key": key,
            "columns": table.columns,
            "not_compared": table.left_out,
            "rows": self.by_node(|node| json!(tally.rows[node])),
            "equal_rows": tally.equal(),
            "different": tally.different,
            "partial": partial.collect::<Vec<_>>(),
            "in_flight": tally.in_flight,
            "unique_clashes": {
                "count": tally.clashes,
                "examples": tally.clash_examples.iter().map(|clash| self.clash(clash)).collect::<Vec<_>>(),
            },
            "orphans": table.orphans.iter().map(|orphans| self.orphans(orphans)).collect::<Vec<_>>(),
            "sequence_overlaps": table.overlaps.iter().map(|overlap| self.overlap(overlap)).collect::<Vec<_>>(),
            "examples": tally.examples.iter().map(|found| self.found(found)).collect::<Vec<_>>(),
        })
    }

    fn names(&self, nodes: &[usize]) -> Vec<&str> {
        nodes.iter().map(|node| self.nodes[*node].as_str()).collect()
    }

    fn by_node(&self, value: impl Fn(usize) -> Value) -> Value {
        self.nodes.iter().enumerate().map(|(node, name)| (name.clone(), value(node))).collect::<Map<_, _>>().into()
    }

    fn key(&self, texts: &[String]) -> Value {
        let columns = self.table.key.iter().zip(texts);
        columns.map(|(at, text)| (self.table.columns[*at].clone(), json!(text))).collect::<Map<_, _>>().into()
    }

    fn found(&self, found: &Found) -> Value {
        let columns = &self.table.columns;
        let differs: Vec<&String> =
            columns.iter().zip(&found.differs).filter(|(_, differs)| **differs).map(|(name, _)| name).collect();
        let row = |node: usize| match &found.rows[node] {
            Some(row) => {
                columns.iter().zip(row).map(|(name, text)| (name.clone(), json!(text))).collect::<Map<_, _>>().into()
            }
            None => Value::Null,
        };
        json!({
            "key": self.key(&found.key),
            "on": self.names(&found.on()),
            "differs": differs,
            "rows": self.by_node(row),
        })
    }

    fn clash(&self, clash: &Clash) -> Value {
        let columns = clash.columns.iter().zip(&clash.values);
        let values: Map<String, Value> =
            columns.map(|(at, text)| (self.table.columns[*at].clone(), json!(text))).collect();
        let rows = clash.rows.iter().map(|(node, key)| json!({ "node": self.nodes[*node], "key": self.key(key) }));
        json!({ "values": values, "rows": rows.collect::<Vec<_>>() })
    }

    fn orphans(&self, orphans: &Orphans) -> Value {
        let example = |orphan: &crate::compare::Orphan| {
            let values = orphans.columns.iter().cloned().zip(orphan.values.iter().map(|text| json!(text)));
            json!({
                "node": self.nodes[orphan.node],
                "key": self.key(&orphan.key),
                "values": values.collect::<Map<_, _>>(),
            })
        };
        json!({
            "columns": orphans.columns,
            "referenced": orphans.referenced,
            "rows": self.by_node(|node| json!(orphans.rows[node])),
            "examples": orphans.examples.iter().map(example).collect::<Vec<_>>(),
        })
    }

    fn overlap(&self, overlap: &Overlap) -> Value {
        let next = |next: &crate::compare::Next| json!({ "node": self.nodes[next.node], "next": next.value, "increment": next.increment });
        json!({ "column": overlap.column, "sequences": overlap.sequences.iter().map(next).collect::<Vec<_>>() })
    }
}
