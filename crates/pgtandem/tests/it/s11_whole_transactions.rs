//! S11: a transaction over several tables with foreign keys arrives whole.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use crate::support::{Node, Pair, Setup};

/// How many states of the other side's orders each reader has to see, each of them whole.
const STATES: usize = 40;
/// A writer that gets here without the readers having seen that much is not what is slow.
const MOST_TRANSACTIONS: usize = 20_000;
/// Orders of each node. They are replaced in turn, so that a look stays cheap.
const ORDERS: usize = 60;

fn shop() -> Pair {
    Pair::with(
        Setup::shared()
            .table("customers", "CREATE TABLE customers (id int PRIMARY KEY, orders int NOT NULL, spent int NOT NULL)")
            .table(
                "orders",
                "CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL REFERENCES customers, lines int,
                                      written int);
                 CREATE INDEX ON orders (customer)",
            )
            .table(
                "lines",
                "CREATE TABLE lines (id int PRIMARY KEY, orders int REFERENCES orders, price int);
                 CREATE INDEX ON lines (orders)",
            ),
    )
}

/// How many things only a part of a transaction explains, and the newest order of the node whose ids begin there.
fn look_at(others: usize) -> String {
    format!(
        "SELECT
            (SELECT count(*) FROM orders o WHERE lines <> (SELECT count(*) FROM lines l WHERE l.orders = o.id)) +
            (SELECT count(*) FROM customers c
                WHERE orders <> (SELECT count(*) FROM orders o WHERE o.customer = c.id)) +
            (SELECT count(*) FROM customers c WHERE spent <> (SELECT coalesce(sum(l.price), 0) FROM lines l
                JOIN orders o ON o.id = l.orders WHERE o.customer = c.id)) +
            (SELECT count(*) FROM lines l WHERE NOT EXISTS (SELECT FROM orders o WHERE o.id = l.orders)),
            (SELECT max(written) FROM orders WHERE id >= {others} AND id < {others} + {ORDERS})"
    )
}

/// Each transaction touches all three tables; customers and ids are the node's own.
fn write(node: &Node, first: usize, enough: &dyn Fn() -> bool) {
    let session = node.session();
    let run = |sql: String| session.run(sql).unwrap_or_else(|e| panic!("{e}"));
    run(format!("INSERT INTO customers SELECT i, 0, 0 FROM generate_series({first}, {first} + 4) i"));
    for number in 0..MOST_TRANSACTIONS {
        if enough() {
            return;
        }
        let order = first + number % ORDERS;
        let (customer, lines) = (first + order % 5, number % 4);
        run(format!(
            "UPDATE customers SET orders = orders - gone.n, spent = spent - gone.price
                FROM (SELECT count(DISTINCT o.id) AS n, coalesce(sum(price), 0) AS price FROM orders o
                    LEFT JOIN lines l ON l.orders = o.id WHERE o.id = {order}) AS gone WHERE id = {customer};
             DELETE FROM lines WHERE orders = {order}; DELETE FROM orders WHERE id = {order};
             INSERT INTO orders VALUES ({order}, {customer}, {lines}, {number});
             INSERT INTO lines SELECT {order} * 10 + n, {order}, n FROM generate_series(1, {lines}) n;
             UPDATE customers SET orders = orders + 1, spent = spent + {lines} * ({lines} + 1) / 2
                WHERE id = {customer}"
        ));
    }
}

/// Counts the different states it has seen of what the other node writes.
fn read(node: &Node, others: usize, seen: &AtomicUsize, done: &AtomicBool) {
    let session = node.session();
    let look = look_at(others);
    let mut last = String::new();
    while !done.load(Relaxed) {
        let found = session.run(look.clone()).unwrap();
        assert!(found.starts_with("0|"), "{} shows part of a transaction: {found}", node.name());
        if found != last {
            seen.fetch_add(1, Relaxed);
            last = found;
        }
    }
}

#[test]
fn s11_a_reader_never_sees_part_of_a_transaction() {
    /// Also when a reader or writer fails: the others must end then, too.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let pair = shop();
    let _hub = pair.linked();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    let seen = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let done = AtomicBool::new(false);
    let enough = || done.load(Relaxed) || seen.iter().all(|seen| seen.load(Relaxed) >= STATES);
    std::thread::scope(|scope| {
        let (done, enough, seen) = (&done, &enough, &seen);
        let reader = |node, others, number: usize| {
            scope.spawn(move || {
                let _done = Done(done);
                read(node, others, &seen[number], done);
            })
        };
        let readers = [reader(new, 2_000, 0), reader(legacy, 1_000, 1)];
        let writers =
            [(new, 1_000), (legacy, 2_000)].map(|(node, first)| scope.spawn(move || write(node, first, enough)));
        let done_at_the_end = Done(done);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        pair.settle();
        drop(done_at_the_end);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    let seen = seen.map(AtomicUsize::into_inner);
    assert!(seen.iter().all(|seen| *seen >= STATES), "the readers have seen only {seen:?} states");
    assert_eq!(new.sql("SELECT count(*) FROM customers"), "10");
}
