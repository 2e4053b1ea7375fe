//! S32: a slot is gone. What was written meanwhile is unknown, and nobody may go on as if nothing were missing.

use crate::support::{PATIENCE, PRODUCTS, Pair, Setup, Trio, wait_until};

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, what text, updated_at timestamptz NOT NULL DEFAULT now())";
const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";

#[test]
fn s32_a_dropped_slot_is_named_and_never_made_anew_in_silence() {
    let pair = Pair::with(Setup::default().table("products", PRODUCTS));
    let hub = pair.linked();
    pair["new"].sql("INSERT INTO products (name) VALUES ('before')");
    pair.settle();
    hub.terminate();
    let legacy = &pair["legacy"];
    legacy.lose_slot();
    legacy.sql("UPDATE products SET name = 'nobody has read this'");

    let run = pair.pgtandem(["run"]).exits(3);
    assert!(run.stderr.contains("legacy") && run.stderr.contains("slot"), "{}", run.stderr);
    assert!(run.stderr.contains("pgtandem rejoin legacy"), "it says what to do: {}", run.stderr);
    let status = pair.pgtandem(["status"]).exits(1).stdout;
    assert!(status.contains("its replication slot is gone") && status.contains("rejoin legacy"), "{status}");
    let up = pair.pgtandem(["up", "--yes"]).exits(1);
    assert!((up.stdout + &up.stderr).contains("what was changed since is unknown"));
    assert_eq!(legacy.sql(SLOTS), "0", "nobody made a new one");

    // As told: what was written unseen stands, as legacy had seen all that there was.
    let rejoined = pair.pgtandem(["rejoin", "legacy", "--yes"]).ok();
    assert!(rejoined.contains("1 taken from legacy"), "{rejoined}");
    pair.equal("products");
    assert_eq!(pair["new"].sql("SELECT name FROM products"), "nobody has read this");
    let _hub = pair.hub();
    pair["new"].sql("INSERT INTO products (name) VALUES ('after')");
    pair.settle();
    let fine = pair.pgtandem(["rejoin", "legacy", "--yes"]).exits(1).stderr;
    assert!(fine.contains("none of its changes are missing"), "{fine}");
}

#[test]
fn s32_a_slot_that_goes_while_the_hub_works_ends_it() {
    let pair = Pair::with(Setup::default().table("products", PRODUCTS));
    let hub = pair.linked();
    pair["new"].sql("INSERT INTO products (name) VALUES ('before')");
    pair.settle();
    let legacy = &pair["legacy"];
    wait_until("the slot is dropped", PATIENCE, || {
        let _ = legacy.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active");
        legacy.try_sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots").is_ok()
            && legacy.sql(SLOTS) == "0"
    });
    assert_eq!(hub.wait().code(), Some(3), "{}", hub.log());
    assert!(hub.log().contains("slot") && hub.log().contains("pgtandem rejoin legacy"), "{}", hub.log());
    assert_eq!(legacy.sql(SLOTS), "0", "nobody made a new one");
}

#[test]
fn s32_a_slot_that_lost_wal_is_found_out() {
    let small = Setup::default().setting("max_slot_wal_keep_size", "1MB").setting("max_wal_size", "48MB");
    let pair = Pair::with(small.table("products", PRODUCTS));
    let hub = pair.linked();
    pair["new"].sql("INSERT INTO products (name) VALUES ('before')");
    pair.settle();
    hub.terminate();
    let new = &pair["new"];
    new.sql("INSERT INTO products (name) VALUES ('in the dark'); CREATE TABLE elsewhere (filler text)");
    wait_until("the server throws WAL away", PATIENCE, || {
        new.sql("INSERT INTO elsewhere SELECT repeat('x', 1000) FROM generate_series(1, 20000)");
        new.sql("SELECT pg_switch_wal()");
        new.sql("CHECKPOINT");
        new.sql("SELECT wal_status FROM pg_replication_slots") == "lost"
    });
    let slot = new.sql("SELECT slot_name FROM pg_replication_slots");
    let run = pair.pgtandem(["run"]).exits(3).stderr;
    assert!(run.contains(&format!("new: its replication slot {slot} is gone or has lost WAL")), "{run}");
    let check = pair.pgtandem(["check"]).exits(1).stdout;
    assert!(check.contains(&format!("new: the replication slot {slot}")), "{check}");
    assert!(check.contains("`pgtandem rejoin new`"), "{check}");
    pair.pgtandem(["up", "--yes"]).exits(1);
    pair.pgtandem(["status"]).exits(1);
    assert_eq!(new.sql("SELECT slot_name, wal_status FROM pg_replication_slots"), format!("{slot}|lost"));
    assert_eq!(pair["legacy"].sql("SELECT name FROM products"), "before");
    pair.pgtandem(["rejoin", "new", "--yes"]).ok();
    pair.equal("products");
    assert_eq!(pair["legacy"].sql("SELECT count(*) FROM products"), "2");
    pair.pgtandem(["down", "--yes"]).ok();
    assert_eq!(new.sql(SLOTS), "0");
}

/// One row from there on is changed, the next is gone, and another one is new.
fn write(node: &str, from: u32) -> String {
    format!(
        "UPDATE items SET what = '{node}', updated_at = now() WHERE id = {from}; DELETE FROM items WHERE id = {};
         INSERT INTO items VALUES ({}, '{node}')",
        from + 1,
        from + 10
    )
}

/// What was done in the dark, and what waits on the other side: each stands where only one side has changed a row, and
/// where both have, the policy decides and the row that loses is kept.
#[test]
fn s32_what_each_side_wrote_while_the_slot_was_gone_is_settled() {
    let pair = Pair::with(Setup::default().table("items", ITEMS));
    pair["new"].sql("INSERT INTO items SELECT n, 'old' FROM generate_series(1, 9) n");
    let hub = pair.linked();
    pair.settle();
    hub.terminate();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    legacy.lose_slot();
    legacy.sql(&write("legacy", 1));
    new.sql(&write("new", 4));
    legacy.sql("UPDATE items SET what = 'loses', updated_at = now() WHERE id = 7");
    new.sql("UPDATE items SET what = 'wins', updated_at = now() WHERE id = 7");
    let rejoined = pair.pgtandem(["rejoin", "legacy", "--yes"]).ok();
    assert!(rejoined.contains("legacy is back"), "{rejoined}");
    let rows = "SELECT string_agg(id || ' ' || what, ', ' ORDER BY id) FROM items";
    let expected = "1 legacy, 3 old, 4 new, 6 old, 7 wins, 8 old, 9 old, 11 legacy, 14 new";
    assert_eq!((new.sql(rows), legacy.sql(rows)), (expected.to_owned(), expected.to_owned()));
    let lost = "SELECT count(*) FROM pgtandem.decision WHERE loser_row->>'what' = 'loses'";
    assert!(pair.nodes().iter().any(|node| node.sql(lost) != "0"));
    let hub = pair.hub();
    pair.settle();
    assert!(hub.is_running());
}

/// As above, and the two that are left have changes for each other, too.
#[test]
fn s32_of_three_nodes_one_has_lost_its_slot() {
    let trio = Trio::with(Setup::default().table("items", ITEMS));
    trio["new"].sql("INSERT INTO items SELECT n, 'old' FROM generate_series(1, 9) n");
    let hub = trio.linked();
    trio.settle();
    hub.terminate();
    let third = &trio["third"];
    third.lose_slot();
    for (node, from) in [("third", 1), ("new", 3), ("legacy", 5)] {
        trio[node].sql(&write(node, from));
    }
    for (node, id) in [("third", 7), ("new", 7), ("new", 8), ("legacy", 8), ("legacy", 9), ("third", 9)] {
        trio[node].sql(&format!("UPDATE items SET what = '{node} at last', updated_at = now() WHERE id = {id}"));
    }
    let run = trio.pgtandem(["run"]).exits(3).stderr;
    assert!(run.contains("pgtandem rejoin third"), "{run}");
    trio.pgtandem(["rejoin", "third", "--yes"]).ok();
    trio.equal("items");
    let rows = "SELECT string_agg(id || ' ' || what, ', ' ORDER BY id) FROM items";
    let expected = "1 third, 3 new, 5 legacy, 7 new at last, 8 legacy at last, 9 third at last, \
                    11 third, 13 new, 15 legacy";
    assert_eq!(third.sql(rows), expected);
    let hub = trio.hub();
    for node in trio.nodes() {
        node.sql("UPDATE items SET what = what || '!' WHERE id = 1");
        trio.settle();
    }
    assert_eq!(third.sql("SELECT what FROM items WHERE id = 1"), "third!!!");
    assert!(hub.is_running());
}

/// A row is deleted, because it is on the node that was in the dark, while its own application has it locked. What that
/// one wrote is the row that is kept as the one that lost.
#[test]
fn s32_what_is_written_to_a_row_that_is_about_to_go_is_kept() {
    let pair = Pair::with(Setup::default().table("items", ITEMS));
    let new = &pair["new"];
    new.sql("INSERT INTO items VALUES (1, 'old')");
    let hub = pair.linked();
    pair.settle();
    hub.terminate();
    pair["legacy"].lose_slot();
    pair["legacy"].sql("DELETE FROM items");
    let application = new.session();
    application.run("BEGIN; UPDATE items SET what = 'late'").unwrap();
    let mut rejoin = pair.command(["rejoin", "legacy", "--yes"]).spawn().unwrap();
    wait_until("the row is to be deleted", PATIENCE, || new.waits_for_a_row());
    application.run("COMMIT").unwrap();
    assert!(rejoin.wait().unwrap().success());
    pair.equal("items");
    assert_eq!(new.sql("SELECT count(*) FROM items"), "0");
    let lost = "SELECT string_agg(DISTINCT loser_row->>'what', ', ') FROM pgtandem.decision WHERE kind = 'repair'";
    assert_eq!(new.sql(lost), "late");
}

/// Until it has ended, nobody goes on as if nothing were missing.
#[test]
fn s32_a_rejoin_that_was_killed_is_begun_again() {
    let pair = Pair::with(Setup::default().table("products", PRODUCTS));
    let hub = pair.linked();
    pair["new"].sql("INSERT INTO products (name) VALUES ('before')");
    pair.settle();
    hub.terminate();
    let legacy = &pair["legacy"];
    legacy.lose_slot();
    legacy.sql("UPDATE products SET name = 'nobody has read this'");
    let mut rejoin = pair.command(["rejoin", "legacy", "--yes"]).spawn().unwrap();
    let noted = "SELECT count(*) FROM pgtandem.restore WHERE kind = 'rejoin'";
    wait_until("it has begun", PATIENCE, || legacy.sql(noted) == "1" || rejoin.try_wait().unwrap().is_some());
    rejoin.kill().unwrap();
    rejoin.wait().unwrap();
    if legacy.sql(noted) == "1" {
        let hub = pair.hub();
        hub.wait_for_log("pgtandem rejoin legacy");
        assert!(hub.is_running());
        let status = pair.pgtandem(["status"]).exits(1).stdout;
        assert!(status.contains("has not ended"), "{status}");
        pair.pgtandem(["rejoin", "legacy", "--yes"]).ok();
    }
    pair.equal("products");
    assert_eq!(pair["new"].sql("SELECT name FROM products"), "nobody has read this");
}

/// A hub that waits for it leaves the sessions alone in which it reads what the peer has not delivered yet.
#[test]
fn s32_a_hub_that_begins_while_a_node_is_brought_back_waits_for_it() {
    let pair = Pair::with(Setup::default().table("items", ITEMS));
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    let hub = pair.linked();
    hub.terminate();
    legacy.lose_slot();
    new.sql("INSERT INTO items SELECT n, repeat('x', 200) FROM generate_series(1, 200000) n");
    let mut rejoin = pair.command(["rejoin", "legacy", "--yes"]).spawn().unwrap();
    let reads = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pgtandem capture'";
    wait_until("it reads what the peer has not delivered", PATIENCE, || new.sql(reads) == "1");
    let hub = pair.hub();
    hub.wait_for_log("pgtandem rejoin legacy");
    assert!(rejoin.wait().unwrap().success());
    pair.equal("items");
    assert!(hub.is_running());
}
