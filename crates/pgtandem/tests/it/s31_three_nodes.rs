//! S31 with three nodes: one is stopped for long, and the others go on without it and keep nothing for it.

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

fn at_work() -> (Trio, Hub) {
    let trio = trio();
    let hub = trio.hub();
    hub.wait_for_log("working");
    trio.settle();
    (trio, hub)
}

/// An outbox has only what is linked.
fn write_elsewhere(node: &Node) {
    node.sql(match crate::CAPTURE {
        "wal" => "INSERT INTO elsewhere SELECT repeat('x', 1000) FROM generate_series(1, 3000)",
        _ => "UPDATE items SET what = repeat(md5(random()::text), 30) WHERE id >= 1600 AND id < 2000",
    });
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
    let (trio, hub) = at_work();
    let (new, legacy, third) = (&trio["new"], &trio["legacy"], &trio["third"]);
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
    assert!(status.contains("new keeps only the keys that change for it: "), "{status}");
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
    assert_eq!(count("what = 'legacy'"), "494", "of 500 rows five were written since, and the first");
    assert_eq!(count("what LIKE 'new while rows taken from%'"), "9");
    assert_eq!(count("what = 'third while rows taken from'"), "9");
    assert!(hub.is_running());
}

/// A change whose acknowledgement a server has forgotten by a crash, and a later one over it, of another node, that is
/// acknowledged: the earlier is not owed anew when the third is back, which has had neither.
#[test]
fn s31_what_was_replaced_while_a_third_node_was_away_does_not_come_back() {
    if crate::CAPTURE != "wal" {
        return;
    }
    let (trio, hub) = at_work();
    let (new, legacy) = (&trio["new"], &trio["legacy"]);
    leave_third_behind(&trio, &hub);
    let mut hub = Some(hub);
    let confirmed = |node: &Node, mark: &str| {
        node.sql(&format!("SELECT bool_and(confirmed_flush_lsn > '{mark}') FROM pg_replication_slots")) == "t"
    };
    let replaced = (2..20).find(|id| {
        let working = hub.take().unwrap_or_else(|| trio.hub());
        working.wait_for_log("working");
        let before = new.sql("SELECT pg_current_wal_insert_lsn()");
        new.sql(&format!("UPDATE items SET what = 'first' WHERE id = {id}"));
        arrives(legacy, *id, "first");
        let mark = legacy.sql("SELECT pg_current_wal_insert_lsn()");
        // So it is as the third has it, and there is nothing to settle.
        legacy.sql(&format!("UPDATE items SET what = 'old' WHERE id = {id}"));
        arrives(new, *id, "old");
        wait_until("it is acknowledged", LIMIT, || {
            write_elsewhere(legacy);
            confirmed(legacy, &mark)
        });
        working.kill9();
        new.cluster.kill9().unwrap();
        new.cluster.start_again().unwrap();
        let known = new.sql(&format!("SELECT max(acknowledged) >= '{before}' FROM pgtandem.landing"));
        known == "f" && !confirmed(new, &before)
    });
    let replaced = replaced.expect("the server forgets an acknowledgement");
    trio["third"].cluster.start_again().unwrap();
    let hub = trio.hub();
    hub.wait_for_log("is back: settling items");
    all_take_part(&trio);
    assert_eq!(new.sql(&format!("SELECT what FROM items WHERE id = {replaced}")), "old");
    assert!(hub.is_running());
}

/// What one of the two refuses is no change on its way, which would reach the third by itself.
#[test]
fn s31_what_one_node_holds_reaches_the_third_when_it_is_back() {
    let (trio, hub) = at_work();
    let (new, legacy, third) = (&trio["new"], &trio["legacy"], &trio["third"]);
    leave_third_behind(&trio, &hub);
    legacy.sql("ALTER TABLE items ADD CONSTRAINT picky CHECK (what NOT LIKE 'refused%')");
    new.sql("UPDATE items SET what = 'refused' WHERE id = 40; INSERT INTO items VALUES (5000, 'refused, too')");
    wait_until("it is held", LIMIT, || legacy.sql("SELECT count(*) FROM pgtandem.held") == "2");
    lets_go(new);
    third.cluster.start_again().unwrap();
    hub.wait_for_log("is back: settling items");
    arrives(third, 40, "refused");
    arrives(third, 5000, "refused, too");
    assert_eq!(legacy.sql("SELECT what FROM items WHERE id = 40"), "old");
    legacy.sql("ALTER TABLE items DROP CONSTRAINT picky");
    all_take_part(&trio);
    assert_eq!(legacy.sql("SELECT what FROM items WHERE id = 40"), "refused");
    assert!(hub.is_running());
}

/// Not the others: what it has missed is noted with one of them, and it takes all to settle that.
#[test]
fn s31_a_node_that_is_left_behind_can_be_taken_out() {
    let (trio, hub) = at_work();
    let (new, legacy) = (&trio["new"], &trio["legacy"]);
    leave_third_behind(&trio, &hub);
    new.sql("UPDATE items SET what = 'new' WHERE id = 1");
    arrives(legacy, 1, "new");
    let refused = trio.pgtandem(["down", "--node", "legacy", "--yes"]);
    assert!(refused.stderr.contains("what it has missed is not settled yet"), "{}", refused.stderr);
    trio.pgtandem(["down", "--node", "third", "--yes"]);
    for node in [new, legacy] {
        assert_eq!(node.sql("SELECT count(*) FROM pgtandem.left_behind"), "0");
        assert_eq!(node.sql("SELECT count(*) FROM pgtandem.dirty_key"), "0");
    }
}

/// What it has changed itself is unknown; what the others have is noted.
#[test]
fn s31_s32_a_node_that_was_left_behind_has_lost_its_slot_as_well() {
    if crate::CAPTURE != "wal" {
        return;
    }
    let (trio, hub) = at_work();
    let (new, legacy, third) = (&trio["new"], &trio["legacy"], &trio["third"]);
    leave_third_behind(&trio, &hub);
    new.sql("UPDATE items SET what = 'new' WHERE id BETWEEN 100 AND 199");
    arrives(legacy, 199, "new");
    legacy.sql("DELETE FROM items WHERE id BETWEEN 150 AND 159");
    arrives(new, 159, "-");
    lets_go(legacy);
    hub.terminate();
    third.cluster.start_again().unwrap();
    third.lose_slot();
    third.sql("UPDATE items SET what = 'third' WHERE id = 300");
    let run = trio.pgtandem(["run"]).exits(3).stderr;
    assert!(run.contains("pgtandem rejoin third"), "{run}");
    trio.pgtandem(["rejoin", "third", "--yes"]).ok();
    trio.equal("items");
    let count = |what: &str| third.sql(&format!("SELECT count(*) FROM items WHERE {what}"));
    assert_eq!(count("what = 'new'"), "90");
    assert_eq!(count("id BETWEEN 150 AND 159"), "0");
    assert_eq!(count("what = 'third'"), "1");
    let hub = trio.hub();
    all_take_part(&trio);
    assert!(hub.is_running());
}

/// What is noted for the third runs ahead of what the others have got from each other: that it stands where it would had
/// it got all that is noted must not mean that it knew of a change that nobody has brought to it.
#[test]
fn s31_what_the_others_have_not_got_either_is_no_news_to_a_third_node_that_returns() {
    let (trio, hub) = at_work();
    let (new, legacy, third) = (&trio["new"], &trio["legacy"], &trio["third"]);
    leave_third_behind(&trio, &hub);
    lets_go(legacy);
    legacy.cluster.stop(Stop::Fast).unwrap();
    new.sql("UPDATE items SET what = 'of new' WHERE id = 50");
    new.sql("INSERT INTO items VALUES (5000, 'of new')");
    wait_until("it is noted", LIMIT, || {
        let is_here = "SELECT EXISTS (SELECT FROM pgtandem.dirty_key WHERE encode(key_bytes, 'escape') LIKE '%5000%')";
        new.sql(is_here) == "t"
    });
    hub.kill9();
    third.cluster.start_again().unwrap();
    legacy.cluster.start_again().unwrap();
    // Nobody sees what is written here before it is committed, and until then the row takes no delivery.
    let application = third.session();
    application.run("BEGIN; UPDATE items SET what = 'of third' WHERE id = 50").unwrap();
    let hub = trio.hub();
    hub.wait_for_log("is back: settling items");
    hub.wait_for_log("working: new and legacy and third");
    application.run("COMMIT").unwrap();
    all_take_part(&trio);
    let lost = "SELECT string_agg(DISTINCT loser_row->>'what', ', ') FROM pgtandem.decision WHERE key->>'id' = '50'";
    let kept = format!("{} {}", third.sql(lost), third.sql("SELECT what FROM items WHERE id = 50"));
    assert!(["of new of third", "of third of new"].contains(&kept.as_str()), "{kept}");
    assert!(hub.is_running());
}

/// What it has been refused before it went away was replaced meanwhile: it must not come from there, later, as the last.
#[test]
fn s31_what_a_third_node_holds_is_not_taken_for_the_last_when_it_is_back() {
    let (trio, hub) = at_work();
    let (new, legacy, third) = (&trio["new"], &trio["legacy"], &trio["third"]);
    third.sql("ALTER TABLE items ADD CONSTRAINT picky CHECK (what NOT LIKE 'refused%')");
    new.sql("UPDATE items SET what = 'refused' WHERE id IN (40, 41); INSERT INTO items VALUES (5000, 'refused')");
    wait_until("it is held", LIMIT, || third.sql("SELECT count(*) FROM pgtandem.held") == "3");
    arrives(legacy, 5000, "refused");
    lets_go(new);
    leave_third_behind(&trio, &hub);
    // As the third has them.
    new.sql("UPDATE items SET what = 'old' WHERE id = 40; DELETE FROM items WHERE id IN (41, 5000)");
    arrives(legacy, 5000, "-");
    lets_go(new);
    third.cluster.start_again().unwrap();
    hub.wait_for_log("is back: settling items");
    arrives(third, 41, "-");
    wait_until("nothing waits", LIMIT, || {
        third.try_sql("SELECT count(*) FROM pgtandem.held WHERE released IS NULL").is_ok_and(|count| count == "0")
    });
    third.sql("ALTER TABLE items DROP CONSTRAINT picky");
    all_take_part(&trio);
    for node in trio.nodes() {
        assert_eq!(node.sql("SELECT string_agg(what, ', ') FROM items WHERE id IN (40, 41, 5000)"), "old");
    }
    assert!(hub.is_running());
}

/// It would throw away what is noted, of which nobody else knows.
#[test]
fn s31_s32_another_node_is_not_rejoined_before_the_third_is_settled() {
    if crate::CAPTURE != "wal" {
        return;
    }
    let (trio, hub) = at_work();
    let (new, legacy, third) = (&trio["new"], &trio["legacy"], &trio["third"]);
    leave_third_behind(&trio, &hub);
    new.sql("UPDATE items SET what = 'new' WHERE id BETWEEN 100 AND 199");
    arrives(legacy, 199, "new");
    lets_go(new);
    hub.terminate();
    third.cluster.start_again().unwrap();
    legacy.lose_slot();
    let refused = trio.pgtandem(["rejoin", "legacy", "--yes"]).stderr;
    assert!(refused.contains("third was away for long, and what it has missed is not settled yet"), "{refused}");
    assert_eq!(new.sql("SELECT count(*) >= 100 FROM pgtandem.dirty_key"), "t");
    assert_eq!(new.sql("SELECT count(*) FROM pgtandem.left_behind"), "1");
}
