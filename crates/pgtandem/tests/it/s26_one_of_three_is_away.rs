//! S26, S27: three nodes, and one of them cannot be reached or is gone.

use pgtandem::cluster::Stop;

use crate::support::{Hub, PATIENCE, PRODUCTS, Setup, Trio, wait_until};

fn linked_trio() -> (Trio, Hub) {
    let setup = Setup::default().proxied().config("[hub]\nstatus_interval_ms = 100\nsilence_timeout_s = 4");
    let trio = Trio::with(setup.table("products", PRODUCTS));
    let hub = trio.linked();
    (trio, hub)
}

fn name_of(trio: &Trio, node: &str, id: u32) -> String {
    trio[node].try_sql(&format!("SELECT name FROM products WHERE id = {id}")).unwrap_or_default()
}

#[track_caller]
fn arrives(trio: &Trio, node: &str, id: u32, name: &str) {
    wait_until(&format!("row {id} is '{name}' on {node}"), PATIENCE, || name_of(trio, node, id) == name);
}

/// The two that are left write to each other, and the third writes for itself.
fn write_apart(trio: &Trio, round: &str, third_is_up: bool) {
    trio["new"].sql(&format!("UPDATE products SET name = 'new {round}' WHERE id = 1"));
    arrives(trio, "legacy", 1, &format!("new {round}"));
    trio["legacy"].sql(&format!("UPDATE products SET name = 'legacy {round}' WHERE id = 2"));
    arrives(trio, "new", 2, &format!("legacy {round}"));
    if third_is_up {
        trio["third"].sql(&format!("UPDATE products SET name = 'third {round}' WHERE id IN (2, 3)"));
        assert_ne!(name_of(trio, "new", 3), format!("third {round}"));
    }
}

#[test]
fn s26_two_go_on_without_the_third_and_all_are_equal_when_it_returns() {
    let (trio, hub) = linked_trio();
    trio["new"].sql("INSERT INTO products (id, name) SELECT n, 'old' FROM generate_series(1, 5) n");
    trio.settle();
    let third = trio["third"].proxy.as_ref().unwrap();
    // Refused: everybody knows at once.
    third.refuse();
    write_apart(&trio, "while it is refused", true);
    third.clear();
    trio.settle();
    assert_eq!(name_of(&trio, "new", 3), "third while it is refused");
    // Both had written row 2; it is decided once, and all say so.
    let decided = "SELECT kind, winner_row->>'name', loser_row->>'name' FROM pgtandem.decision";
    assert_eq!(trio.differs_in(decided), None);
    assert_eq!(trio["new"].sql("SELECT count(*) FROM pgtandem.decision"), "1");
    // Silent: connections stay open, nothing passes.
    third.stall();
    write_apart(&trio, "while it is silent", true);
    hub.wait_for_log("no answer");
    write_apart(&trio, "while it is known to be silent", true);
    third.clear();
    trio.settle();
    // Stopped.
    trio["third"].cluster.stop(Stop::Immediate).unwrap();
    write_apart(&trio, "while it is down", false);
    trio["third"].cluster.start_again().unwrap();
    trio.settle();
    assert_eq!(name_of(&trio, "third", 1), "new while it is down");
    assert!(hub.is_running());
    assert_eq!(trio["new"].sql("SELECT epoch FROM pgtandem.epoch"), "1", "the hub started over");
}

#[test]
fn s27_what_reached_only_some_nodes_reaches_the_rest_though_its_own_node_died() {
    let (trio, hub) = linked_trio();
    trio["new"].sql("INSERT INTO products (id, name) SELECT n, 'old' FROM generate_series(1, 5) n");
    trio.settle();
    let third = trio["third"].proxy.as_ref().unwrap();
    third.refuse();
    trio["new"].sql("UPDATE products SET name = 'last words' WHERE id = 1; DELETE FROM products WHERE id = 2");
    arrives(&trio, "legacy", 1, "last words");
    trio["new"].cluster.kill9().unwrap();
    hub.wait_for_log("away");
    third.clear();
    arrives(&trio, "third", 1, "last words");
    arrives(&trio, "third", 2, "");
    // A write over it elsewhere has seen it.
    trio["third"].sql("UPDATE products SET name = 'over it' WHERE id = 1");
    arrives(&trio, "legacy", 1, "over it");
    trio["new"].cluster.start_again().unwrap();
    trio.settle();
    assert_eq!(name_of(&trio, "new", 1), "over it");
    assert_eq!(trio["new"].sql("SELECT count(*) FROM pgtandem.decision"), "0");

    // The same, and the hub dies, too: it begins once all are there, and then owes what is missing.
    third.refuse();
    trio["new"].sql("UPDATE products SET name = 'again' WHERE id = 3");
    arrives(&trio, "legacy", 3, "again");
    trio["new"].cluster.kill9().unwrap();
    hub.kill9();
    third.clear();
    let hub = trio.hub();
    hub.wait_for_log("waiting for new");
    trio["legacy"].sql("UPDATE products SET name = 'over again' WHERE id = 3");
    trio["new"].cluster.start_again().unwrap();
    arrives(&trio, "third", 3, "over again");
    trio.settle();
    assert_eq!(trio["new"].sql("SELECT count(*) FROM pgtandem.decision"), "0");
    // Each reason is said once, not at every attempt: refused, cut, starting up.
    assert!(hub.log().matches("waiting for new").count() <= 4, "{}", hub.log());
}
