//! Linking tables in every state they can be in.

use super::{PRODUCTS, Scene, servers};
use crate::support::{PATIENCE, wait_until};
use std::process::Stdio;

const ROWS: &str = "SELECT md5(string_agg(t::text, ',' ORDER BY id)), count(*) FROM products t";

#[test]
fn s40_both_empty() {
    let scene = Scene::new("s40_both_empty", 2, PRODUCTS);
    scene.configure(&["products"]);
    scene.must(&["up", "--yes"]);
    assert_eq!(scene.everywhere("SELECT state FROM pgtandem.linked_table"), ["live", "live"]);
    assert_eq!(scene.must(&["plan"]).stdout, "nothing to do: the nodes are as the configuration asks\n");
}

#[test]
fn s40_one_empty_is_copied() {
    let scene = Scene::new("s40_one_empty", 2, PRODUCTS);
    scene.on(
        1,
        "INSERT INTO products (name, description, price)
                 SELECT 'p' || i, nullif(repeat('x', i % 3000), ''), i FROM generate_series(1, 5000) i",
    );
    scene.configure(&["products"]);
    scene.must(&["up", "--yes"]);
    let rows = scene.everywhere(ROWS);
    assert_eq!(rows[0], rows[1]);
    assert!(rows[0].ends_with("|5000"));
    // Our own rows must not come back: the copying is marked in the WAL.
    let slot = scene.on(0, "SELECT slot FROM pgtandem.node");
    let marks = format!(
        "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('{slot}', NULL, NULL, 'proto_version', '1',
         'publication_names', 'pgtandem', 'messages', 'true') c, pgtandem.node n
         WHERE position(convert_to(n.secret::text || ' 0', 'UTF8') IN data) > 0"
    );
    assert_eq!(scene.on(0, &marks), "1");
}

#[test]
fn s40_types_are_copied_by_text_where_binary_would_differ() {
    let sql = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN short AS varchar(9);
               CREATE TABLE things (id int PRIMARY KEY, m mood, s short, c regclass, n numeric, t timestamptz, a int[],
                                    j jsonb, b bytea, twice int GENERATED ALWAYS AS (id * 2) STORED)";
    let scene = Scene::new("s40_types", 2, sql);
    scene.on(0, "ALTER TABLE things ADD COLUMN extra text DEFAULT 'mine'");
    scene.on(
        0,
        r#"INSERT INTO things VALUES (1, 'ok', 'dom', 'things', 'NaN', 'infinity', '{1,NULL}', '{"a": 1}', '\x00ff'),
                                             (2, NULL, NULL, NULL, 1.50, '0044-03-15 BC', '{}', '[]', '')"#,
    );
    scene.configure(&["things"]);
    scene.must(&["up", "--yes"]);
    let all = "SELECT id, m, s, c, n, t, a, j, b, twice FROM things ORDER BY id";
    let rows = scene.everywhere(all);
    assert_eq!(rows[0], rows[1]);
}

#[test]
fn s40_equal_tables_are_linked_as_they_are() {
    let scene = Scene::new("s40_equal", 2, PRODUCTS);
    // Written in another order, and with another history of ids.
    scene
        .on(0, "INSERT INTO products (name, created_at) SELECT 'p' || i, '2020-01-01' FROM generate_series(1, 3000) i");
    scene.on(
        1,
        "INSERT INTO products (id, name, created_at)
                 SELECT i, 'p' || i, '2020-01-01' FROM generate_series(3000, 1, -1) i",
    );
    scene.configure(&["products"]);
    scene.must(&["up", "--yes"]);
    assert_eq!(
        scene.everywhere("SELECT state, start_position > '0/0' FROM pgtandem.linked_table"),
        ["live|t", "live|t"]
    );
}

#[test]
fn s40_different_tables_are_refused_with_the_count() {
    let scene = Scene::new("s40_different", 2, PRODUCTS);
    scene.everywhere(
        "INSERT INTO products (id, name, created_at) SELECT i, 'p', '2020-01-01' FROM generate_series(1, 100) i",
    );
    scene.on(0, "DELETE FROM products WHERE id <= 3; UPDATE products SET name = 'q' WHERE id > 95");
    scene.on(1, "DELETE FROM products WHERE id = 50");
    let before = scene.traces(0);
    scene.configure(&["products"]);
    let ended = scene.run(&["up", "--yes"]);
    assert_eq!(ended.code, 1, "{}", ended.all());
    assert!(ended.stderr.contains("1 only on new, 3 only on legacy, 5 on both but different"), "{}", ended.stderr);
    assert!(ended.stderr.contains("merging"), "{}", ended.stderr);
    assert_eq!(scene.traces(0), before, "nothing was changed");
}

#[test]
fn s40_both_are_written_to_meanwhile() {
    let scene = Scene::new("s40_written", 2, PRODUCTS);
    scene.on(0, "INSERT INTO products (name) SELECT 'old ' || i FROM generate_series(1, 20000) i");
    // Lets the copying begin on the target and keeps it there until the test has written.
    scene.on(1, "CREATE FUNCTION wait_for_the_test() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                     IF current_setting('application_name') = 'pgtandem' THEN PERFORM pg_advisory_xact_lock_shared(42); END IF;
                     RETURN NULL; END $$;
                 CREATE TRIGGER wait_for_the_test BEFORE INSERT ON products EXECUTE FUNCTION wait_for_the_test();
                 ALTER TABLE products ENABLE ALWAYS TRIGGER wait_for_the_test");
    let gate = servers()[1].session(&scene.database).unwrap();
    gate.run("SELECT pg_advisory_lock(42)").unwrap();
    scene.configure(&["products"]);
    let mut up = scene.command(&["up", "--yes"]);
    let up = up.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    wait_until("a row waits for the test", PATIENCE, || scene.on(1, waits) == "1");
    scene.on(0, "UPDATE products SET name = 'changed' WHERE id = 1; INSERT INTO products (name) VALUES ('new')");
    scene.on(1, "INSERT INTO products (id, name) VALUES (7, 'mine'), (-1, 'mine too')");
    gate.run("SELECT pg_advisory_unlock(42)").unwrap();
    let ended = up.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));

    assert_eq!(scene.on(1, "SELECT count(*) FROM products WHERE name LIKE 'old %'"), "19999");
    // The target's own rows stay; the hub will judge them against what is held.
    assert_eq!(scene.on(1, "SELECT name FROM products WHERE id IN (7, -1) ORDER BY id"), "mine too\nmine");
    let held = "SELECT key ->> 'id', row ->> 'name', source_node, encode(key_bytes, 'hex'), cover, sqlstate FROM pgtandem.held";
    assert_eq!(scene.on(1, held), "7|old 7|0|0000000137|{0/0,0/0}|23505");
    // What was written after the rows were read lies behind the position from which the source is judged.
    assert_eq!(scene.on(1, "SELECT name FROM products WHERE id = 1"), "old 1");
    let slot = scene.on(0, "SELECT slot FROM pgtandem.node");
    let later = format!(
        "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('{slot}', NULL, NULL, 'proto_version', '1',
         'publication_names', 'pgtandem') WHERE position('changed'::bytea IN data) > 0
         AND lsn >= (SELECT start_position FROM pgtandem.linked_table)"
    );
    assert_eq!(scene.on(0, &later), "1");
}

#[test]
fn s40_tables_with_foreign_keys_come_parents_first() {
    let sql = "CREATE TABLE parents (id int PRIMARY KEY);
               CREATE TABLE children (id int PRIMARY KEY, parent int NOT NULL REFERENCES parents)";
    let scene = Scene::new("s40_foreign_keys", 2, sql);
    scene.on(0, "INSERT INTO parents VALUES (1); INSERT INTO children VALUES (1, 1)");
    scene.configure(&["children", "parents"]);
    scene.must(&["up", "--yes"]);
    assert_eq!(scene.on(1, "SELECT count(*) FROM parents NATURAL JOIN children"), "1");
}

#[test]
fn s40_a_partitioned_table_and_a_plain_one() {
    let scene = Scene::new("s40_partitioned", 2, "SELECT");
    scene.on(
        0,
        "CREATE TABLE events (id int PRIMARY KEY, what text) PARTITION BY RANGE (id);
                 CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (100);
                 CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (100) TO (1000);
                 INSERT INTO events SELECT i, 'e' || i FROM generate_series(1, 500) i",
    );
    scene.on(1, "CREATE TABLE events (id int PRIMARY KEY, what text)");
    scene.configure(&["events"]);
    scene.must(&["up", "--yes"]);
    assert_eq!(scene.on(1, "SELECT count(*) FROM events"), "500");
    assert_eq!(
        scene.on(
            0,
            "SELECT string_agg(relreplident::text, '' ORDER BY relname) FROM pg_class WHERE relname ~ '^events_.$'"
        ),
        "ff"
    );
    scene.must(&["down", "--yes"]);
    assert_eq!(
        scene.on(
            0,
            "SELECT string_agg(relreplident::text, '' ORDER BY relname) FROM pg_class WHERE relname ~ '^events_.$'"
        ),
        "dd"
    );
}

#[test]
fn s42_up_twice_changes_nothing() {
    let scene = Scene::new("s42_twice", 2, PRODUCTS);
    scene.on(0, "INSERT INTO products (name) SELECT 'p' FROM generate_series(1, 10)");
    scene.configure(&["products"]);
    scene.must(&["up", "--yes"]);
    let state = "SELECT * FROM pgtandem.node; SELECT * FROM pgtandem.linked_table; SELECT * FROM pgtandem.restore;
                 SELECT * FROM products_id_seq; SELECT xmin, * FROM products ORDER BY id;
                 SELECT slot_name FROM pg_replication_slots WHERE database = current_database()";
    let before = scene.everywhere(state);
    let again = scene.must(&["up", "--yes"]);
    assert_eq!(again.stdout, "nothing to do: the nodes are as the configuration asks\n");
    assert_eq!(scene.everywhere(state), before);
}
