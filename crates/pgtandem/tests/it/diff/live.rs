//! While both sides are written to.

use super::{diff, equal, table};
use crate::support::{PATIENCE, Pair, Setup, wait_until};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

const TABLE: &str = "CREATE TABLE things (k int PRIMARY KEY, v int, w text)";

fn filled() -> Pair {
    let pair = Pair::with(Setup::default().table("things", TABLE));
    pair["new"].sql("INSERT INTO things SELECT i, i, 'x' FROM generate_series(1, 2000) i");
    pair
}

/// A write that the hub takes for one of its own: nobody delivers it.
fn write_unseen(pair: &Pair, node: &str, sql: &str) {
    pair[node].sql(&format!("BEGIN; SELECT pgtandem.open_delivery(epoch, 0) FROM pgtandem.epoch; {sql}; COMMIT"));
}

/// The writers end with it, also when the test fails.
struct Writing<'a>(&'a AtomicBool);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_is_on_its_way_is_no_difference() {
    let pair = filled();
    let _hub = pair.linked();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (node, (from, to)) in pair.nodes().iter().zip([(1, 1000), (900, 2000)]) {
            let session = node.session();
            let over = &over;
            scope.spawn(move || {
                // Keys 900 to 1000 are written on both sides, key 950 by every transaction.
                for round in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let k = from + (round * 7) % (to - from);
                    let sql = format!(
                        "UPDATE things SET v = v + 1 WHERE k IN ({k}, {}, 950);
                         DELETE FROM things WHERE k = {};
                         INSERT INTO things VALUES ({k}, 0, 'again') ON CONFLICT DO NOTHING",
                        k + 1,
                        k + 2
                    );
                    // A deadlock with the other writer or a delivery is part of the game. The pause keeps the hub, which
                    // is a debug build, from falling behind.
                    let _ = session.run(sql);
                    let _ = session.run("SELECT pg_sleep(0.01)");
                }
            });
        }
        let writing = Writing(&over);
        let looks: Vec<_> = (0..5).map(|_| diff(&pair, [])).collect();
        write_unseen(&pair, "legacy", "INSERT INTO things VALUES (5000, 1, 'only here')");
        let last = table(&pair, 1);
        drop(writing);
        for look in looks {
            look.exits(0);
        }
        assert_eq!((&last["different"], &last["partial"][0]["keys"]), (&0.into(), &1.into()), "{last}");
        assert_eq!(last["examples"][0]["key"]["k"], "5000");
    });
}

#[test]
fn the_second_look_waits_until_the_hub_has_delivered() {
    let pair = filled();
    let hub = pair.linked();
    pair.settle();
    hub.freeze();
    pair["new"].sql("UPDATE things SET v = -1 WHERE k <= 10; DELETE FROM things WHERE k = 11");
    let diff = pair.command(["diff"]).stdout(Stdio::piped()).spawn().unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity
                 WHERE query LIKE '%pg_replication_slots%' AND application_name = 'pgtandem'";
    wait_until("the comparison waits", PATIENCE, || pair["new"].sql(waits) != "0");
    hub.thaw();
    let output = diff.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("1,999 equal"), "{said}");
}

#[test]
fn real_differences_are_found_with_a_hub_at_work() {
    let pair = filled();
    let hub = pair.linked();
    write_unseen(&pair, "legacy", "UPDATE things SET w = 'y' WHERE k <= 3; DELETE FROM things WHERE k = 4");
    let found = table(&pair, 1);
    assert_eq!(
        (&found["different"], &found["partial"][0]["keys"], &found["in_flight"]),
        (&3.into(), &1.into(), &0.into())
    );
    write_unseen(&pair, "legacy", "UPDATE things SET w = 'x' WHERE k <= 3; INSERT INTO things VALUES (4, 4, 'x')");
    equal(&pair);
    // Without the hub what waits for it is different: nobody says when it will come.
    hub.kill9();
    pair["new"].sql("UPDATE things SET v = -1 WHERE k = 1");
    wait_until("its walsenders are gone", PATIENCE, || {
        pair.nodes().iter().all(|node| node.sql("SELECT count(*) FROM pg_replication_slots WHERE active") == "0")
    });
    assert_eq!(table(&pair, 1)["different"], 1);
}
