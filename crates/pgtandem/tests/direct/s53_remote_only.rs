//! S53: the local transaction fails after the peer has committed.

use crate::s50_at_commit::linked;
use crate::support::{PATIENCE, Pair, Setup, wait_until};

const ROWS: &str = "SELECT string_agg(id || name, ',' ORDER BY id) FROM products";

/// The application's COMMIT is waiting for the answer, which does not come, when its server dies.
fn fails_after_its_peer_has_committed(pair: &Pair, write: &str, there: &str) {
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("UPDATE pgtandem.direct SET wait_ms = 60000");
    let session = new.session();
    session.run("UPDATE products SET price = 0 WHERE id = 1").unwrap();
    let proxy = legacy.proxy.as_ref().unwrap();
    proxy.hold_answers();
    let writing = session.send(write);
    wait_until("it has committed there", PATIENCE, || legacy.sql(ROWS) == there);
    new.cluster.kill9().unwrap();
    assert!(writing.wait().is_err());
    proxy.cut();
    proxy.clear();
    new.cluster.start_again().unwrap();
    // Transaction numbers may be given again.
    for _ in 0..20 {
        new.sql("CREATE TEMP TABLE t ()");
    }
}

fn pair() -> Pair {
    let pair = linked(Setup::default().proxied().fsync());
    pair["new"].sql("INSERT INTO products (id, name) VALUES (1, 'one'), (2, 'two'), (3, 'three')");
    pair
}

const WRITE: &str = "BEGIN; INSERT INTO products (id, name) VALUES (4, 'four'); UPDATE products SET name = 'TWO' WHERE id = 2;
    UPDATE products SET name = 'Two' WHERE id = 2; DELETE FROM products WHERE id = 3; UPDATE products SET id = 5 WHERE id = 1; COMMIT";
const WRITTEN: &str = "2Two,4four,5one";

#[test]
fn s53_what_only_the_peer_has_is_put_back() {
    let pair = pair();
    fails_after_its_peer_has_committed(&pair, WRITE, WRITTEN);
    assert_eq!(pair["new"].sql(ROWS), "1one,2two,3three");
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(pair["legacy"].sql(ROWS), "1one,2two,3three");
    pair.equal("products");
    for node in pair.nodes() {
        let recorded =
            "SELECT string_agg(coalesce(loser_row->>'name', '-'), ',' ORDER BY loser_row->>'name' COLLATE \"C\")
                        FROM pgtandem.decision WHERE kind = 'written here alone'";
        assert_eq!(node.sql(recorded), "TWO,Two,four,one,-", "{}", node.name());
    }
    assert_eq!(pair["legacy"].sql("SELECT count(*) FROM pgtandem.receipt"), "0");
    let said = pair.pgtandem(["conflicts"]);
    assert!(said.stdout.contains("products"), "{}", said.stdout);
    // Once is enough.
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(pair["legacy"].sql(ROWS), "1one,2two,3three");
}

/// Whoever has written over it has seen it: that stands, on both sides.
#[test]
fn s53_what_was_written_over_since_stays() {
    let pair = pair();
    fails_after_its_peer_has_committed(&pair, WRITE, WRITTEN);
    pair["legacy"].sql("UPDATE products SET name = name || '!' WHERE id IN (2, 4)");
    pair["new"].sql("UPDATE products SET price = 7 WHERE id = 3");
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
    assert_eq!(pair["new"].sql(ROWS), "1one,2Two!,3three,4four!");
}

/// A transaction that failed before it was sent, or that the peer refused, leaves nothing to put back.
#[test]
fn s53_a_transaction_that_fails_by_itself_leaves_nothing() {
    let pair = linked(Setup::shared());
    let new = &pair["new"];
    new.sql(
        "CREATE TABLE checked (id int PRIMARY KEY, other int REFERENCES checked DEFERRABLE INITIALLY DEFERRED);
         CREATE FUNCTION check_late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO checked VALUES (NEW.id, NEW.price); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER late AFTER INSERT ON products DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
            EXECUTE FUNCTION check_late()",
    );
    // The deferred constraint of a row that a deferred trigger writes fails last of all.
    let session = new.session();
    session.run("BEGIN; INSERT INTO products (id, name, price) VALUES (1, 'a', 99)").unwrap();
    session.run("COMMIT").unwrap_err();
    session.run("INSERT INTO products (id, name, price) VALUES (2, 'b', 2)").unwrap();
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
    assert_eq!(pair["legacy"].sql(ROWS), "2b");
}

#[test]
fn s53_receipts_do_not_pile_up() {
    let pair = linked(Setup::shared());
    let session = pair["new"].session();
    for i in 0..50 {
        session.run(format!("INSERT INTO products (name) VALUES ('{i}')")).unwrap();
        drop(pair["new"].session().run(format!("UPDATE products SET price = {i}")));
        session.run("BEGIN; UPDATE products SET price = -1; ROLLBACK").unwrap();
    }
    let kept = "SELECT (SELECT count(*) FROM pgtandem.receipt), (SELECT count(*) FROM pgtandem.sent)";
    // One for each session that wrote.
    assert_eq!(pair["legacy"].sql(kept), "51|0");
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(pair["legacy"].sql(kept), "0|0");
    assert_eq!(pair["new"].sql(kept), "0|0");
}
