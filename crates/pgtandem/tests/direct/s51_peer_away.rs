//! S51, S52, S54: the peer does not answer, or both write at once.

use std::time::{Duration, Instant};

use crate::s50_at_commit::{linked, nothing_waits};
use crate::support::{PATIENCE, Pair, Setup, wait_until};

/// Of the default wait of two seconds, with what a busy machine adds.
const BOUND: Duration = Duration::from_secs(4);

const NAMES: &str = "SELECT string_agg(name, ',' ORDER BY id) FROM products";

/// The write succeeds, within the bound; the next ones cost nothing.
#[track_caller]
fn writes_go_on(pair: &Pair, first: &str) {
    let session = pair["new"].session();
    let begun = Instant::now();
    session.run(first).unwrap();
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    let asked = || pair["new"].sql("SELECT count(*) FROM pgtandem.direct_trouble").parse::<u32>().unwrap();
    let (asked_before, begun) = (asked(), Instant::now());
    for i in 0..20 {
        session.run(format!("INSERT INTO products (id, name) VALUES ({i} + 100, 'later')")).unwrap();
    }
    // Not two seconds each; the peer is asked again once at most.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(asked() <= asked_before + 1);
    assert_ne!(pair["new"].sql("SELECT count(*) FROM pgtandem.queued"), "0");
}

#[track_caller]
fn delivered_by_run_once(pair: &Pair) {
    const CLOSED: &str = "SELECT last_value FROM pgtandem.direct_closed_until";
    // A server that was frozen may take longer to answer than it is given.
    wait_until("each asks the other again", PATIENCE, || {
        pair.pgtandem(["run", "--once"]).ok();
        pair.nodes().iter().all(|node| node.sql(CLOSED) == "0")
    });
    pair.equal("products");
    pair.nodes().iter().for_each(waits_no_more);
    // And it goes directly again.
    for (id, (here, there)) in [("new", "legacy"), ("legacy", "new")].into_iter().enumerate() {
        pair[here].sql(&format!("INSERT INTO products (id, name) VALUES ({id} + 900000, 'again {here}')"));
        assert_eq!(pair[there].sql(&format!("SELECT count(*) FROM products WHERE name = 'again {here}'")), "1");
    }
}

#[track_caller]
pub fn waits_no_more(node: &crate::support::Node) {
    assert_eq!(node.sql("SELECT count(*) FROM pgtandem.queued"), "0", "{}", node.name());
    assert_eq!(node.outbox_length(), "0", "{}", node.name());
}

#[test]
fn s51_a_peer_that_refuses_connections() {
    let pair = linked(Setup::default());
    pair["new"].sql("INSERT INTO products (id, name) VALUES (1, 'one')");
    pair["legacy"].cluster.stop(pgtandem::cluster::Stop::Fast).unwrap();
    writes_go_on(&pair, "UPDATE products SET name = 'two' WHERE id = 1");
    assert_ne!(pair.pgtandem(["run", "--once"]).code, 0);
    pair["legacy"].cluster.start_again().unwrap();
    delivered_by_run_once(&pair);
    assert_eq!(pair["legacy"].sql("SELECT name FROM products WHERE id = 1"), "two");
}

#[test]
fn s51_a_peer_that_is_frozen_before_it_is_contacted() {
    let pair = linked(Setup::default());
    pair["legacy"].cluster.freeze().unwrap();
    writes_go_on(&pair, "INSERT INTO products (id, name) VALUES (1, 'one')");
    pair["legacy"].cluster.thaw().unwrap();
    delivered_by_run_once(&pair);
}

/// What it had been sent it carries out once it wakes up, and that must count once.
#[test]
fn s51_a_peer_that_freezes_before_it_has_carried_out_what_it_was_sent() {
    let pair = linked(Setup::default());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    let session = new.session();
    session.run("INSERT INTO products (id, name) VALUES (1, 'one')").unwrap();
    legacy.cluster.freeze().unwrap();
    let begun = Instant::now();
    session.run("UPDATE products SET name = 'two' WHERE id = 1").unwrap();
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    assert_eq!(new.sql("SELECT outcome FROM pgtandem.sent WHERE outcome <> 'l'"), "?");
    session.run("INSERT INTO products (id, name) VALUES (2, 'queued')").unwrap();
    legacy.cluster.thaw().unwrap();
    // It is written over there, by somebody who has seen it: not a conflict.
    wait_until("it is carried out", PATIENCE, || legacy.sql("SELECT name FROM products WHERE id = 1") == "two");
    legacy.sql("UPDATE products SET name = name || ', seen' WHERE id = 1");
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
    assert_eq!(new.sql(NAMES), "two, seen,queued");
    assert_eq!(new.sql("SELECT count(*) FROM pgtandem.decision"), "0");
    delivered_by_run_once(&pair);
}

/// It commits, and its answer is lost.
#[test]
fn s51_an_answer_that_never_comes() {
    for frozen_for_good in [false, true] {
        let pair = linked(Setup::default().proxied());
        let (new, legacy) = (&pair["new"], &pair["legacy"]);
        let session = new.session();
        session.run("INSERT INTO products (id, name) VALUES (1, 'one')").unwrap();
        let proxy = legacy.proxy.as_ref().unwrap();
        proxy.hold_answers();
        let begun = Instant::now();
        session.run("UPDATE products SET name = 'two' WHERE id = 1").unwrap();
        assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
        assert_eq!(legacy.sql(NAMES), "two");
        if frozen_for_good {
            proxy.cut();
        }
        legacy.sql("UPDATE products SET name = name || ', seen' WHERE id = 1");
        session.run("UPDATE products SET price = 3 WHERE id = 1").unwrap();
        proxy.cut();
        proxy.clear();
        pair.pgtandem(["run", "--once"]).ok();
        pair.equal("products");
        // The price was set without having seen what legacy wrote: that is a conflict, and the only one.
        assert_eq!(new.sql("SELECT count(*) FROM pgtandem.decision"), "1");
        delivered_by_run_once(&pair);
    }
}

/// Whatever goes wrong once it has been sent: it may be there.
#[test]
fn s51_an_error_on_the_way_back() {
    let pair = linked(Setup::shared());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql(
        "ALTER FUNCTION pgtandem.dblink_get_result(text, boolean) RENAME TO get_result;
         CREATE FUNCTION pgtandem.dblink_get_result(text, boolean) RETURNS SETOF record LANGUAGE plpgsql AS $$ BEGIN
            IF $1 = 'pgtandem' THEN RAISE 'no memory'; END IF;
            RETURN QUERY SELECT r.t FROM pgtandem.get_result($1, $2) AS r (t text); END $$",
    );
    new.sql("INSERT INTO products (id, name) VALUES (1, 'one')");
    assert_eq!(new.sql("SELECT outcome FROM pgtandem.sent"), "?");
    new.sql(
        "DROP FUNCTION pgtandem.dblink_get_result(text, boolean);
         ALTER FUNCTION pgtandem.get_result(text, boolean) RENAME TO dblink_get_result",
    );
    wait_until("it is there", PATIENCE, || legacy.sql(NAMES) == "one");
    legacy.sql("UPDATE products SET name = name || ', seen' WHERE id = 1");
    delivered_by_run_once(&pair);
    assert_eq!(new.sql("SELECT name FROM products WHERE id = 1"), "one, seen");
    for node in pair.nodes() {
        assert_eq!(node.sql("SELECT count(*) FROM pgtandem.decision"), "0");
    }
}

#[test]
fn s51_a_peer_that_dies_while_it_is_at_it() {
    let pair = linked(Setup::default());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO products (id, name) VALUES (1, 'one')");
    let holder = legacy.session();
    holder.run("BEGIN; SELECT FROM products FOR UPDATE").unwrap();
    new.sql("UPDATE pgtandem.direct SET wait_ms = 20000");
    let session = new.session();
    let writing = session.send("UPDATE products SET name = 'two' WHERE id = 1");
    let arriving =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgtandem direct' AND state = 'active'";
    wait_until("it arrives", PATIENCE, || legacy.sql(arriving) == "1");
    legacy.cluster.kill9().unwrap();
    writing.wait().unwrap();
    legacy.cluster.start_again().unwrap();
    delivered_by_run_once(&pair);
    assert_eq!(legacy.sql("SELECT name FROM products WHERE id = 1"), "two");
}

/// A large transaction is more than the network takes while the other side does not read.
#[test]
fn s51_a_large_transaction_and_a_frozen_peer() {
    let pair = linked(Setup::default());
    let session = pair["new"].session();
    session.run("INSERT INTO products (id, name) VALUES (100000, 'first')").unwrap();
    pair["legacy"].cluster.freeze().unwrap();
    let begun = Instant::now();
    session
        .run("INSERT INTO products (id, name, description) SELECT i, 'many', repeat('x', 1000) FROM generate_series(1, 20000) i")
        .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    pair["legacy"].cluster.thaw().unwrap();
    delivered_by_run_once(&pair);
    assert_eq!(pair["legacy"].sql("SELECT count(*) FROM products WHERE name = 'many'"), "20000");
}

#[test]
fn s51_a_hub_delivers_what_waits_when_the_peer_is_back() {
    let pair = linked(Setup::default());
    let hub = pair.hub();
    hub.wait_for_log("working");
    pair["legacy"].cluster.stop(pgtandem::cluster::Stop::Fast).unwrap();
    writes_go_on(&pair, "INSERT INTO products (id, name) VALUES (1, 'one')");
    pair["legacy"].cluster.start_again().unwrap();
    pair.settle();
    assert_eq!(pair["legacy"].sql("SELECT count(*) FROM products"), "21");
    wait_until("it goes directly again", PATIENCE, || {
        pair["new"].sql("UPDATE products SET price = coalesce(price, 0) + 1 WHERE id = 1");
        pair["new"].sql("SELECT count(*) FROM pgtandem.queued") == "0"
    });
    pair.settle();
    assert!(hub.is_running(), "{}", hub.log());
}

/// What is written meanwhile waits in the outbox, in pieces when it is read, and comes in order.
#[test]
fn s31_a_peer_is_away_while_much_is_written() {
    const WRITE: &str = "DO $$ BEGIN FOR i IN 1..7000 LOOP
            INSERT INTO products (id, name) SELECT i * 10 + n, 'new' FROM generate_series(0, 9) n;
            UPDATE products SET price = i WHERE id = i * 5 + 45; COMMIT;
        END LOOP; END $$";
    let pair = linked(Setup::default().setting("synchronous_commit", "off"));
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO products (id, name) VALUES (1, 'one'), (2, 'two')");
    legacy.cluster.stop(pgtandem::cluster::Stop::Fast).unwrap();
    new.sql(WRITE);
    new.sql("UPDATE products SET name = 'of new' WHERE id = 2");
    assert_ne!(pair.pgtandem(["run", "--once"]).code, 0);
    legacy.cluster.start_again().unwrap();
    pair.apart();
    legacy.sql("UPDATE products SET name = 'of legacy' WHERE id <= 2");
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
    assert_eq!(
        legacy.sql("SELECT count(*), sum(price) FROM products"),
        new.sql("SELECT count(*), sum(price) FROM products")
    );
    assert_eq!(legacy.sql("SELECT count(*) FROM products"), "70002");
    assert_eq!(new.sql("SELECT string_agg(name, ',' ORDER BY id) FROM products WHERE id <= 2"), "of legacy,of legacy");
    assert_eq!(legacy.sql("SELECT loser_row->>'name' FROM pgtandem.decision"), "of new");
    pair.nodes().iter().for_each(waits_no_more);
}

/// Each waits for the other's row, across two servers, which neither can know.
#[test]
fn s52_both_sides_update_the_same_row_at_once() {
    let pair = linked(Setup::default());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO products (id, name) SELECT i, 'start' FROM generate_series(1, 5) i");
    for id in 1..=5 {
        let sessions = [new.session(), legacy.session()];
        for (session, name) in sessions.iter().zip(["new", "legacy"]) {
            session.run(format!("BEGIN; UPDATE products SET name = '{name}' WHERE id = {id}")).unwrap();
        }
        let begun = Instant::now();
        let commits = sessions.each_ref().map(|session| session.send("COMMIT"));
        commits.into_iter().for_each(|commit| drop(commit.wait().unwrap()));
        assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    }
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
    let decided = new.sql("SELECT count(*) FROM pgtandem.decision WHERE kind = 'update/update'");
    assert_eq!(decided, "5");
    delivered_by_run_once(&pair);
}

/// Whatever waits on either side for a key, nothing goes past it.
#[test]
fn s54_nothing_overtakes_what_waits_for_its_key() {
    for (here, there) in [("new", "legacy"), ("legacy", "new")] {
        let pair = linked(Setup::shared());
        let (here, there) = (&pair[here], &pair[there]);
        here.sql("INSERT INTO products (id, name) VALUES (1, 'one'), (2, 'two')");
        pair.apart();
        here.sql("UPDATE products SET name = 'waits' WHERE id = 1");
        there.sql("UPDATE products SET name = 'other side' WHERE id = 1");
        // The connection is well again, and nobody has delivered.
        for node in pair.nodes() {
            node.sql("SELECT setval('pgtandem.direct_closed_until', 0)");
        }
        here.sql("UPDATE products SET price = 1 WHERE id = 1");
        here.sql("UPDATE products SET id = 3 WHERE id = 1");
        assert_eq!(there.sql(NAMES), "other side,two");
        assert_eq!(here.sql(NAMES), "two,waits");
        // Other keys do.
        there.sql("UPDATE products SET name = 'went' WHERE id = 2");
        assert_eq!(here.sql("SELECT name FROM products WHERE id = 2"), "went");
        pair.pgtandem(["run", "--once"]).ok();
        pair.equal("products");
        assert_ne!(here.sql("SELECT count(*) FROM pgtandem.decision"), "0");
        waits_no_more(here);
        waits_no_more(there);
        here.sql("INSERT INTO products (id, name) VALUES (9, 'nine')");
        assert_eq!(there.sql("SELECT name FROM products WHERE id = 9"), "nine");
        nothing_waits_behind(here);
    }
}

fn nothing_waits_behind(node: &crate::support::Node) {
    assert_eq!(node.sql("SELECT count(*) FROM pgtandem.queued"), "0");
}

/// Rows that a node holds are not overtaken either.
#[test]
fn s54_nothing_overtakes_what_is_held() {
    let pair = linked(Setup::shared());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO products (id, name, price) VALUES (1, 'one', 1)");
    legacy.sql("ALTER TABLE products ADD CHECK (price < 10)");
    new.sql("UPDATE products SET price = 20 WHERE id = 1");
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(legacy.sql("SELECT count(*) FROM pgtandem.held WHERE released IS NULL"), "1");
    new.sql("UPDATE products SET name = 'acceptable', price = 5 WHERE id = 1");
    assert_eq!(legacy.sql(NAMES), "one");
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
    assert_eq!(legacy.sql(NAMES), "acceptable");
    nothing_waits(legacy);
}

/// `status` says what waits, since when and why; without a hub nothing is amiss otherwise.
#[test]
fn s51_status_tells_what_waits_and_why() {
    let pair = linked(Setup::default());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO products (id, name) VALUES (1, 'one')");
    let said = pair.pgtandem(["status"]).ok();
    assert!(said.contains("direct mode needs none") && !said.contains("queued for"), "{said}");
    legacy.cluster.freeze().unwrap();
    let session = new.session();
    session.run("INSERT INTO products (id, name) VALUES (2, 'two'), (3, 'three')").unwrap();
    session.run("INSERT INTO products (id, name) VALUES (4, 'four')").unwrap();
    legacy.cluster.thaw().unwrap();
    let said = pair.pgtandem(["status"]).exits(1).stdout;
    assert!(said.contains("queued for legacy: 3 changes of 2 transactions, since "), "{said}");
    assert!(said.contains("legacy did not answer"), "{said}");
    assert!(said.contains("needs attention: new: 3 changes wait for `pgtandem run --once`"), "{said}");
    let json: serde_json::Value = serde_json::from_str(&pair.pgtandem(["status", "--json"]).exits(1).stdout).unwrap();
    let direct = &json["nodes"][0]["direct"];
    assert_eq!(
        (&direct["peer"], &direct["queued"]["changes"], &direct["queued"]["transactions"]),
        (&"legacy".into(), &3.into(), &2.into())
    );
    assert!(direct["queued"]["since"].is_string() && direct["breaker"]["open_until"].is_string(), "{direct}");
    assert!(direct["breaker"]["why"].is_string(), "{direct}");
    assert_eq!(json["nodes"][1]["direct"]["queued"]["changes"], 0);
    pair.pgtandem(["run", "--once"]).ok();
    pair.pgtandem(["status"]).ok();
    assert_eq!(new.sql("SELECT count(*) FROM pgtandem.direct_trouble"), "0");
}
