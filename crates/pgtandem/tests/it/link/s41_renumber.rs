//! A shop on each side, with overlapping ids, becomes one while both are written to, and by an `up` that is killed.

use super::Scene;
use crate::support::{PATIENCE, Pair, Setup, killed_after, wait_until};
use pgtandem::cluster::Session;
use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

const SCHEMA: &str = "
    CREATE TABLE products (id bigserial PRIMARY KEY, sku text NOT NULL UNIQUE, name text NOT NULL, stock int NOT NULL DEFAULT 0,
                           updated_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, number text NOT NULL UNIQUE,
                         updated_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE order_lines (id bigserial PRIMARY KEY, order_id int NOT NULL REFERENCES orders ON DELETE CASCADE,
                              product_id bigint NOT NULL REFERENCES products, quantity int NOT NULL,
                              updated_at timestamptz NOT NULL DEFAULT now(), UNIQUE (order_id, product_id));
    CREATE INDEX ON order_lines (product_id);
    CREATE TABLE carts (id bigserial PRIMARY KEY, product_id bigint NOT NULL, sku text NOT NULL)";
const TABLES: [(&str, &str); 3] = [
    ("products", "match = [\"sku\"]\nreferences = [\"carts.product_id\"]"),
    ("orders", "match = [\"number\"]"),
    ("order_lines", "match = [\"order_id\", \"product_id\"]"),
];
/// What the lines mean, whatever the ids.
const LINES: &str = "SELECT o.number || ' ' || p.sku || ' ' || quantity FROM order_lines l
    JOIN orders o ON o.id = order_id JOIN products p ON p.id = product_id ORDER BY 1";

/// A third of the products has one id on both sides, a third another one, and a third is on one side only; of the orders
/// every other one is on both. Snapshots of one shop that went separate ways.
fn fill(name: &str, rows: u32) -> String {
    let shift = if name == "new" { 0 } else { 30 };
    format!(
        "INSERT INTO products (id, sku, name, updated_at)
             SELECT i, CASE i % 3 WHEN 0 THEN 'S' || i WHEN 1 THEN 'M' || (i + {shift}) % {rows} ELSE '{name}' || i END,
                    '{name} ' || i, timestamptz '2024-01-01' + (hashtext('{name}' || i) % 1000000) * interval '1 s'
             FROM generate_series(1, {rows}) i;
         INSERT INTO orders (id, number, updated_at) OVERRIDING SYSTEM VALUE
             SELECT i, CASE i % 2 WHEN 0 THEN 'C' || i ELSE '{name}' || i END, '2024-01-01' FROM generate_series(1, {rows}) i;
         INSERT INTO order_lines (id, order_id, product_id, quantity, updated_at)
             SELECT i, i, 1 + (i * 7 + {shift}) % {rows}, i % 5, '2024-01-01' FROM generate_series(1, {rows}) i;
         INSERT INTO carts (product_id, sku) SELECT id, sku FROM products WHERE id % 10 = 0;
         SELECT setval('products_id_seq', {rows}), setval('orders_id_seq', {rows}), setval('order_lines_id_seq', {rows})"
    )
}

fn configure(head: &str, more: &str) -> String {
    let table = |(name, lines): (&str, &str)| {
        format!("[[tables]]\nname = \"{name}\"\nmerge = \"newest\"\nrenumber = \"legacy\"\n{lines}\n{more}\n")
    };
    let tables: String = TABLES.into_iter().map(table).collect();
    format!("{head}{tables}")
}

fn shop(rows: u32, more: &str) -> Pair {
    let pair = Pair::with(Setup::shared().linking("products").linking("orders").linking("order_lines"));
    for node in pair.nodes() {
        node.sql(SCHEMA);
        node.sql(&fill(node.name(), rows));
    }
    let text = fs::read_to_string(pair.config()).unwrap();
    let head = format!("{}\n[hub]\nstatus_interval_ms = 100\n", text.split("[[tables]]").next().unwrap());
    fs::write(pair.config(), configure(&head, more)).unwrap();
    pair
}

/// An application: new products and orders, stock that changes all the time, lines and carts for what it has just read.
/// Answers with the lines that it wrote, as they are meant.
fn write(session: &Session, name: &str, stop: &AtomicBool) -> Vec<String> {
    let run = |sql: &str| session.run(sql).map(|text| text.trim_end().to_owned());
    let mut lines = Vec::new();
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        run(&format!("UPDATE products SET stock = stock + 1 WHERE sku = 'S{}'", round % 50 * 3)).unwrap();
        let sku = format!("{name} later {round}");
        let id = run(&format!("INSERT INTO products (sku, name) VALUES ('{sku}', 'x') RETURNING id")).unwrap();
        run(&format!("INSERT INTO carts (product_id, sku) VALUES ({id}, '{sku}')")).unwrap();
        // Reads a product, and orders it in one transaction, as an application does. Its row may have got another id
        // meanwhile: then the foreign key says so, and the application tries again.
        let old = format!("{name}{}", round % 100 * 3 + 2);
        let number = format!("{name} order {round}");
        let ordered = run(&format!(
            "BEGIN; WITH o AS (INSERT INTO orders (number) VALUES ('{number}') RETURNING id)
             INSERT INTO order_lines (order_id, product_id, quantity)
             SELECT o.id, p.id, 1 FROM o, products p WHERE p.sku IN ('{old}', '{sku}'); COMMIT"
        ));
        match ordered {
            Ok(_) => lines.extend([&old, &sku].map(|sku| format!("{number} {sku} 1"))),
            Err(_) => drop(run("ROLLBACK")),
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    lines
}

/// Both sides the same, every line means what it meant, and no id was given to two things.
fn is_one(pair: &Pair, meant: impl IntoIterator<Item = String>) {
    for (table, _) in TABLES {
        pair.equal(table);
    }
    let lines = pair["legacy"].sql(LINES);
    let lines: std::collections::BTreeSet<&str> = lines.lines().collect();
    let lost: Vec<String> = meant.into_iter().filter(|line| !lines.contains(line.as_str())).collect();
    assert!(lost.is_empty(), "{} lines are lost or mean something else: {:?}", lost.len(), &lost[..lost.len().min(10)]);
    let strays = "SELECT count(*) FROM order_lines l WHERE NOT EXISTS (SELECT FROM products p WHERE p.id = product_id)
                  OR NOT EXISTS (SELECT FROM orders o WHERE o.id = order_id);
                  SELECT count(*) FROM carts c WHERE NOT EXISTS (SELECT FROM products p WHERE p.id = product_id AND p.sku = c.sku)";
    for node in pair.nodes() {
        assert_eq!(node.sql(strays), "0\n0", "{}", node.name());
    }
    // No id stands for two things, now or before.
    let map = pair.pgtandem(["renumbered", "products", "--json"]).ok();
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for one in map["renumbered"].as_array().unwrap() {
        assert!(seen.insert(one["new_id"].as_str().unwrap().to_owned()), "{one} was given twice");
    }
}

fn meant(pair: &Pair) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for node in pair.nodes() {
        all.extend(node.sql(LINES).lines().map(str::to_owned));
    }
    all
}

#[test]
fn s40_shops_become_one_while_both_are_written_to() {
    let pair = shop(1500, "");
    let before = meant(&pair);
    let traces: Vec<String> = pair.nodes().iter().map(|node| node.sql(TRACES)).collect();
    assert_eq!(pair.pgtandem(["diff"]).exits(1).code, 1);
    let plan = pair.pgtandem(["plan"]).ok();
    assert!(plan.contains("renumber products on legacy") && plan.contains("becomes a new id"), "{plan}");
    let stop = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writers = ["new", "legacy"].map(|name| {
            let (session, stop) = (pair[name].session(), &stop);
            scope.spawn(move || write(&session, name, stop))
        });
        let linked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let hub = pair.linked();
            std::thread::sleep(std::time::Duration::from_secs(1));
            hub
        }));
        stop.store(true, Ordering::Relaxed);
        let written: Vec<String> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        let hub = linked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        pair.settle();
        drop(hub);
        written
    });
    assert!(written.len() > 100, "{}", written.len());
    // Of a line that both had, the newer quantity stays; its order and product stay the same.
    is_one(&pair, before.into_iter().chain(written));
    pair.pgtandem(["down", "--yes"]).ok();
    let left: Vec<String> = pair.nodes().iter().map(|node| node.sql(TRACES)).collect();
    assert_eq!(left, traces);
}

const TRACES: &str =
    "SELECT c.oid::regclass, relkind, relreplident, s.* FROM pg_class c LEFT JOIN pg_sequence s ON seqrelid = c.oid
    WHERE relnamespace = 'public'::regnamespace ORDER BY 1;
    SELECT nspname FROM pg_namespace WHERE nspname = 'pgtandem'; SELECT count(*) FROM pg_depend";

#[test]
fn s41_renumber_killed_at_any_point_can_be_repeated() {
    // What comes before is the same in every link (s41_killed).
    let mut steps = 26;
    let mut last = String::new();
    loop {
        let scene = Scene::new(&format!("s41_renumber_{steps}"), 2, SCHEMA);
        for (node, name) in ["new", "legacy"].into_iter().enumerate() {
            scene.on(node, &fill(name, 300));
        }
        let before = [scene.traces(0), scene.traces(1)];
        let lines = scene.everywhere(LINES);
        scene.configure(&["x"]);
        let text = fs::read_to_string(scene.config_file()).unwrap();
        fs::write(scene.config_file(), configure(text.split("[[tables]]").next().unwrap(), "")).unwrap();
        let Some(step) = killed_after(scene.command(&["up", "--yes"]), steps) else { break };
        scene.must(&["up", "--yes"]);
        let rows = scene.everywhere(LINES);
        assert_eq!(rows[0], rows[1], "killed at {step}");
        let kept = |line: &&str| !rows[0].lines().any(|of| of == *line);
        let lost: Vec<&str> = lines.iter().flat_map(|lines| lines.lines()).filter(kept).collect();
        assert!(lost.is_empty(), "killed at {step}: {lost:?}");
        let carts = "SELECT count(*) FROM carts c JOIN products p ON p.id = product_id AND p.sku = c.sku";
        assert_eq!(scene.everywhere(carts), ["30"; 2], "killed at {step}");
        scene.must(&["down", "--yes"]);
        assert_eq!([scene.traces(0), scene.traces(1)], before, "killed at {step}");
        (steps, last) = (steps + 1, step);
    }
    assert!(steps > 34, "only {steps} steps were seen, the last was {last}");
}

#[test]
fn s41_renumber_killed_within_a_batch_and_undone() {
    let pair = shop(600, "write_pause = \"10s\"");
    let all =
        "SELECT * FROM products ORDER BY id; SELECT * FROM orders ORDER BY id; SELECT * FROM order_lines ORDER BY id;
               SELECT * FROM carts ORDER BY id";
    let before: Vec<String> = pair.nodes().iter().map(|node| node.sql(all)).collect();
    pair["legacy"].sql(
        "CREATE FUNCTION wait_for_the_test() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF current_setting('application_name') = 'pgtandem' THEN PERFORM pg_advisory_xact_lock_shared(42); END IF;
             RETURN new; END $$;
         CREATE TRIGGER wait_for_the_test BEFORE UPDATE ON carts FOR EACH ROW WHEN (old.id = 40)
             EXECUTE FUNCTION wait_for_the_test();
         ALTER TABLE carts ENABLE ALWAYS TRIGGER wait_for_the_test",
    );
    let gate = pair["legacy"].session();
    gate.run("SELECT pg_advisory_lock(42)").unwrap();
    let mut up = pair.command(["up", "--yes"]).stdout(Stdio::null()).spawn().unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    wait_until("a row waits for the test", PATIENCE, || pair["legacy"].sql(waits) == "1");
    let done: u32 = pair["legacy"].sql("SELECT count(*) FROM pgtandem.renumbered").parse().unwrap();
    up.kill().unwrap();
    up.wait().unwrap();
    gate.run("SELECT pg_advisory_unlock(42)").unwrap();
    assert!(done > 0 && done < 400, "{done} rows had other ids before the kill");
    // What the kill left behind can be taken back, and so can the whole.
    for merge in [false, true] {
        if merge {
            pair.link();
            is_one(&pair, []);
        }
        pair.pgtandem(["undo", "merge", "--yes"]).ok();
        let now: Vec<String> = pair.nodes().iter().map(|node| node.sql(all)).collect();
        assert_eq!(now, before);
    }
    pair.link();
    is_one(&pair, []);
}

#[test]
fn s40_renumber_looks_again_under_the_lock() {
    let pair = Pair::with(Setup::shared().linking("products"));
    for node in pair.nodes() {
        node.sql(SCHEMA);
        node.sql(&format!(
            "INSERT INTO products (id, sku, name, updated_at)
             SELECT i, '{} ' || i, 'x', '2024-01-01' FROM generate_series(1, 120) i",
            node.name()
        ));
    }
    let text = fs::read_to_string(pair.config()).unwrap();
    let lines = "merge = \"newest\"\nmatch = [\"sku\"]\nrenumber = \"legacy\"\ndismiss = [\"carts.product_id\"]\n";
    fs::write(pair.config(), format!("{text}{lines}")).unwrap();
    pair["legacy"].sql(
        "CREATE FUNCTION wait_for_the_test() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF current_setting('application_name') = 'pgtandem' THEN PERFORM pg_advisory_xact_lock_shared(42); END IF;
             RETURN new; END $$;
         CREATE TRIGGER wait_for_the_test BEFORE UPDATE ON products FOR EACH ROW WHEN (old.id = 1)
             EXECUTE FUNCTION wait_for_the_test();
         ALTER TABLE products ENABLE ALWAYS TRIGGER wait_for_the_test",
    );
    let gate = pair["legacy"].session();
    gate.run("SELECT pg_advisory_lock(42)").unwrap();
    let up = pair.command(["up", "--yes"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    wait_until("a row waits for the test", PATIENCE, || pair["legacy"].sql(waits) == "1");
    // Found as another thing, and of a later batch: by then it is the same, or gone.
    pair["legacy"].sql("UPDATE products SET sku = 'new 100' WHERE id = 100; DELETE FROM products WHERE id = 110");
    gate.run("SELECT pg_advisory_unlock(42)").unwrap();
    let ended = up.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(pair["legacy"].sql("SELECT sku FROM products WHERE id = 100"), "new 100");
    let moved = "SELECT count(*), bool_or(old_id IN ('100', '110')) FROM pgtandem.renumbered";
    assert_eq!(pair["legacy"].sql(moved), "118|f");
    pair.equal("products");
    assert_eq!(pair["legacy"].sql("SELECT count(*) FROM products"), "238");
}
