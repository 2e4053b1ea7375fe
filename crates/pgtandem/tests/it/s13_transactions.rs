//! S13 and S55: savepoints, prepared transactions, empty transactions, `synchronous_commit = off`.

use crate::support::{PATIENCE, PRODUCTS, Pair, Setup, wait_until};

const INSERT: &str = "INSERT INTO products (id, name) VALUES";

/// Not on shared servers: an open prepared transaction keeps others from making their slots.
#[test]
fn s13_savepoints_prepared_and_empty_transactions() {
    let pair = Pair::with(Setup::default().table("products", PRODUCTS));
    let _hub = pair.linked();
    let session = pair["new"].session();
    let run = |sql: &str| session.run(sql).unwrap_or_else(|e| panic!("{e}"));
    let ids = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM products";
    let shows = |expected: &str| {
        wait_until(&format!("legacy shows {expected}"), PATIENCE, || pair["legacy"].sql(ids) == expected);
    };
    run("BEGIN");
    run(&format!("{INSERT} (1, 'kept')"));
    run("SAVEPOINT a");
    run(&format!("{INSERT} (2, 'undone'); UPDATE products SET name = 'undone' WHERE id = 1"));
    run("SAVEPOINT b");
    run(&format!("{INSERT} (3, 'undone')"));
    run("RELEASE SAVEPOINT b");
    run("ROLLBACK TO SAVEPOINT a");
    run(&format!("{INSERT} (4, 'kept')"));
    run("COMMIT");
    shows("1 4");
    assert_eq!(pair["legacy"].sql("SELECT DISTINCT name FROM products"), "kept");

    run("BEGIN; COMMIT");
    run(&format!("BEGIN; {INSERT} (5, 'never'); ROLLBACK"));
    run("BEGIN; UPDATE products SET name = name WHERE id = -1; COMMIT");
    run("BEGIN; CREATE TABLE other (i int); INSERT INTO other VALUES (1); COMMIT");

    run(&format!("BEGIN; {INSERT} (6, 'prepared'); UPDATE products SET name = 'prepared' WHERE id = 1"));
    run("PREPARE TRANSACTION 'one'");
    run(&format!("BEGIN; {INSERT} (7, 'never')"));
    run("PREPARE TRANSACTION 'two'");
    // Others go on, also across a restart of the server, with the transactions open.
    run(&format!("{INSERT} (8, 'meanwhile')"));
    shows("1 4 8");
    pair["new"].cluster.restart().unwrap();
    pair["legacy"].sql("UPDATE products SET name = 'from legacy' WHERE id = 4");
    wait_until("it arrives", PATIENCE, || {
        pair["new"].try_sql("SELECT name FROM products WHERE id = 4").is_ok_and(|name| name == "from legacy")
    });
    pair["new"].sql("COMMIT PREPARED 'one'");
    pair["new"].sql("ROLLBACK PREPARED 'two'");
    shows("1 4 6 8");
    pair.settle();
    assert_eq!(pair["legacy"].sql("SELECT name FROM products WHERE id = 1"), "prepared");
}

#[test]
fn s55_what_a_server_loses_was_not_delivered() {
    let pair = Pair::with(Setup::default().setting("wal_writer_delay", "2s").table("products", PRODUCTS));
    let _hub = pair.linked();
    for round in 0..3 {
        let first = 1_000 * (round + 1);
        let session = pair["new"].session();
        session.run("SET synchronous_commit = off").unwrap();
        for i in first..first + 200 {
            session.run(format!("{INSERT} ({i}, 'round {round}')")).unwrap();
        }
        // Some of it is on disk, the last of it is not.
        pair["new"].cluster.kill9().unwrap();
        drop(session);
        pair["new"].cluster.start_again().unwrap();
        pair["new"].sql(&format!("{INSERT} ({round}, 'after the crash') ON CONFLICT DO NOTHING"));
        pair["legacy"].sql(&format!("UPDATE products SET price = {round}"));
        pair.settle();
    }
    assert_ne!(pair["legacy"].sql("SELECT count(*) FROM products"), "0");
}
