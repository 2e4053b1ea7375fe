//! S07 in direct mode: each node's own names, and when COMMIT has returned the row is on the other side. No hub runs.

use crate::s50_at_commit::nothing_waits;
use crate::support::{Pair, Setup};

const NAMES: &str = "names = { legacy = \"old_things\" }
columns = { legacy = { id = \"no\", name = \"title\", price = \"name\" } }";

#[test]
fn s07_names_differ_and_rows_are_there_when_commit_returns() {
    let pair = Pair::with(Setup::shared().linking("things").keys(NAMES));
    // `name` means two things, and `title` and `shelf` are columns of one node alone.
    pair["new"]
        .sql("CREATE TABLE things (id bigserial PRIMARY KEY, name text, price int, title text, sku text UNIQUE)");
    pair["legacy"].sql(
        "CREATE TABLE old_things (sku text UNIQUE, title varchar(20), name smallint, no bigserial PRIMARY KEY,
                                  price text DEFAULT 'its own')",
    );
    pair.link();
    let new = "SELECT string_agg(concat_ws(' ', id, name, price, sku), ',' ORDER BY sku) FROM things";
    let legacy = "SELECT string_agg(concat_ws(' ', no, title, name, sku), ',' ORDER BY sku) FROM old_things";
    let both = |write_on: &str, write: &str, expected: &str| {
        pair[write_on].sql(write);
        assert_eq!(
            (pair["new"].sql(new), pair["legacy"].sql(legacy)),
            (expected.to_owned(), expected.to_owned()),
            "{write}"
        );
        pair.nodes().iter().for_each(nothing_waits);
    };
    both(
        "new",
        "INSERT INTO things (id, name, price, sku) VALUES (1, 'a', 1, 'A'), (2, 'b', 2, 'B')",
        "1 a 1 A,2 b 2 B",
    );
    both("legacy", "UPDATE old_things SET title = 'x', name = 9 WHERE no = 1", "1 x 9 A,2 b 2 B");
    both("legacy", "INSERT INTO old_things (no, title, sku) VALUES (5, 'c', 'C')", "1 x 9 A,2 b 2 B,5 c C");
    both("legacy", "UPDATE old_things SET no = 7 WHERE sku = 'B'", "1 x 9 A,7 b 2 B,5 c C");
    both("new", "UPDATE things SET price = price + 1, title = 'its own'", "1 x 10 A,7 b 3 B,5 c C");
    both("new", "DELETE FROM things WHERE id = 7", "1 x 10 A,5 c C");
    both(
        "legacy",
        "BEGIN; DELETE FROM old_things; INSERT INTO old_things (no, title, sku) VALUES (6, 'd', 'D'); COMMIT",
        "6 d D",
    );
    both("new", "TRUNCATE things", "");
    both("new", "INSERT INTO things (id, name, sku) VALUES (6, 'd', 'D')", "6 d D");
    // The peer's table as it stands beside ours, under its own columns' names.
    pair["new"].sql("UPDATE legacy_things SET title = 'written there'");
    assert_eq!(pair["new"].sql(new), "6 written there D");
    assert_eq!(pair["legacy"].sql("SELECT id, name FROM new_things"), "6|written there");
    assert!(pair.pgtandem(["plan"]).ok().contains("nothing to do"));
    // What does not fit waits, and is held once a hub looks at it.
    pair["new"].sql("UPDATE things SET price = 40000");
    assert_eq!(pair["legacy"].sql("SELECT name FROM old_things"), "");
    pair.pgtandem(["run", "--once"]);
    assert_eq!(pair["legacy"].sql("SELECT sqlstate FROM pgtandem.held"), "22003");
    pair.pgtandem(["down", "--yes"]).ok();
    assert_eq!(pair["new"].sql("SELECT count(*) FROM pg_foreign_table"), "0");
}
