//! Tables are merged while both applications write, and by an `up` that is killed.

use super::Scene;
use crate::support::{PATIENCE, Pair, Setup, killed_after, wait_until};
use pgtandem::cluster::Session;
use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

const PRODUCTS: &str = "CREATE TABLE products (id bigint PRIMARY KEY, name text, updated_at timestamptz DEFAULT now())";
/// Keeps `up` from writing to the rows that `when` says, until the test lets it.
const GATE: &str = "CREATE FUNCTION wait_for_the_test() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF current_setting('application_name') = 'pgtandem' THEN PERFORM pg_advisory_xact_lock_shared(42); END IF;
        RETURN new; END $$;
    CREATE TRIGGER wait_for_the_test BEFORE INSERT OR UPDATE ON products FOR EACH ROW WHEN (new.id = 5000)
        EXECUTE FUNCTION wait_for_the_test();
    ALTER TABLE products ENABLE ALWAYS TRIGGER wait_for_the_test";
const WAITS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

fn pair(policy: &str) -> Pair {
    let pair = Pair::with(Setup::shared().config("[hub]\nstatus_interval_ms = 100").table("products", PRODUCTS));
    let config = fs::read_to_string(pair.config()).unwrap();
    fs::write(pair.config(), format!("{config}{policy}\n")).unwrap();
    pair
}

fn start_up(pair: &Pair) -> Child {
    pair.command(["up", "--yes"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Has it come to the row that waits until the session lets go of the lock.
fn up_at_the_gate(pair: &Pair) -> (Session, Child) {
    let legacy = &pair["legacy"];
    legacy.sql(GATE);
    let gate = legacy.session();
    gate.run("SELECT pg_advisory_lock(42)").unwrap();
    let up = start_up(pair);
    wait_until("a row waits for the test", PATIENCE, || legacy.sql(WAITS) == "1");
    (gate, up)
}

fn finish(up: Child) {
    let ended = up.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

/// Every name must be in the table, or in a decision that overrode it.
#[track_caller]
fn none_is_lost(pair: &Pair, names: impl IntoIterator<Item = String>) {
    let kept = "SELECT name FROM products UNION SELECT loser_row ->> 'name' FROM pgtandem.decision";
    let kept: BTreeSet<String> =
        pair.nodes().iter().flat_map(|node| node.sql(kept).lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let lost: Vec<String> = names.into_iter().filter(|name| !kept.contains(name)).collect();
    assert!(lost.is_empty(), "{} are lost without a record: {:?}", lost.len(), &lost[..lost.len().min(10)]);
}

#[test]
fn s40_merge_rows_that_are_written_meanwhile_are_for_the_hub_to_judge() {
    let pair = pair("merge = \"newest\"");
    let insert = "INSERT INTO products (id, name, updated_at) VALUES";
    pair["new"].sql(&format!(
        "{insert} (1, 'one', '2024-01-02'), (3, 'three new', '2024-01-02'), (5, 'five new', '2024-01-02'),
                  (5000, 'last', '2024-01-02')"
    ));
    pair["legacy"].sql(&format!(
        "{insert} (2, 'two', '2024-01-01'), (3, 'three old', '2024-01-01'), (5, 'five old', '2024-01-01')"
    ));
    let (gate, up) = up_at_the_gate(&pair);
    pair["new"].sql("UPDATE products SET name = 'three newer' WHERE id = 3");
    // Whatever `up` had locked it lets go after 200 ms.
    pair["legacy"].sql("UPDATE products SET name = 'my three' WHERE id = 3");
    pair["legacy"].sql("DELETE FROM products WHERE id = 5");
    pair["legacy"].sql(&format!("{insert} (1, 'my one', now()), (7, 'seven', now())"));
    gate.run("SELECT pg_advisory_unlock(42)").unwrap();
    finish(up);
    assert_eq!(pair["legacy"].sql("SELECT key ->> 'id' FROM pgtandem.held ORDER BY 1"), "1\n3\n5");
    let hub = pair.hub();
    hub.wait_for_log("working");
    pair.settle();
    assert_eq!(
        pair["new"].sql("SELECT id, name FROM products ORDER BY id"),
        "1|my one\n2|two\n3|my three\n7|seven\n5000|last",
        "the later writes win"
    );
    let written = ["one", "three newer", "five new", "my one", "my three", "seven"];
    none_is_lost(&pair, written.map(str::to_owned));
    assert_eq!(pair["legacy"].sql("SELECT count(*) FROM pgtandem.held WHERE released IS NULL"), "0");
}

/// What was compared before the first step is not what is merged, if anybody has written to it since.
#[test]
fn s40_merge_rows_that_are_written_after_they_were_first_compared() {
    for (written, merged) in [
        (
            "UPDATE products SET name = 'later', updated_at = '2024-01-02' WHERE id = 1",
            "1 later\n2 both\n3 new\n4 legacy",
        ),
        ("DELETE FROM products WHERE id = 4", "1 both\n2 both\n3 new"),
        (
            "DELETE FROM products WHERE id = 4; INSERT INTO products VALUES (5, 'later', '2024-01-02')",
            "1 both\n2 both\n3 new\n5 later",
        ),
    ] {
        let pair = pair("merge = \"newest\"");
        let insert =
            "INSERT INTO products (id, name, updated_at) VALUES (1, 'both', '2024-01-01'), (2, 'both', '2024-01-01')";
        pair["new"].sql(&format!("{insert}, (3, 'new', '2024-01-01')"));
        pair["legacy"].sql(&format!("{insert}, (4, 'legacy', '2024-01-01')"));
        // Of this transaction's end `up` makes sure after it has compared, and before the snapshots.
        let open = pair["new"].session();
        open.run("BEGIN; UPDATE products SET name = name WHERE id = 2").unwrap();
        let up = start_up(&pair);
        let has_begun = "SELECT to_regclass('pgtandem.linked_table') IS NOT NULL";
        wait_until("the first comparison is done", PATIENCE, || pair["new"].sql(has_begun) == "t");
        pair["legacy"].sql(written);
        open.run("ROLLBACK").unwrap();
        finish(up);
        let rows = "SELECT id || ' ' || name FROM products ORDER BY id";
        assert_eq!(pair.nodes().iter().map(|node| node.sql(rows)).collect::<Vec<_>>(), [merged; 2], "{written}");
    }
}

/// Inserts keys that the other one inserts, too, and changes the same rows. Answers with the names it inserted.
fn write(session: &Session, node: &str, stop: &AtomicBool) -> Vec<String> {
    let mut names = Vec::new();
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let id = 20_000 + round;
        let name = format!("{node} wrote {id}");
        let query = format!("INSERT INTO products VALUES ({id}, '{name}') ON CONFLICT DO NOTHING RETURNING 1");
        if session.run(query).unwrap().trim_end() == "1" {
            names.push(name);
        }
        let id = round * 17 % 15_000;
        session.run(format!("UPDATE products SET updated_at = now(), name = name || '+' WHERE id = {id}")).unwrap();
        // Some hundred rows a second: the test is about what is lost, not about how fast a backlog drains.
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    names
}

#[test]
fn s40_merge_both_are_written_to_meanwhile() {
    let pair = pair("merge = \"newest\"");
    for (node, first) in [("new", 1), ("legacy", 5001)] {
        pair[node].sql(&format!(
            "INSERT INTO products SELECT i, '{node} ' || i, timestamp '2024-01-01' + hashtext('{node}' || i) * interval '1 s'
             FROM generate_series({first}, {first} + 9999) i"
        ));
    }
    let stop = AtomicBool::new(false);
    let names = std::thread::scope(|scope| {
        let writers = ["new", "legacy"].map(|node| {
            let (session, stop) = (pair[node].session(), &stop);
            scope.spawn(move || write(&session, node, stop))
        });
        let linked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let hub = pair.linked();
            std::thread::sleep(std::time::Duration::from_secs(1));
            hub
        }));
        stop.store(true, Ordering::Relaxed);
        let names: Vec<String> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        let _hub = linked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        pair.settle();
        names
    });
    assert!(names.len() > 100, "{}", names.len());
    assert!(pair["new"].sql("SELECT count(*) FROM products").parse::<u32>().unwrap() >= 15_000);
    none_is_lost(&pair, names);
}

#[test]
fn s21_a_merged_row_can_be_put_back() {
    let pair = pair("merge = \"prefer:new\"");
    pair["new"].sql("INSERT INTO products VALUES (1, 'new''s')");
    pair["legacy"].sql("INSERT INTO products VALUES (1, 'legacy''s')");
    let _hub = pair.linked();
    let listed = pair.pgtandem(["conflicts", "--json"]).ok();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let conflict = listed.as_array().unwrap_or_else(|| listed["conflicts"].as_array().unwrap())[0].clone();
    assert_eq!(conflict["kind"], "merge", "{conflict}");
    assert_eq!((&conflict["winner"]["node"], &conflict["loser"]["node"]), (&"new".into(), &"legacy".into()));
    let name = conflict["name"].as_str().unwrap();
    let shown = pair.pgtandem(["conflicts", "show", name]).ok();
    assert!(shown.contains("legacy's") && shown.contains("merge = prefer:new"), "{shown}");
    pair.pgtandem(["conflicts", "undo", name, "--yes"]).ok();
    pair.settle();
    assert_eq!(pair["new"].sql("SELECT name FROM products"), "legacy's");
    // Once more, or when the row has changed, only by force.
    pair.pgtandem(["conflicts", "undo", name, "--yes"]).exits(1);
}

#[test]
fn s41_merge_killed_while_rows_are_written() {
    let pair = pair("merge = \"newest\"");
    for (node, year) in [("new", 2024), ("legacy", 2023)] {
        pair[node].sql(&format!(
            "INSERT INTO products SELECT i, '{node} ' || i, '{year}-01-01' FROM generate_series(1, 6000) i
             WHERE i % 3 > 0 OR '{node}' = 'new'"
        ));
    }
    let (gate, mut up) = up_at_the_gate(&pair);
    up.kill().unwrap();
    up.wait().unwrap();
    let merged = "SELECT count(*) FROM products WHERE name LIKE 'new%'";
    let merged: u32 = pair["legacy"].sql(merged).parse().unwrap();
    assert!((1000..6000).contains(&merged), "{merged} rows were merged before the kill");
    // A hub waits for the `up` that completes it.
    let hub = pair.hub();
    hub.wait_for_log("was interrupted");
    hub.kill9();
    // Of rows that were merged already, and of others.
    pair["legacy"].sql("UPDATE products SET name = 'legacy later ' || id, updated_at = now() WHERE id IN (1, 5999)");
    pair["new"].sql("UPDATE products SET name = 'new later ' || id, updated_at = now() WHERE id IN (2, 5998)");
    pair["new"].sql("INSERT INTO products VALUES (7000, 'new later 7000')");
    gate.run("SELECT pg_advisory_unlock(42)").unwrap();
    let hub = pair.linked();
    pair.settle();
    assert!(hub.is_running());
    assert_eq!(pair["legacy"].sql("SELECT count(*) FROM products"), "6001");
    let later = "SELECT name FROM products WHERE name LIKE '%later%' ORDER BY id";
    assert_eq!(
        pair["legacy"].sql(later),
        "legacy later 1\nnew later 2\nnew later 5998\nlegacy later 5999\nnew later 7000"
    );
    assert_eq!(pair["new"].sql("SELECT count(*) FROM pgtandem.held"), "0");
    none_is_lost(&pair, (1..5999).filter(|i| i % 3 > 0 && *i != 1).map(|i| format!("legacy {i}")));
}

#[test]
fn s40_merge_a_key_that_is_taken_meanwhile_does_not_keep_the_others() {
    let pair = pair("merge = \"newest\"");
    pair["new"].sql("INSERT INTO products SELECT i, 'new ' || i, '2024-01-01' FROM generate_series(1, 5000) i");
    pair["legacy"].sql("INSERT INTO products VALUES (6000, 'legacy', '2024-01-01')");
    // The first row that is written: those behind it are not there yet.
    pair["legacy"].sql(&GATE.replace("new.id = 5000", "new.id = 1"));
    let (gate, open) = (pair["legacy"].session(), pair["legacy"].session());
    gate.run("SELECT pg_advisory_lock(42)").unwrap();
    let up = start_up(&pair);
    wait_until("a row waits for the test", PATIENCE, || pair["legacy"].sql(WAITS) == "1");
    open.run("BEGIN; INSERT INTO products VALUES (1500, 'taken')").unwrap();
    gate.run("SELECT pg_advisory_unlock(42)").unwrap();
    let copied = || pair["legacy"].sql("SELECT coalesce(sum(copied), 0) FROM pgtandem.merge").parse::<u32>().unwrap();
    wait_until("others are there while one key is held", PATIENCE, || copied() > 1000);
    open.run("COMMIT").unwrap();
    finish(up);
    assert_eq!(pair["legacy"].sql("SELECT key ->> 'id' FROM pgtandem.held"), "1500");
    assert_eq!(pair["legacy"].sql("SELECT copied FROM pgtandem.merge"), "4999");
    let _hub = pair.hub();
    pair.settle();
    assert_eq!(pair["new"].sql("SELECT name FROM products WHERE id = 1500"), "taken");
    none_is_lost(&pair, ["new 1500".to_owned(), "taken".to_owned()]);
}

#[test]
fn s41_merge_killed_after_rows_were_copied_is_undone_as_one() {
    let pair = pair("merge = \"newest\"");
    pair["new"].sql(
        "INSERT INTO products SELECT i, 'new ' || i, '2024-01-01' FROM generate_series(1, 2000) i;
         INSERT INTO products VALUES (5000, 'newer', '2024-01-01')",
    );
    pair["legacy"].sql("INSERT INTO products VALUES (5000, 'older', '2023-01-01')");
    let (gate, mut up) = up_at_the_gate(&pair);
    up.kill().unwrap();
    up.wait().unwrap();
    assert_eq!(pair["legacy"].sql("SELECT copied FROM pgtandem.merge"), "2000");
    gate.run("SELECT pg_advisory_unlock(42)").unwrap();
    // It is copied once more, and not as it was.
    pair["legacy"].sql("DELETE FROM products WHERE id = 7");
    pair["new"].sql("UPDATE products SET name = 'new again' WHERE id = 7");
    pair.pgtandem(["up", "--yes", "--merge-only"]).ok();
    assert_eq!(pair["legacy"].sql("SELECT count(*), max(name) FILTER (WHERE id = 7) FROM products"), "2001|new again");
    pair.pgtandem(["undo", "merge", "--yes"]).ok();
    assert_eq!(pair["legacy"].sql("SELECT id, name FROM products"), "5000|older");
}

#[test]
fn s41_merge_killed_when_one_node_is_live_and_the_other_is_not() {
    let pair = pair("merge = \"newest\"");
    pair["new"].sql("INSERT INTO products VALUES (1, 'one'), (5000, 'last')");
    pair["legacy"].sql("INSERT INTO products VALUES (2, 'two')");
    let block = pair["legacy"].session();
    let (gate, mut up) = up_at_the_gate(&pair);
    block.run("BEGIN; SELECT FROM pgtandem.linked_table FOR UPDATE").unwrap();
    gate.run("SELECT pg_advisory_unlock(42)").unwrap();
    let live = |node: &str| pair[node].sql("SELECT state FROM pgtandem.linked_table");
    wait_until("one is live", PATIENCE, || live("new") == "live");
    up.kill().unwrap();
    up.wait().unwrap();
    block.run("ROLLBACK").unwrap();
    assert_eq!(live("legacy"), "linking");
    pair["new"].sql("UPDATE products SET name = 'one later' WHERE id = 1");
    pair["legacy"].sql("DELETE FROM products WHERE id = 2");
    let _hub = pair.linked();
    pair.settle();
    assert_eq!(pair["legacy"].sql("SELECT name FROM products ORDER BY id"), "one later\nlast");
}

#[test]
fn s41_merge_killed_at_any_point_can_be_repeated() {
    let mut steps = 0;
    loop {
        let scene = Scene::new(&format!("s41_merge_{steps}"), 2, PRODUCTS);
        for node in [0, 1] {
            scene.on(
                node,
                &format!(
                    "INSERT INTO products SELECT i, 'p{node} ' || i, timestamp '2024-01-01' + (i % 3 * {node}) * interval '1 day'
                     FROM generate_series(1 + {node} * 500, 2000 + {node} * 500) i"
                ),
            );
        }
        let before = [scene.traces(0), scene.traces(1)];
        scene.configure(&["name = \"products\"\nmerge = \"newest\""]);
        let Some(step) = killed_after(scene.command(&["up", "--yes"]), steps) else { break };
        scene.on(0, "UPDATE products SET name = 'after the kill', updated_at = 'infinity' WHERE id = 700");
        scene.must(&["up", "--yes"]);
        // Where the kill came after the last step, it was an ordinary change.
        let once = scene.must(&["run", "--once"]);
        let rows = scene.everywhere("SELECT count(*), sum(hashtext(p::text)) FROM products p");
        assert_eq!(rows[0], rows[1], "killed at {step}: {}", once.all());
        assert_eq!(scene.on(1, "SELECT name FROM products WHERE id = 700"), "after the kill", "killed at {step}");
        assert_eq!(scene.everywhere("SELECT count(*) FROM pgtandem.held"), ["0", "0"], "killed at {step}");
        scene.must(&["down", "--yes"]);
        assert_eq!([scene.traces(0), scene.traces(1)], before, "killed at {step}");
        steps += 1;
    }
    assert!(steps > 10, "only {steps} steps were seen");
}

#[test]
fn s41_what_waits_is_delivered_though_a_command_has_only_just_ended() {
    let pair = pair("");
    finish(start_up(&pair));
    pair["new"].sql("INSERT INTO products VALUES (1, 'one')");
    // As a session that its server has not seen end.
    let ended = pair["new"].session();
    ended.run("SELECT pg_advisory_lock(pg_catalog.hashtextextended('pgtandem', 0))").unwrap();
    let once = pair.command(["run", "--once"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let asks = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                AND query LIKE '%pg_try_advisory_lock%'";
    wait_until("it has asked for the lock", PATIENCE, || pair["new"].sql(asks) != "0");
    ended.run("SELECT pg_advisory_unlock_all()").unwrap();
    finish(once);
    assert_eq!(pair["legacy"].sql("SELECT name FROM products"), "one");
}
