//! S55: the outbox. What becomes visible out of order, what a crash loses, what it takes.

use crate::support::{Hub, Node, PATIENCE, PRODUCTS, Pair, Setup, wait_until};

fn linked() -> (Pair, Hub) {
    let pair = Pair::with(Setup::default().table("products", PRODUCTS));
    let hub = pair.linked();
    (pair, hub)
}

fn shows(node: &Node, query: &str, expected: &str) {
    let what = format!("{} shows {expected}", node.name());
    wait_until(&what, PATIENCE, || node.sql(query) == expected);
}

const NAMES: &str = "SELECT string_agg(name, ',' ORDER BY id) FROM products";
const NO_CONFLICT: &str = "SELECT count(*) FROM pgtandem.decision";

#[test]
fn s55_a_transaction_that_stays_open_holds_back_nobody_and_is_not_forgotten() {
    let (pair, _hub) = linked();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO products (id, name) VALUES (1, 'one'), (2, 'two')");
    shows(legacy, NAMES, "one,two");
    let long = new.session();
    long.run(
        "BEGIN; UPDATE products SET name = 'long' WHERE id = 1; INSERT INTO products (id, name) VALUES (4, 'four')",
    )
    .unwrap();
    for round in 0..20 {
        new.sql(&format!("UPDATE products SET price = {round} WHERE id = 2"));
        legacy.sql(&format!("INSERT INTO products (id, name) VALUES (100 + {round}, 'x')"));
        shows(legacy, "SELECT price FROM products WHERE id = 2", &round.to_string());
    }
    shows(new, "SELECT count(*) FROM products WHERE id >= 100", "20");
    assert_eq!(legacy.sql("SELECT name FROM products WHERE id = 1"), "one");
    long.run("COMMIT").unwrap();
    shows(legacy, "SELECT string_agg(name, ',' ORDER BY id) FROM products WHERE id < 100", "long,two,four");
    pair.settle();
    assert_eq!(new.sql(NO_CONFLICT), "0");
}

/// The later change of a row is in the transaction with the smaller first number.
#[test]
fn s55_changes_of_one_row_keep_their_order() {
    let (pair, _hub) = linked();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO products (id, name) VALUES (1, 'one'), (2, 'two')");
    let (early, late) = (new.session(), new.session());
    early.run("BEGIN; UPDATE products SET name = 'early' WHERE id = 2").unwrap();
    late.run("BEGIN; UPDATE products SET name = 'late' WHERE id = 1; COMMIT").unwrap();
    early.run("UPDATE products SET name = name || ', early' WHERE id = 1; COMMIT").unwrap();
    shows(legacy, NAMES, "late, early,early");
    pair.settle();
    assert_eq!(new.sql(NO_CONFLICT), "0");
}

#[test]
fn s55_prepared_transactions_work_and_travel_when_they_commit() {
    let (pair, _hub) = linked();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.session()
        .run("BEGIN; INSERT INTO products (id, name) VALUES (1, 'prepared'); PREPARE TRANSACTION 'two'")
        .unwrap();
    new.sql("INSERT INTO products (id, name) VALUES (2, 'other')");
    shows(legacy, NAMES, "other");
    new.cluster.restart().unwrap();
    new.sql("INSERT INTO products (id, name) VALUES (3, 'third')");
    shows(legacy, NAMES, "other,third");
    new.sql("COMMIT PREPARED 'two'");
    shows(legacy, NAMES, "prepared,other,third");
    pair.settle();
}

/// What a server forgets in a crash must not have reached another.
#[test]
fn s55_a_crash_of_a_server_that_does_not_wait_for_its_disk() {
    let pair = Pair::with(
        Setup::default()
            .setting("synchronous_commit", "off")
            .setting("wal_writer_delay", "10s")
            .table("products", PRODUCTS),
    );
    let hub = pair.linked();
    for round in 0..4 {
        let (one, other) = if round % 2 == 0 { ("new", "legacy") } else { ("legacy", "new") };
        let session = pair[one].session();
        for number in 0..200 {
            let id = round * 1_000 + number;
            session.run(format!("INSERT INTO products (id, name) VALUES ({id}, 'x')")).unwrap();
            session.run(format!("UPDATE products SET price = {number} WHERE id % 50 = {number} % 50")).unwrap();
        }
        pair[other].sql("UPDATE products SET name = name || '.' WHERE id % 20 = 0");
        pair[one].cluster.kill9().unwrap();
        pair[one].cluster.start_again().unwrap();
        pair.settle();
    }
    assert!(hub.is_running(), "{}", hub.log());
    assert_ne!(pair["new"].sql("SELECT count(*) FROM products"), "0");
}

#[test]
fn s55_what_is_written_while_no_hub_runs_is_delivered_later() {
    let (pair, mut hub) = linked();
    pair["new"].sql("INSERT INTO products (id, name) SELECT i, 'p' FROM generate_series(1, 50) i");
    for round in 0..3 {
        if round == 1 {
            hub.terminate();
        } else {
            hub.kill9();
        }
        let long = pair["new"].session();
        long.run("BEGIN; UPDATE products SET name = 'long' WHERE id = 50").unwrap();
        pair["new"].sql("UPDATE products SET price = 1 WHERE id < 20; DELETE FROM products WHERE id = 21");
        pair["legacy"].sql("UPDATE products SET name = 'legacy' WHERE id BETWEEN 10 AND 30");
        pair["new"].sql("UPDATE products SET id = id + 100 WHERE id = 22");
        long.run("COMMIT").unwrap();
        hub = pair.hub();
        pair.settle();
        pair["new"].sql("INSERT INTO products (id, name) VALUES (21, 'again') ON CONFLICT DO NOTHING");
        pair.settle();
    }
}

/// More than is taken at once (256 changes, in a debug build), in an order that numbers of transactions do not tell.
#[test]
fn s55_a_backlog_is_read_in_pieces_and_gone_on_with_by_the_next_hub() {
    let (pair, hub) = linked();
    for node in pair.nodes() {
        node.sql(
            "CREATE PROCEDURE write_rows(first int, count int) LANGUAGE plpgsql AS $$ BEGIN
                 FOR i IN first..first + count - 1 LOOP
                     INSERT INTO products (id, name) VALUES (i, 'row ' || i);
                     UPDATE products SET price = i WHERE id = first + i % 7;
                     COMMIT;
                 END LOOP;
             END $$",
        );
    }
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO products (id, name) VALUES (1, 'one'), (2, 'two'), (3, 'three')");
    pair.settle();
    hub.terminate();
    new.sql("CALL write_rows(10, 700)");
    legacy.sql("CALL write_rows(200000, 700)");
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
    let (early, long) = (new.session(), new.session());
    long.run("BEGIN; UPDATE products SET name = 'long' WHERE id = 3").unwrap();
    early.run("BEGIN; UPDATE products SET name = 'early' WHERE id = 2").unwrap();
    new.sql("CALL write_rows(1000, 700)");
    new.sql("UPDATE products SET name = 'late' WHERE id = 1");
    legacy.sql("CALL write_rows(100000, 700)");
    new.sql("CALL write_rows(2000, 700)");
    early.run("UPDATE products SET name = name || ', early' WHERE id = 1; COMMIT").unwrap();
    new.sql("CALL write_rows(3000, 700)");
    let arrived =
        || legacy.sql("SELECT count(*) FROM products WHERE id BETWEEN 1000 AND 99999").parse::<u32>().unwrap();
    let mut hub = pair.hub();
    for least in [300, 1_000] {
        wait_until("a part has arrived", PATIENCE, || arrived() > least);
        hub.kill9();
        hub = pair.hub();
    }
    pair.settle();
    assert_eq!((arrived(), new.sql(NO_CONFLICT)), (2_100, "0".to_owned()));
    assert_eq!(
        legacy.sql("SELECT string_agg(name, ';' ORDER BY id) FROM products WHERE id < 4"),
        "late, early;early;three"
    );
    assert_eq!(legacy.sql("SELECT max(price) FROM products WHERE id < 4000"), "3699");
    long.run("COMMIT").unwrap();
    shows(legacy, "SELECT name FROM products WHERE id = 3", "long");
    pair.settle();
    assert!(hub.is_running(), "{}", hub.log());
}

#[test]
fn s55_the_outbox_stays_small_behind_an_open_transaction() {
    let (pair, _hub) = linked();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO products (id, name) SELECT i, 'product' FROM generate_series(1, 20000) i");
    pair.settle();
    // Keeps VACUUM from removing anything, and has written to the outbox itself.
    let long = new.session();
    long.run("BEGIN ISOLATION LEVEL REPEATABLE READ; UPDATE products SET price = -1 WHERE id = 1").unwrap();
    let size = "SELECT sum(pg_relation_size(c.oid)) / 1048576 FROM pg_class c
                WHERE relnamespace = 'pgtandem'::regnamespace AND relname ~ '^outbox_[0-9]$'";
    for round in 0..30 {
        new.sql(&format!("UPDATE products SET price = {round} WHERE id > 1"));
        shows(legacy, "SELECT price FROM products WHERE id = 20000", &round.to_string());
    }
    let megabytes: f64 = new.sql(size).parse().unwrap();
    assert!(megabytes < 45.0, "{megabytes} MiB");
    long.run("COMMIT").unwrap();
    pair.settle();
}

/// Texts must not depend on what an application has set for itself.
#[test]
fn s55_an_application_may_set_what_it_likes() {
    let create =
        "CREATE TABLE odd (id int PRIMARY KEY, at timestamptz, on_day date, took interval, ratio float8, raw bytea,
                                    cost money, kind regclass, words text[])";
    let pair = Pair::with(Setup::default().table("odd", create));
    let _hub = pair.linked();
    for (number, node) in pair.nodes().iter().enumerate() {
        let session = node.session();
        session
            .run(format!(
                "SET datestyle = 'German'; SET timezone = 'Asia/Kathmandu'; SET intervalstyle = 'iso_8601';
                 SET extra_float_digits = -15; SET bytea_output = 'escape'; SET search_path = pg_catalog, public;
                 INSERT INTO odd VALUES ({number}, '01.02.2024 03:04:05.123456', '01.02.2024', 'P1Y2M3DT4H5M6S', pi() / 3,
                     '\\x00ff41', 12.34, 'odd', ARRAY['a,b', '\"c\"', NULL, '']);
                 UPDATE odd SET ratio = 1.0 / 3 WHERE id = {number}"
            ))
            .unwrap();
    }
    pair.settle();
    assert_eq!(pair["new"].sql("SELECT count(*) FROM odd WHERE ratio = 1.0::float8 / 3"), "2");
}

#[test]
fn s55_one_node_captured_by_triggers_and_one_from_its_wal() {
    for captures in [["wal", "trigger"], ["trigger", "wal"]] {
        let pair = Pair::with(Setup::default().captures(captures).table("products", PRODUCTS));
        let mut hub = pair.linked();
        for round in 0..6 {
            for node in pair.nodes() {
                node.sql(&format!(
                    "INSERT INTO products (id, name) VALUES ({round}, '{0}') ON CONFLICT (id) DO UPDATE SET name = '{0} again';
                     UPDATE products SET price = {round} WHERE id % 2 = 0;
                     DELETE FROM products WHERE id = {round} - 2",
                    node.name()
                ));
            }
            if round == 3 {
                hub.kill9();
                hub = pair.hub();
            }
        }
        pair.settle();
        assert_eq!(pair["new"].sql(NO_CONFLICT), pair["legacy"].sql(NO_CONFLICT));
    }
}

#[test]
fn s55_status_says_how_changes_are_captured_and_what_waits() {
    let (pair, hub) = linked();
    pair.settle();
    drop(hub);
    pair["new"].sql("INSERT INTO products (id, name) VALUES (1, 'a'), (2, 'b')");
    let status: serde_json::Value = serde_json::from_str(&pair.pgtandem(["status", "--json"]).stdout).unwrap();
    let node = &status["nodes"][0];
    assert_eq!((node["capture"].as_str(), node["outbox_changes"].as_i64()), (Some("trigger"), Some(2)), "{node:#}");
    let text = pair.pgtandem(["status"]).stdout;
    assert!(text.contains("2 changes"), "{text}");
}
