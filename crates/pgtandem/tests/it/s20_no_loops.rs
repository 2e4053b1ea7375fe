//! S20: what pgtandem delivers does not come back. At rest nothing is delivered and no slot falls behind.

use crate::support::{Fleet, PATIENCE, PRODUCTS, Pair, Setup, Trio, wait_until};

const QUICK: &str = "[hub]\nstatus_interval_ms = 100";

fn last_landings<const N: usize>(fleet: &Fleet<N>) -> Vec<String> {
    fleet.nodes().iter().map(|node| node.sql("SELECT coalesce(max(id), 0) FROM pgtandem.landing")).collect()
}

/// WAL that concerns nobody; what is under way meanwhile has time to show itself.
fn write_elsewhere<const N: usize>(fleet: &Fleet<N>) {
    for node in fleet.nodes() {
        node.sql("INSERT INTO elsewhere SELECT generate_series(1, 1000)");
    }
    fleet.settle();
}

/// What a hub says of itself, once it says that a node has got so many rows.
fn rows_delivered<const N: usize>(fleet: &Fleet<N>, node: &str) -> String {
    let query = format!("SELECT state->'nodes'->'{node}'->>'rows_delivered' FROM pgtandem.hub_status");
    fleet[0].sql(&query)
}

fn is_quiet<const N: usize>(fleet: &Fleet<N>) {
    for node in fleet.nodes() {
        node.sql("CREATE TABLE elsewhere (number int)");
    }
    // Landings without rows tell the nodes what the others have seen; they end, too.
    let mut last = last_landings(fleet);
    wait_until("deliveries end", PATIENCE, || {
        write_elsewhere(fleet);
        let before = std::mem::replace(&mut last, last_landings(fleet));
        before == last
    });
    for _ in 0..3 {
        write_elsewhere(fleet);
        assert_eq!(last_landings(fleet), last, "something is delivered although nobody writes");
    }
}

#[test]
fn s20_two_nodes_come_to_rest() {
    let pair = Pair::with(Setup::default().config(QUICK).table("products", PRODUCTS));
    let hub = pair.linked();
    for price in 0..20 {
        pair["new"].sql(&format!("INSERT INTO products (name, price) VALUES ('n', {price})"));
        pair["legacy"].sql(&format!("INSERT INTO products (name, price) VALUES ('l', {price})"));
    }
    pair.settle();
    is_quiet(&pair);
    // Each row went to the other side, once, and none came back.
    for node in ["new", "legacy"] {
        wait_until("the hub has counted 20 rows", PATIENCE, || rows_delivered(&pair, node) == "20");
    }
    assert!(hub.is_running());
}

#[test]
fn s20_three_nodes_come_to_rest() {
    let trio = Trio::with(Setup::default().config(QUICK).table("products", PRODUCTS));
    let hub = trio.linked();
    for price in 0..10 {
        for node in trio.nodes() {
            node.sql(&format!("INSERT INTO products (name, price) VALUES ('{}', {price})", node.name()));
        }
    }
    trio.settle();
    is_quiet(&trio);
    for node in ["new", "legacy", "third"] {
        wait_until("the hub has counted 20 rows", PATIENCE, || rows_delivered(&trio, node) == "20");
    }
    // A conflict comes to rest, too.
    hub.freeze();
    for node in trio.nodes() {
        node.sql(&format!("UPDATE products SET name = 'at {}'", node.name()));
    }
    hub.thaw();
    trio.settle();
    wait_until("deliveries end", PATIENCE, || {
        let before = last_landings(&trio);
        write_elsewhere(&trio);
        before == last_landings(&trio)
    });
    trio.equal("products");
}

/// The disk of an idle node does not fill: changes that concern nobody are acknowledged as well.
#[test]
fn s20_slots_advance_while_only_other_tables_are_written() {
    let pair = Pair::with(Setup::default().config(QUICK).table("products", PRODUCTS));
    let _hub = pair.linked();
    pair["new"].sql("INSERT INTO products (name) VALUES ('one')");
    pair.settle();
    pair["legacy"].sql("CREATE TABLE elsewhere (number int)");
    for _ in 0..5 {
        pair["legacy"].sql("INSERT INTO elsewhere SELECT generate_series(1, 100000)");
    }
    pair.settle();
    if crate::CAPTURE != "wal" {
        return;
    }
    // What pg_replication_slots holds back: restart_lsn follows with the next running-xacts record.
    let held_back = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn) < 4 * 1024 * 1024
                     FROM pg_replication_slots";
    wait_until("the slot lets go of old WAL", PATIENCE, || {
        pair["legacy"].sql("CHECKPOINT");
        pair["legacy"].sql(held_back) == "t"
    });
}
