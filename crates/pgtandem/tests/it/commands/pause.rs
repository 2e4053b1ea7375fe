//! `pgtandem pause` and `pgtandem resume`.

use super::{HELD, json, linked};
use crate::support::{PATIENCE, Setup, wait_until};

#[test]
fn a_paused_table_keeps_changes_whole_and_delivers_them_at_resume() {
    let pair = linked(Setup::shared());
    let _hub = pair.hub();
    pair.settle();
    let told = pair.pgtandem(["pause", "products"]).ok();
    assert_eq!(told, "products is paused\nthe hub keeps changes from now on; `pgtandem resume` delivers them\n");

    pair["new"].sql("UPDATE products SET price = 7");
    pair["legacy"].sql("INSERT INTO products (id, name) VALUES (5, 'desk')");
    for node in pair.nodes() {
        wait_until("one change is held on each side", PATIENCE, || node.sql(HELD) == "1");
    }
    assert_eq!(pair["legacy"].sql("SELECT price FROM products WHERE id = 1"), "5");
    assert_eq!(pair["new"].sql("SELECT count(*) FROM products"), "1");
    let status = pair.pgtandem(["status", "--json"]).exits(1);
    let table = &json(&status.stdout)["tables"][0];
    assert_eq!(
        (&table["state"], &table["paused_by"], &table["held_keys"]),
        (&"paused".into(), &"user".into(), &2.into())
    );
    // What waits for a resume needs no attention of its own.
    assert_eq!(json(&status.stdout)["attention"], serde_json::json!(["products is paused"]));

    let told = pair.pgtandem(["resume"]).ok();
    assert_eq!(told, "products goes on\nthe hub delivers what was kept\n");
    pair.quiesce();
    assert_eq!(pair["new"].sql("SELECT id, price FROM products ORDER BY id"), "1|7\n5|");
    for node in pair.nodes() {
        wait_until("nothing is held", PATIENCE, || node.sql(HELD) == "0");
    }
    assert_eq!(pair["new"].sql("SELECT count(*) FROM pgtandem.decision"), "0", "nothing was in conflict");
}

#[test]
fn a_pause_without_a_hub_counts_from_its_next_start() {
    let pair = linked(Setup::shared());
    let told = pair.pgtandem(["pause"]).ok();
    assert_eq!(told, "products is paused\nno hub is running: this counts from its next start\n");
    assert_eq!(pair.pgtandem(["pause", "public.products"]).ok(), "products was paused already\n");

    pair["new"].sql("UPDATE products SET price = 8");
    let _hub = pair.hub();
    wait_until("the change is held", PATIENCE, || pair["legacy"].sql(HELD) == "1");
    assert_eq!(pair["legacy"].sql("SELECT price FROM products"), "5");
    pair.pgtandem(["resume", "products"]).ok();
    pair.quiesce();
    assert_eq!(pair["legacy"].sql("SELECT price FROM products"), "8");
    assert_eq!(pair.pgtandem(["resume"]).ok(), "products was not paused\n");
}

#[test]
fn of_two_writes_during_a_pause_one_wins_at_resume_and_is_recorded() {
    let pair = linked(Setup::shared());
    let _hub = pair.hub();
    pair.settle();
    pair.pgtandem(["pause"]).ok();
    pair["new"].sql("UPDATE products SET price = 100");
    wait_until("it is held on legacy", PATIENCE, || pair["legacy"].sql(HELD) == "1");
    pair["legacy"].sql("UPDATE products SET price = 200");
    pair.pgtandem(["resume"]).ok();
    pair.quiesce();
    assert_eq!(pair["new"].sql("SELECT price FROM products"), "200");
    assert_eq!(pair["new"].sql("SELECT count(*) FROM pgtandem.decision"), "1");
}

#[test]
fn every_node_must_be_told_and_who_was_away_is_named() {
    let pair = linked(Setup::default());
    pair["new"].cluster.stop(pgtandem::cluster::Stop::Fast).unwrap();
    let told = pair.pgtandem(["pause", "products"]).exits(3);
    assert!(told.stdout.starts_with("products is paused\n"), "{}", told.stdout);
    let expected = "not every node could be told; repeat the command when it is back\nnew: nothing accepts";
    assert!(told.stderr.contains(expected), "{}", told.stderr);
    // That one node says so is enough for the hub.
    pair["new"].cluster.start_again().unwrap();
    pair["new"].sql("UPDATE products SET price = 9");
    let hub = pair.hub();
    hub.wait_for_log("is paused: by `pgtandem pause`");
    wait_until("it is held on legacy", PATIENCE, || pair["legacy"].sql(HELD) == "1");
    assert_eq!(pair["legacy"].sql("SELECT price FROM products"), "5");
    pair.pgtandem(["resume"]).ok();
    pair.quiesce();
}

#[test]
fn what_the_hub_paused_is_not_resumed_by_a_person() {
    let pair = linked(Setup::shared());
    for node in pair.nodes() {
        node.sql("UPDATE pgtandem.linked_table SET paused_by = 'drift', pause_reason = 'column x is missing'");
    }
    let told = pair.pgtandem(["resume", "--json"]).ok();
    let expected = serde_json::json!({
        "tables": [{ "name": "products", "state": "paused", "changed": false, "reason": "column x is missing" }],
        "away": [],
        "hub_running": false,
        "hub_follows": false,
    });
    assert_eq!(json(&told), expected);
    let told = pair.pgtandem(["pause", "nowhere"]).exits(2);
    assert!(told.stderr.contains("nowhere is not linked"), "{}", told.stderr);
}
