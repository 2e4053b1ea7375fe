//! S31 with three nodes: one is stopped for long, and the others go on without it and keep nothing for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgtandem::cluster::Stop;

use crate::support::{Hub, Node, Setup, Trio, wait_until};

const LIMIT: Duration = Duration::from_secs(300);
const WITHOUT_IT: &str = "the others go on without it";

fn trio() -> Trio {
    let setup = Setup::default().config("[hub]\nstatus_interval_ms = 100\nkeep_wal = \"1MiB\"");
    let trio = Trio::with(setup.table("items", "CREATE TABLE items (id int PRIMARY KEY, what text)"));
    trio.pgtandem(["up", "--yes"]).exits(0);
    trio["new"].sql("INSERT INTO items SELECT n, 'old' FROM generate_series(1, 2000) n");
    for node in trio.nodes() {
        node.sql("CREATE TABLE elsewhere (filler text)");
    }
    trio
}

fn write_elsewhere(node: &Node) {
    node.sql("INSERT INTO elsewhere SELECT repeat('x', 1000) FROM generate_series(1, 3000)");
}

/// Stops the third node, and writes until the others go on without it.
fn leave_third_behind(trio: &Trio, hub: &Hub) {
    trio["third"].cluster.stop(Stop::Fast).unwrap();
    wait_until("it is left behind", LIMIT, || {
        write_elsewhere(&trio["legacy"]);
        hub.log().contains(WITHOUT_IT)
    });
    hub.wait_for_log("working: new and legacy");
}

#[track_caller]
fn arrives(node: &Node, id: u32, what: &str) {
    wait_until(&format!("row {id} is '{what}' on {}", node.name()), LIMIT, || {
        node.sql(&format!("SELECT coalesce(max(what), '-') FROM items WHERE id = {id}")) == what
    });
}

/// By what its slot has confirmed, the node keeps nothing that was written up to now.
fn lets_go(node: &Node) {
    if crate::CAPTURE != "wal" {
        wait_until("the outbox is empty", LIMIT, || node.outbox_length() == "0");
        return;
    }
    let mark = node.sql("SELECT pg_current_wal_insert_lsn()");
    let passed = format!("SELECT bool_and(confirmed_flush_lsn >= '{mark}') FROM pg_replication_slots");
    wait_until(&format!("the slot of {} passes {mark}", node.name()), LIMIT, || node.sql(&passed) == "t");
}

/// They are one link again, and nothing is left of what was noted.
fn all_take_part(trio: &Trio) {
    trio.quiesce_within(LIMIT);
    trio.settle();
    for node in trio.nodes() {
        node.sql("UPDATE items SET what = what || '!' WHERE id = 1");
        trio.settle();
    }
    assert!(trio["third"].sql("SELECT what FROM items WHERE id = 1").ends_with("!!!"));
    for node in trio.nodes() {
        assert_eq!(node.sql("SELECT count(*) FROM pgtandem.dirty_key"), "0");
        assert_eq!(node.sql("SELECT count(*) FROM pgtandem.left_behind"), "0");
        assert_eq!(node.sql("SELECT count(*) FROM pgtandem.restore WHERE kind = 'rejoin'"), "0");
    }
    trio.pgtandem(["status"]).ok();
}

#[test]
fn s31_two_of_three_go_on_and_keep_nothing_for_the_third() {
    let trio = trio();
    let (new, legacy, third) = (&trio["new"], &trio["legacy"], &trio["third"]);
    let hub = trio.hub();
    hub.wait_for_log("working");
    trio.settle();
    hub.terminate();
    // Nobody has read this when it is stopped.
    third.sql("UPDATE items SET what = 'third' WHERE id <= 10; DELETE FROM items WHERE id = 11");
    third.sql("INSERT INTO items VALUES (5000, 'third'); UPDATE items SET what = 'both: third' WHERE id IN (20, 21)");
    third.cluster.stop(Stop::Fast).unwrap();
    let hub = trio.hub();
    hub.wait_for_log("waiting for third");
    new.sql("UPDATE items SET what = 'both: new' WHERE id = 20");
    legacy.sql("UPDATE items SET what = 'unread' WHERE id = 30");
    wait_until("it is left behind", LIMIT, || {
        write_elsewhere(legacy);
        hub.log().contains(WITHOUT_IT)
    });
    arrives(legacy, 20, "both: new");
    arrives(new, 30, "unread");
    // What one has written over what it had got from the other is no conflict, and neither is it later.
    new.sql("UPDATE items SET what = 'new' WHERE id BETWEEN 100 AND 299; INSERT INTO items VALUES (6000, 'new')");
    arrives(legacy, 299, "new");
    legacy.sql("UPDATE items SET what = 'over it' WHERE id BETWEEN 200 AND 209; DELETE FROM items WHERE id BETWEEN 210 AND 219");
    legacy.sql("UPDATE items SET what = 'both: legacy' WHERE id = 21; DELETE FROM items WHERE id = 400");
    arrives(new, 209, "over it");
    arrives(new, 400, "-");
    lets_go(new);
    lets_go(legacy);
    let status = trio.pgtandem(["status"]).exits(1).stdout;
    assert!(status.contains("new keeps only the keys that change for it: 2"), "{status}");
    // Nor is anything lost by a hub that is killed and started again.
    legacy.sql("UPDATE items SET what = 'at the end' WHERE id BETWEEN 500 AND 520");
    hub.kill9();
    let hub = trio.hub();
    hub.wait_for_log("working: new and legacy");
    assert!(!hub.log().contains(WITHOUT_IT), "that was said by the hub before");
    new.sql("UPDATE items SET what = 'last' WHERE id = 100");
    arrives(legacy, 100, "last");
    third.cluster.start_again().unwrap();
    third.sql("UPDATE items SET what = 'back' WHERE id = 1500");
    hub.wait_for_log("is back: settling items");
    all_take_part(&trio);
    let count = |what: &str| third.sql(&format!("SELECT count(*) FROM items WHERE {what}"));
    assert_eq!(count("what LIKE 'third%' AND (id <= 10 OR id = 5000)"), "11");
    assert_eq!(count("id IN (11, 400) OR id BETWEEN 210 AND 219"), "0", "what was deleted stays so");
    assert_eq!(count("what = 'new'"), "180", "179 rows, and one that was inserted");
    assert_eq!(count("what = 'over it'"), "10");
    assert_eq!(count("what = 'at the end'"), "21");
    assert_eq!(count("what IN ('last', 'back', 'unread')"), "3");
    // What both sides had changed was decided, and what lost is kept.
    let lost = "SELECT string_agg(DISTINCT loser_row->>'what', ', ') FROM pgtandem.decision
                WHERE loser_row->>'what' LIKE 'both%'";
    assert!(trio.nodes().iter().any(|node| node.sql(lost) == "both: third"));
    assert_eq!(count("what IN ('both: new', 'both: legacy')"), "2");
    assert!(hub.is_running());
}

#[test]
fn s31_a_third_node_that_returns_is_settled_though_the_hub_is_killed_again_and_again() {
    let trio = trio();
    let (new, legacy) = (&trio["new"], &trio["legacy"]);
    let mut hub = trio.hub();
    hub.wait_for_log("working");
    trio.settle();
    leave_third_behind(&trio, &hub);
    new.sql("UPDATE items SET what = 'new' WHERE id <= 1000 AND id % 2 = 0; DELETE FROM items WHERE id % 10 = 0");
    legacy.sql("UPDATE items SET what = 'legacy' WHERE id <= 1000 AND id % 2 = 1");
    arrives(new, 999, "legacy");
    lets_go(new);
    trio["third"].cluster.start_again().unwrap();
    for signs in ["is back", "settling items", "rows taken from"] {
        hub.wait_for_log(signs);
        hub.kill9();
        // Meanwhile nobody is at work.
        new.sql(&format!("UPDATE items SET what = 'new while {signs}' WHERE id BETWEEN 101 AND 110"));
        trio["third"].sql(&format!("UPDATE items SET what = 'third while {signs}' WHERE id BETWEEN 1501 AND 1509"));
        hub = trio.hub();
    }
    all_take_part(&trio);
    let count = |what: &str| trio["third"].sql(&format!("SELECT count(*) FROM items WHERE {what}"));
    assert_eq!(count("id % 10 = 0"), "0");
    assert_eq!(count("what = 'new'"), "396", "of 400 rows four were written since");
    assert_eq!(count("what = 'legacy'"), "495");
    assert_eq!(count("what LIKE 'new while rows taken from%'"), "9");
    assert_eq!(count("what = 'third while rows taken from'"), "9");
    assert!(hub.is_running());
}

/// A change that is not acknowledged, because an older one of its node still is not, and a later one over it that is:
/// the earlier is not owed anew when the third is back, which has had neither.
#[test]
fn s31_what_was_replaced_while_a_third_node_was_away_does_not_come_back() {
    if crate::CAPTURE != "wal" {
        return;
    }
    let trio = trio();
    let (new, legacy) = (&trio["new"], &trio["legacy"]);
    let hub = trio.hub();
    hub.wait_for_log("working");
    trio.settle();
    leave_third_behind(&trio, &hub);
    let confirmed = |node: &Node, mark: &str| {
        node.sql(&format!("SELECT bool_and(confirmed_flush_lsn > '{mark}') FROM pg_replication_slots")) == "t"
    };
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // As long as a row is written all the time, nothing that its node has written since is acknowledged.
        scope.spawn(|| {
            let application = new.session();
            while !enough.load(Ordering::Relaxed) {
                let hot = "DO $$ BEGIN FOR i IN 1..500 LOOP UPDATE items SET what = 'hot ' || i WHERE id = 1; COMMIT;
                           END LOOP; END $$";
                application.run(hot).unwrap();
            }
        });
        arrives_hot(legacy);
        let before = new.sql("SELECT pg_current_wal_insert_lsn()");
        new.sql("UPDATE items SET what = 'first' WHERE id = 2");
        arrives(legacy, 2, "first");
        let mark = legacy.sql("SELECT pg_current_wal_insert_lsn()");
        legacy.sql("UPDATE items SET what = 'second' WHERE id = 2");
        arrives(new, 2, "second");
        write_elsewhere(legacy);
        wait_until("the second is acknowledged", LIMIT, || confirmed(legacy, &mark));
        assert!(!confirmed(new, &before), "the first is, too: the scenario shows nothing");
        hub.kill9();
        enough.store(true, Ordering::Relaxed);
    });
    trio["third"].cluster.start_again().unwrap();
    let hub = trio.hub();
    hub.wait_for_log("is back: settling items");
    all_take_part(&trio);
    assert_eq!(new.sql("SELECT what FROM items WHERE id = 2"), "second");
    assert!(hub.is_running());
}

fn arrives_hot(node: &Node) {
    wait_until("what is written all the time arrives", LIMIT, || {
        node.sql("SELECT what FROM items WHERE id = 1").starts_with("hot")
    });
}
