//! What stands in the way of linking: clashes, orphans, sequences; who may compare; how much memory it takes.

use super::{diff, equal, pair, table};
use crate::support::{Pair, Setup};
use serde_json::json;
use std::process::Stdio;

#[test]
fn s24_unique_values_that_two_keys_claim() {
    let pair =
        pair("things", "CREATE TABLE things (id int PRIMARY KEY, a text, b int, UNIQUE (a, b), sku text UNIQUE)");
    pair["new"]
        .sql("INSERT INTO things VALUES (1, 'a', 1, 's1'), (2, 'a', 2, 's2'), (3, NULL, 3, NULL), (9, 'z', 9, 's9')");
    pair["legacy"]
        .sql("INSERT INTO things VALUES (1, 'a', 1, 's1'), (5, 'a', 2, 's2'), (6, NULL, 3, NULL), (7, 'z', 9, 's7')");
    let clashes = &table(&pair, 1)["unique_clashes"];
    assert_eq!(clashes["count"], 3);
    let row = |node: &str, id: &str| json!({ "node": node, "key": { "id": id } });
    assert_eq!(
        clashes["examples"],
        json!([
            { "values": { "a": "a", "b": "2" }, "rows": [row("new", "2"), row("legacy", "5")] },
            { "values": { "a": "z", "b": "9" }, "rows": [row("new", "9"), row("legacy", "7")] },
            { "values": { "sku": "s2" }, "rows": [row("new", "2"), row("legacy", "5")] },
        ])
    );
    let said = diff(&pair, []).exits(1).stdout;
    assert!(said.contains("unique: two keys claim sku=s2: id=2 on new, id=5 on legacy"), "{said}");
}

#[test]
fn s25_rows_that_refer_to_a_row_no_node_has() {
    let pair = Pair::with(
        Setup::shared()
            .table("children", "CREATE TABLE children (id int PRIMARY KEY, parent bigint)")
            .table("parents", "CREATE TABLE parents (id int PRIMARY KEY)"),
    );
    pair["new"].sql("ALTER TABLE children ADD FOREIGN KEY (parent) REFERENCES parents");
    pair["new"].sql("INSERT INTO parents VALUES (1), (2)");
    pair["legacy"].sql("INSERT INTO parents VALUES (3)");
    pair["new"].sql("INSERT INTO children VALUES (1, 1), (2, NULL)");
    pair["legacy"].sql("INSERT INTO children VALUES (10, 2), (11, 3), (12, 4), (13, NULL)");
    let orphans = table(&pair, 1)["orphans"].clone();
    let expected = json!([{
        "columns": ["parent"],
        "referenced": "parents",
        "rows": { "new": 0, "legacy": 1 },
        "examples": [{ "node": "legacy", "key": { "id": "12" }, "values": { "parent": "4" } }],
    }]);
    assert_eq!(orphans, expected);
    let said = diff(&pair, []).exits(1).stdout;
    assert!(said.contains("orphans: 1 on legacy refer by parent to rows of parents that no node has"), "{said}");
}

#[test]
fn s45_sequences_that_will_make_the_same_ids() {
    let pair = pair("things", "CREATE TABLE things (id bigserial PRIMARY KEY, n serial)");
    pair["legacy"].sql("SELECT setval('things_id_seq', 100)");
    let expected = json!([{ "column": "id", "sequences": [
        { "node": "new", "next": 1, "increment": 1 },
        { "node": "legacy", "next": 101, "increment": 1 },
    ]}]);
    assert_eq!(table(&pair, 0)["sequence_overlaps"], expected);
    pair["new"].sql("ALTER SEQUENCE things_id_seq INCREMENT BY 2 RESTART WITH 1");
    pair["legacy"].sql("ALTER SEQUENCE things_id_seq INCREMENT BY 2 RESTART WITH 2");
    assert_eq!(table(&pair, 0)["sequence_overlaps"], json!([]));
}

/// A role that may do nothing but read.
#[test]
fn plain_role_may_compare_what_it_may_read() {
    let pair = pair("things", "CREATE TABLE things (id bigserial PRIMARY KEY, v text)");
    let mut config = std::fs::read_to_string(pair.config()).unwrap();
    for node in pair.nodes() {
        let (database, role) = (node.database(), format!("reader_{}", node.database()));
        node.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'secret'"));
        node.sql("INSERT INTO things (v) SELECT 'x' FROM generate_series(1, 100)");
        config = config.replace(&node.url(), &node.cluster.url_as(&role, "secret", database));
    }
    std::fs::write(pair.config(), &config).unwrap();
    let refused = diff(&pair, []).exits(3).stderr;
    assert!(refused.contains("permission denied for table things"), "{refused}");
    assert!(refused.contains("docs/roles.md") && !refused.contains("secret"), "{refused}");
    for node in pair.nodes() {
        node.sql(&format!("GRANT SELECT ON things TO reader_{}", node.database()));
    }
    equal(&pair);
    // Rows that are hidden from it are not taken for missing ones.
    pair["legacy"].sql("ALTER TABLE things ENABLE ROW LEVEL SECURITY");
    let refused = diff(&pair, []).exits(3).stderr;
    assert!(refused.contains("row-level security"), "{refused}");
}

#[test]
fn tables_that_cannot_be_compared_are_named() {
    let pair = pair("things", "CREATE TABLE things (id int)");
    let said = diff(&pair, []).exits(2).stderr;
    assert!(said.contains("node new: things has no primary key"), "{said}");
    pair["new"].sql("ALTER TABLE things ADD PRIMARY KEY (id)");
    pair["legacy"].sql("ALTER TABLE things ADD COLUMN n int PRIMARY KEY");
    let said = diff(&pair, []).exits(2).stderr;
    assert!(said.contains("its primary key is (\"id\") on new, (\"n\") on legacy"), "{said}");
    pair["legacy"].sql("DROP TABLE things");
    let said = diff(&pair, []).exits(2).stderr;
    assert!(said.contains("node legacy: there is no table things"), "{said}");
}

/// However many rows differ.
#[test]
#[cfg(target_os = "linux")]
fn memory_stays_bounded_when_every_row_differs() {
    let pair = pair("things", "CREATE TABLE things (id int PRIMARY KEY, v text)");
    pair["new"].sql("INSERT INTO things SELECT i, repeat('a', 200) FROM generate_series(1, 60000) i");
    pair["legacy"].sql("INSERT INTO things SELECT i, repeat('b', 200) FROM generate_series(30001, 90000) i");
    let keys = pair.config().with_file_name("keys");
    let mut child = pair
        .command(["diff", "--keys"])
        .stdout(std::fs::File::create(&keys).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let kib =
            text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or_default());
        std::thread::yield_now();
    }
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(std::fs::read_to_string(&keys).unwrap().lines().count(), 90_000);
    assert!(peak > 1024 && peak < 128 * 1024, "{peak} KiB");
}
