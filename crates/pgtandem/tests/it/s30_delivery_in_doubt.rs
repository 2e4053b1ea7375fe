//! S30, S34, S37: the answer to a delivery does not come.

use crate::support::{Hub, PATIENCE, PRODUCTS, Pair, Setup, wait_until};

/// Makes a delivery's commit wait, on request.
const AT_COMMIT: &str = "
    CREATE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER wait_at_commit AFTER INSERT OR UPDATE ON products
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_at_commit();
    ALTER TABLE products ENABLE ALWAYS TRIGGER wait_at_commit";

fn linked_pair(silence: u32) -> (Pair, Hub) {
    let config = format!("[hub]\nstatus_interval_ms = 100\nsilence_timeout_s = {silence}");
    let pair = Pair::with(Setup::default().proxied().config(&config).table("products", PRODUCTS));
    let hub = pair.linked();
    (pair, hub)
}

fn is_there(pair: &Pair, name: &str) -> bool {
    pair["legacy"].sql(&format!("SELECT count(*) FROM products WHERE name = '{name}'")) == "1"
}

/// A delivery that is made twice, or put back, would undo what the application wrote over it.
fn write_over(pair: &Pair, name: &str) {
    pair["legacy"].sql(&format!("UPDATE products SET price = 77 WHERE name = '{name}'"));
}

#[track_caller]
fn was_delivered_once(pair: &Pair, name: &str) {
    pair.settle();
    assert_eq!(pair["new"].sql(&format!("SELECT price FROM products WHERE name = '{name}'")), "77");
    assert_eq!(pair["new"].sql("SELECT count(*) FROM pgtandem.decision"), "0");
}

/// A delivery on legacy that stands at its COMMIT until the session is dropped.
fn stop_at_commit(pair: &Pair, name: &str) -> pgtandem::cluster::Session {
    let gate = pair["legacy"].session();
    gate.run("SELECT pg_advisory_lock(4711)").unwrap();
    // The wait is for an advisory lock, so the delivery's own lock_timeout ends it; it comes back each time.
    pair["new"].sql(&format!("INSERT INTO products (name) VALUES ('{name}')"));
    let waits = "SELECT count(*) FROM pg_stat_activity
                 WHERE application_name = 'pgtandem deliver' AND wait_event = 'advisory'";
    wait_until("a delivery waits at its commit", PATIENCE, || pair["legacy"].sql(waits) == "1");
    gate
}

#[test]
fn s30_a_delivery_whose_answer_is_lost_is_applied_exactly_once() {
    let (pair, hub) = linked_pair(4);
    let proxy = pair["legacy"].proxy.as_ref().unwrap();
    // Every kind of statement is prepared, so that a delivery needs no answer until its end.
    let warm_up = |pair: &Pair| {
        pair["new"].sql("INSERT INTO products (name) VALUES ('first')");
        pair.settle();
        pair["new"].sql("DELETE FROM products WHERE name = 'first'");
        pair.settle();
    };
    warm_up(&pair);
    // The question gets through, the answer does not; then the connection is cut.
    proxy.hold_answers();
    pair["new"].sql("INSERT INTO products (name) VALUES ('answer cut')");
    wait_until("it is committed", PATIENCE, || is_there(&pair, "answer cut"));
    write_over(&pair, "answer cut");
    proxy.cut();
    proxy.clear();
    was_delivered_once(&pair, "answer cut");
    assert!(hub.is_running());
    assert_eq!(pair["new"].sql("SELECT epoch FROM pgtandem.epoch"), "1", "the hub started over");

    // The same, and the hub dies instead.
    warm_up(&pair);
    proxy.hold_answers();
    pair["new"].sql("INSERT INTO products (name) VALUES ('hub killed')");
    wait_until("it is committed", PATIENCE, || is_there(&pair, "hub killed"));
    write_over(&pair, "hub killed");
    hub.kill9();
    proxy.clear();
    let hub = pair.hub();
    was_delivered_once(&pair, "hub killed");

    // A delete whose answer is lost: only the answer says whether there was a row to delete.
    warm_up(&pair);
    proxy.hold_answers();
    pair["new"].sql("DELETE FROM products WHERE name = 'hub killed'");
    wait_until("it is committed", PATIENCE, || !is_there(&pair, "hub killed"));
    pair["legacy"].sql("INSERT INTO products (name, price) VALUES ('hub killed', 77)");
    proxy.cut();
    proxy.clear();
    was_delivered_once(&pair, "hub killed");
    assert!(hub.is_running());
}

#[test]
fn s30_a_delivery_that_did_not_commit_is_made_again() {
    let (pair, hub) = linked_pair(4);
    pair["legacy"].sql(AT_COMMIT);
    let gate = stop_at_commit(&pair, "killed at its commit");
    hub.kill9();
    let hub = pair.hub();
    drop(gate);
    pair.settle();
    write_over(&pair, "killed at its commit");
    was_delivered_once(&pair, "killed at its commit");
    let gate = stop_at_commit(&pair, "cut at its commit");
    pair["legacy"].proxy.as_ref().unwrap().cut();
    drop(gate);
    pair.settle();
    write_over(&pair, "cut at its commit");
    was_delivered_once(&pair, "cut at its commit");
    assert!(hub.is_running());
}

#[test]
fn s34_of_two_hubs_one_works_and_the_other_takes_over() {
    let (pair, first) = linked_pair(30);
    pair["new"].sql("INSERT INTO products (name) VALUES ('by the first')");
    pair.settle();
    let second = pair.hub();
    second.wait_for_log("another pgtandem is at work");
    pair["new"].sql("INSERT INTO products (name) VALUES ('still by the first')");
    pair.settle();
    assert_eq!(pair["legacy"].sql("SELECT epoch FROM pgtandem.epoch"), "1");
    assert!(!second.log().contains("working"), "{}", second.log());
    // It ends in good order.
    first.terminate();
    second.wait_for_log("working");
    pair["new"].sql("INSERT INTO products (name) VALUES ('by the second')");
    pair.settle();
    assert_eq!(pair["legacy"].sql("SELECT epoch FROM pgtandem.epoch"), "2");

    // It is frozen, its locks are lost, and it wakes up after another one has taken over.
    let third = pair.hub();
    third.wait_for_log("another pgtandem is at work");
    second.freeze();
    pair["new"].sql("INSERT INTO products (name) VALUES ('by the third')");
    for node in pair.nodes() {
        node.sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted");
    }
    third.wait_for_log("working");
    wait_until("it is there", PATIENCE, || is_there(&pair, "by the third"));
    second.thaw();
    second.wait_for_log("another hub has taken over");
    pair["new"].sql("INSERT INTO products (name) VALUES ('also by the third')");
    pair.settle();
    assert_eq!(pair["legacy"].sql("SELECT epoch FROM pgtandem.epoch"), "3");
    // The deposed one waits like any other.
    assert!(second.is_running(), "{}", second.log());
    third.kill9();
    pair["new"].sql("INSERT INTO products (name) VALUES ('by the second again')");
    pair.settle();
    assert_eq!(pair["legacy"].sql("SELECT epoch FROM pgtandem.epoch"), "4");
}

#[test]
fn s34_a_delivery_of_a_deposed_hub_is_refused() {
    let (pair, hub) = linked_pair(30);
    hub.wait_for_log("working");
    let epoch = "UPDATE pgtandem.epoch SET epoch = epoch + 1, holder = 'somebody else'";
    pair["legacy"].sql(epoch);
    pair["new"].sql("INSERT INTO products (name) VALUES ('refused')");
    hub.wait_for_log("another hub has taken over");
    hub.wait_for_log("somebody else");
    // Nobody holds the locks, so it becomes the hub again, under a later epoch.
    pair.settle();
    assert!(is_there(&pair, "refused"));
    assert!(pair["legacy"].sql("SELECT epoch > 2 FROM pgtandem.epoch") == "t");
}

#[test]
fn s37_a_peer_that_says_nothing_is_noticed() {
    let (pair, hub) = linked_pair(2);
    let proxy = pair["legacy"].proxy.as_ref().unwrap();
    pair["new"].sql("INSERT INTO products (name) VALUES ('before')");
    pair.settle();
    let is_away = |away: &str| {
        wait_until(&format!("status says of legacy's being away: {away}"), PATIENCE, || {
            pair["new"].sql("SELECT state->'nodes'->'legacy'->>'away' FROM pgtandem.hub_status") == away
        });
    };
    // Idle, then with a delivery under way, then at a server that takes connections and says nothing.
    for during in ["idle", "delivering"] {
        is_away("false");
        let aways = hub.log().matches("away").count();
        proxy.stall();
        if during == "delivering" {
            pair["new"].sql("INSERT INTO products (name) VALUES ('into the silence')");
        }
        is_away("true");
        assert!(hub.log().matches("away").count() > aways, "{}", hub.log());
        pair["legacy"].sql(&format!("INSERT INTO products (name) VALUES ('written {during}')"));
        proxy.cut();
        proxy.clear();
        pair.settle();
    }
    is_away("false");
    pair["legacy"].cluster.freeze().unwrap();
    pair["new"].sql("INSERT INTO products (name) VALUES ('to a frozen server')");
    is_away("true");
    pair["legacy"].cluster.thaw().unwrap();
    pair.settle();
    assert!(is_there(&pair, "to a frozen server"));
    // A hub that begins while a node is silent says so, and begins when it is back.
    hub.terminate();
    proxy.stall();
    let hub = pair.hub();
    hub.wait_for_log("waiting for legacy");
    proxy.clear();
    hub.wait_for_log("working");
    pair.settle();
}
