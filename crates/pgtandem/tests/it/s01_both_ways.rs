//! S01: insert, update, delete, both ways, across restarts of either server and of pgtandem.

use crate::support::{PATIENCE, PRODUCTS, Pair, Setup, wait_until};

#[test]
fn s01_whatever_is_written_on_one_side_appears_on_the_other() {
    let pair = Pair::with(Setup::shared().table("products", PRODUCTS));
    let _hub = pair.linked();
    for (here, there) in [("new", "legacy"), ("legacy", "new")] {
        let (here, there) = (&pair[here], &pair[there]);
        let shows = |expected: &str| {
            let query = "SELECT id, name, price FROM products ORDER BY id";
            let what = format!("{} shows {expected}", there.name());
            wait_until(&what, PATIENCE, || there.sql(query) == expected);
        };
        here.sql("INSERT INTO products (id, name, price) VALUES (1, 'chair', 5), (2, 'table', NULL)");
        shows("1|chair|5\n2|table|");
        here.sql("UPDATE products SET price = 7 WHERE id = 1");
        shows("1|chair|7\n2|table|");
        there.sql("UPDATE products SET name = 'desk', price = NULL WHERE id = 1");
        wait_until("it comes back", PATIENCE, || here.sql("SELECT name FROM products WHERE id = 1") == "desk");
        here.sql("DELETE FROM products WHERE id = 2");
        shows("1|desk|");
        here.sql("DELETE FROM products");
        shows("");
    }
    pair.settle();
    let decisions = "SELECT count(*) FROM pgtandem.decision";
    assert_eq!(pair["new"].sql(decisions), "0", "nothing was in conflict");
}

/// Rows of its own for each node and round, and one row that both write to.
fn write_everywhere(pair: &Pair, round: usize) {
    for (number, node) in pair.nodes().iter().enumerate() {
        let first = 1_000 * (round * 2 + number + 1);
        let sql = format!(
            "INSERT INTO products (id, name, price) SELECT id, 'round {round}', id FROM generate_series({first}, {first} + 99) id;
             UPDATE products SET price = price + 1 WHERE id % 7 = {round};
             DELETE FROM products WHERE id % 11 = {round} AND id % 2 = {number};
             INSERT INTO products (id, name, price) VALUES (1, '{name}', {round})
                 ON CONFLICT (id) DO UPDATE SET name = excluded.name, price = excluded.price",
            name = node.name()
        );
        if let Err(error) = node.try_sql(&sql) {
            // Deadlocks between two writers are not this scenario; a server that is down is.
            assert!(error.sqlstate.is_none(), "{error}");
        }
    }
}

#[test]
fn s01_equal_at_rest_across_restarts_of_servers_and_of_pgtandem() {
    let pair = Pair::with(Setup::default().table("products", PRODUCTS));
    let mut hub = pair.linked();
    write_everywhere(&pair, 0);
    pair.settle();

    pair["new"].cluster.restart().unwrap();
    write_everywhere(&pair, 1);
    pair.quiesce();

    pair["legacy"].cluster.kill9().unwrap();
    write_everywhere(&pair, 2);
    pair["legacy"].cluster.start_again().unwrap();
    write_everywhere(&pair, 3);
    pair.quiesce();
    assert!(hub.is_running(), "{}", hub.log());

    hub.kill9();
    write_everywhere(&pair, 4);
    hub = pair.hub();
    write_everywhere(&pair, 5);
    pair.quiesce();

    hub.terminate();
    write_everywhere(&pair, 6);
    pair["new"].cluster.restart().unwrap();
    let _hub = pair.hub();
    pair.settle();
    assert_ne!(pair["new"].sql("SELECT count(*) FROM products"), "0");
}
