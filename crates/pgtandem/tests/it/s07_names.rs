//! S07: tables and columns that the nodes call differently.

use crate::support::{PATIENCE, Pair, Setup, wait_until};

const NEW: &str = "CREATE TABLE products (id bigserial PRIMARY KEY, name text NOT NULL, price int, sku text UNIQUE,
                                          description text);
                   CREATE TABLE lines (id bigserial PRIMARY KEY, product_id bigint REFERENCES products)";
/// The view is what the test compares; it has the name of the other node's table, which must not confuse anybody, as must
/// not the column `name`, which is this node's alone.
const LEGACY: &str = "CREATE SCHEMA shop;
    CREATE TABLE shop.legacy_products (description text, price_cents int, product_no bigserial PRIMARY KEY, sku text UNIQUE,
                                       name text DEFAULT 'its own', title varchar(255) NOT NULL);
    CREATE TABLE legacy_lines (id bigserial PRIMARY KEY, product_no bigint REFERENCES shop.legacy_products);
    CREATE VIEW products AS SELECT product_no AS id, title::text AS name, price_cents AS price, sku, description
        FROM shop.legacy_products;
    CREATE VIEW lines AS SELECT id, product_no AS product_id FROM legacy_lines";
const NAMES: &str = "names = { legacy = \"legacy_lines\" }
columns = { legacy = { product_id = \"product_no\" } }

[[tables]]
name = \"products\"
names = { legacy = \"shop.legacy_products\" }
[tables.columns.legacy]
id = \"product_no\"
name = \"title\"
price = \"price_cents\"";

/// `products` is in NAMES.
fn setup() -> Setup {
    Setup::default().config("[hub]\nstatus_interval_ms = 100").linking("lines").keys(NAMES)
}

fn pair(setup: Setup) -> Pair {
    let pair = Pair::with(setup);
    pair["new"].sql(NEW);
    pair["legacy"].sql(LEGACY);
    pair
}

#[track_caller]
fn become_equal(pair: &Pair) {
    pair.acknowledged();
    for table in ["products", "lines"] {
        let rows = format!("SELECT to_jsonb(t) FROM {table} t");
        wait_until(&format!("{table} is the same"), PATIENCE, || pair.differs_in(&rows).is_none());
    }
}

#[test]
fn s07_what_nodes_call_differently_is_kept_the_same() {
    let pair = pair(setup());
    pair["new"].sql(
        "INSERT INTO products (name, price, sku, description) SELECT 'n' || i, i, 's' || i, repeat('x', i * 100)
             FROM generate_series(1, 50) i;
         INSERT INTO lines (product_id) SELECT id FROM products",
    );
    let traces = "SELECT c.oid::regclass, relreplident, s.* FROM pg_class c LEFT JOIN pg_sequence s ON seqrelid = c.oid
                  WHERE relnamespace IN ('public'::regnamespace, to_regnamespace('shop')) ORDER BY 1";
    let before: Vec<String> = pair.nodes().iter().map(|node| node.sql(traces)).collect();
    let hub = pair.linked();
    become_equal(&pair);
    pair["legacy"].sql(
        "INSERT INTO shop.legacy_products (title, price_cents, sku) VALUES ('of legacy', 700, 'L');
         UPDATE shop.legacy_products SET title = 'renamed' WHERE product_no = 1;
         DELETE FROM legacy_lines WHERE product_no = 2; DELETE FROM shop.legacy_products WHERE product_no = 2;
         UPDATE shop.legacy_products SET product_no = 1003 WHERE sku = 'L'",
    );
    pair["new"].sql(
        "UPDATE products SET price = price + 1 WHERE id BETWEEN 41 AND 50;
         INSERT INTO products (name, sku, description) SELECT 'big', 'B', string_agg(md5(i::text), '')
             FROM generate_series(1, 1000) i;
         INSERT INTO lines (product_id) SELECT id FROM products WHERE sku = 'B'",
    );
    become_equal(&pair);
    assert_eq!(pair["new"].sql("SELECT name, price, id FROM products WHERE sku = 'L'"), "of legacy|700|1003");
    assert_eq!(pair["legacy"].sql("SELECT DISTINCT name FROM shop.legacy_products"), "its own");
    // The large value is left alone, and unique values change places.
    pair["legacy"].sql(
        "UPDATE shop.legacy_products SET price_cents = 3 WHERE sku = 'B';
         BEGIN; UPDATE shop.legacy_products SET sku = '-' WHERE sku = 's3';
         UPDATE shop.legacy_products SET sku = 's3' WHERE sku = 's4';
         UPDATE shop.legacy_products SET sku = 's4' WHERE sku = '-'; COMMIT",
    );
    become_equal(&pair);
    drop(hub);
    pair.apart();
    pair["legacy"].sql("UPDATE shop.legacy_products SET title = 'there' WHERE product_no = 5");
    pair["new"].sql("UPDATE products SET name = 'here' WHERE id = 5; TRUNCATE lines");
    let hub = pair.hub();
    become_equal(&pair);
    let conflicts = pair.pgtandem(["conflicts", "--json"]).ok();
    assert!(conflicts.contains("\"name\": \"there\"") && !conflicts.contains("title"), "{conflicts}");
    let conflicts: serde_json::Value = serde_json::from_str(&conflicts).unwrap();
    pair.pgtandem(["conflicts", "undo", conflicts["conflicts"][0]["name"].as_str().unwrap(), "--yes"]).ok();
    become_equal(&pair);
    assert_eq!(pair["new"].sql("SELECT name FROM products WHERE id = 5"), "there");
    pair.pgtandem(["diff"]).ok();
    let status = pair.pgtandem(["status"]);
    assert!(status.stdout.contains("products") && !status.stdout.contains("legacy_products"), "{}", status.stdout);
    assert!(pair.pgtandem(["plan"]).ok().contains("nothing to do"));
    drop(hub);
    pair.pgtandem(["down", "--yes"]).ok();
    let after: Vec<String> = pair.nodes().iter().map(|node| node.sql(traces)).collect();
    assert_eq!(before, after);
}

#[test]
fn s07_filled_tables_of_other_names_are_merged_renumbered_and_put_back() {
    let setup = Setup::default().config("[hub]\nstatus_interval_ms = 100").linking("lines");
    let merged = "merge = \"newest\"\nmerge_by = \"price\"\nmatch = [\"sku\"]\nrenumber = \"legacy\"\n[tables.columns";
    let names = NAMES.replacen("names", "merge = \"only-missing\"\nids = \"keep\"\nnames", 1);
    let pair = pair(setup.keys(&names.replacen("[tables.columns", merged, 1)));
    // Of row 3 the two say something else; 4 is another thing on each; 5 and 50 are the same.
    pair["new"].sql(
        "INSERT INTO products (id, name, price, sku) VALUES (1, 'a', 1, 'A'), (3, 'c', 30, 'C'), (4, 'd', 4, 'D'), (5, 'e', 5, 'E');
         SELECT setval('products_id_seq', 5); INSERT INTO lines (id, product_id) VALUES (1, 1)",
    );
    pair["legacy"].sql(
        "INSERT INTO shop.legacy_products (product_no, title, price_cents, sku)
             VALUES (1, 'a', 1, 'A'), (3, 'older', 3, 'C'), (4, 'other', 9, 'O'), (50, 'e', 5, 'E');
         SELECT setval('shop.legacy_products_product_no_seq', 50);
         INSERT INTO legacy_lines (id, product_no) VALUES (100, 4), (101, 50)",
    );
    let rows = "SELECT * FROM products ORDER BY id; SELECT * FROM lines ORDER BY id";
    let before: Vec<String> = pair.nodes().iter().map(|node| node.sql(rows)).collect();
    assert!(pair.pgtandem(["diff"]).exits(1).stdout.contains("name"));
    let plan = pair.pgtandem(["plan"]).ok();
    assert!(plan.contains("title for name"), "{plan}");
    pair.link();
    let now: Vec<String> = pair.nodes().iter().map(|node| node.sql(rows)).collect();
    assert_eq!(now[0], now[1]);
    assert!(now[0].contains("3|c|30|C") && now[0].contains("|other|9|O"), "{}", now[0]);
    let line = "SELECT p.sku FROM lines l JOIN products p ON p.id = l.product_id ORDER BY l.id";
    assert_eq!(pair.differs_in(line), None);
    assert_eq!(pair["new"].sql(line), "A\nO\nE");
    pair.pgtandem(["undo", "merge", "--yes"]).ok();
    let undone: Vec<String> = pair.nodes().iter().map(|node| node.sql(rows)).collect();
    assert_eq!(undone, before);
    let hub = pair.linked();
    pair["legacy"].sql("UPDATE shop.legacy_products SET title = 'x' WHERE sku = 'O'");
    become_equal(&pair);
    drop(hub);
}

/// Columns without a foreign key that hold ids are found, and named, as that node calls them.
#[test]
fn s07_references_are_a_nodes_own() {
    let merged = "merge = \"only-missing\"\nmatch = [\"sku\"]\nrenumber = \"legacy\"\n[tables.columns";
    let named = merged.replacen("[tables", "references = [\"carts.product_no\"]\n[tables", 1);
    for (keys, is_named) in [(merged, false), (&named, true)] {
        let pair = pair(Setup::shared().linking("lines").keys(&NAMES.replacen("[tables.columns", keys, 1)));
        pair["new"].sql("INSERT INTO products (id, name, sku) VALUES (4, 'd', 'D')");
        pair["legacy"].sql(
            "INSERT INTO shop.legacy_products (product_no, title, sku) VALUES (4, 'other', 'O');
             CREATE TABLE carts (id serial PRIMARY KEY, product_no bigint); INSERT INTO carts (product_no) VALUES (4)",
        );
        if !is_named {
            let said = pair.pgtandem(["plan"]).exits(1);
            let said = said.stdout + &said.stderr;
            assert!(said.contains("references = [\"carts.product_no\"") && said.contains("legacy"), "{said}");
            continue;
        }
        pair.link();
        let cart = "SELECT p.name FROM carts c JOIN products p ON p.id = c.product_no";
        assert_eq!(pair["legacy"].sql(cart), "other");
        assert_ne!(pair["legacy"].sql("SELECT product_no FROM carts"), "4");
        pair.equal("products");
        pair.pgtandem(["undo", "merge", "--yes"]).ok();
        assert_eq!(pair["legacy"].sql("SELECT product_no FROM carts"), "4");
    }
}

#[test]
fn s07_what_differs_is_repaired_under_each_nodes_names() {
    let pair = pair(setup());
    pair["new"].sql("INSERT INTO products (name, price) SELECT 'n' || i, i FROM generate_series(1, 20) i");
    let hub = pair.linked();
    drop(hub);
    let unseen = |node: &str, sql: &str| {
        let unseen = if crate::CAPTURE == "wal" {
            "SELECT pg_logical_emit_message(true, 'pgtandem', secret::text) FROM pgtandem.node"
        } else {
            "SET LOCAL session_replication_role = replica"
        };
        pair[node].sql(&format!("BEGIN; {unseen}; {sql}; COMMIT"));
    };
    unseen("new", "UPDATE products SET name = 'wrong' WHERE id = 8");
    unseen("legacy", "DELETE FROM shop.legacy_products WHERE product_no = 4");
    assert!(pair.pgtandem(["diff"]).exits(1).stdout.contains("wrong"));
    let _hub = pair.hub();
    pair.pgtandem(["repair", "--yes", "--prefer", "legacy"]);
    become_equal(&pair);
}

/// Codes of the faults, node by node.
fn faults(pair: &Pair) -> Vec<String> {
    let report: serde_json::Value = serde_json::from_str(&pair.pgtandem(["check", "--json"]).stdout).unwrap();
    let of = |finding: &serde_json::Value| {
        assert!(finding["severity"] != "fault" || finding["remedy"].is_string(), "no remedy: {finding}");
        let text = |field: &str| finding[field].as_str().unwrap_or("-").to_owned();
        (finding["severity"] == "fault").then(|| format!("{} {} {}", text("code"), text("node"), text("table")))
    };
    report["findings"].as_array().unwrap().iter().filter_map(of).collect()
}

#[test]
fn s07_check_finds_what_is_not_there_and_what_was_linked_otherwise() {
    let pair = pair(setup());
    assert_eq!(faults(&pair), [""; 0]);
    let good = std::fs::read_to_string(pair.config()).unwrap();
    let say = |from: &str, to: &str| {
        assert!(good.contains(from));
        std::fs::write(pair.config(), good.replace(from, to)).unwrap();
    };
    say("legacy_lines", "nowhere");
    assert_eq!(faults(&pair), ["missing_table legacy lines"]);
    say("\"title\"", "\"titel\"");
    assert!(faults(&pair).contains(&"mapped_column legacy products".to_owned()));
    say("price =", "prize =");
    assert_eq!(faults(&pair), ["mapped_column legacy products"]);
    say("", "");
    pair.link();
    assert!(pair.pgtandem(["plan"]).ok().contains("nothing to do"));
    say("price = \"price_cents\"", "");
    assert_eq!(faults(&pair), ["mapping_changed legacy products"]);
    pair.pgtandem(["up", "--yes"]).exits(1);
    // Taken out, it can come back under other names.
    let (without, products) = good.split_once("\n[[tables]]\nname = \"products\"").unwrap();
    std::fs::write(pair.config(), without).unwrap();
    pair.pgtandem(["up", "--yes"]).ok();
    let renamed = format!(
        "{without}\n[[tables]]\nname = \"goods\"\nnames = {{ new = \"products\", legacy = \"shop.legacy_products\" }}\n{}",
        products.split_once('\n').unwrap().1.split_once('\n').unwrap().1
    );
    std::fs::write(pair.config(), renamed).unwrap();
    pair.pgtandem(["up", "--yes"]).ok();
    assert!(pair.pgtandem(["diff"]).ok().contains("goods"));
}
