//! Linking and changing a link while a hub runs and both applications write.

use crate::support::{PATIENCE, Pair, Setup, Trio, wait_until};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

const TABLE: &str = "(id bigserial PRIMARY KEY, name text, n int NOT NULL DEFAULT 0)";

/// Of a writer, after each round.
const BREATH: Duration = Duration::from_millis(2);

fn table(name: &str) -> String {
    format!("CREATE TABLE {name} {TABLE}")
}

/// Writes until told to stop: new rows, and changes of rows that are there.
fn write(session: &pgtandem::cluster::Session, who: &str, tables: &[&str], stop: &AtomicBool, done: &AtomicU32) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        for table in tables {
            session.run(format!("INSERT INTO {table} (name) VALUES ('{who} {round}')")).unwrap();
            let change = format!(
                "UPDATE {table} SET n = n + 1, name = '{who} changed' WHERE id = (SELECT min(id) + {} FROM {table})",
                round % 7
            );
            session.run(change).unwrap();
            if round % 10 == 9 {
                session.run(format!("DELETE FROM {table} WHERE id = (SELECT max(id) FROM {table})")).unwrap();
            }
        }
        round += 1;
        done.fetch_add(1, Ordering::Relaxed);
        // As much as it can would be more than a debug build works off while other tests run.
        std::thread::sleep(BREATH);
    }
}

/// Runs `change` while every node of the fleet is written to.
fn while_written<const N: usize>(
    fleet: &crate::support::Fleet<N>,
    tables: &[&str],
    nodes: usize,
    change: impl FnOnce(),
) {
    let stop = AtomicBool::new(false);
    let done: [AtomicU32; N] = std::array::from_fn(|_| AtomicU32::new(0));
    /// Also when the change panics: the writers must end then, too.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for (node, done) in fleet.nodes()[..nodes].iter().zip(&done) {
            let session = node.session();
            let stop = &stop;
            scope.spawn(move || write(&session, node.name(), tables, stop, done));
        }
        let wrote = |rounds: u32| {
            let target: Vec<u32> = done.iter().map(|done| done.load(Ordering::Relaxed) + rounds).collect();
            wait_until("the applications write", PATIENCE, || {
                done[..nodes].iter().zip(&target).all(|(done, target)| done.load(Ordering::Relaxed) >= *target)
            });
        };
        wrote(3);
        change();
        wrote(20);
    });
}

#[test]
fn s40_one_empty_while_both_are_written_to() {
    let pair = Pair::with(Setup::shared().table("products", &table("products")));
    pair["new"].sql("INSERT INTO products (name) SELECT 'old ' || i FROM generate_series(1, 20000) i");
    // The target is empty when `up` looks, and no longer when the rows arrive: the ids are the same ones.
    let hub = {
        while_written(&pair, &["products"], 1, || pair.link());
        let hub = pair.hub();
        hub.wait_for_log("working");
        hub
    };
    while_written(&pair, &["products"], 2, || {});
    pair.settle();
    assert!(hub.is_running());
    assert_eq!(pair["legacy"].sql("SELECT count(*) >= 20000 FROM products"), "t");
}

#[test]
fn s44_a_table_is_added_and_removed_with_traffic() {
    let setup = Setup::shared().table("products", &table("products"));
    let pair = Pair::with(setup);
    for node in pair.nodes() {
        node.sql(&table("orders"));
    }
    pair["legacy"].sql("INSERT INTO orders (name) SELECT 'old ' || i FROM generate_series(1, 5000) i");
    let _hub = pair.linked();
    pair.write_config("[[tables]]\nname = \"orders\"\n");
    // Only one side writes to the table that is empty on the other.
    while_written(&pair, &["products"], 2, || drop(pair.pgtandem(["up", "--yes"]).ok()));
    while_written(&pair, &["products", "orders"], 2, || {});
    pair.settle();
    let orders = "SELECT * FROM orders ORDER BY id";
    wait_until("orders are equal", PATIENCE, || pair.differs_in(orders).is_none());

    pair.write_config("");
    while_written(&pair, &["products", "orders"], 2, || drop(pair.pgtandem(["up", "--yes"]).ok()));
    pair.settle();
    assert!(pair.differs_in(orders).is_some(), "it is not linked any more");
}

#[test]
fn s44_a_node_is_added_and_removed_with_traffic() {
    let trio = Trio::with(Setup::default().table("products", &table("products")));
    let all = std::fs::read_to_string(trio.config()).unwrap();
    let third = all.find("[nodes.third]").unwrap();
    let tables = all.find("[[tables]]").unwrap();
    let two = format!("{}{}", &all[..third], &all[tables..]);
    trio["new"].sql("INSERT INTO products (name) SELECT 'old ' || i FROM generate_series(1, 5000) i");
    std::fs::write(trio.config(), &two).unwrap();
    let hub = trio.linked();
    std::fs::write(trio.config(), &all).unwrap();
    while_written(&trio, &["products"], 2, || {
        trio.pgtandem(["up", "--yes"]).ok();
        // It does not know of the third one: it must not go on as if there were two.
        hub.wait();
    });
    let hub = trio.hub();
    hub.wait_for_log("working");
    while_written(&trio, &["products"], 3, || {});
    trio.settle();

    // All three are written to while the third one leaves.
    while_written(&trio, &["products"], 3, || {
        trio.pgtandem(["down", "--node", "third", "--yes"]).ok();
        std::fs::write(trio.config(), &two).unwrap();
    });
    assert_eq!(trio["third"].sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgtandem'"), "0");
    assert_eq!(trio["third"].sql("SELECT count(*) FROM pg_replication_slots"), "0");
    wait_until("the hub that knows of three ends", PATIENCE, || !hub.is_running());
    let hub = trio.hub();
    hub.wait_for_log("working");
    while_written(&trio, &["products"], 2, || {});
    let rows = "SELECT * FROM products ORDER BY id";
    wait_until("the two that are left are equal", PATIENCE, || trio["new"].sql(rows) == trio["legacy"].sql(rows));
    assert!(hub.is_running());
}

#[test]
fn s44_what_a_leaving_node_wrote_last_reaches_all_that_stay_or_none() {
    let trio = Trio::with(Setup::default().table("products", &table("products")));
    trio["new"].sql("INSERT INTO products (name) VALUES ('of old')");
    let hub = trio.linked();
    let name = |node: &str| trio[node].sql("SELECT name FROM products");
    // One of the two that stay cannot take it yet, so a hub that merely ends has given it to the other only.
    let application = trio["legacy"].session();
    application.run("BEGIN").unwrap();
    application.run("SELECT FROM products FOR UPDATE").unwrap();
    trio["third"].sql("UPDATE products SET name = 'last word'");
    wait_until("one of the two has it", PATIENCE, || name("new") == "last word");
    let mut command = trio.command(["down", "--node", "third", "--yes"]);
    let down = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    hub.wait_for_log("asked for the lock");
    trio["third"].sql("UPDATE products SET name = 'too late'");
    application.run("COMMIT").unwrap();
    let down = down.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&down.stdout);
    assert!(down.status.success() && !said.contains("may have reached only some"), "{down:?}");
    assert_eq!(name("legacy"), name("new"), "those that stay are equal");
    assert!(["last word", "too late"].contains(&name("new").as_str()));
    assert_eq!(name("third"), "too late");
}

#[test]
fn s44_a_hub_that_knows_of_two_does_not_go_on_when_there_are_three() {
    let trio = Trio::with(Setup::default().table("products", &table("products")));
    let all = std::fs::read_to_string(trio.config()).unwrap();
    let two = format!("{}{}", &all[..all.find("[nodes.third]").unwrap()], &all[all.find("[[tables]]").unwrap()..]);
    std::fs::write(trio.config(), &two).unwrap();
    let hub = trio.linked();
    std::fs::write(trio.config(), &all).unwrap();
    trio.pgtandem(["up", "--yes"]).ok();
    assert_eq!(hub.wait().code(), Some(3));
    assert!(hub.log().contains("the node third is in the link"), "{}", hub.log());
    trio["new"].sql("INSERT INTO products (name) VALUES ('while the hub knows of two')");
    let hub = trio.hub();
    hub.wait_for_log("working");
    trio.settle();
    assert_eq!(trio["third"].sql("SELECT count(*) FROM products"), "1");
}

#[test]
fn s43_down_while_the_hub_runs() {
    let pair = Pair::with(Setup::shared().table("products", &table("products")));
    let hub = pair.linked();
    pair["new"].sql("INSERT INTO products (name) VALUES ('x')");
    pair.settle();
    let down = pair.pgtandem(["down", "--yes"]).ok();
    assert!(down.contains("nothing left."), "{down}");
    wait_until("the hub has ended", PATIENCE, || !hub.is_running());
    for node in pair.nodes() {
        assert_eq!(node.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgtandem'"), "0");
    }
}
