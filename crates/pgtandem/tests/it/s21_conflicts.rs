//! S21, S22, S23: two writes to one key, neither of which has seen the other.

use std::fs;

use crate::support::{Fleet, Hub, Pair, Setup, Trio};

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, name text, price int)";

/// All nodes write before any of them has seen the others' writes.
fn at_once<const N: usize>(fleet: &Fleet<N>, hub: &Hub, writes: [&str; N]) {
    fleet.settle();
    hub.freeze();
    fleet.apart();
    for (node, write) in fleet.nodes().iter().zip(writes) {
        if !write.is_empty() {
            node.sql(write);
        }
    }
    hub.thaw();
    fleet.settle();
}

/// The decisions about a key, the same on all nodes.
#[track_caller]
fn decisions<const N: usize>(fleet: &Fleet<N>, key: &str) -> String {
    let query = format!(
        "SELECT kind, coalesce(winner_row->>'name', '-'), coalesce(loser_row->>'name', '-'), policy
         FROM pgtandem.decision WHERE key->>'id' = '{key}' ORDER BY winner_position, loser_position"
    );
    if let Some(report) = fleet.differs_in(&query) {
        panic!("the decisions about {key} are not the same on all nodes\n{report}");
    }
    fleet[0].sql(&query)
}

fn linked_pair(resolve: &str) -> (Pair, Hub) {
    let pair = Pair::with(Setup::default().config("[hub]\nstatus_interval_ms = 100").table("items", ITEMS));
    let config = fs::read_to_string(pair.config()).unwrap();
    fs::write(pair.config(), format!("{config}{resolve}\n")).unwrap();
    let hub = pair.linked();
    (pair, hub)
}

#[test]
fn s21_the_same_row_updated_on_both_sides_has_one_winner() {
    let (pair, hub) = linked_pair("resolve = \"newest\"");
    pair["new"].sql("INSERT INTO items VALUES (1, 'chair', 5), (2, 'table', 6)");
    at_once(&pair, &hub, ["UPDATE items SET name = 'red' WHERE id = 1", "UPDATE items SET name = 'blue' WHERE id = 1"]);
    // Written last: legacy's.
    assert_eq!(pair["new"].sql("SELECT name FROM items WHERE id = 1"), "blue");
    assert_eq!(decisions(&pair, "1"), "update/update|blue|red|newest");
    let row = "SELECT loser_row FROM pgtandem.decision WHERE key->>'id' = '1'";
    assert_eq!(pair["legacy"].sql(row), r#"{"id": "1", "name": "red", "price": "5"}"#);
    // The next write has seen the decision: no conflict.
    pair["new"].sql("UPDATE items SET name = 'green' WHERE id = 1");
    pair.settle();
    assert_eq!(pair["legacy"].sql("SELECT name FROM items WHERE id = 1"), "green");
    assert_eq!(decisions(&pair, "1").lines().count(), 1);
}

#[test]
fn s21_a_preferred_node_wins_though_it_wrote_first() {
    let (pair, hub) = linked_pair("resolve = \"prefer:new\"");
    pair["new"].sql("INSERT INTO items VALUES (1, 'chair', 5)");
    at_once(&pair, &hub, ["UPDATE items SET name = 'red'", "UPDATE items SET name = 'blue'"]);
    assert_eq!(pair["legacy"].sql("SELECT name FROM items"), "red");
    assert_eq!(decisions(&pair, "1"), "update/update|red|blue|prefer:new");
    // Also when it deletes, and when the other one deletes.
    pair["new"].sql("INSERT INTO items VALUES (2, 'two', 5), (3, 'three', 5)");
    at_once(
        &pair,
        &hub,
        [
            "DELETE FROM items WHERE id = 2; UPDATE items SET name = 'kept' WHERE id = 3",
            "UPDATE items SET name = 'lost' WHERE id = 2; DELETE FROM items WHERE id = 3",
        ],
    );
    assert_eq!(decisions(&pair, "2"), "update/delete|-|lost|prefer:new");
    assert_eq!(decisions(&pair, "3"), "update/delete|kept|-|prefer:new");
    assert_eq!(pair["legacy"].sql("SELECT id, name FROM items WHERE id > 1"), "3|kept");
}

#[test]
fn s22_deletes_and_inserts_clash() {
    let (pair, hub) = linked_pair("");
    pair["new"].sql("INSERT INTO items SELECT n, 'old', n FROM generate_series(1, 4) n");
    at_once(
        &pair,
        &hub,
        [
            "UPDATE items SET name = 'n1' WHERE id = 1; DELETE FROM items WHERE id IN (2, 3); INSERT INTO items VALUES (9, 'n9')",
            "DELETE FROM items WHERE id IN (1, 3); UPDATE items SET name = 'l2' WHERE id = 2; INSERT INTO items VALUES (9, 'l9')",
        ],
    );
    assert_eq!(pair["new"].sql("SELECT id, name FROM items ORDER BY id"), "2|l2\n4|old\n9|l9");
    assert_eq!(decisions(&pair, "1"), "update/delete|-|n1|newest");
    assert_eq!(decisions(&pair, "2"), "update/delete|l2|-|newest");
    assert_eq!(decisions(&pair, "3"), "delete/delete|-|-|newest");
    assert_eq!(decisions(&pair, "9"), "insert/insert|l9|n9|newest");
    // Deleted and inserted again on one side, updated on the other; and a key that moves onto another's.
    at_once(
        &pair,
        &hub,
        [
            "DELETE FROM items WHERE id = 4; INSERT INTO items VALUES (4, 'again')",
            "UPDATE items SET name = 'l4' WHERE id = 4; UPDATE items SET id = 10 WHERE id = 9",
        ],
    );
    assert_eq!(pair["new"].sql("SELECT id, name FROM items ORDER BY id"), "2|l2\n4|l4\n10|l9");
    assert_eq!(decisions(&pair, "4").split('|').skip(1).collect::<Vec<_>>(), ["l4", "again", "newest"]);
    assert_eq!(decisions(&pair, "10"), "");
}

#[test]
fn s22_three_writers_of_one_row_leave_one_row() {
    if crate::CAPTURE == "direct" {
        return; // of two nodes
    }
    let trio = Trio::with(Setup::default().config("[hub]\nstatus_interval_ms = 100").table("items", ITEMS));
    let hub = trio.linked();
    trio["new"].sql("INSERT INTO items VALUES (1, 'chair', 5)");
    at_once(
        &trio,
        &hub,
        [
            "UPDATE items SET name = 'a' WHERE id = 1; INSERT INTO items VALUES (2, 'a')",
            "DELETE FROM items WHERE id = 1; INSERT INTO items VALUES (2, 'b')",
            "UPDATE items SET name = 'c' WHERE id = 1; INSERT INTO items VALUES (2, 'c')",
        ],
    );
    trio.equal("items");
    assert_eq!(trio["new"].sql("SELECT id, name FROM items ORDER BY id"), "1|c\n2|c");
    // Two have lost each: both rows can be put back.
    assert_eq!(decisions(&trio, "2").lines().count(), 2);
    assert_eq!(decisions(&trio, "1").lines().count(), 2);
}

#[test]
fn s23_a_write_that_saw_another_wins_over_it_whatever_the_clocks_say() {
    let (pair, hub) = linked_pair("");
    pair["new"].sql("INSERT INTO items VALUES (1, 'first', 5)");
    pair.settle();
    for round in 0..5 {
        let (one, other) = if round % 2 == 0 { ("legacy", "new") } else { ("new", "legacy") };
        pair[one].sql(&format!("UPDATE items SET name = 'round {round}'"));
        pair.settle();
        assert_eq!(pair[other].sql("SELECT name FROM items"), format!("round {round}"));
    }
    assert_eq!(decisions(&pair, "1"), "");
    assert!(hub.is_running());
}

/// Many rows at once are written as they are expected to be met: the source's updates as updates, its inserts copied
/// in. Here half of them are met otherwise.
#[test]
fn s22_many_rows_are_met_otherwise_than_expected() {
    let (pair, hub) = linked_pair("resolve = \"prefer:new\"");
    pair["new"].sql("INSERT INTO items SELECT i, E'a\\tb\\nc\\\\.' || i, i FROM generate_series(1, 200) i");
    at_once(
        &pair,
        &hub,
        [
            r"UPDATE items SET name = E'\\N', price = NULL WHERE id <= 150;
              INSERT INTO items SELECT i, NULLIF(E'new\r\n\t\\' || i, E'new\r\n\t\\1111'), i
              FROM generate_series(1001, 1200) i",
            "DELETE FROM items WHERE id <= 100;
             INSERT INTO items SELECT i, 'legacy' || i, i FROM generate_series(1101, 1300) i",
        ],
    );
    let counts = "SELECT kind, count(*) FROM pgtandem.decision GROUP BY kind ORDER BY kind";
    assert_eq!(pair["legacy"].sql(counts), "insert/insert|100\nupdate/delete|100");
    let rows = r"SELECT count(*) FILTER (WHERE name = E'\\N' AND price IS NULL),
                        count(*) FILTER (WHERE name = E'new\r\n\t\\' || id),
                        count(*) FILTER (WHERE name = 'legacy' || id), count(*) FILTER (WHERE name IS NULL) FROM items";
    assert_eq!(pair["legacy"].sql(rows), "150|199|100|1");
    // And as they are expected to be met.
    pair["new"].sql("UPDATE items SET price = 1; INSERT INTO items SELECT i, '', i FROM generate_series(2001, 2100) i");
    pair.settle();
    pair.equal("items");
}
