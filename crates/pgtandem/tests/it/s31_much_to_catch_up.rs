//! S31: while no hub runs, or one server is stopped, both sides write much; catch-up is complete.

use std::time::Duration;

use pgtandem::cluster::Stop;

use crate::support::{Pair, Setup, wait_until};

const LIMIT: Duration = Duration::from_secs(300);
/// More than a live node may be owed before judging waits for it.
const MANY: u32 = 30_000;
/// More than an away node may be owed.
const VERY_MANY: u32 = 70_000;

fn insert(node: &str, from: u32, count: u32, rows_each: u32) -> String {
    format!(
        "DO $$ BEGIN FOR i IN 0..{} LOOP
             INSERT INTO items SELECT {from} + i * {rows_each} + n, '{node}' FROM generate_series(0, {} - 1) n; COMMIT;
         END LOOP; END $$",
        count / rows_each - 1,
        rows_each
    )
}

fn linked() -> Pair {
    let setup = Setup::default().setting("synchronous_commit", "off");
    setup_pair(setup.table("items", "CREATE TABLE items (id int PRIMARY KEY, what text)"))
}

fn setup_pair(setup: Setup) -> Pair {
    let pair = Pair::with(setup);
    pair.pgtandem(["up", "--yes"]).exits(0);
    pair
}

fn are_equal(pair: &Pair, rows: u32) {
    wait_until("both have all rows", LIMIT, || {
        pair.nodes().iter().all(|node| node.sql("SELECT count(*) FROM items") == rows.to_string())
    });
    assert_eq!(pair.differs_in("SELECT count(*), md5(string_agg(id || what, ',' ORDER BY id)) FROM items"), None);
}

#[test]
fn s31_both_sides_wrote_much_while_no_hub_ran() {
    let pair = linked();
    pair["new"].sql(&insert("new", 0, MANY, 10));
    pair["legacy"].sql(&insert("legacy", 1_000_000, MANY * 2, 10));
    let hub = pair.hub();
    are_equal(&pair, 3 * MANY);
    pair.settle();
    assert!(hub.is_running());
}

#[test]
fn s31_a_server_was_stopped_while_the_other_wrote_much() {
    let pair = linked();
    let hub = pair.hub();
    hub.wait_for_log("working");
    pair["legacy"].sql(&insert("legacy", 1_000_000, MANY, 10));
    pair["legacy"].cluster.stop(Stop::Fast).unwrap();
    pair["new"].sql(&insert("new", 0, VERY_MANY, 10));
    pair["legacy"].cluster.start_again().unwrap();
    pair["legacy"].sql("INSERT INTO items VALUES (-1, 'back')");
    are_equal(&pair, MANY + VERY_MANY + 1);
    pair.settle();
    assert!(hub.is_running());
}

/// Each of these is a conflict of its own.
#[test]
fn s31_both_sides_wrote_the_same_rows_over_and_over_while_no_hub_ran() {
    let pair = linked();
    pair["new"].sql("INSERT INTO items SELECT n, 'old' FROM generate_series(1, 3) n");
    let hub = pair.hub();
    pair.settle();
    hub.terminate();
    for node in pair.nodes() {
        node.sql(&format!(
            "DO $$ BEGIN FOR i IN 1..6000 LOOP UPDATE items SET what = '{} ' || i WHERE id = i % 3 + 1; COMMIT;
             END LOOP; END $$",
            node.name()
        ));
    }
    let _hub = pair.hub();
    pair.settle();
    are_equal(&pair, 3);
    // The later side's first write of each row was unseen by the other's last, and so on: one decision at least for
    // each write that lost.
    let decided = "SELECT count(*) FROM (SELECT DISTINCT loser_node, loser_position FROM pgtandem.decision) AS lost";
    let decided: u32 = pair["new"].sql(decided).parse().unwrap();
    assert!(decided >= 6000, "{decided}");
    assert_eq!(pair.differs_in("SELECT count(*) FROM pgtandem.decision"), None);
}
