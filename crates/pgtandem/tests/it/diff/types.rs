//! What equal means.

use super::{diff, equal, pair};
use crate::support::{Pair, Setup};

/// Each value in two spellings that its type calls equal, and a third that it does not.
const SPELLINGS: &[(&str, &str, &str, &str)] = &[
    ("numeric", "1.0", "1.00", "1.01"),
    ("numeric", "NaN", "NaN", "Infinity"),
    ("numeric[]", "{1.0,2}", "{1,2.00}", "{2,1.0}"),
    ("double precision", "0", "-0", "1e-300"),
    ("real", "0.1", "0.1", "0.10000001"),
    ("double precision[]", "{0,1}", "{-0,1}", "{0,1,1}"),
    ("character(5)", "ab", "ab   ", "abc"),
    ("interval", "1 month", "30 days 0:00", "30 days 1 us"),
    ("interval", "-1 day -2 hours", "-26 hours", "26 hours"),
    ("jsonb", r#"{"a": 1.0, "b": [1, 2]}"#, r#"{"b":[1.00,2],"a":1}"#, r#"{"a": 1.0, "b": [2, 1]}"#),
    ("numrange", "[1.0,2)", "[1,2.00)", "[1,2]"),
    ("timestamptz", "2026-01-01 00:00+00", "2026-01-01 02:00+02", "2026-01-01 00:00:00.000001+00"),
    ("timestamptz", "infinity", "infinity", "-infinity"),
    ("timestamptz", "0044-03-15 00:00+00 BC", "0044-03-15 00:00+00 BC", "0044-03-15 00:00+00"),
    ("text", "a", "a", "a "),
    ("text", "", "", "NULL"),
    ("bytea", r"\x00ff", r"\x00FF", r"\x00fe"),
    ("json", r#"{"a":1}"#, r#"{"a":1}"#, r#"{"a": 1}"#),
    (
        "uuid",
        "00000000-0000-0000-0000-00000000000A",
        "{00000000-0000-0000-0000-00000000000a}",
        "00000000-0000-0000-0000-00000000000b",
    ),
    ("inet", "10.0.0.1", "10.0.0.1/32", "10.0.0.1/31"),
    ("boolean", "t", "true", "f"),
    ("money", "1.00", "$1", "1.01"),
    ("bigint", "0", "0", "4294967297"),
    ("composite", "(1.0,x)", "(1.00,x)", "(1.0,y)"),
    ("colour", "red", "red", "blue"),
    ("colour[]", "{red,blue}", "{red,blue}", "{blue,red}"),
    ("point", "(1,2)", "(1.0,2.0)", "(1,3)"),
];

#[test]
fn s07_equal_is_what_the_type_calls_equal() {
    let columns: Vec<String> = SPELLINGS.iter().enumerate().map(|(at, (of, ..))| format!("c{at} {of}")).collect();
    let create = format!("CREATE TABLE things (id int PRIMARY KEY, {})", columns.join(", "));
    let pair = Pair::with(Setup::shared().linking("things"));
    // Enums whose labels have other numbers, and sort otherwise.
    pair["new"].sql("CREATE TYPE colour AS ENUM ('red', 'blue')");
    pair["legacy"].sql("CREATE TYPE colour AS ENUM ('blue', 'green', 'red')");
    for node in pair.nodes() {
        node.sql(&format!("CREATE TYPE composite AS (n numeric, t text); {create}"));
    }
    let insert = |node: &str, id: usize, values: &dyn Fn(usize) -> &'static str| {
        let literal = |at: usize| match values(at) {
            "NULL" => "NULL".to_owned(),
            text => format!("'{text}'::{}", SPELLINGS[at].0),
        };
        let values: Vec<String> = (0..SPELLINGS.len()).map(literal).collect();
        pair[node].sql(&format!("INSERT INTO things VALUES ({id}, {})", values.join(", ")));
    };
    insert("new", 1, &|at| SPELLINGS[at].1);
    insert("legacy", 1, &|at| SPELLINGS[at].2);
    insert("new", 2, &|_| "NULL");
    insert("legacy", 2, &|_| "NULL");
    equal(&pair);
    for (at, spelling) in SPELLINGS.iter().enumerate() {
        let id = at + 10;
        insert("new", id, &|at| SPELLINGS[at].1);
        insert("legacy", id, &|other| if other == at { spelling.3 } else { SPELLINGS[other].2 });
    }
    let said = diff(&pair, ["--examples", "100"]).exits(1).stdout;
    assert!(said.contains(&format!("2 equal, {} different", SPELLINGS.len())), "{said}");
    for (at, spelling) in SPELLINGS.iter().enumerate() {
        let marked: Vec<&str> = said
            .split(&format!("id={}  different", at + 10))
            .nth(1)
            .and_then(|rest| rest.split("different").next())
            .unwrap_or_else(|| panic!("{at} is missing in\n{said}"))
            .lines()
            .filter_map(|line| line.strip_prefix("  ≠  "))
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        assert_eq!(marked, [format!("c{at}")], "{spelling:?}\n{said}");
    }
}

#[test]
fn s07_values_of_different_types_are_equal_if_they_mean_the_same() {
    let pair = Pair::with(Setup::shared().linking("things"));
    pair["new"].sql(
        "CREATE TABLE things (id int PRIMARY KEY, n int, f real, v varchar(20), d date, t timestamp, j jsonb, c char(9))",
    );
    pair["legacy"].sql(
        "CREATE TABLE things (c text, j json, t timestamptz, d timestamp, v text, f float8, n numeric, id bigint PRIMARY KEY)",
    );
    let insert = "INSERT INTO things (id, n, f, v, d, t, j, c)
        SELECT i, i, i / 4.0, 'v' || i, date '2026-01-01' + i, timestamp '2026-01-01' + i * interval '1 s',
               '{\"a\": 1}', 'c' || i FROM generate_series(1, 1000) i";
    for node in pair.nodes() {
        let session = node.session();
        session.run("SET TIME ZONE 'UTC'").unwrap();
        session.run(insert).unwrap();
    }
    equal(&pair);
    pair["legacy"].sql("UPDATE things SET n = n + 0.5, d = d + interval '1 s' WHERE id = 10");
    let said = diff(&pair, []).exits(1).stdout;
    assert!(said.contains("999 equal, 1 different"), "{said}");
    assert_eq!(said.matches('≠').count(), 2, "{said}");
}

#[test]
fn s07_citext_does_not_care_for_capitals_in_values_and_in_keys() {
    let create = "CREATE EXTENSION citext; CREATE TABLE things (name citext PRIMARY KEY, v citext)";
    let pair = pair("things", create);
    pair["new"].sql("INSERT INTO things VALUES ('Ä', 'One'), ('b', 'Two')");
    pair["legacy"].sql("INSERT INTO things VALUES ('Ä', 'one'), ('B', 'TWO')");
    equal(&pair);
    pair["legacy"].sql("UPDATE things SET v = 'TWOO' WHERE name = 'b'");
    let said = diff(&pair, []).exits(1).stdout;
    assert!(said.contains("1 equal, 1 different"), "{said}");
}
