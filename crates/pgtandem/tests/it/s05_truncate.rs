//! S05: TRUNCATE.

use crate::support::{PATIENCE, Pair, Setup, wait_until};

const ORDERS: &str = "CREATE TABLE orders (id bigserial PRIMARY KEY, who text)";
const LINES: &str =
    "CREATE TABLE lines (id bigserial PRIMARY KEY, order_id bigint NOT NULL REFERENCES orders, what text)";

fn shop() -> Pair {
    Pair::with(Setup::shared().table("orders", ORDERS).table("lines", LINES))
}

fn fill(pair: &Pair) {
    pair["new"].sql("INSERT INTO orders SELECT i, 'customer ' || i FROM generate_series(1, 200) i");
    pair["new"].sql("INSERT INTO lines (order_id, what) SELECT id, 'thing' FROM orders, generate_series(1, 3)");
    pair.quiesce();
}

fn counts(pair: &Pair, expected: &str) {
    for node in pair.nodes() {
        let query = "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM lines)";
        wait_until(&format!("{expected} on {}", node.name()), PATIENCE, || node.sql(query) == expected);
    }
    pair.quiesce();
}

#[test]
fn s05_truncate_travels_both_ways() {
    let pair = shop();
    let _hub = pair.linked();
    for here in ["new", "legacy"] {
        fill(&pair);
        pair[here].sql("TRUNCATE lines");
        counts(&pair, "200|0");
        pair[here].sql("TRUNCATE orders, lines RESTART IDENTITY");
        counts(&pair, "0|0");
        fill(&pair);
        pair[here].sql("TRUNCATE orders CASCADE");
        counts(&pair, "0|0");
        fill(&pair);
        // Emptied and filled in one transaction, and the other way round.
        pair[here]
            .sql("BEGIN; TRUNCATE lines; INSERT INTO lines (order_id, what) SELECT min(id), 'one' FROM orders; COMMIT");
        counts(&pair, "200|1");
        pair[here]
            .sql("BEGIN; INSERT INTO lines (order_id, what) SELECT id, 'two' FROM orders; TRUNCATE lines; COMMIT");
        counts(&pair, "200|0");
        pair[here].sql("TRUNCATE orders CASCADE");
        counts(&pair, "0|0");
    }
}

/// The ids that both sides make afterwards must not meet, though only one side's sequences began anew.
#[test]
fn s05_restart_identity_of_a_foreign_key_group() {
    let pair = shop();
    let _hub = pair.linked();
    for (here, there) in [("new", "legacy"), ("legacy", "new")] {
        for node in pair.nodes() {
            node.sql(
                "INSERT INTO orders (who) SELECT 'first' FROM generate_series(1, 40);
                 INSERT INTO lines (order_id, what) SELECT id, 'thing' FROM orders WHERE who = 'first'",
            );
            pair.quiesce();
        }
        pair[here].sql("TRUNCATE orders, lines RESTART IDENTITY");
        counts(&pair, "0|0");
        for round in 1..=3 {
            for node in [here, there] {
                pair[node].sql(
                    "WITH made AS (INSERT INTO orders (who) SELECT 'again' FROM generate_series(1, 30) RETURNING id)
                     INSERT INTO lines (order_id, what) SELECT id, 'line' FROM made",
                );
            }
            counts(&pair, &format!("{0}|{0}", round * 60));
        }
        // It began anew, and below what had been given out.
        let first: u32 = pair[here].sql("SELECT min(id) FROM orders").parse().unwrap();
        assert!(first <= 4, "the first id is {first}");
        pair[there].sql("TRUNCATE orders CASCADE");
        counts(&pair, "0|0");
    }
    for node in pair.nodes() {
        assert_eq!(node.sql("SELECT count(*) FROM pgtandem.decision"), "0");
        assert_eq!(node.sql("SELECT count(*) FROM pgtandem.held"), "0");
    }
}

#[test]
fn s05_truncate_against_writes_on_the_other_side() {
    let pair = shop();
    let mut hub = pair.linked();
    fill(&pair);
    // What was written before the TRUNCATE goes, what was written after it stays: the later one wins.
    hub.kill9();
    pair.apart();
    pair["legacy"].sql("INSERT INTO orders VALUES (1001, 'before'); UPDATE orders SET who = 'before' WHERE id = 1");
    pair["new"].sql("TRUNCATE orders CASCADE");
    pair["legacy"].sql("INSERT INTO orders VALUES (1002, 'after'); UPDATE orders SET who = 'after' WHERE id = 2");
    hub = pair.hub();
    pair.settle();
    assert_eq!(pair["new"].sql("SELECT id, who FROM orders ORDER BY id"), "2|after\n1002|after");
    assert_ne!(pair["new"].sql("SELECT count(*) FROM pgtandem.decision WHERE kind LIKE '%truncate%'"), "0");
    // Both sides at once, and then written to.
    hub.kill9();
    pair.apart();
    pair["new"].sql(
        "INSERT INTO orders VALUES (2001, 'gone'); TRUNCATE orders CASCADE; INSERT INTO orders VALUES (2002, 'new')",
    );
    pair["legacy"].sql("TRUNCATE orders, lines; INSERT INTO orders VALUES (2003, 'legacy')");
    hub = pair.hub();
    pair.settle();
    // While both write.
    let writer = |node: usize| {
        let session = pair[node].session();
        let first = 10_000 * (node + 1);
        move || {
            for i in first..first + 150 {
                let sql = format!("INSERT INTO orders VALUES ({i}, 'x')");
                session.run(sql).unwrap();
                if i % 50 == 49 {
                    session.run("TRUNCATE orders CASCADE").unwrap();
                }
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(writer(0));
        scope.spawn(writer(1));
    });
    pair.settle();
    assert!(hub.is_running(), "{}", hub.log());
}

/// The sequences begin anew where the application said so, and still in a track of their own.
#[test]
fn s05_ids_made_after_restart_identity_do_not_collide() {
    let pair = shop();
    let hub = pair.linked();
    let insert = "INSERT INTO orders (who) SELECT 'after' FROM generate_series(1, 50)";
    for (round, here) in ["new", "legacy"].into_iter().enumerate() {
        for node in pair.nodes() {
            node.sql(insert);
        }
        pair.settle();
        pair[here].sql("TRUNCATE orders, lines RESTART IDENTITY");
        counts(&pair, "0|0");
        pair.settle();
        hub.freeze();
        pair.apart();
        for node in pair.nodes() {
            node.sql(insert);
            node.sql("INSERT INTO lines (order_id, what) SELECT id, 'thing' FROM orders");
        }
        hub.thaw();
        counts(&pair, "100|100");
        pair.settle();
        let lowest: u32 = pair["new"].sql("SELECT min(id) FROM orders").parse().unwrap();
        assert!(lowest < 8, "round {round}: the ids of {here} begin at {lowest}");
    }
    assert_eq!(pair["new"].sql("SELECT count(*) FROM pgtandem.decision WHERE kind NOT LIKE '%truncate%'"), "0");
}

/// PostgreSQL refuses TRUNCATE where a table that is not truncated refers to it.
#[test]
fn s05_truncate_where_an_unlinked_table_refers_to_it() {
    let pair = Pair::with(Setup::shared().table("orders", ORDERS));
    pair["legacy"].sql("CREATE TABLE notes (order_id bigint REFERENCES orders ON DELETE CASCADE)");
    let _hub = pair.linked();
    pair["new"].sql("INSERT INTO orders (who) SELECT 'customer' FROM generate_series(1, 50)");
    pair.quiesce();
    pair["new"].sql("TRUNCATE orders; INSERT INTO orders (who) VALUES ('only')");
    pair.quiesce();
    assert_eq!(pair["legacy"].sql("SELECT who FROM orders"), "only");
}
