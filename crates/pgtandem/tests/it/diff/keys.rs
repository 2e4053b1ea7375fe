//! Rows are found by keys of all kinds, whatever each server thinks of their order.

use super::{diff, equal, pair, table};
use crate::support::{Pair, Setup, Trio};
use serde_json::json;

/// Every tenth key is only on new, every eleventh only on legacy, every twelfth different; the others are equal.
fn differ(pair: &Pair, name: &str, rows: u32, insert: &str) {
    for node in pair.nodes() {
        node.sql(insert);
    }
    let number = "(v::int)";
    pair["legacy"].sql(&format!("DELETE FROM {name} WHERE {number} % 10 = 0"));
    pair["new"].sql(&format!("DELETE FROM {name} WHERE {number} % 11 = 0"));
    pair["legacy"].sql(&format!("UPDATE {name} SET w = 'other' WHERE {number} % 12 = 0"));
    let table = table(pair, 1);
    let expected = |test: fn(u32) -> bool| (1..=rows).filter(|i| test(*i)).count();
    assert_eq!(table["different"], expected(|i| i % 10 != 0 && i % 11 != 0 && i % 12 == 0));
    assert_eq!(
        table["partial"],
        json!([
            { "on": ["new"], "keys": expected(|i| i % 10 == 0 && i % 11 != 0) },
            { "on": ["legacy"], "keys": expected(|i| i % 10 != 0 && i % 11 == 0) },
        ])
    );
    assert_eq!(table["equal_rows"], expected(|i| i % 10 != 0 && i % 11 != 0 && i % 12 != 0));
}

#[test]
fn text_keys_that_each_node_sorts_in_its_own_way() {
    let pair = Pair::with(Setup::shared().linking("things"));
    for (node, collation) in [("new", "C"), ("legacy", "en-x-icu")] {
        let create = format!("CREATE TABLE things (k text COLLATE \"{collation}\" PRIMARY KEY, v text, w text)");
        pair[node].sql(&create);
    }
    let letters = "'a', 'B', 'ä', '_', '-', ' ', 'Z'";
    differ(
        &pair,
        "things",
        // More than one range, if it were cut by the key's order.
        80_000,
        &format!(
            "INSERT INTO things SELECT (ARRAY[{letters}])[1 + i % 7] || i, i, 'same' FROM generate_series(1, 80000) i"
        ),
    );
}

#[test]
fn composite_keys_in_another_order_and_of_other_types() {
    let pair = Pair::with(Setup::shared().linking("things"));
    pair["new"].sql("CREATE TABLE things (a int, b uuid, c date, v text, w text, PRIMARY KEY (a, b, c))");
    pair["legacy"].sql("CREATE TABLE things (c date, b uuid, a bigint, v text, w text, PRIMARY KEY (c, a, b))");
    differ(
        &pair,
        "things",
        3000,
        "INSERT INTO things (a, b, c, v, w) SELECT i % 5 - 2, md5(i::text)::uuid, date '2026-01-01' + i % 3, i, 'same'
         FROM generate_series(1, 3000) i",
    );
}

#[test]
fn keys_that_are_numbers_far_apart_negative_and_at_the_edges() {
    let pair = pair("things", "CREATE TABLE things (k bigint PRIMARY KEY, v text, w text)");
    differ(
        &pair,
        "things",
        3000,
        "INSERT INTO things SELECT CASE i % 3 WHEN 0 THEN i * 1234567890123 WHEN 1 THEN -i ELSE i END, i, 'same'
         FROM generate_series(1, 3000) i",
    );
    for node in pair.nodes() {
        node.sql(
            "TRUNCATE things; INSERT INTO things VALUES (9223372036854775807, 1), (-9223372036854775808, 2), (0, 3)",
        );
    }
    equal(&pair);
    pair["legacy"].sql("DELETE FROM things WHERE k > 0");
    assert_eq!(diff(&pair, ["--keys"]).exits(1).stdout, "9223372036854775807\n");
}

/// More than one range, and ranges that are counted off rather than looked up.
#[test]
fn tables_of_several_ranges() {
    let pair = pair("things", "CREATE TABLE things (k int PRIMARY KEY, v int)");
    for node in pair.nodes() {
        node.sql("INSERT INTO things SELECT i, i FROM generate_series(1, 500000) i; ANALYZE things");
    }
    equal(&pair);
    pair["legacy"].sql("DELETE FROM things WHERE k IN (1, 65536, 65537, 131072, 499999)");
    pair["new"]
        .sql("DELETE FROM things WHERE k BETWEEN 200000 AND 299999; UPDATE things SET v = 0 WHERE k % 100000 = 7");
    let table = table(&pair, 1);
    assert_eq!(table["different"], 4);
    assert_eq!(table["partial"], json!([{ "on": ["new"], "keys": 5 }, { "on": ["legacy"], "keys": 100_000 }]));
    assert_eq!(table["rows"], json!({ "new": 400_000, "legacy": 499_995 }));
}

/// Rows are looked at while the next range is summed up already: neither waits for the other for ever.
#[test]
fn differences_all_over_several_ranges() {
    let pair = pair("things", "CREATE TABLE things (k int PRIMARY KEY, v int)");
    for node in pair.nodes() {
        node.sql("INSERT INTO things SELECT i, i FROM generate_series(1, 400000) i; ANALYZE things");
    }
    pair["legacy"].sql("UPDATE things SET v = 0 WHERE k % 50 = 0");
    assert_eq!(table(&pair, 1)["different"], 8000);
}

/// Nothing is known of the tables' sizes yet, and one is much larger.
#[test]
fn empty_tables_and_a_filled_one() {
    let pair = pair("things", "CREATE TABLE things (k int PRIMARY KEY, v text)");
    equal(&pair);
    pair["legacy"].sql("INSERT INTO things SELECT i, 'x' FROM generate_series(1, 70000) i");
    let table = table(&pair, 1);
    assert_eq!(table["partial"], json!([{ "on": ["legacy"], "keys": 70_000 }]));
    assert_eq!(table["equal_rows"], 0);
}

#[test]
fn odd_names_are_quoted_and_nulls_told_from_empty_texts() {
    let (name, create) = (
        r#""Odd ""Schema"""."t;able""#,
        r#"CREATE SCHEMA "Odd ""Schema"""; CREATE TABLE "Odd ""Schema"""."t;able"
           ("select" int, "key_hash" text, "a""b" text, PRIMARY KEY ("select", "key_hash"))"#,
    );
    let pair = pair(name, create);
    let insert = |node: &str, values: &str| pair[node].sql(&format!("INSERT INTO {name} VALUES {values}"));
    insert("new", "(1, 'k', NULL), (2, 'k''\"', ''), (3, '', 'x')");
    insert("legacy", "(1, 'k', NULL), (2, 'k''\"', ''), (3, '', 'x')");
    equal(&pair);
    pair["legacy"].sql(&format!("UPDATE {name} SET \"a\"\"b\" = '' WHERE \"select\" = 1"));
    pair["legacy"].sql(&format!("UPDATE {name} SET \"a\"\"b\" = NULL WHERE \"select\" = 2"));
    let said = diff(&pair, ["--csv"]).exits(1).stdout;
    let table = r#""Odd ""Schema"".t;able""#;
    let expected = format!(
        "table,key,on,column,new,legacy\n{table},\"1,k\",new legacy,\"a\"\"b\",,\"\"\n\
         {table},\"2,\"\"k'\"\"\"\"\"\"\",new legacy,\"a\"\"b\",\"\",\n"
    );
    assert_eq!(said, expected);
}

#[test]
fn s08_a_partitioned_table_and_a_plain_one() {
    let pair = Pair::with(Setup::shared().linking("things"));
    pair["new"].sql(
        "CREATE TABLE things (k int PRIMARY KEY, v text, w text) PARTITION BY RANGE (k);
         CREATE TABLE low PARTITION OF things FOR VALUES FROM (0) TO (1000);
         CREATE TABLE high PARTITION OF things FOR VALUES FROM (1000) TO (10000)",
    );
    pair["legacy"].sql("CREATE TABLE things (w text, v text, k int PRIMARY KEY)");
    differ(&pair, "things", 3000, "INSERT INTO things (k, v, w) SELECT i, i, 'same' FROM generate_series(1, 3000) i");
}

#[test]
fn three_nodes_at_once() {
    let trio = Trio::with(Setup::default().table("things", "CREATE TABLE things (k int PRIMARY KEY, v text)"));
    for node in trio.nodes() {
        node.sql("INSERT INTO things SELECT i, 'x' FROM generate_series(1, 1000) i");
    }
    equal(&trio);
    trio["third"].sql("UPDATE things SET v = 'y' WHERE k = 5; DELETE FROM things WHERE k IN (6, 7)");
    trio["legacy"].sql("DELETE FROM things WHERE k = 7; INSERT INTO things VALUES (2000, 'z')");
    let table = table(&trio, 1);
    assert_eq!(table["different"], 1);
    assert_eq!(
        table["partial"],
        json!([
            { "on": ["new"], "keys": 1 },
            { "on": ["legacy"], "keys": 1 },
            { "on": ["new", "legacy"], "keys": 1 },
        ])
    );
    assert_eq!(table["equal_rows"], 997);
    assert_eq!(table["examples"][0]["rows"]["third"], json!({ "k": "5", "v": "y" }));
}

/// Values that changed places between rows must not cancel each other out.
#[test]
fn rows_that_swapped_their_values_are_different() {
    let pair = pair("things", "CREATE TABLE things (k int PRIMARY KEY, a int, b int, c bigint, d float8, n numeric)");
    // Otherwise all rows are alike: only the key tells which of the two values belongs where.
    let insert = "TRUNCATE things; INSERT INTO things SELECT i, 0, 0, 0, 0, 0 FROM generate_series(0, 63) i";
    for column in ["a", "b", "c", "d", "n"] {
        for (node, value) in [("new", "k"), ("legacy", "3 - k")] {
            pair[node].sql(&format!("{insert}; UPDATE things SET {column} = {value} WHERE k IN (1, 2)"));
        }
        assert_eq!(table(&pair, 1)["different"], 2, "{column}");
    }
    for node in pair.nodes() {
        node.sql(insert);
    }
    pair["legacy"].sql("UPDATE things SET a = NULL WHERE k = 0; UPDATE things SET d = NULL, n = 'NaN' WHERE k = 1");
    assert_eq!(table(&pair, 1)["different"], 2);
    pair["new"].sql("UPDATE things SET n = 'Infinity' WHERE k = 2");
    pair["legacy"].sql("UPDATE things SET n = 'NaN', c = (2::bigint << 32) WHERE k = 2");
    let said = diff(&pair, ["--csv"]).exits(1).stdout;
    assert!(said.contains("things,2,new legacy,n,Infinity,NaN\n"), "{said}");
}
