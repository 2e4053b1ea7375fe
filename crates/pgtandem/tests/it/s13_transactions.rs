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

/// On both sides: what an application may do with its transactions it still may.
#[test]
fn s55_prepared_transactions_with_savepoints_and_without_synchronous_commit() {
    let pair = Pair::with(Setup::default().table("products", PRODUCTS));
    let _hub = pair.linked();
    for (here, there, first) in [("new", "legacy", 10), ("legacy", "new", 20)] {
        let (here, there) = (&pair[here], &pair[there]);
        let session = here.session();
        let run = |sql: &str| session.run(sql).unwrap_or_else(|e| panic!("{e}"));
        let ids = format!("SELECT string_agg(id || name, ' ' ORDER BY id) FROM products WHERE id >= {first}");
        let [one, two, three, four] = [first, first + 1, first + 2, first + 3];
        run("SET synchronous_commit = off");
        run(&format!("BEGIN; {INSERT} ({one}, 'kept'); SAVEPOINT a; {INSERT} ({two}, 'undone')"));
        run(&format!("ROLLBACK TO a; {INSERT} ({two}, 'kept'); SAVEPOINT b; {INSERT} ({three}, 'kept'); RELEASE b"));
        run("PREPARE TRANSACTION 'both'");
        run(&format!("BEGIN; {INSERT} ({four}, 'never'); PREPARE TRANSACTION 'never'"));
        // The server crashes with both of them open; the application comes back to them.
        here.cluster.kill9().unwrap();
        here.cluster.start_again().unwrap();
        there.sql(&format!("{INSERT} ({}, 'meanwhile')", first + 9));
        wait_until("what others write goes on", PATIENCE, || {
            here.try_sql(&ids).is_ok_and(|found| found == format!("{}meanwhile", first + 9))
        });
        assert_eq!(there.sql(&ids), format!("{}meanwhile", first + 9), "nothing of a prepared transaction is there");
        here.sql("COMMIT PREPARED 'both'");
        here.sql("ROLLBACK PREPARED 'never'");
        let all = format!("{one}kept {two}kept {three}kept {}meanwhile", first + 9);
        wait_until(&format!("{} shows {all}", there.name()), PATIENCE, || there.sql(&ids) == all);
        pair.settle();
        here.sql("DELETE FROM products");
        pair.settle();
    }
    assert_eq!(pair["new"].sql("SELECT count(*) FROM pgtandem.decision"), "0");
}

/// Rounds in which the server lost something; the others show nothing.
const LOSSES: usize = 2;
const MOST_ROUNDS: usize = 30;

#[test]
fn s55_what_a_server_loses_was_not_delivered() {
    let pair = Pair::with(Setup::default().setting("wal_writer_delay", "10s").table("products", PRODUCTS));
    let _hub = pair.linked();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    let mut losses = 0;
    for round in 0..MOST_ROUNDS {
        let first = 1_000 * (round + 1);
        let session = new.session();
        session.run("SET synchronous_commit = off").unwrap();
        for i in first..first + 200 {
            session.run(format!("{INSERT} ({i}, 'round {round}')")).unwrap();
        }
        // Some of it is on disk, the last of it mostly is not.
        new.cluster.kill9().unwrap();
        drop(session);
        new.cluster.start_again().unwrap();
        let kept = format!("SELECT count(*) FROM products WHERE name = 'round {round}'");
        let left: usize = new.sql(&kept).parse().unwrap();
        let there: usize = legacy.sql(&kept).parse().unwrap();
        assert!(there <= left, "{there} rows were delivered and {left} are left");
        losses += usize::from(left < 200);
        new.sql(&format!("{INSERT} ({round}, 'after the crash') ON CONFLICT DO NOTHING"));
        legacy.sql(&format!("UPDATE products SET price = {round}"));
        pair.settle();
        assert_eq!(legacy.sql(&kept), left.to_string());
        if losses >= LOSSES {
            return;
        }
    }
    panic!("in {MOST_ROUNDS} rounds the server lost something {losses} times");
}
