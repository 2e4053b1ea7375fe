//! Ids that mean different things on the two nodes, and things that have two ids: one side is renumbered before the merge.

use super::Scene;
use crate::support::{Pair, Setup};
use std::fs;

/// Foreign keys of every kind refer to products, and columns without any.
const SCHEMA: &str = "
    CREATE TABLE products (id bigint KEY PRIMARY KEY, sku text NOT NULL UNIQUE, name text,
                           replaces bigint REFERENCES products, updated_at timestamptz DEFAULT '2024-01-01');
    CREATE TABLE restricted (id bigserial PRIMARY KEY, product bigint NOT NULL REFERENCES products ON DELETE RESTRICT ON UPDATE RESTRICT);
    CREATE TABLE cascading (id bigserial PRIMARY KEY, product bigint NOT NULL REFERENCES products ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE nulling (id bigserial PRIMARY KEY, product bigint REFERENCES products ON DELETE SET NULL ON UPDATE SET NULL,
                          other int REFERENCES products DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE tags (product bigint REFERENCES products, tag text, PRIMARY KEY (product, tag));
    CREATE TABLE uses (id bigserial PRIMARY KEY, product bigint, tag text, FOREIGN KEY (product, tag) REFERENCES tags);
    CREATE TABLE notes (id bigserial PRIMARY KEY, notable_type text, notable_id bigint, sku text);
    CREATE TABLE events (id bigserial PRIMARY KEY, payload jsonb);
    CREATE TABLE plain (product_id text, sku text)";
/// What each reference means, by sku.
const MEANING: &str = "
    SELECT string_agg(p.sku || '>' || coalesce(r.sku, '-'), ' ' ORDER BY p.sku) FROM products p LEFT JOIN products r ON r.id = p.replaces;
    SELECT string_agg(sku, ' ' ORDER BY r.id) FROM restricted r JOIN products p ON p.id = product;
    SELECT string_agg(sku, ' ' ORDER BY r.id) FROM cascading r JOIN products p ON p.id = product;
    SELECT string_agg(p.sku || o.sku, ' ' ORDER BY r.id) FROM nulling r JOIN products p ON p.id = product JOIN products o ON o.id = other;
    SELECT string_agg(sku || tag, ' ' ORDER BY sku, tag) FROM tags t JOIN products p ON p.id = product;
    SELECT string_agg(sku || tag, ' ' ORDER BY u.id) FROM uses u JOIN products p ON p.id = product;
    SELECT string_agg(n.sku || '=' || coalesce(p.sku, notable_id::text), ' ' ORDER BY n.id) FROM notes n
        LEFT JOIN products p ON p.id = notable_id AND notable_type = 'Product';
    SELECT string_agg(p.sku || (payload ->> 'sku') || jsonb_typeof(payload -> 'product_id'), ' ' ORDER BY e.id)
        FROM events e JOIN products p ON p.id = (payload ->> 'product_id')::int;
    SELECT string_agg(payload ->> 'sku' || p.sku, ' ' ORDER BY e.id) FROM events e JOIN products p ON p.id = (payload #>> '{old,id}')::int;
    SELECT string_agg(l.sku || p.sku, ' ' ORDER BY l.sku) FROM plain l JOIN products p ON p.id = product_id::int";
const REFERENCES: &str = r#"references = ["notes.notable_id where notable_type = 'Product'", "events.payload -> 'product_id'", "events.payload -> 'old' -> 'id'", "plain.product_id"]"#;

/// On legacy A and B have each other's ids, C another one than on new, and X stands where C stands there.
fn fill(pair: &Pair) {
    let new = "INSERT INTO products (id, sku) OVERRIDING SYSTEM VALUE VALUES (1, 'A'), (2, 'B'), (3, 'C'), (6, 'N')";
    let legacy = "INSERT INTO products (id, sku, replaces) OVERRIDING SYSTEM VALUE
        VALUES (1, 'B', NULL), (2, 'A', 1), (3, 'X', 2), (4, 'C', 4), (5, 'Y', 3)";
    let references = "
        INSERT INTO restricted (product) SELECT id FROM products ORDER BY sku;
        INSERT INTO cascading (product) SELECT id FROM products ORDER BY sku;
        INSERT INTO nulling (product, other) SELECT id, 6 - id FROM products ORDER BY sku;
        INSERT INTO tags SELECT id, t FROM products, unnest('{r,s}'::text[]) t;
        INSERT INTO uses (product, tag) SELECT id, 's' FROM products ORDER BY sku;
        INSERT INTO notes (notable_type, notable_id, sku)
            SELECT t, id, sku FROM products, unnest('{Product,Order}'::text[]) t ORDER BY sku, t;
        INSERT INTO events (payload) SELECT jsonb_build_object('product_id', id, 'sku', sku) FROM products ORDER BY sku;
        INSERT INTO events (payload) SELECT jsonb_build_object('product_id', id::text, 'sku', sku, 'old', jsonb_build_object('id', 6 - id)) FROM products ORDER BY sku;
        INSERT INTO events (payload) VALUES ('{}'), ('[]'), (NULL);
        INSERT INTO plain SELECT id::text, sku FROM products";
    pair["new"].own_session().run(new).unwrap();
    let session = pair["legacy"].own_session();
    session.run(legacy).unwrap();
    session.run(references).unwrap();
}

fn shop(setup: Setup, key: &str) -> Pair {
    let pair = Pair::with(setup.table("products", "SELECT 1"));
    for node in pair.nodes() {
        node.own_session().run(SCHEMA.replace("KEY PRIMARY", &format!("{key} PRIMARY"))).unwrap();
    }
    fill(&pair);
    configure(&pair, &[&format!("merge = \"prefer:legacy\"\nmatch = [\"sku\"]\nrenumber = \"legacy\"\n{REFERENCES}")]);
    pair
}

/// Adds lines to the tables of the configuration, in their order.
fn configure(pair: &Pair, lines: &[&str]) {
    let text = fs::read_to_string(pair.config()).unwrap();
    let mut parts = text.split("[[tables]]\n");
    let mut all = parts.next().unwrap().to_owned();
    for (part, lines) in parts.zip(lines) {
        let name = part.lines().next().unwrap();
        all += &format!("[[tables]]\n{name}\n{lines}\n");
    }
    fs::write(pair.config(), all).unwrap();
}

fn follows(pair: &Pair) {
    let before = pair["legacy"].sql(MEANING);
    let plan = pair.pgtandem(["plan"]).ok();
    assert!(plan.contains("1 get new ids on legacy, 3 the ids that new has for the same"), "{plan}");
    assert!(plan.contains("3 becomes a new id  sku=X") && plan.contains("4 becomes 3  sku=C"), "{plan}");
    assert!(plan.contains("uses.product") && plan.contains("events.payload -> 'product_id'"), "{plan}");
    let json: serde_json::Value = serde_json::from_str(&pair.pgtandem(["plan", "--json"]).ok()).unwrap();
    let renumbering = &json["renumberings"][0];
    assert_eq!((&renumbering["new_ids"], &renumbering["joined"]), (&1.into(), &3.into()), "{renumbering}");
    pair.link();
    let ids = "SELECT string_agg(sku || id, ' ' ORDER BY sku) FROM products WHERE sku <> 'X'";
    for node in pair.nodes() {
        assert_eq!(node.sql(ids), "A1 B2 C3 N6 Y5", "{}", node.name());
    }
    let x: i64 = pair["legacy"].sql("SELECT id FROM products WHERE sku = 'X'").parse().unwrap();
    assert!(x > 6 && x % 4 == 1, "{x} is no id of legacy above all others");
    pair.equal("products");
    // N came from new.
    let after = pair["legacy"].sql(&MEANING.replacen("p.replaces;", "p.replaces WHERE p.sku <> 'N';", 1));
    assert_eq!(after, before);
    let map = pair.pgtandem(["renumbered", "--csv"]).ok();
    let wanted = ["products,legacy,1,2,joined", "products,legacy,2,1,joined", "products,legacy,4,3,joined"];
    for line in wanted.iter().copied().chain([format!("products,legacy,3,{x},collision").as_str()]) {
        assert!(map.lines().any(|of| of == line), "{line} is not in\n{map}");
    }
    assert_eq!(map.lines().count(), 5, "{map}");
}

#[test]
fn s40_renumber_everything_that_refers_follows() {
    for key in ["GENERATED BY DEFAULT AS IDENTITY", "GENERATED ALWAYS AS IDENTITY"] {
        follows(&shop(Setup::shared(), key));
    }
}

#[test]
fn s40_renumber_without_the_right_to_switch_foreign_keys_off() {
    let rights = if crate::CAPTURE == "wal" { "REPLICATION" } else { "" };
    for key in ["GENERATED BY DEFAULT AS IDENTITY", "GENERATED ALWAYS AS IDENTITY"] {
        follows(&shop(Setup::shared().role(rights), key));
    }
}

const PRODUCTS: &str = "CREATE TABLE products (id bigserial PRIMARY KEY, sku text, name text,
    updated_at timestamptz NOT NULL DEFAULT '2024-01-01')";

/// 1 is the same on both, 2 is not.
fn two(test: &str, lines: &str) -> Scene {
    let scene = Scene::new(test, 2, PRODUCTS);
    scene.on(0, "INSERT INTO products (id, sku, name) VALUES (1, 'A', 'new A'), (2, 'B', 'new B')");
    scene.on(1, "INSERT INTO products (id, sku, name) VALUES (1, 'A', 'old A'), (2, 'C', 'old C')");
    scene.everywhere("SELECT setval('products_id_seq', 2)");
    scene.configure(&[&format!("name = \"products\"\nmerge = \"newest\"\nmatch = [\"sku\"]\n{lines}")]);
    scene
}

#[track_caller]
fn refused(scene: &Scene, command: &[&str], says: &[&str]) {
    let before = [scene.traces(0), scene.traces(1)];
    let ended = scene.run(command);
    assert_eq!(ended.code, 1, "{}", ended.all());
    for text in says {
        assert!(ended.stderr.contains(text), "{text} is not in {}", ended.stderr);
    }
    assert_eq!([scene.traces(0), scene.traces(1)], before, "something was changed");
}

#[test]
fn s40_renumber_only_where_it_is_said() {
    let scene = two("s40_renumber_unsaid", "");
    let says = [
        "products, by sku: ids that mean different things on new and legacy: 1; things that have different ids there: 0",
        "renumber = \"legacy\"",
    ];
    refused(&scene, &["plan"], &says);
    refused(&scene, &["up", "--yes"], &says);
}

#[test]
fn s40_renumber_what_looks_like_a_reference_is_asked_for() {
    let scene = two("s40_renumber_asks", "renumber = \"legacy\"");
    scene.on(
        1,
        "CREATE TABLE carts (id int, product_id int); CREATE TABLE logs (id int, old_product_id int, products_id text);
         CREATE TABLE notes (id int, about_type text, about_id int);
         INSERT INTO notes VALUES (1, 'Shop::Product', 2), (2, 'Order', 2);
         CREATE TABLE events (id int, data jsonb); INSERT INTO events VALUES (1, '{\"productId\": 2, \"order_id\": 2}');
         CREATE TABLE lines (id int, product int REFERENCES products)",
    );
    let all = "carts.product_id\n  events.data -> 'productId'\n  logs.old_product_id\n  logs.products_id\n  \
               notes.about_id where about_type = 'Shop::Product'\n";
    refused(&scene, &["plan"], &[all, "references = [\"carts.product_id\", "]);
    refused(&scene, &["up", "--yes"], &[all]);
    scene.configure(&["name = \"products\"\nmerge = \"newest\"\nmatch = [\"sku\"]\nrenumber = \"legacy\"
        references = [\"carts.product_id\", \"events.data -> 'productId'\", \"notes.about_id where about_type = 'Shop::Product'\"]
        dismiss = [\"logs.old_product_id\", \"logs.products_id\"]"]);
    scene.on(1, "INSERT INTO carts VALUES (1, 2); INSERT INTO logs VALUES (1, 2, '2')");
    scene.must(&["up", "--yes"]);
    let id = scene.on(1, "SELECT id FROM products WHERE sku = 'C'");
    let found = "SELECT product_id FROM carts; SELECT about_id FROM notes ORDER BY id; SELECT data FROM events;
                 SELECT old_product_id, products_id FROM logs";
    assert_eq!(scene.on(1, found), format!("{id}\n{id}\n2\n{{\"order_id\": 2, \"productId\": {id}}}\n2|2"));
}

#[test]
fn s40_renumber_what_nobody_can_tell_is_refused() {
    let scene = two("s40_renumber_ambiguous", "renumber = \"legacy\"");
    scene.on(1, "INSERT INTO products (id, sku) VALUES (7, 'D'), (8, 'D')");
    scene.on(0, "INSERT INTO products (id, sku) VALUES (9, 'D')");
    refused(&scene, &["plan"], &["(1 match)", "sku = D: 7, 8 on legacy, 9 on new"]);
    // Several on one side alone are no riddle, and NULL is the same as nothing.
    scene.on(0, "UPDATE products SET sku = NULL WHERE id = 9");
    scene.on(1, "INSERT INTO products (id, sku) VALUES (11, NULL)");
    scene.must(&["up", "--yes"]);
    let skus = "SELECT string_agg(id || coalesce(sku, '-'), ' ' ORDER BY id) FROM products WHERE id < 12";
    assert_eq!(scene.everywhere(skus), ["1A 2B 7D 8D 9- 11-"; 2]);
}

#[test]
fn s40_renumber_not_what_a_linked_table_refers_to() {
    let scene = two("s40_renumber_live", "renumber = \"legacy\"");
    let products = fs::read_to_string(scene.config_file()).unwrap();
    scene.everywhere("CREATE TABLE lines (id int PRIMARY KEY, product_id bigint REFERENCES products)");
    scene.configure(&["lines"]);
    scene.must(&["up", "--yes"]);
    fs::write(scene.config_file(), format!("{products}[[tables]]\nname = \"lines\"\n")).unwrap();
    refused(&scene, &["plan"], &["rows of lines, which is linked already, refer to it"]);
}

#[test]
fn s40_merge_only_stops_before_linking() {
    let scene = two("s40_merge_only", "renumber = \"legacy\"");
    let ended = scene.must(&["up", "--yes", "--merge-only"]);
    assert!(ended.stdout.contains("merged, and not linked yet"), "{}", ended.all());
    assert_eq!(scene.everywhere("SELECT state FROM pgtandem.linked_table"), ["linking"; 2]);
    let rows = "SELECT string_agg(id || sku || name, ' ' ORDER BY id) FROM products";
    let merged = scene.on(0, rows);
    assert_eq!(scene.on(1, rows), merged);
    // One thing with another sku is no other thing now.
    scene.on(1, "UPDATE products SET sku = 'A2' WHERE id = 1");
    let plan = scene.must(&["plan"]).stdout;
    assert!(!plan.contains("renumber"), "{plan}");
    scene.must(&["up", "--yes"]);
    assert_eq!(scene.everywhere("SELECT state FROM pgtandem.linked_table"), ["live"; 2]);
    assert_eq!(scene.on(1, "SELECT sku FROM products WHERE id = 1"), "A2");
}

fn undo_scene(test: &str) -> Scene {
    let scene = two(test, "renumber = \"legacy\"\nreferences = [\"carts.product_id\"]");
    scene.on(0, "INSERT INTO products (id, sku, name) VALUES (100, 'N', 'only new'), (101, 'M', 'only new')");
    scene.on(1, "INSERT INTO products (id, sku, name) VALUES (200, 'L', 'only legacy')");
    scene.on(1, "CREATE TABLE carts (id int, product_id bigint); INSERT INTO carts VALUES (1, 1), (2, 2)");
    scene
}

const ROWS: &str = "SELECT id, sku, name FROM products ORDER BY id";

#[test]
fn s40_undo_merge_puts_everything_back() {
    let scene = undo_scene("s40_undo_merge");
    let before = (scene.everywhere(ROWS), scene.on(1, "SELECT * FROM carts ORDER BY id"));
    for _ in 0..2 {
        scene.must(&["up", "--yes"]);
        assert_ne!(scene.everywhere(ROWS), before.0);
        let ended = scene.must(&["undo", "merge", "--yes"]);
        assert!(ended.stdout.contains("5 rows deleted, 1 put back, 1 got their old ids"), "{}", ended.all());
        assert_eq!((scene.everywhere(ROWS), scene.on(1, "SELECT * FROM carts ORDER BY id")), before);
    }
    let ended = scene.run(&["undo", "merge", "--yes"]);
    assert_eq!(ended.code, 1, "{}", ended.all());
    assert!(ended.stderr.contains("nothing was merged here"), "{}", ended.stderr);
    scene.must(&["down", "--yes"]);
}

#[test]
fn s40_undo_merge_leaves_what_was_changed_since() {
    let scene = undo_scene("s40_undo_changed");
    scene.must(&["up", "--yes"]);
    let c = scene.on(1, "SELECT id FROM products WHERE sku = 'C'");
    scene.on(1, "UPDATE products SET name = 'changed' WHERE id IN (1, 2, 100)");
    scene.on(
        1,
        &format!("UPDATE products SET name = 'mine, changed' WHERE id = {c}; DELETE FROM products WHERE id = 101"),
    );
    let ended = scene.run(&["undo", "merge", "--yes", "--json"]);
    assert_eq!(ended.code, 1, "{}", ended.all());
    let json: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let left = json["undone"]["left"].as_array().unwrap().iter();
    let mut left: Vec<String> = left.map(|left| format!("{} {}", left["node"], left["key"][0])).collect();
    left.sort();
    // Its old id is the one of B, which stays because it was changed here.
    assert_eq!(left, ["1", "100", "2", &c].map(|id| format!("\"legacy\" \"{id}\"")), "{json}");
    assert_eq!(
        scene.on(1, ROWS),
        format!("1|A|changed\n2|B|changed\n100|N|changed\n200|L|only legacy\n{c}|C|mine, changed")
    );
    assert_eq!(scene.on(0, ROWS), "1|A|new A\n2|B|new B\n100|N|only new\n101|M|only new");
}

#[test]
fn s40_undo_merge_is_refused_when_it_was_confirmed() {
    let scene = undo_scene("s40_undo_confirmed");
    scene.must(&["up", "--yes"]);
    let config = fs::read_to_string(scene.config_file()).unwrap();
    fs::write(scene.config_file(), format!("{config}[hub]\nconfirm_after_days = 0\n")).unwrap();
    let ended = scene.run(&["undo", "merge", "--yes"]);
    assert!(ended.code == 1 && ended.stderr.contains("for longer than 0 days"), "{}", ended.all());
    fs::write(scene.config_file(), config).unwrap();
    assert!(scene.must(&["up", "--confirm", "--yes"]).stdout.contains("confirmed: 1 table stays"));
    let ended = scene.run(&["undo", "merge", "--yes"]);
    assert!(ended.code == 1 && ended.stderr.contains("was confirmed at"), "{}", ended.all());
    assert_eq!(scene.everywhere("SELECT count(*) FROM pgtandem.merged_rows"), ["0"; 2]);
    // The map stays for those who hold old ids.
    assert_eq!(scene.must(&["renumbered", "--csv"]).stdout.lines().count(), 2);
}

#[test]
fn s38_merge_rows_that_a_constraint_of_another_node_refuses() {
    let sql = "CREATE TABLE products (id int PRIMARY KEY, name text, price int, updated_at int)";
    let scene = Scene::new("s38_merge_constraints", 2, sql);
    scene.on(0, "INSERT INTO products VALUES (1, 'a', 1, 1), (2, NULL, -1, 1), (3, 'c', 1, 1), (5, 'e', -5, 1)");
    scene.on(1, "INSERT INTO products VALUES (1, 'a', 1, 1), (2, 'b', 1, 2), (4, 'd', 1, 1)");
    scene.on(1, "ALTER TABLE products ADD CHECK (price > 0), ALTER name SET NOT NULL");
    scene.configure(&["name = \"products\"\nmerge = \"newest\""]);
    // 2 loses to legacy's.
    let says =
        "the constraint \"products_price_check\" ((price > 0)) of legacy: 1 rows of new do not fulfil it, such as id 5";
    refused(&scene, &["plan"], &[says]);
    refused(&scene, &["up", "--yes"], &[says]);
    scene.on(0, "UPDATE products SET price = 5 WHERE id = 5; UPDATE products SET name = NULL WHERE id = 3");
    refused(&scene, &["plan"], &["NOT NULL of \"name\" of legacy: 1 rows of new"]);
    scene.on(0, "UPDATE products SET name = 'c' WHERE id = 3");
    let plan = scene.must(&["plan"]).stdout;
    assert!(plan.contains("as things are now, 2 only on new, 1 only on legacy, 1 on both but different"), "{plan}");
    scene.must(&["up", "--yes"]);
}

#[test]
fn s38_what_rows_cannot_be_matched_by() {
    let sql = "CREATE TABLE products (id int PRIMARY KEY, sku text, data jsonb);
               CREATE TABLE lines (a int, b int, sku text, PRIMARY KEY (a, b))";
    let scene = Scene::new("s38_match", 2, sql);
    scene.configure(&[
        "name = \"products\"\nmatch = [\"data\", \"id\", \"nothing\"]",
        "name = \"lines\"\nmatch = [\"sku\"]",
    ]);
    let codes = scene.check_codes();
    let of = |code: &str| codes.iter().filter(|(of, _, _)| of == code).count();
    assert_eq!((of("match_column"), of("match_key")), (6, 2), "{codes:?}");
}

#[test]
fn s40_renumber_uuids_and_texts_are_joined() {
    let sql = "CREATE TABLE products (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), sku text UNIQUE, updated_at int DEFAULT 1);
               CREATE TABLE lines (id int PRIMARY KEY, product uuid REFERENCES products)";
    let scene = Scene::new("s40_renumber_uuid", 2, sql);
    scene.everywhere("INSERT INTO products (sku) VALUES ('A'), ('B')");
    scene.on(1, "INSERT INTO lines SELECT ascii(sku), id FROM products");
    scene.configure(&[
        "name = \"products\"\nmerge = \"newest\"\nmatch = \"sku\"\nrenumber = \"legacy\"\nids = \"keep\"",
    ]);
    let ids = scene.on(0, "SELECT id FROM products ORDER BY sku");
    scene.must(&["up", "--yes"]);
    assert_eq!(scene.everywhere("SELECT id FROM products ORDER BY sku"), [ids.as_str(); 2]);
    assert_eq!(scene.on(1, "SELECT product FROM lines ORDER BY id"), ids);
}

#[test]
fn s38_renumber_things_that_claim_one_unique_value() {
    let scene = two("s38_renumber_clash", "renumber = \"legacy\"");
    scene.everywhere("ALTER TABLE products ADD barcode int UNIQUE; UPDATE products SET barcode = id");
    let says = "different things on legacy and new claim the same unique value, and cannot be in one table (1 pair)\n  \
                barcode = 2: 2 on both";
    refused(&scene, &["plan"], &[says]);
    refused(&scene, &["up", "--yes"], &[says]);
    scene.on(1, "UPDATE products SET barcode = 3 WHERE id = 2");
    scene.must(&["up", "--yes"]);
}
