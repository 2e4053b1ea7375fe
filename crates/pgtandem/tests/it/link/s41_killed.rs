//! `up` killed at any point can be repeated.

use super::{Ended, Scene, servers};
use crate::support::{PATIENCE, killed_after, wait_until};
use std::process::Stdio;

const SCHEMA: &str = "CREATE TABLE products (id bigserial PRIMARY KEY, name text);
                      CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, product bigint REFERENCES products)";

#[test]
fn s41_up_killed_at_any_point_can_be_repeated() {
    let mut steps = 0;
    loop {
        let scene = Scene::new(&format!("s41_killed_{steps}"), 2, SCHEMA);
        scene.on(
            0,
            "INSERT INTO products (name) SELECT 'p' || i FROM generate_series(1, 2000) i;
                     INSERT INTO orders (product) SELECT i FROM generate_series(1, 1000) i",
        );
        let before = [scene.traces(0), scene.traces(1)];
        scene.configure(&["products", "orders"]);
        let Some(step) = killed_after(scene.command(&["up", "--yes"]), steps) else { break };
        // The applications go on.
        scene.on(0, "INSERT INTO products (name) VALUES ('after the kill')");
        let Ended { code, stdout, stderr } = scene.run(&["up", "--yes"]);
        assert_eq!(code, 0, "killed at {step}:\n{stdout}\n{stderr}");
        finished(&scene, &step);
        scene.must(&["down", "--yes"]);
        assert_eq!([scene.traces(0), scene.traces(1)], before, "killed at {step}");
        steps += 1;
    }
    assert!(steps > 15, "only {steps} steps were seen");
}

fn finished(scene: &Scene, step: &str) {
    let live = "SELECT string_agg(state, ',') FROM pgtandem.linked_table";
    assert_eq!(scene.everywhere(live), ["live,live"; 2], "killed at {step}");
    assert_eq!(
        scene.must(&["plan"]).stdout,
        "nothing to do: the nodes are as the configuration asks\n",
        "killed at {step}"
    );
    let old =
        "SELECT count(*), sum(id) FROM products WHERE name <> 'after the kill'; SELECT count(*), sum(id) FROM orders";
    let rows = scene.everywhere(old);
    assert_eq!(rows[0], rows[1], "killed at {step}");
    // A row written meanwhile is copied, or will be read: it lies behind the start position, not before.
    let slot = scene.on(0, "SELECT slot FROM pgtandem.node");
    let read = format!(
        "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('{slot}', NULL, NULL, 'proto_version', '1',
         'publication_names', 'pgtandem') WHERE position('after the kill'::bytea IN data) > 0
         AND lsn >= (SELECT start_position FROM pgtandem.linked_table WHERE table_name = 'products')"
    );
    let copied = scene.on(1, "SELECT count(*) FROM products WHERE name = 'after the kill'");
    assert!(copied == "1" || scene.on(0, &read) == "1", "killed at {step}: the row is lost");
    let ids = scene.everywhere("INSERT INTO products (name) SELECT 'x' FROM generate_series(1, 20) RETURNING id");
    let ids: Vec<i64> = ids.iter().flat_map(|ids| ids.lines()).map(|id| id.parse().unwrap()).collect();
    assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), 40, "killed at {step}: {ids:?}");
}

#[test]
fn s41_up_killed_while_rows_travel() {
    let scene = Scene::new("s41_rows_travel", 2, "CREATE TABLE products (id bigserial PRIMARY KEY, name text)");
    scene.on(0, "INSERT INTO products (name) SELECT 'p' || i FROM generate_series(1, 20000) i");
    // Half of the rows go in, then one waits for the test.
    scene.on(
        1,
        "CREATE FUNCTION wait_for_the_test() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF new.id = 10000 THEN PERFORM pg_advisory_xact_lock_shared(42); END IF; RETURN new; END $$;
         CREATE TRIGGER wait_for_the_test BEFORE INSERT ON products FOR EACH ROW EXECUTE FUNCTION wait_for_the_test();
         ALTER TABLE products ENABLE ALWAYS TRIGGER wait_for_the_test",
    );
    let gate = servers()[1].session(&scene.database).unwrap();
    gate.run("SELECT pg_advisory_lock(42)").unwrap();
    scene.configure(&["products"]);
    let mut up = scene.command(&["up", "--yes"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    wait_until("a row waits for the test", PATIENCE, || scene.on(1, waits) == "1");
    up.kill().unwrap();
    up.wait().unwrap();
    gate.run("SELECT pg_advisory_unlock(42)").unwrap();
    scene.must(&["up", "--yes"]);
    let rows = scene.everywhere("SELECT count(*), sum(id) FROM products");
    assert_eq!(rows[0], rows[1]);
    assert_eq!(scene.on(1, "SELECT count(*) FROM pgtandem.held"), "0");
}
