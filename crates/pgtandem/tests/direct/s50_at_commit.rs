//! S50: when COMMIT has returned on one side, the row is on the other. No hub runs.

use crate::support::{Node, PATIENCE, PRODUCTS, Pair, Setup, wait_until};

/// Where what is asserted is that it goes directly, however busy the machine is.
pub const PATIENT: &str = "[direct]\nwait_ms = 60000";

pub fn linked(setup: Setup) -> Pair {
    let pair = Pair::with(setup.table("products", PRODUCTS));
    pair.link();
    pair
}

/// Nothing waits on the node, in whatever way.
#[track_caller]
pub fn nothing_waits(node: &Node) {
    let waiting = "SELECT (SELECT count(*) FROM pgtandem.outbox), (SELECT count(*) FROM pgtandem.queued),
                          (SELECT count(*) FROM pgtandem.sent WHERE outcome <> 'l')";
    assert_eq!(node.sql(waiting), "0|0|0", "{}", node.name());
}

#[test]
fn s50_every_kind_of_write_is_there_when_commit_returns() {
    let pair = linked(Setup::shared().config(PATIENT));
    for (here, there) in [("new", "legacy"), ("legacy", "new")] {
        let (here, there) = (&pair[here], &pair[there]);
        let names = "SELECT string_agg(name || coalesce(price::text, '-'), ',' ORDER BY name, price) FROM products";
        let writes: [(&str, &str); 9] = [
            ("INSERT INTO products (name) VALUES ('a'), ('b'), ('c')", "a-,b-,c-"),
            ("UPDATE products SET price = 1 WHERE name = 'a'", "a1,b-,c-"),
            ("UPDATE products SET price = 2", "a2,b2,c2"),
            ("DELETE FROM products WHERE name = 'b'", "a2,c2"),
            (
                "BEGIN; INSERT INTO products (name) VALUES ('d'); UPDATE products SET price = 3 WHERE name >= 'c';
              DELETE FROM products WHERE name = 'd'; UPDATE products SET name = 'x' WHERE name = 'a'; COMMIT",
                "c3,x2",
            ),
            ("UPDATE products SET id = id + 1000000", "c3,x2"),
            ("BEGIN; TRUNCATE products; INSERT INTO products (name) VALUES ('only'); COMMIT", "only-"),
            (
                "INSERT INTO products (id, name) SELECT id, 'mine' FROM products
              ON CONFLICT (id) DO UPDATE SET name = 'upserted'",
                "upserted-",
            ),
            ("TRUNCATE products", ""),
        ];
        for (write, expected) in writes {
            here.sql(write);
            assert_eq!(there.sql(names), expected, "{} after {write}", there.name());
            pair.equal("products");
            nothing_waits(here);
            nothing_waits(there);
        }
    }
}

#[test]
fn s50_twenty_thousand_rows_go_in_one_statement_each() {
    let pair = linked(Setup::shared().config(PATIENT));
    for (here, there) in [("new", "legacy"), ("legacy", "new")] {
        let (here, there) = (&pair[here], &pair[there]);
        for write in [
            "INSERT INTO products (name, price) SELECT 'many', i FROM generate_series(1, 20000) i",
            "UPDATE products SET price = price + 1",
            "DELETE FROM products WHERE price % 2 = 0",
        ] {
            let calls = "SELECT count(*) FROM pgtandem.receipt";
            let before: i64 = there.sql(calls).parse().unwrap();
            here.sql(write);
            assert_eq!(
                there.sql(calls),
                (before + 1).to_string(),
                "{write}: {}",
                here.sql("SELECT string_agg(what, chr(10)) FROM pgtandem.direct_trouble")
            );
            pair.equal("products");
        }
        assert_eq!(there.sql("SELECT count(*) FROM products"), "10000");
        here.sql("TRUNCATE products");
    }
}

#[test]
fn s50_composite_and_text_keys_and_tables_with_foreign_keys() {
    let pair = Pair::with(
        Setup::shared()
            .table("orders", "CREATE TABLE orders (region text, number int, note text, PRIMARY KEY (number, region))")
            .table(
                "lines",
                "CREATE TABLE lines (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), region text, number int, what text,
                     FOREIGN KEY (number, region) REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE)",
            ),
    );
    pair.link();
    for (here, there) in [("new", "legacy"), ("legacy", "new")] {
        let (here, there) = (&pair[here], &pair[there]);
        here.sql(
            "BEGIN; INSERT INTO orders VALUES ('north', 1, 'a'), ('a,\"b\\', 2, NULL);
                INSERT INTO lines (region, number, what) SELECT region, number, note FROM orders, generate_series(1, 3); COMMIT",
        );
        pair.equal("orders");
        pair.equal("lines");
        // The peer writes without asking foreign keys: what could leave a child behind is the hub's.
        for write in [
            "UPDATE orders SET region = 'south' WHERE number = 1",
            "DELETE FROM orders WHERE number = 2",
            "TRUNCATE orders CASCADE",
        ] {
            here.sql(write);
            pair.pgtandem(["run", "--once"]).ok();
            pair.equal("orders");
            pair.equal("lines");
        }
        for node in [here, there] {
            assert_eq!(node.sql("SELECT count(*) FROM pgtandem.queued"), "0");
        }
    }
}

/// A view of the other side's table stands beside ours, and what is written to it arrives here like anything written there.
#[test]
fn s50_the_peers_table_can_be_read_and_written_as_a_foreign_table() {
    let pair = linked(Setup::shared());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    legacy.sql("INSERT INTO products (id, name) VALUES (1, 'one'), (5, 'five')");
    assert_eq!(new.sql("SELECT string_agg(name, ',' ORDER BY id) FROM legacy_products"), "one,five");
    legacy.sql("UPDATE new_products SET name = 'by the way of new' WHERE id = 1");
    assert_eq!(legacy.sql("SELECT name FROM products WHERE id = 1"), "by the way of new");
    pair.equal("products");
}

#[test]
fn s50_a_hub_at_work_changes_nothing_about_it() {
    let pair = linked(Setup::shared().config(PATIENT));
    let hub = pair.hub();
    hub.wait_for_log("working");
    for round in 0..20 {
        for (here, there) in [("new", "legacy"), ("legacy", "new")] {
            pair[here].sql(&format!("INSERT INTO products (name, price) VALUES ('{here}', {round})"));
            let query = format!("SELECT count(*) FROM products WHERE name = '{here}' AND price = {round}");
            assert_eq!(pair[there].sql(&query), "1", "{here} {round}");
            pair[there].sql(&format!("UPDATE products SET price = price + 100 WHERE price = {round}"));
        }
    }
    pair.settle();
    assert_eq!(pair["new"].sql("SELECT count(*) FROM pgtandem.decision"), "0");
}

/// Neither at COMMIT nor by a hub: each row is written once on each side, and the receiver has nothing to send.
#[test]
fn s20_what_arrives_does_not_go_back() {
    let pair = linked(Setup::shared().config(PATIENT));
    let hub = pair.hub();
    hub.wait_for_log("working");
    for price in 0..20 {
        for node in pair.nodes() {
            node.sql(&format!("INSERT INTO products (name, price) VALUES ('{}', {price})", node.name()));
            node.sql(&format!("UPDATE products SET name = 'x' WHERE price = {price}"));
        }
    }
    pair.settle();
    let written = "SELECT n_tup_ins, n_tup_upd FROM pg_stat_user_tables WHERE relname = 'products'";
    for node in pair.nodes() {
        nothing_waits(node);
        assert_eq!(node.sql("SELECT count(*) FROM pgtandem.decision"), "0");
        wait_until("what was written is counted", PATIENCE, || node.sql(written) == "40|60");
    }
    assert!(hub.is_running());
}
