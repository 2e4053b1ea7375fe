//! S51, S54: what waits goes along with later writes, in order and a few changes at a time. No hub runs, unless it says so.

use std::thread;

use crate::s50_at_commit::{PATIENT, linked, nothing_waits};
use crate::s51_peer_away::waits_no_more;
use crate::s53_remote_only::{fails, may_fail};
use crate::support::{Node, PATIENCE, Pair, Setup, wait_until};

const NAMES: &str = "SELECT string_agg(id || name, ',' ORDER BY id) FROM products";

/// Transactions of the node that wait.
fn waiting(node: &Node) -> String {
    node.sql("SELECT count(DISTINCT xid) FROM pgtandem.queued")
}

/// The connection is well again, and nobody has delivered.
fn together(pair: &Pair) {
    for node in pair.nodes() {
        node.sql("SELECT setval('pgtandem.direct_closed_until', 0)");
    }
}

#[track_caller]
fn equal_without_decisions(pair: &Pair) {
    pair.equal("products");
    for node in pair.nodes() {
        assert_eq!(node.sql("SELECT count(*) FROM pgtandem.decision"), "0", "{}", node.name());
    }
}

#[test]
fn s51_later_writes_deliver_what_waits_in_order_and_a_few_at_a_time() {
    for (here, there) in [("new", "legacy"), ("legacy", "new")] {
        let pair = linked(Setup::shared().config(PATIENT));
        let (here, there) = (&pair[here], &pair[there]);
        let session = here.session();
        session.run("INSERT INTO products (id, name) VALUES (1, 'start'), (3, 'start'), (200, 'start')").unwrap();
        pair.apart();
        // Those of the second kind have nine changes each.
        for i in 0..8 {
            session.run(format!("UPDATE products SET name = 'a{i}' WHERE id = 1")).unwrap();
        }
        for i in 0..4 {
            session
                .run(format!(
                    "BEGIN; UPDATE products SET name = 'b{i}' WHERE id = 1; INSERT INTO products (id, name)
                     SELECT {i} * 10 + n + 10, 'many' FROM generate_series(1, 5) n; UPDATE products SET id = {i} + 201 WHERE id = {i} + 200;
                     INSERT INTO products (id, name) VALUES ({i} + 101, 'moves'); DELETE FROM products WHERE id = {i} + 101; COMMIT"
                ))
                .unwrap();
        }
        session.run("DELETE FROM products WHERE id = 3").unwrap();
        together(&pair);
        assert_eq!((waiting(here), there.sql(NAMES)), ("13".to_owned(), "1start,3start,200start".to_owned()));
        session.run("INSERT INTO products (id, name) VALUES (1001, 'later')").unwrap();
        // Eight of one change, and one of nine: a second one would make more than twenty.
        assert_eq!(
            (waiting(here), there.sql("SELECT name FROM products WHERE id = 1")),
            ("4".to_owned(), "b0".to_owned())
        );
        assert_eq!(there.sql("SELECT count(*) FROM products WHERE name IN ('many', 'later')"), "6");
        session.run("INSERT INTO products (id, name) VALUES (1002, 'later')").unwrap();
        assert_eq!(
            (waiting(here), there.sql("SELECT name FROM products WHERE id = 1")),
            ("2".to_owned(), "b2".to_owned())
        );
        session.run("INSERT INTO products (id, name) VALUES (1003, 'later')").unwrap();
        nothing_waits(here);
        equal_without_decisions(&pair);
        session.run("UPDATE products SET name = 'again' WHERE id = 1").unwrap();
        assert_eq!(there.sql("SELECT name FROM products WHERE id = 1"), "again");
        // One for this session, and what it took along last.
        pair.pgtandem(["run", "--once"]).ok();
        for node in pair.nodes() {
            assert_eq!(
                node.sql("SELECT (SELECT count(*) FROM pgtandem.receipt), (SELECT count(*) FROM pgtandem.sent)"),
                "0|0"
            );
        }
        equal_without_decisions(&pair);
    }
}

/// Of a row that is written all the time no write goes directly; what waits goes all the same, and in the end all do.
#[test]
fn s54_a_write_takes_along_what_waits_for_its_own_key() {
    let pair = linked(Setup::shared().config(PATIENT));
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    let session = new.session();
    session.run("INSERT INTO products (id, name, price) VALUES (1, 'one', 0)").unwrap();
    pair.apart();
    for _ in 0..50 {
        session.run("UPDATE products SET price = price + 1").unwrap();
    }
    together(&pair);
    for (waits, there) in [("31", "20"), ("12", "40"), ("0", "53"), ("0", "54")] {
        session.run("UPDATE products SET price = price + 1").unwrap();
        assert_eq!((waiting(new).as_str(), legacy.sql("SELECT price FROM products").as_str()), (waits, there));
    }
    assert_eq!(session.run("SHOW pgtandem.why_queued").unwrap(), "landed");
    nothing_waits(new);
    equal_without_decisions(&pair);
}

#[test]
fn s54_a_conflict_is_left_to_the_hub_and_the_rest_goes() {
    let pair = linked(Setup::shared().config(PATIENT));
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO products (id, name) VALUES (1, 'one'), (2, 'two'), (3, 'three')");
    pair.apart();
    new.sql("UPDATE products SET name = 'new' WHERE id = 1");
    new.sql("UPDATE products SET name = 'new' WHERE id = 2");
    new.sql("UPDATE products SET name = name || ' again' WHERE id < 3");
    new.sql("UPDATE products SET name = 'new' WHERE id = 3");
    legacy.sql("UPDATE products SET name = 'legacy' WHERE id = 1");
    together(&pair);
    for id in 10..14 {
        new.sql(&format!("INSERT INTO products (id, name) VALUES ({id}, 'x')"));
    }
    assert_eq!(legacy.sql("SELECT string_agg(name, ',' ORDER BY id) FROM products WHERE id < 4"), "legacy,new,new");
    assert_eq!(waiting(new), "2");
    // Nor does anything go the other way.
    legacy.sql("INSERT INTO products (id, name) VALUES (20, 'x')");
    assert_eq!(
        (new.sql("SELECT name FROM products WHERE id = 1").as_str(), waiting(legacy).as_str()),
        ("new again", "1")
    );
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
    assert_ne!(new.sql("SELECT count(*) FROM pgtandem.decision"), "0");
    assert_eq!(new.sql("SELECT count(*) FROM pgtandem.decision WHERE key->>'id' <> '1'"), "0");
    pair.nodes().iter().for_each(waits_no_more);
}

#[test]
fn s54_children_go_behind_their_parents() {
    let pair = Pair::with(
        Setup::shared()
            .table("orders", "CREATE TABLE orders (id int PRIMARY KEY, note text)")
            .table("lines", "CREATE TABLE lines (id int PRIMARY KEY, order_id int REFERENCES orders, what text)")
            .table("others", "CREATE TABLE others (id int PRIMARY KEY)"),
    );
    pair.link();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    let both = "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM lines)";
    pair.apart();
    new.sql("INSERT INTO orders VALUES (1, 'a')");
    new.sql("INSERT INTO lines VALUES (1, 1, 'x')");
    together(&pair);
    new.sql("INSERT INTO others VALUES (1)");
    assert_eq!(legacy.sql(both), "1|1");
    pair.apart();
    legacy.sql("INSERT INTO orders VALUES (2, 'of legacy')");
    new.sql("INSERT INTO orders VALUES (2, 'a')");
    new.sql("INSERT INTO lines VALUES (2, 2, 'x')");
    new.sql("INSERT INTO lines VALUES (3, 1, 'x')");
    together(&pair);
    (2..6).for_each(|id| drop(new.sql(&format!("INSERT INTO others VALUES ({id})"))));
    assert_eq!((legacy.sql(both).as_str(), legacy.sql("SELECT count(*) FROM others").as_str()), ("2|1", "5"));
    pair.pgtandem(["run", "--once"]).ok();
    ["orders", "lines", "others"].into_iter().for_each(|table| pair.equal(table));
}

#[test]
fn s53_a_transaction_that_fails_leaves_the_queue_as_it_was() {
    for by_hub in [false, true] {
        let pair = linked(Setup::shared().config(PATIENT));
        may_fail(&pair);
        let (new, legacy) = (&pair["new"], &pair["legacy"]);
        new.sql("INSERT INTO products (id, name) VALUES (1, 'one'), (2, 'two')");
        pair.apart();
        new.sql("UPDATE products SET name = 'ONE' WHERE id = 1");
        new.sql("UPDATE products SET name = name || '!' WHERE id = 1");
        new.sql("UPDATE products SET name = 'TWO' WHERE id = 2");
        together(&pair);
        let queue = "SELECT (SELECT string_agg(q::text, ' ' ORDER BY last_id) FROM pgtandem.queued q),
                            (SELECT string_agg(o.id || o.op::text || o.new_row, ' ' ORDER BY o.id) FROM pgtandem.outbox o),
                            (SELECT string_agg(s::text, ' ' ORDER BY last_id) FROM pgtandem.sent s WHERE outcome <> 'l')";
        let before = new.sql(queue);
        new.session().run("BEGIN; INSERT INTO products (id, name) VALUES (3, 'three'); ROLLBACK").unwrap();
        assert_eq!((new.sql(queue), legacy.sql(NAMES).as_str()), (before.clone(), "1one,2two"));
        fails(&pair, "INSERT INTO products (id, name) VALUES (3, 'three')", "1ONE!,2TWO,3three");
        assert_eq!(new.sql(queue), before);
        // Who writes over it has seen it. And a later change of the row, which has not, is a conflict.
        legacy.sql("UPDATE products SET name = name || ' seen' WHERE id = 1");
        if by_hub {
            pair.pgtandem(["run", "--once"]).ok();
            assert_eq!(legacy.sql("SELECT count(*) FROM products"), "2");
        } else {
            new.sql("INSERT INTO products (id, name) VALUES (4, 'four')");
            nothing_waits(new);
            assert_eq!(new.sql(NAMES), "1ONE!,2TWO,4four");
            pair.pgtandem(["run", "--once"]).ok();
        }
        pair.equal("products");
        assert_eq!(new.sql("SELECT name FROM products WHERE id = 1"), "ONE! seen");
        for node in pair.nodes() {
            // Only what failed is on record.
            assert_eq!(node.sql("SELECT string_agg(kind, ',') FROM pgtandem.decision"), "written here alone");
            assert_eq!(node.sql("SELECT count(*) FROM pgtandem.receipt"), "0");
            waits_no_more(node);
        }
    }
}

/// What it goes along with is in doubt, it is not: the next one finds that it is there.
#[test]
fn s51_what_goes_along_may_arrive_without_an_answer() {
    let pair = linked(Setup::default().proxied());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    let session = new.session();
    session.run("INSERT INTO products (id, name) VALUES (1, 'one')").unwrap();
    pair.apart();
    session.run("UPDATE products SET name = 'waits' WHERE id = 1").unwrap();
    together(&pair);
    let proxy = legacy.proxy.as_ref().unwrap();
    proxy.hold_answers();
    session.run("INSERT INTO products (id, name) VALUES (2, 'two')").unwrap();
    proxy.cut();
    proxy.clear();
    assert_eq!((waiting(new), legacy.sql(NAMES)), ("2".to_owned(), "1waits,2two".to_owned()));
    legacy.sql("UPDATE products SET name = name || ', seen' WHERE id = 1");
    together(&pair);
    session.run("INSERT INTO products (id, name) VALUES (3, 'three')").unwrap();
    assert_eq!(new.sql("SELECT string_agg(outcome::text, ',') FROM pgtandem.sent WHERE outcome <> 'l'"), "?");
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(new.sql(NAMES), "1waits, seen,2two,3three");
    equal_without_decisions(&pair);
    pair.nodes().iter().for_each(waits_no_more);
}

/// What was sent before a hub read it, and comes late, is not written any more.
#[test]
fn s54_what_a_hub_has_read_does_not_go_along() {
    let pair = linked(Setup::shared());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO products (id, name) VALUES (1, 'one')");
    pair.apart();
    new.sql("UPDATE products SET name = 'waits' WHERE id = 1");
    let late = new.sql(
        "SELECT format('SELECT pgtandem.take_along(%L, 1, NULL, ARRAY[%L::uuid], ARRAY[%L::xid8], ''{1}'', ARRAY[%L::int], %L, ARRAY[%L], ARRAY[%L], 500, false, NULL)',
                       t.own, s.token, s.xid, o.table_id, o.op, o.old_row, o.new_row)
         FROM pgtandem.taking t, pgtandem.sent s JOIN pgtandem.outbox o USING (xid) WHERE s.outcome = 'q'",
    );
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(legacy.sql(NAMES), "1waits");
    legacy.sql("UPDATE products SET name = 'later' WHERE id = 1");
    assert_eq!(legacy.sql(&late), "0b");
    equal_without_decisions(&pair);
    assert_eq!(new.sql(NAMES), "1later");
    // What waits from then on does.
    pair.apart();
    new.sql("UPDATE products SET name = 'waits' WHERE id = 1");
    together(&pair);
    new.sql("INSERT INTO products (id, name) VALUES (2, 'two')");
    assert_eq!(legacy.sql(NAMES), "1waits,2two");
    waits_no_more(new);
}

/// Nothing goes along while a hub is at work, and nothing is read that is on its way: all arrives, and once.
#[test]
fn s54_a_hub_and_writes_deliver_what_waits_at_the_same_time() {
    let pair = linked(Setup::default());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    legacy.sql(
        "CREATE TABLE written (id bigint, op text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.written VALUES (NEW.id, TG_OP); RETURN NULL; END $$;
         CREATE TRIGGER note AFTER INSERT OR UPDATE ON products FOR EACH ROW EXECUTE FUNCTION note();
         ALTER TABLE products ENABLE ALWAYS TRIGGER note",
    );
    new.sql("INSERT INTO products (id, name, price) VALUES (1, 'counts', 0)");
    for round in 0..3 {
        pair.apart();
        let session = new.session();
        for i in 0..150 {
            session
                .run(format!("INSERT INTO products (id, name) VALUES ({round} * 10000 + {i} + 1000, 'waits')"))
                .unwrap();
            session.run("UPDATE products SET price = price + 1 WHERE id = 1").unwrap();
        }
        together(&pair);
        let mut hub = None;
        thread::scope(|scope| {
            for writer in 1..4 {
                let session = new.session();
                scope.spawn(move || {
                    for i in 0..150 {
                        let id = round * 10000 + writer * 2000 + i;
                        session.run(format!("INSERT INTO products (id, name) VALUES ({id}, 'later')")).unwrap();
                        session.run("UPDATE products SET price = price + 1 WHERE id = 1").unwrap();
                    }
                });
            }
            hub = (round > 0).then(|| pair.hub());
        });
        if let Some(hub) = hub {
            hub.wait_for_log("working");
            assert!(hub.terminate().success(), "{}", hub.log());
        }
    }
    pair.pgtandem(["run", "--once"]).ok();
    equal_without_decisions(&pair);
    pair.nodes().iter().for_each(waits_no_more);
    assert_eq!(legacy.sql("SELECT count(*), max(price) FROM products"), "1801|1800");
    let twice = "SELECT count(*) FROM (SELECT id FROM written WHERE id > 1 GROUP BY id HAVING count(*) <> 1) AS twice";
    assert_eq!(legacy.sql(twice), "0");
}

/// A row that somebody has locked there is tried again, not left for good; and who has to wait does not wait each time.
#[test]
fn s54_a_row_that_is_locked_there_goes_later() {
    let pair = linked(Setup::shared());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO products (id, name) VALUES (1, 'one')");
    pair.apart();
    new.sql("UPDATE products SET name = 'waits' WHERE id = 1");
    together(&pair);
    let holder = legacy.session();
    holder.run("BEGIN; SELECT FROM products WHERE id = 1 FOR UPDATE").unwrap();
    new.sql("INSERT INTO products (id, name) VALUES (2, 'two')");
    assert_eq!(legacy.sql(NAMES), "1one,2two");
    assert_ne!(new.sql("SELECT last_value FROM pgtandem.taking_rests_until"), "0");
    holder.run("ROLLBACK").unwrap();
    let mut id = 2;
    wait_until("it is tried again", PATIENCE, || {
        id += 1;
        new.sql(&format!("INSERT INTO products (id, name) VALUES ({id}, 'x')"));
        legacy.sql("SELECT name FROM products WHERE id = 1") == "waits"
    });
    nothing_waits(new);
    equal_without_decisions(&pair);
}

/// What a transaction took along with its first part is not known to have committed when it sends the second one.
#[test]
fn s53_a_transaction_in_parts_that_fails_leaves_the_queue_as_it_was() {
    let pair = linked(Setup::shared().config(PATIENT));
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    // Deferred triggers of deferred triggers: a row more once the first ones have been sent, and a failure behind that.
    new.sql(
        "CREATE TABLE steps (step int);
         CREATE FUNCTION step() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.step = 5 THEN INSERT INTO products (id, name) VALUES (101, 'second part'); END IF;
            IF NEW.step = 10 THEN RAISE 'fails'; END IF;
            INSERT INTO steps VALUES (NEW.step + 1); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER step AFTER INSERT ON steps DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION step();
         INSERT INTO products (id, name) SELECT i, 'x' FROM generate_series(1, 30) i",
    );
    pair.apart();
    let session = new.session();
    (1..=30).for_each(|id| drop(session.run(format!("UPDATE products SET name = 'waits' WHERE id = {id}")).unwrap()));
    together(&pair);
    session
        .run("BEGIN; INSERT INTO products (id, name) VALUES (100, 'first part'); INSERT INTO steps VALUES (1)")
        .unwrap();
    session.run("COMMIT").unwrap_err();
    let there = "SELECT count(*) FILTER (WHERE name = 'waits'), count(*) FROM products";
    assert_eq!((waiting(new), legacy.sql(there)), ("30".to_owned(), "30|32".to_owned()));
    legacy.sql("UPDATE products SET name = 'seen' WHERE id = 1");
    session.run("INSERT INTO products (id, name) VALUES (200, 'y')").unwrap();
    session.run("INSERT INTO products (id, name) VALUES (201, 'y')").unwrap();
    nothing_waits(new);
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
    assert_eq!(new.sql("SELECT name FROM products WHERE id = 1"), "seen");
    assert_eq!(new.sql("SELECT string_agg(kind, ',') FROM pgtandem.decision"), "written here alone,written here alone");
}

/// What the peer does not take stays in front of what comes after it.
#[test]
fn s54_nothing_overtakes_what_was_refused() {
    let pair = linked(Setup::shared());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO products (id, name, price) VALUES (1, 'one', 1)");
    pair.apart();
    legacy.sql("ALTER TABLE products ADD CHECK (price < 10)");
    new.sql("UPDATE products SET price = 20 WHERE id = 1");
    new.sql("UPDATE products SET price = 5 WHERE id = 1");
    together(&pair);
    (2..5).for_each(|id| drop(new.sql(&format!("INSERT INTO products (id, name) VALUES ({id}, 'x')"))));
    assert_eq!(legacy.sql("SELECT count(*), min(price) FROM products"), "4|1");
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
    assert_eq!(legacy.sql("SELECT price FROM products WHERE id = 1"), "5");
}

/// A hub that begins waits for a transaction that is about to commit, and then finds nothing of what that took along.
#[test]
fn s54_a_read_waits_for_what_is_being_taken_along() {
    let pair = linked(Setup::default());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    // Its COMMIT waits once it has sent what it had to send.
    new.sql(
        "CREATE TABLE steps (step int);
         CREATE FUNCTION step() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.step = 5 THEN PERFORM pg_advisory_xact_lock(42); ELSE INSERT INTO steps VALUES (NEW.step + 1); END IF;
            RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER step AFTER INSERT ON steps DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION step();
         INSERT INTO products (id, name) VALUES (1, 'one'), (2, 'two')",
    );
    pair.apart();
    new.sql("UPDATE products SET name = 'waits' WHERE id = 1");
    together(&pair);
    let (holder, session) = (new.session(), new.session());
    holder.run("SELECT pg_advisory_lock(42)").unwrap();
    let writing =
        session.send("BEGIN; UPDATE products SET name = 'goes' WHERE id = 2; INSERT INTO steps VALUES (1); COMMIT");
    wait_until("it is there", PATIENCE, || legacy.sql(NAMES) == "1waits,2goes");
    let hub = pair.hub();
    let reads = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgtandem capture'
                 AND wait_event_type = 'Lock' AND query ~ 'begin_read'";
    wait_until("the hub waits", PATIENCE, || new.sql(reads) == "1");
    // Written over on both sides by who has seen it.
    legacy.sql("UPDATE products SET name = name || ' there' WHERE id = 1");
    holder.run("SELECT pg_advisory_unlock(42)").unwrap();
    writing.wait().unwrap();
    hub.wait_for_log("working");
    pair.settle();
    new.sql("UPDATE products SET name = name || ' here' WHERE id = 1");
    pair.settle();
    assert_eq!(legacy.sql(NAMES), "1waits there here,2goes");
    equal_without_decisions(&pair);
}

/// Receipts are forgotten here only once the peer has forgotten them: a busy peer has not, and would put back what was committed.
#[test]
fn s54_a_busy_peer_keeps_its_receipts_and_what_was_committed_stays() {
    let pair = linked(Setup::shared());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    let session = new.session();
    session.run("INSERT INTO products (id, name) VALUES (1, 'one'), (2, 'two')").unwrap();
    pair.apart();
    session.run("UPDATE products SET name = 'waits' WHERE id = 1").unwrap();
    together(&pair);
    session.run("INSERT INTO products (id, name) VALUES (3, 'brings it')").unwrap();
    assert_eq!(legacy.sql(NAMES), "1waits,2two,3brings it");
    pair.apart();
    session.run("UPDATE products SET name = 'waits' WHERE id = 2").unwrap();
    together(&pair);
    let holder = legacy.session();
    holder.run("BEGIN; SELECT FROM pgtandem.taking FOR UPDATE").unwrap();
    session.run("INSERT INTO products (id, name) VALUES (4, 'finds it busy')").unwrap();
    holder.run("ROLLBACK").unwrap();
    assert_eq!(legacy.sql(NAMES), "1waits,2two,3brings it,4finds it busy");
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(legacy.sql(NAMES), "1waits,2waits,3brings it,4finds it busy");
    equal_without_decisions(&pair);
    pair.nodes().iter().for_each(waits_no_more);
}

/// Of what a read finds, nothing goes along any more, whenever it began to wait.
#[test]
fn s54_what_begins_to_wait_while_a_read_begins_does_not_go_along() {
    let pair = linked(Setup::shared());
    let new = &pair["new"];
    new.sql("INSERT INTO products (id, name) VALUES (1, 'one'), (2, 'two')");
    pair.apart();
    new.sql("UPDATE products SET name = 'waits' WHERE id = 1");
    let (holder, reader) = (new.session(), new.session());
    let others = "hashtextextended('pgtandem outbox', 0)";
    holder.run(format!("SELECT pg_advisory_lock({others})")).unwrap();
    let reading = reader.send("SELECT pgtandem.read_on('0', '{}', NULL, 1, 0)");
    let reads = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                 AND wait_event_type = 'Lock' AND query ~ 'read_on'";
    wait_until("the read is about to take its snapshot", PATIENCE, || new.sql(reads) == "1");
    new.sql("UPDATE products SET name = 'waits' WHERE id = 2");
    holder.run(format!("SELECT pg_advisory_unlock({others})")).unwrap();
    reading.wait().unwrap();
    let found = "SELECT string_agg(s.outcome::text, ',') FROM pgtandem.outbox_read r JOIN pgtandem.sent s
                 ON pg_visible_in_snapshot(s.xid, r.snapshot) WHERE r.position = (SELECT max(position) FROM pgtandem.outbox_read)
                 AND s.outcome <> 'l'";
    assert_eq!(new.sql(found), "r,r");
    pair.pgtandem(["run", "--once"]).ok();
    equal_without_decisions(&pair);
    pair.nodes().iter().for_each(waits_no_more);
}

/// The way between the servers is broken, and the hub's own ways are not: it delivers what waits.
#[test]
fn s54_a_hub_delivers_what_waits_where_the_servers_do_not_reach_each_other() {
    let pair = linked(Setup::default());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO products (id, name) VALUES (1, 'one'), (2, 'two')");
    pair.apart();
    new.sql("UPDATE products SET name = 'came' WHERE id = 1");
    together(&pair);
    // It arrives, and its transaction fails here.
    new.sql(
        "CREATE TABLE steps (step int);
         CREATE FUNCTION step() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.step = 5 THEN RAISE 'fails'; END IF;
            INSERT INTO steps VALUES (NEW.step + 1); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER step AFTER INSERT ON steps DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION step()",
    );
    let failing = new.session();
    failing.run("BEGIN; INSERT INTO products (id, name) VALUES (3, 'fails'); INSERT INTO steps VALUES (1)").unwrap();
    failing.run("COMMIT").unwrap_err();
    assert_eq!(legacy.sql(NAMES), "1came,2two,3fails");
    drop(failing);
    legacy.sql("UPDATE products SET name = 'came, seen' WHERE id = 1");
    new.sql("ALTER USER MAPPING FOR CURRENT_USER SERVER pgtandem_legacy_inbox OPTIONS (SET user 'nobody')");
    new.sql("UPDATE products SET name = 'waits' WHERE id = 2");
    new.sql("INSERT INTO products (id, name) VALUES (4, 'waits')");
    assert_eq!(waiting(new), "3");
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(legacy.sql(NAMES), "1came, seen,2waits,4waits");
    pair.equal("products");
    pair.nodes().iter().for_each(waits_no_more);
}

/// A session dies when it has sent what waits; another one sends it, too. What the first one sent comes when all that is long over.
#[test]
fn s54_what_was_sent_before_comes_too_late() {
    let pair = linked(Setup::shared());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    let session = new.session();
    session.run("INSERT INTO products (id, name) VALUES (1, 'one')").unwrap();
    pair.apart();
    session.run("UPDATE products SET name = 'waits' WHERE id = 1").unwrap();
    let late = new.sql(
        "SELECT format('SELECT pgtandem.take_along(%L, %L, NULL, ARRAY[%L::uuid], ARRAY[%L::xid8], ''{1}'', ARRAY[%L::int], %L, ARRAY[%L], ARRAY[%L], 500, false, NULL)',
                       t.own, nextval('pgtandem.taking_number'), s.token, s.xid, o.table_id, o.op, o.old_row, o.new_row)
         FROM pgtandem.taking t, pgtandem.sent s JOIN pgtandem.outbox o USING (xid) WHERE s.outcome = 'q'",
    );
    together(&pair);
    session.run("INSERT INTO products (id, name) VALUES (2, 'brings it')").unwrap();
    // Another one is brought, and the first one acknowledged with it.
    pair.apart();
    session.run("UPDATE products SET name = 'waits' WHERE id = 2").unwrap();
    together(&pair);
    session.run("INSERT INTO products (id, name) VALUES (3, 'brings it')").unwrap();
    nothing_waits(new);
    session.run("UPDATE products SET name = 'later' WHERE id = 1").unwrap();
    assert_eq!(legacy.sql(&late), "0b");
    assert_eq!(legacy.sql(NAMES), "1later,2waits,3brings it");
    equal_without_decisions(&pair);
}

/// What waits for a table that is paused is not looked for with each write.
#[test]
fn s54_what_may_not_go_now_is_looked_for_now_and_then() {
    let pair = linked(Setup::shared().table("others", "CREATE TABLE others (id int PRIMARY KEY)"));
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    pair.apart();
    new.sql("INSERT INTO products (id, name) VALUES (1, 'waits')");
    together(&pair);
    new.sql("UPDATE pgtandem.linked_table SET paused_by = 'user' WHERE own_name = 'products'");
    new.sql("INSERT INTO others VALUES (1)");
    assert_eq!((waiting(new).as_str(), legacy.sql("SELECT count(*) FROM others").as_str()), ("1", "1"));
    assert_ne!(new.sql("SELECT last_value FROM pgtandem.taking_rests_until"), "0");
    new.sql("UPDATE pgtandem.linked_table SET paused_by = NULL WHERE own_name = 'products'");
    let mut id = 1;
    wait_until("it is tried again", PATIENCE, || {
        id += 1;
        new.sql(&format!("INSERT INTO others VALUES ({id})"));
        legacy.sql(NAMES) == "1waits"
    });
    nothing_waits(new);
    equal_without_decisions(&pair);
}
