//! S04: primary keys and unique values that move between rows.

use crate::support::{PATIENCE, Pair, Setup, wait_until};

const ROWS: usize = 300;

fn seats(unique: &str) -> Pair {
    let create = format!("CREATE TABLE seats (id int PRIMARY KEY, place int NOT NULL UNIQUE {unique}, who text)");
    Pair::with(Setup::shared().table("seats", &create))
}

/// Highest first, so that one statement can move all of them up by one.
fn fill(pair: &Pair) {
    let rows = format!("SELECT i, i, 'guest ' || i FROM generate_series({ROWS}, 1, -1) AS i");
    pair["new"].sql(&format!("INSERT INTO seats {rows}"));
    pair.quiesce();
}

fn nothing_held(pair: &Pair) {
    for node in pair.nodes() {
        assert_eq!(
            node.sql("SELECT key, reason FROM pgtandem.held WHERE released IS NULL"),
            "",
            "held on {}",
            node.name()
        );
    }
}

#[test]
fn s04_primary_keys_change() {
    let pair = seats("");
    let _hub = pair.linked();
    fill(&pair);
    pair["new"].sql("UPDATE seats SET id = 1000 WHERE id = 1");
    pair.quiesce();
    pair["legacy"].sql("UPDATE seats SET id = 1001, who = 'moved' WHERE id = 1000");
    pair.quiesce();
    assert_eq!(pair["new"].sql("SELECT id, place, who FROM seats WHERE id >= 1000"), "1001|1|moved");
    // All keys at once, each taking its neighbour's; then two that swap.
    pair["new"].sql("UPDATE seats SET id = id + 1 WHERE id <= 1000");
    pair.quiesce();
    pair["legacy"].sql(
        "BEGIN; UPDATE seats SET id = 0 WHERE id = 10; UPDATE seats SET id = 10 WHERE id = 11;
         UPDATE seats SET id = 11 WHERE id = 0; COMMIT",
    );
    pair.settle();
    assert_eq!(pair["new"].sql("SELECT id, place FROM seats WHERE id IN (10, 11) ORDER BY id"), "10|10\n11|9");
    // Away and back, and onto a key that was given up in the same transaction.
    pair["new"].sql(
        "BEGIN; UPDATE seats SET id = 5000 WHERE id = 20; UPDATE seats SET id = 20, who = 'back' WHERE id = 5000;
         DELETE FROM seats WHERE id = 30; UPDATE seats SET id = 30 WHERE id = 31; COMMIT",
    );
    pair.settle();
    assert_eq!(
        pair["legacy"].sql("SELECT id, place, who FROM seats WHERE id IN (20, 30, 31, 5000) ORDER BY id"),
        "20|19|back\n30|30|guest 30"
    );
    nothing_held(&pair);
}

fn swap_and_shift(pair: &Pair) {
    pair["new"].sql("UPDATE seats SET place = place + 1");
    pair.quiesce();
    let middle = ROWS / 2;
    assert_eq!(pair["legacy"].sql(&format!("SELECT place FROM seats WHERE id = {middle}")), (middle + 1).to_string());
    for node in pair.nodes() {
        node.sql(
            "UPDATE seats SET place = -place WHERE id IN (1, 2);
             UPDATE seats SET place = 5 + place WHERE id IN (1, 2)",
        );
        pair.quiesce();
    }
    assert_eq!(pair["new"].sql("SELECT place FROM seats WHERE id IN (1, 2) ORDER BY id"), "2\n3");
    // Given up by a row that goes, taken by one that comes.
    pair["legacy"].sql("BEGIN; DELETE FROM seats WHERE id = 5; INSERT INTO seats VALUES (4999, 6, 'new'); COMMIT");
    pair["new"].sql("BEGIN; DELETE FROM seats WHERE id = 7; INSERT INTO seats VALUES (0, 8, 'new'); COMMIT");
    pair.settle();
    nothing_held(pair);
}

#[test]
fn s04_unique_values_swap_and_shift() {
    let pair = seats("");
    let _hub = pair.linked();
    fill(&pair);
    swap_and_shift(&pair);
}

#[test]
fn s04_unique_values_shift_while_the_hub_is_away() {
    let pair = seats("");
    let hub = pair.linked();
    fill(&pair);
    hub.kill9();
    for _ in 0..5 {
        pair["new"].sql("UPDATE seats SET place = -place; UPDATE seats SET place = 2 - place");
    }
    let _hub = pair.hub();
    pair.settle();
    nothing_held(&pair);
}

#[test]
fn s04_deferrable_unique_values_swap_and_shift() {
    for unique in ["DEFERRABLE INITIALLY IMMEDIATE", "DEFERRABLE INITIALLY DEFERRED"] {
        let pair = seats(unique);
        let _hub = pair.linked();
        fill(&pair);
        swap_and_shift(&pair);
        for node in pair.nodes() {
            let both = "(SELECT sum(place) FROM seats WHERE id IN (20, 21))";
            node.sql(&format!("UPDATE seats SET place = {both} - place WHERE id IN (20, 21)"));
            pair.quiesce();
            node.sql("UPDATE seats SET place = place - 1");
            pair.settle();
        }
        nothing_held(&pair);
    }
}

/// A delivery writes with the constraint's own check switched off: it must look itself.
#[test]
fn s04_a_deferrable_unique_value_claimed_on_both_sides_is_never_there_twice() {
    let pair = seats("DEFERRABLE");
    let hub = pair.linked();
    fill(&pair);
    hub.kill9();
    pair.apart();
    pair["new"].sql("INSERT INTO seats VALUES (1001, 777, 'first')");
    pair["legacy"].sql("INSERT INTO seats VALUES (1002, 777, 'second'), (1003, 778, 'third')");
    let _hub = pair.hub();
    for node in pair.nodes() {
        let what = format!("{} holds the key it cannot take", node.name());
        wait_until(&what, PATIENCE, || node.sql("SELECT count(*) FROM pgtandem.held WHERE released IS NULL") == "1");
        assert_eq!(node.sql("SELECT count(*) FROM seats WHERE place = 777"), "1", "{}", node.name());
        assert_eq!(node.sql("SELECT sqlstate FROM pgtandem.held"), "23505");
    }
    wait_until("the other key arrives", PATIENCE, || {
        pair["new"].sql("SELECT who FROM seats WHERE id = 1003") == "third"
    });
    // A person settles it.
    pair["legacy"].sql("UPDATE seats SET place = 779 WHERE id = 1002");
    pair.settle();
    assert_eq!(pair["new"].sql("SELECT place FROM seats WHERE id IN (1001, 1002) ORDER BY id"), "777\n779");
    nothing_held(&pair);
}
