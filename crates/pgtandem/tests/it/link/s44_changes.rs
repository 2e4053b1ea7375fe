//! Tables and nodes come and go.

use super::{PRODUCTS, Scene, servers};

const TWO: &str = "CREATE TABLE products (id bigserial PRIMARY KEY, name text);
                   CREATE TABLE orders (id bigserial PRIMARY KEY, what text)";

#[test]
fn s44_a_table_is_added() {
    let scene = Scene::new("s44_table_added", 2, TWO);
    scene.configure(&["products"]);
    scene.must(&["up", "--yes"]);
    let products = scene.everywhere("SELECT * FROM pgtandem.linked_table; SELECT * FROM products_id_seq");
    scene.on(1, "INSERT INTO orders (what) SELECT 'o' FROM generate_series(1, 50)");
    scene.configure(&["products", "orders"]);
    scene.must(&["up", "--yes"]);
    assert_eq!(scene.on(0, "SELECT count(*) FROM orders"), "50");
    let now = "SELECT * FROM pgtandem.linked_table WHERE table_name = 'products'; SELECT * FROM products_id_seq";
    assert_eq!(scene.everywhere(now), products);
    let published =
        "SELECT string_agg(tablename, ',' ORDER BY tablename) FROM pg_publication_tables WHERE pubname = 'pgtandem'";
    assert_eq!(scene.everywhere(published), ["orders,products"; 2]);
}

#[test]
fn s44_a_table_is_removed() {
    let scene = Scene::new("s44_table_removed", 2, TWO);
    let orders = "SELECT relreplident FROM pg_class WHERE relname = 'orders';
                  SELECT seqincrement, seqstart FROM pg_sequence WHERE seqrelid = 'orders_id_seq'::regclass";
    let before = scene.everywhere(orders);
    scene.configure(&["products", "orders"]);
    scene.must(&["up", "--yes"]);
    assert_ne!(scene.everywhere(orders), before);
    scene.configure(&["products"]);
    scene.must(&["up", "--yes"]);
    assert_eq!(scene.everywhere(orders), before);
    assert_eq!(scene.everywhere("SELECT table_name FROM pgtandem.linked_table"), ["products", "products"]);
    let published = "SELECT tablename FROM pg_publication_tables WHERE pubname = 'pgtandem'";
    assert_eq!(scene.everywhere(published), ["products", "products"]);
    scene.must(&["down", "--yes"]);
}

#[test]
fn s44_a_node_is_added_and_taken_out() {
    let mut scene = Scene::new("s44_node", 3, PRODUCTS);
    scene.on(0, "INSERT INTO products (name) SELECT 'p' FROM generate_series(1, 100)");
    let before = scene.traces(2);
    scene.nodes = vec![0, 1];
    scene.configure(&["products"]);
    scene.must(&["up", "--yes"]);
    scene.nodes = vec![0, 1, 2];
    scene.configure(&["products"]);
    scene.must(&["up", "--yes"]);
    assert_eq!(scene.on(2, "SELECT count(*) FROM products"), "100");
    let peers = "SELECT string_agg(number || name, ',' ORDER BY number) FROM pgtandem.peer WHERE left_at IS NULL";
    assert_eq!(scene.everywhere(peers), ["0new,1legacy,2third"; 3]);
    let id = "INSERT INTO products (name) VALUES ('x') RETURNING id % 4";
    assert_eq!(scene.everywhere(id), ["0", "1", "2"]);

    // Not in the configuration any more, but in the link.
    scene.nodes = vec![0, 1];
    scene.configure(&["products"]);
    let ended = scene.run(&["up", "--yes"]);
    assert_eq!(ended.code, 1, "{}", ended.all());
    assert!(ended.stderr.contains("pgtandem down --node third"), "{}", ended.stderr);

    scene.nodes = vec![0, 1, 2];
    scene.configure(&["products"]);
    scene.must(&["down", "--node", "third", "--yes"]);
    assert_eq!(scene.traces(2), before);
    scene.nodes = vec![0, 1];
    assert_eq!(scene.everywhere(peers), ["0new,1legacy"; 2]);
    scene.configure(&["products"]);
    assert!(scene.must(&["up", "--yes"]).stdout.starts_with("nothing to do"));

    // Its number is not given again.
    scene.nodes = vec![0, 1, 2];
    scene.on(2, "TRUNCATE products");
    scene.configure(&["products"]);
    scene.must(&["up", "--yes"]);
    assert_eq!(scene.on(2, "SELECT number FROM pgtandem.node"), "3");
    scene.must(&["down", "--yes"]);
    assert_eq!(servers()[2].psql(&scene.database, "SELECT count(*) FROM pg_publication").unwrap(), "0");
}
