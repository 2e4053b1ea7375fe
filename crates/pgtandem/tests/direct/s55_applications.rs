//! S55: what applications do otherwise goes on working, and nothing goes out that its own server then loses.

use crate::s50_at_commit::{PATIENT, linked};
use crate::support::{PRODUCTS, Pair, Setup};

const ROWS: &str = "SELECT string_agg(id || name, ',' ORDER BY id) FROM products";

/// What is prepared may still be rolled back: it waits, and goes when it has been committed.
#[test]
fn s55_prepared_transactions() {
    let pair = linked(Setup::default().setting("max_prepared_transactions", "5"));
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    let session = new.session();
    for (id, end) in [(1, "COMMIT"), (2, "ROLLBACK")] {
        session.run("BEGIN").unwrap();
        session.run(format!("INSERT INTO products (id, name) VALUES ({id}, 'x')")).unwrap();
        session.run("PREPARE TRANSACTION 'it'").unwrap();
        assert_eq!(legacy.sql("SELECT count(*) FROM products"), if id == 1 { "0" } else { "1" });
        pair.pgtandem(["run", "--once"]).ok();
        new.sql(&format!("{end} PREPARED 'it'"));
        pair.pgtandem(["run", "--once"]).ok();
        pair.equal("products");
    }
    assert_eq!(legacy.sql(ROWS), "1x");
    new.sql("INSERT INTO products (id, name) VALUES (3, 'direct')");
    assert_eq!(legacy.sql(ROWS), "1x,3direct");
}

#[test]
fn s55_savepoints_isolation_and_constraints_set_immediate() {
    let pair = linked(Setup::shared());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    for begin in ["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN ISOLATION LEVEL SERIALIZABLE"] {
        let session = new.session();
        session.run(begin).unwrap();
        session
            .run(
                "SAVEPOINT a; INSERT INTO products (id, name) VALUES (1, 'gone'); ROLLBACK TO a;
                 INSERT INTO products (id, name) VALUES (2, 'kept'); SAVEPOINT b; UPDATE products SET name = 'no' WHERE id = 2;
                 ROLLBACK TO b; RELEASE b; COMMIT",
            )
            .unwrap();
        pair.pgtandem(["run", "--once"]).ok();
        assert_eq!(legacy.sql(ROWS), "2kept", "{begin}");
        session.run(format!("{begin}; UPDATE products SET name = 'Kept'; COMMIT")).unwrap();
        assert_eq!(legacy.sql(ROWS), "2Kept", "{begin}");
        session.run("DELETE FROM products").unwrap();
        assert_eq!(legacy.sql(ROWS), "", "{begin}");
    }
    let session = new.session();
    session
        .run(
            "BEGIN; SET CONSTRAINTS ALL IMMEDIATE; INSERT INTO products (id, name) VALUES (5, 'a');
             UPDATE products SET name = 'b'; INSERT INTO products (id, name) VALUES (6, 'c'); COMMIT",
        )
        .unwrap();
    assert_eq!(legacy.sql(ROWS), "5b,6c");
    pair.equal("products");
}

#[test]
fn s55_a_crash_of_a_server_that_does_not_wait_for_its_disk() {
    let pair = Pair::with(
        Setup::default()
            .setting("synchronous_commit", "off")
            .setting("wal_writer_delay", "10s")
            .table("products", PRODUCTS),
    );
    pair.link();
    for round in 0..4 {
        let (one, other) = if round % 2 == 0 { ("new", "legacy") } else { ("legacy", "new") };
        let session = pair[one].session();
        for number in 0..50 {
            let id = round * 1_000 + number;
            if number == 40 {
                pair.apart();
            }
            session.run(format!("INSERT INTO products (id, name) VALUES ({id}, 'x')")).unwrap();
            session.run(format!("UPDATE products SET price = {number} WHERE id % 50 = {number} % 50")).unwrap();
        }
        pair[other].sql("UPDATE products SET name = name || '.' WHERE id % 20 = 0");
        pair[one].cluster.kill9().unwrap();
        pair[one].cluster.start_again().unwrap();
        pair.pgtandem(["run", "--once"]).ok();
        pair.equal("products");
    }
    assert_ne!(pair["new"].sql("SELECT count(*) FROM products"), "0");
}

#[test]
fn s55_an_application_may_set_what_it_likes() {
    let create =
        "CREATE TABLE odd (id int PRIMARY KEY, at timestamptz, on_day date, took interval, ratio float8, raw bytea,
                           cost money, kind regclass, words text[], doc jsonb, part char(4))";
    let pair = Pair::with(Setup::shared().table("odd", create));
    pair.link();
    for (number, node) in pair.nodes().iter().enumerate() {
        let session = node.session();
        session
            .run(format!(
                "SET datestyle = 'German'; SET timezone = 'Asia/Kathmandu'; SET intervalstyle = 'iso_8601';
                 SET extra_float_digits = -15; SET bytea_output = 'escape'; SET search_path = pg_catalog, public;
                 SET standard_conforming_strings = off;
                 INSERT INTO odd VALUES ({number}, '01.02.2024 03:04:05.123456', '01.02.2024', 'P1Y2M3DT4H5M6S', pi() / 3,
                     '\\\\x00ff41', 12.34, 'odd', ARRAY['a,b', '\"c\"', NULL, '', 'b\\\\s'], '{{\"a\": \"\\\\\\\\ \"}}', 'x');
                 UPDATE odd SET ratio = 1.0 / 3 WHERE id = {number}"
            ))
            .unwrap();
        assert_eq!(session.run("SELECT current_setting('pgtandem.why_queued')").unwrap(), "landed");
        pair.equal("odd");
    }
    assert_eq!(pair["new"].sql("SELECT count(*) FROM odd WHERE ratio = 1.0::float8 / 3"), "2");
}

/// The rows of one INSERT are captured together, behind what the application's triggers have made of them.
#[test]
fn s55_triggers_that_change_what_is_being_inserted() {
    let pair = linked(Setup::shared());
    let new = &pair["new"];
    new.sql(
        "CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            CASE NEW.name WHEN 'gone' THEN DELETE FROM products WHERE id = NEW.id;
                WHEN 'moved' THEN UPDATE products SET id = id + 100 WHERE id = NEW.id;
                WHEN 'twice' THEN INSERT INTO products (id, name) VALUES (NEW.id + 200, 'once');
                ELSE UPDATE products SET name = name || '!' WHERE id = NEW.id; END CASE;
            RETURN NULL; END $$;
         CREATE TRIGGER change AFTER INSERT ON products FOR EACH ROW EXECUTE FUNCTION change()",
    );
    new.sql("INSERT INTO products (id, name) VALUES (1, 'a'), (2, 'gone'), (3, 'moved'), (4, 'twice')");
    assert_eq!(new.sql(ROWS), "1a!,4twice,103moved,204once!");
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
    new.sql("DROP TRIGGER change ON products; INSERT INTO products (id, name) VALUES (7, 'x'), (8, 'y')");
    assert_eq!(pair["legacy"].sql("SELECT count(*) FROM products WHERE id IN (7, 8)"), "2");
}

#[test]
fn s55_an_insert_of_many_rows_whatever_they_are() {
    let create = "CREATE TABLE many (id int PRIMARY KEY, gone int, at timestamptz, body text); ALTER TABLE many DROP COLUMN gone";
    let pair = Pair::with(Setup::shared().config(PATIENT).table("many", create));
    pair.link();
    let new = &pair["new"];
    let session = new.session();
    session.run("SET datestyle = 'German'; SET timezone = 'Asia/Kathmandu'; BEGIN").unwrap();
    session.run("INSERT INTO many SELECT i, now(), 'row ' || i FROM generate_series(1, 3) i").unwrap();
    let settings = "SELECT current_setting('datestyle') || ' ' || current_setting('timezone')";
    assert_eq!(session.run(settings).unwrap(), "German, DMY Asia/Kathmandu");
    session.run("INSERT INTO many SELECT 4, now(), repeat('long ', 2000); COMMIT").unwrap();
    assert_eq!(session.run(settings).unwrap(), "German, DMY Asia/Kathmandu");
    assert_eq!(session.run("SELECT current_setting('pgtandem.why_queued')").unwrap(), "landed");
    session.run("INSERT INTO many SELECT i, now(), 'row' FROM generate_series(11, 20020) i WHERE i % 2 = 0").unwrap();
    pair.equal("many");
    pair.apart();
    session.run("INSERT INTO many SELECT i, now(), 'row' FROM generate_series(30001, 50010) i").unwrap();
    session.run("INSERT INTO many SELECT i, now(), repeat(i::text, 6000) FROM generate_series(5, 10) i").unwrap();
    session
        .run("INSERT INTO many SELECT i, now(), repeat(i::text, i) FROM generate_series(21, 30) i WHERE i % 2 = 1")
        .unwrap();
    // Of many it would take too long to say which keys wait; of few it is said.
    let waiting = "SELECT count(*) FILTER (WHERE key IS NULL), count(key) FROM pgtandem.queued";
    assert_eq!(new.sql(waiting), "1|11");
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("many");
    assert_eq!(pair["legacy"].sql("SELECT count(*) FROM many"), new.sql("SELECT count(*) FROM many"));
}
