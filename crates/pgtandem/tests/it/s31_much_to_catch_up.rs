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

/// What both did before is settled by who did it, whatever is kept of it.
fn away_for_long(hub_is_running: bool) {
    let setup = Setup::default().setting("max_wal_size", "48MB");
    // Where the server throws away what a slot keeps too long, that bounds it, too: by half.
    let setup = match hub_is_running {
        true => setup.setting("max_slot_wal_keep_size", "160MB"),
        false => setup.config("[hub]\nkeep_wal = \"16MiB\""),
    };
    let setup = setup.setting("synchronous_commit", "off");
    let pair = setup_pair(setup.table("items", "CREATE TABLE items (id int PRIMARY KEY, what text)"));
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO items SELECT n, 'old' FROM generate_series(1, 2000) n");
    let mut hub = pair.hub();
    hub.wait_for_log("working");
    pair.settle();
    if !hub_is_running {
        hub.terminate();
        legacy.sql("UPDATE items SET what = 'legacy' WHERE id <= 10; DELETE FROM items WHERE id = 11");
        legacy.sql("INSERT INTO items VALUES (5000, 'legacy'); UPDATE items SET what = 'both: legacy' WHERE id = 20");
    }
    legacy.cluster.stop(Stop::Fast).unwrap();
    if !hub_is_running {
        hub = pair.hub();
        hub.wait_for_log("waiting for legacy");
        new.sql("UPDATE items SET what = 'both: new' WHERE id = 20");
    }
    new.sql("DELETE FROM items WHERE id BETWEEN 30 AND 39; INSERT INTO items VALUES (6000, 'new')");
    new.sql("CREATE TABLE elsewhere (filler text)");
    const KEPT: &str = "SELECT (pg_current_wal_lsn() - restart_lsn) / 1048576 FROM pg_replication_slots";
    let kept = || new.sql(KEPT).split('.').next().unwrap().parse::<u32>().unwrap();
    let mut written = 0;
    wait_until("it is left behind", LIMIT, || {
        // What it notices takes it some seconds.
        if kept() < 100 {
            new.sql("INSERT INTO elsewhere SELECT repeat('x', 1000) FROM generate_series(1, 10000)");
            new.sql("UPDATE items SET what = 'new' WHERE id BETWEEN 100 AND 1099");
            written += 10;
        }
        hub.log().contains("only the keys that change are kept")
    });
    while written < 100 {
        new.sql("INSERT INTO elsewhere SELECT repeat('x', 1000) FROM generate_series(1, 10000)");
        written += 10;
    }
    new.sql("UPDATE items SET what = 'newer' WHERE id BETWEEN 100 AND 1099");
    wait_until("its peer keeps little more than it may", LIMIT, || {
        new.sql("INSERT INTO elsewhere VALUES ('x'); CHECKPOINT");
        kept() < 16
    });
    let noted = || pair.pgtandem(["status"]).exits(1).stdout;
    wait_until("all keys are noted", LIMIT, || noted().contains("new keeps only the keys that change for it: 10"));
    let status = noted();
    assert!(status.contains("new keeps only the keys that change for it: 10"), "{status}");
    if !hub_is_running {
        // Nor does a hub that is killed and started again.
        hub.kill9();
        hub = pair.hub();
        hub.wait_for_log("waiting for legacy");
    }
    new.sql("UPDATE items SET what = 'last' WHERE id = 100");
    legacy.cluster.start_again().unwrap();
    legacy.sql("UPDATE items SET what = 'back' WHERE id = 1500");
    hub.wait_for_log("is back: settling items");
    pair.quiesce_within(LIMIT);
    pair.settle();
    let count = |what: &str| legacy.sql(&format!("SELECT count(*) FROM items WHERE {what}"));
    assert_eq!(count("what = 'newer'"), "999");
    assert_eq!(count("what IN ('last', 'back')"), "2");
    assert_eq!(count("id BETWEEN 30 AND 39"), "0", "what was deleted meanwhile is gone");
    assert_eq!(count("id = 6000"), "1");
    if !hub_is_running {
        assert_eq!(count("what = 'legacy' AND (id <= 10 OR id = 5000)"), "11");
        assert_eq!(count("id = 11"), "0");
        let lost = "SELECT count(*) FROM pgtandem.decision WHERE loser_row->>'what' LIKE 'both: %'";
        assert!(pair.nodes().iter().any(|node| node.sql(lost) != "0"));
    }
    for (node, other) in [(new, legacy), (legacy, new)] {
        node.sql("UPDATE items SET what = what || '!' WHERE id = 1");
        pair.settle();
        assert!(other.sql("SELECT what FROM items WHERE id = 1").ends_with('!'));
    }
    assert_eq!(new.sql("SELECT count(*) FROM pgtandem.dirty_key"), "0");
    assert!(hub.is_running());
    pair.pgtandem(["status"]).ok();
}

#[test]
fn s31_a_server_is_stopped_for_so_long_that_only_the_keys_are_kept() {
    away_for_long(true);
}

#[test]
fn s31_a_server_that_is_left_behind_had_news_of_its_own() {
    away_for_long(false);
}

/// Who brings a node back is killed when all is done but to say so: the next hub knows that it is.
#[test]
fn s31_a_return_that_was_killed_at_its_very_end_needs_nobody() {
    let pair = linked();
    let legacy = &pair["legacy"];
    legacy.sql(
        "INSERT INTO pgtandem.restore (kind, object, before)
         VALUES ('rejoin', 'node', '{\"is_copy\": false, \"returning\": true}')",
    );
    let hub = pair.hub();
    hub.wait_for_log("working");
    pair["new"].sql("INSERT INTO items VALUES (1, 'arrives')");
    pair.settle();
    pair.pgtandem(["status"]).ok();
    assert_eq!(legacy.sql("SELECT count(*) FROM pgtandem.restore WHERE kind = 'rejoin'"), "0");
    hub.terminate();
    // Of one that was begun by hand it is not known how far it came.
    legacy.sql("INSERT INTO pgtandem.restore (kind, object, before) VALUES ('rejoin', 'node', '{\"is_copy\": false}')");
    let hub = pair.hub();
    hub.wait_for_log("pgtandem rejoin legacy");
}
