//! `repair`: what differs becomes the same, whoever is at work meanwhile, and nothing is lost.

use crate::support::{PATIENCE, Pair, Setup, Trio, wait_until};
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, what text, updated_at timestamptz NOT NULL DEFAULT now())";

/// A write that the hub takes for one of its own: nobody delivers it.
fn write_unseen(node: &crate::support::Node, sql: &str) {
    node.sql(&format!("BEGIN; SELECT pgtandem.open_delivery(epoch, 0) FROM pgtandem.epoch; {sql}; COMMIT"));
}

const ROWS: &str = "SELECT id, what FROM items ORDER BY id";
const LOST: &str =
    "SELECT (key->>'id') || ' ' || (loser_row->>'what') FROM pgtandem.decision WHERE kind = 'repair' ORDER BY 1";

fn filled(setup: Setup) -> Pair {
    let pair = Pair::with(setup.table("items", ITEMS));
    pair["new"].sql("INSERT INTO items SELECT n, 'old', '2026-01-01' FROM generate_series(1, 3000) n");
    pair
}

/// 1 is newer on new, 2 on legacy; 3 is only on new, 4 only on legacy.
fn spoil(pair: &Pair) {
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    write_unseen(new, "UPDATE items SET what = 'new', updated_at = '2026-02-02' WHERE id = 1");
    write_unseen(legacy, "UPDATE items SET what = 'legacy', updated_at = '2026-02-02' WHERE id = 2");
    write_unseen(legacy, "DELETE FROM items WHERE id = 3");
    write_unseen(new, "DELETE FROM items WHERE id = 4");
}

fn repaired(pair: &Pair) {
    pair.pgtandem(["diff"]).exits(1);
    let dry = pair.pgtandem(["repair", "--dry-run"]).exits(1).stdout;
    assert!(dry.contains("2 taken from new, 2 taken from legacy (newest by updated_at)"), "{dry}");
    pair.pgtandem(["diff"]).exits(1);
    let text = pair.pgtandem(["repair", "--yes"]).exits(0).stdout;
    assert!(text.contains("the same on all nodes"), "{text}");
    pair.pgtandem(["diff"]).exits(0);
    assert_eq!(pair["new"].sql(&format!("{ROWS} LIMIT 5")), "1|new\n2|legacy\n3|old\n4|old\n5|old");
    assert_eq!(pair["new"].sql("SELECT count(*) FROM items WHERE updated_at > '2026-03-01'"), "0", "no trigger fired");
    let lost: Vec<String> = pair.nodes().iter().map(|node| node.sql(LOST)).collect();
    let lost: BTreeSet<&str> = lost.iter().flat_map(|lost| lost.lines()).collect();
    assert_eq!(lost, BTreeSet::from(["1 old", "2 old"]));
    let json: Json = serde_json::from_str(&pair.pgtandem(["repair", "--json", "--dry-run"]).ok()).unwrap();
    assert_eq!((&json["equal"], &json["tables"][0]["differ"]), (&true.into(), &0.into()), "{json}");
}

#[test]
fn rows_that_differ_become_the_same_through_the_hub() {
    let pair = filled(Setup::default());
    let hub = pair.linked();
    pair.settle();
    spoil(&pair);
    repaired(&pair);
    pair.settle();
    assert!(hub.is_running());
}

#[test]
fn rows_that_differ_become_the_same_without_a_hub() {
    let pair = filled(Setup::default());
    let hub = pair.linked();
    pair.settle();
    hub.terminate();
    spoil(&pair);
    repaired(&pair);
}

#[test]
fn a_row_that_lost_can_be_put_back() {
    let pair = filled(Setup::default());
    let _hub = pair.linked();
    pair.settle();
    spoil(&pair);
    pair.pgtandem(["repair", "--prefer", "legacy", "--yes"]).ok();
    assert_eq!(pair["new"].sql(&format!("{ROWS} LIMIT 2")), "1|old\n2|legacy");
    let conflicts: Json = serde_json::from_str(&pair.pgtandem(["conflicts", "--json"]).ok()).unwrap();
    let lost = conflicts["conflicts"].as_array().unwrap().iter().find(|conflict| conflict["key"]["id"] == "1");
    let name = lost.unwrap()["name"].as_str().unwrap().to_owned();
    pair.pgtandem(["conflicts", "undo", &name, "--yes"]).ok();
    pair.quiesce();
    assert_eq!(pair["legacy"].sql("SELECT what FROM items WHERE id = 1"), "new");
}

#[test]
fn of_three_nodes_each_gets_what_stands() {
    let trio = Trio::with(Setup::default().table("items", ITEMS));
    trio["new"].sql("INSERT INTO items SELECT n, 'old', '2026-01-01' FROM generate_series(1, 100) n");
    let _hub = trio.linked();
    trio.settle();
    for (at, node) in trio.nodes().iter().enumerate() {
        write_unseen(node, &format!("UPDATE items SET what = '{at}', updated_at = '2026-02-0{}' WHERE id = 1", at + 1));
    }
    write_unseen(&trio["third"], "INSERT INTO items VALUES (200, 'third')");
    trio.pgtandem(["repair", "--yes"]).ok();
    trio.settle();
    assert_eq!(trio["new"].sql("SELECT what FROM items WHERE id IN (1, 200) ORDER BY id"), "2\nthird");
    let conflicts = "SELECT count(*) FROM pgtandem.decision WHERE kind <> 'repair'";
    assert!(trio.nodes().iter().all(|node| node.sql(conflicts) == "0"));
}

/// What the applications write while it works is never lost: each write stands, was written over by its own
/// application, or is kept in a decision.
#[test]
fn the_applications_go_on_writing_meanwhile() {
    let pair = filled(Setup::default());
    let hub = pair.linked();
    pair.settle();
    write_unseen(&pair["legacy"], "UPDATE items SET what = 'unseen', updated_at = '2026-02-02' WHERE id % 3 = 0");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for node in pair.nodes() {
            let (session, over) = (node.session(), &over);
            scope.spawn(move || {
                for round in 1.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let id = round * 7 % 3000 + 1;
                    let _ = session.run(format!(
                        "UPDATE items SET what = '{} {round}', updated_at = now() WHERE id = {id}",
                        node.name()
                    ));
                    let _ = session.run("SELECT pg_sleep(0.005)");
                }
            });
        }
        let outcome = pair.pgtandem(["repair", "--yes"]);
        over.store(true, Ordering::Relaxed);
        outcome.ok();
    });
    pair.settle();
    pair.pgtandem(["diff"]).exits(0);
    // Rows that nobody else wrote: each old one that was replaced is kept, and no unseen one is gone.
    let unseen: u32 = pair["new"].sql("SELECT count(*) FROM items WHERE what = 'unseen'").parse().unwrap();
    assert!(unseen > 0 && hub.is_running());
    let lost = "SELECT count(DISTINCT key) FROM pgtandem.decision WHERE loser_row->>'what' = 'old'";
    let lost: u32 = pair["legacy"].sql(lost).parse().unwrap();
    assert!(lost >= unseen, "{lost} {unseen}");
}

/// What stands is written once more only while it is what was compared: otherwise the record would tell of a row that was
/// not there any more.
#[test]
fn a_row_that_is_written_as_it_is_to_stand_is_looked_at_again() {
    let pair = filled(Setup::default());
    let hub = pair.linked();
    pair.settle();
    hub.terminate();
    let new = &pair["new"];
    write_unseen(new, "UPDATE items SET what = 'new', updated_at = '2026-02-02' WHERE id = 1");
    let application = new.session();
    application.run("BEGIN; UPDATE items SET what = 'late', updated_at = '2026-03-03' WHERE id = 1").unwrap();
    let mut repair = pair.command(["repair", "--yes"]).spawn().unwrap();
    wait_until("the row is to be written", PATIENCE, || new.waits_for_a_row());
    application.run("COMMIT").unwrap();
    assert!(repair.wait().unwrap().success());
    pair.equal("items");
    assert_eq!(pair["legacy"].sql("SELECT what FROM items WHERE id = 1"), "late");
    let won = "SELECT count(*) FROM pgtandem.decision WHERE winner_row->>'what' = 'new'";
    assert_eq!(new.sql(won), "0", "it had been written over by then");
}

#[test]
fn what_is_not_linked_or_paused_or_undecided_is_refused() {
    let table = "CREATE TABLE items (id int PRIMARY KEY, what text)";
    let pair = Pair::with(Setup::shared().table("items", table));
    let refused = pair.pgtandem(["repair", "--yes"]).exits(1);
    assert!(refused.stderr.contains("nothing is linked here"), "{}", refused.stderr);
    pair["new"].sql("INSERT INTO items VALUES (1, 'one'), (2, 'two')");
    let _hub = pair.linked();
    pair.settle();
    write_unseen(&pair["legacy"], "UPDATE items SET what = 'other' WHERE id = 1");
    let refused = pair.pgtandem(["repair", "--yes"]).exits(1);
    assert!(refused.stderr.contains("--prefer new"), "{}", refused.stderr);
    pair.pgtandem(["pause", "items"]).ok();
    let refused = pair.pgtandem(["repair", "--prefer", "new", "--yes"]).exits(1);
    assert!(refused.stderr.contains("pgtandem resume items"), "{}", refused.stderr);
    pair.pgtandem(["resume", "items"]).ok();
    pair.pgtandem(["repair", "--prefer", "nobody"]).exits(2);
    pair.pgtandem(["repair", "--prefer", "new", "--yes"]).ok();
    assert_eq!(pair["legacy"].sql("SELECT what FROM items WHERE id = 1"), "one");
}

#[test]
fn drift_is_found_by_the_hub_and_told() {
    let pair = filled(Setup::default().config("[hub]\nverify_every = \"1s\""));
    let hub = pair.linked();
    pair.settle();
    let status = || serde_json::from_str::<Json>(&pair.pgtandem(["status", "--json"]).stdout).unwrap();
    wait_until("it has compared the tables", PATIENCE, || !status()["hub"]["verified_at"].is_null());
    assert_eq!(status()["well"], true);
    pair.pgtandem(["verify"]).ok();
    write_unseen(&pair["legacy"], "DELETE FROM items WHERE id = 3");
    wait_until("it has found the drift", PATIENCE, || status()["hub"]["drifted"]["items"] == 1);
    let text = pair.pgtandem(["status"]).exits(1).stdout;
    assert!(text.contains("1 table differs") && text.contains("pgtandem repair"), "{text}");
    let line = pair.pgtandem(["verify"]).exits(1).stdout;
    assert!(line.contains("1 not on all nodes"), "{line}");
    assert!(hub.log().contains("rows differ between the nodes"), "{}", hub.log());
    pair.pgtandem(["repair", "--yes"]).ok();
    wait_until("it finds that all is well", PATIENCE, || status()["well"] == true);
}
