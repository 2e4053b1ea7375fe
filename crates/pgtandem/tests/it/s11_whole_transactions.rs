//! S11: a transaction over several tables with foreign keys arrives whole.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Node, Pair, Setup};

fn shop() -> Pair {
    Pair::with(
        Setup::shared()
            .table("customers", "CREATE TABLE customers (id int PRIMARY KEY, orders int NOT NULL, spent int NOT NULL)")
            .table(
                "orders",
                "CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL REFERENCES customers, lines int)",
            )
            .table("lines", "CREATE TABLE lines (id int PRIMARY KEY, orders int REFERENCES orders, price int)"),
    )
}

/// Only parts of transactions make this anything but zero.
const PARTS: &str = "SELECT
    (SELECT count(*) FROM orders o WHERE lines <> (SELECT count(*) FROM lines l WHERE l.orders = o.id)) +
    (SELECT count(*) FROM customers c WHERE orders <> (SELECT count(*) FROM orders o WHERE o.customer = c.id)) +
    (SELECT count(*) FROM customers c WHERE spent <> (SELECT coalesce(sum(l.price), 0) FROM lines l
        JOIN orders o ON o.id = l.orders WHERE o.customer = c.id)) +
    (SELECT count(*) FROM lines l WHERE NOT EXISTS (SELECT FROM orders o WHERE o.id = l.orders))";

/// Each transaction touches all three tables; customers and ids are the node's own.
fn write(node: &Node, first: usize) {
    let session = node.session();
    let run = |sql: String| session.run(sql).unwrap_or_else(|e| panic!("{e}"));
    for i in first..first + 5 {
        run(format!("INSERT INTO customers VALUES ({i}, 0, 0)"));
    }
    for i in first..first + 150 {
        let customer = first + i % 5;
        run(format!(
            "INSERT INTO orders VALUES ({i}, {customer}, 3);
             INSERT INTO lines SELECT {i} * 10 + n, {i}, n FROM generate_series(1, 3) n;
             UPDATE customers SET orders = orders + 1, spent = spent + 6 WHERE id = {customer}"
        ));
        if i % 4 == 0 {
            run(format!(
                "DELETE FROM lines WHERE orders = {i}; DELETE FROM orders WHERE id = {i};
                 UPDATE customers SET orders = orders - 1, spent = spent - 6 WHERE id = {customer}"
            ));
        }
    }
}

#[test]
fn s11_a_reader_never_sees_part_of_a_transaction() {
    let pair = shop();
    let _hub = pair.linked();
    let done = AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let readers = pair.nodes().iter().map(|node| {
            let session = node.session();
            let done = &done;
            scope.spawn(move || {
                let mut looks = 0;
                while !done.load(Ordering::Relaxed) {
                    let parts = session.run(PARTS).unwrap();
                    assert_eq!(parts, "0", "{} shows part of a transaction", node.name());
                    looks += 1;
                }
                looks
            })
        });
        let readers: Vec<_> = readers.collect();
        let (new, legacy) = (&pair["new"], &pair["legacy"]);
        let writers = [scope.spawn(|| write(new, 1_000)), scope.spawn(|| write(legacy, 2_000))];
        let written: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        if written.iter().all(|written| written.is_ok()) {
            pair.settle();
        }
        done.store(true, Ordering::Relaxed);
        written.into_iter().for_each(|written| written.unwrap());
        readers.into_iter().map(|reader| reader.join().unwrap()).min().unwrap()
    });
    assert!(looks > 10, "only {looks} looks");
    assert_eq!(pair["new"].sql("SELECT count(*) FROM customers"), "10");
}
