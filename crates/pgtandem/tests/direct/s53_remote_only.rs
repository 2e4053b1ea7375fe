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

/// Where the application has its deferred triggers run before COMMIT, a transaction is sent in several parts. None of them is
/// known to have committed when the next one is sent.
#[test]
fn s53_all_parts_of_a_transaction_that_fails_are_put_back() {
    let pair = linked(Setup::shared());
    let (session, legacy) = (pair["new"].session(), &pair["legacy"]);
    session.run("INSERT INTO products (id, name) VALUES (1, 'kept')").unwrap();
    session.run("BEGIN; SET CONSTRAINTS ALL IMMEDIATE; INSERT INTO products (id, name) VALUES (2, 'first')").unwrap();
    session.run("INSERT INTO products (id, name) VALUES (3, 'second')").unwrap();
    assert_eq!(legacy.sql(ROWS), "1kept,2first,3second");
    session.run("ROLLBACK").unwrap();
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(legacy.sql(ROWS), "1kept");
    pair.equal("products");
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
    let kept = "SELECT (SELECT count(*) FROM pgtandem.receipt), (SELECT count(*) FROM pgtandem.sent), (SELECT count(*) FROM pgtandem.single)";
    // One for each session that wrote once; one and some dozens for the one that wrote often.
    let receipts: i32 = pair["legacy"].sql("SELECT count(*) FROM pgtandem.receipt").parse().unwrap();
    assert!((51..51 + 33).contains(&receipts), "{receipts}");
    assert_eq!(
        pair["new"].sql("SELECT (SELECT count(*) FROM pgtandem.sent) + (SELECT count(*) FROM pgtandem.single)"),
        receipts.to_string()
    );
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(pair["legacy"].sql(kept), "0|0|0");
    assert_eq!(pair["new"].sql(kept), "0|0|0");
    // The session goes on, though it still means to tell the other side what can be forgotten.
    for i in 0..50 {
        session.run(format!("INSERT INTO products (name) VALUES ('{i} again')")).unwrap();
        assert_eq!(session.run("SHOW pgtandem.why_queued").unwrap(), "landed");
    }
    pair.equal("products");
}

/// From now on a transaction on `new` that asks for it fails when its peer has committed: by a constraint of a row that a
/// deferred trigger writes, which another one has brought about.
pub fn may_fail(pair: &Pair) {
    pair["new"].sql(
        "CREATE TABLE checked (id int PRIMARY KEY, other int REFERENCES checked DEFERRABLE INITIALLY DEFERRED);
         CREATE TABLE asked (id int);
         CREATE FUNCTION check_late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF TG_RELNAME = 'asked' THEN INSERT INTO checked VALUES (1, 99) ON CONFLICT DO NOTHING;
            ELSIF current_setting('test.fails', true) = 'yes' THEN INSERT INTO asked VALUES (1); END IF;
            RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER late AFTER INSERT ON asked DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION check_late();
         CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE OR DELETE ON products DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION check_late()",
    );
}

#[track_caller]
pub fn fails(pair: &Pair, write: &str, there: &str) {
    let session = pair["new"].session();
    session.run(format!("BEGIN; SET LOCAL test.fails = 'yes'; {write}")).unwrap();
    session.run("COMMIT").unwrap_err();
    assert_eq!(pair["legacy"].sql(ROWS), there);
}

/// What is on record on both nodes, in the order in which it was noted.
#[track_caller]
fn recorded(pair: &Pair) -> String {
    let query = "SELECT string_agg(concat_ws(' ', key->>'id', winner_row->>'name', '<', loser_row->>'name',
                                             split_part(why, ': ', 2)), ', ' ORDER BY loser_position)
                 FROM pgtandem.decision WHERE kind = 'written here alone'";
    let [new, legacy] = ["new", "legacy"].map(|node| pair[node].sql(query));
    assert_eq!(new, legacy);
    assert_eq!(pair["legacy"].sql("SELECT count(*) FROM pgtandem.receipt"), "0");
    new
}

/// An application that tries again and again leaves one of each time.
#[test]
fn s53_several_that_wrote_the_same_row_are_put_back() {
    let pair = linked(Setup::shared());
    may_fail(&pair);
    pair["new"].sql("INSERT INTO products (id, name) VALUES (1, 'one'), (2, 'two')");
    fails(&pair, "UPDATE products SET name = 'first' WHERE id = 1", "1first,2two");
    fails(&pair, "UPDATE products SET name = 'second' WHERE id = 1", "1second,2two");
    fails(&pair, "DELETE FROM products WHERE id = 1", "2two");
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(pair["legacy"].sql(ROWS), "1one,2two");
    pair.equal("products");
    let was = "put back as it was";
    assert_eq!(recorded(&pair), format!("1 second < {was}, 1 first < second {was}, 1 one < first {was}"));
}

#[test]
fn s53_what_is_left_as_it_is_is_on_record_too() {
    let pair = linked(Setup::shared());
    may_fail(&pair);
    pair["new"].sql("INSERT INTO products (id, name) VALUES (1, 'one'), (2, 'two')");
    fails(&pair, "UPDATE products SET name = 'ONE' WHERE id = 1", "1ONE,2two");
    pair["legacy"].sql("UPDATE products SET name = 'seen' WHERE id = 1");
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
    assert_eq!(recorded(&pair), "1 seen < one left as it is");
    fails(&pair, "TRUNCATE products; INSERT INTO products (id, name) VALUES (3, 'three')", "3three");
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(recorded(&pair), "1 seen < one left as it is, 3 < three put back as it was, < left as it is");
    let said = pair.pgtandem(["conflicts"]).stdout;
    assert!(said.contains("written here alone"), "{said}");
}

/// Numbers of records that are gone are not given again.
#[test]
fn s53_records_stay_apart_when_old_ones_have_gone() {
    let pair = linked(Setup::shared());
    may_fail(&pair);
    pair["new"].sql("INSERT INTO products (id, name) VALUES (1, 'one')");
    for name in ["first", "second"] {
        fails(&pair, &format!("UPDATE products SET name = '{name}'"), &format!("1{name}"));
        pair.pgtandem(["run", "--once"]).ok();
    }
    for node in pair.nodes() {
        node.sql("DELETE FROM pgtandem.decision WHERE loser_row->>'name' = 'first'");
    }
    fails(&pair, "UPDATE products SET name = 'third'", "1third");
    pair.pgtandem(["run", "--once"]).ok();
    let was = "put back as it was";
    assert_eq!(recorded(&pair), format!("1 one < second {was}, 1 one < third {was}"));
}

/// The row is back; the sender has no record of it yet when the pass ends.
#[test]
fn s53_a_pass_that_is_cut_short_leaves_its_record_to_the_next() {
    let pair = linked(Setup::shared());
    may_fail(&pair);
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO products (id, name) VALUES (1, 'one')");
    fails(&pair, "UPDATE products SET name = 'two'", "1two");
    new.sql("ALTER TABLE pgtandem.decision ADD CONSTRAINT no_room CHECK (kind <> 'written here alone')");
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(legacy.sql(ROWS), "1one");
    new.sql("ALTER TABLE pgtandem.decision DROP CONSTRAINT no_room");
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(recorded(&pair), "1 one < two put back as it was");
}

/// With what only the receiver has; and what its table does not take any more is not tried for ever.
#[test]
fn s53_a_deleted_row_is_put_back_whole() {
    let with_own = "CREATE TABLE products (id bigserial PRIMARY KEY, name text);
        DO $$ BEGIN IF current_database() ~ 'legacy' THEN ALTER TABLE products ADD shelf text NOT NULL DEFAULT 'new'; END IF; END $$";
    let pair = Pair::with(Setup::shared().table("products", with_own));
    pair.link();
    may_fail(&pair);
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO products (id, name) VALUES (1, 'one'), (2, 'two'), (3, 'three')");
    legacy.sql("UPDATE products SET shelf = 'A' || id; ALTER TABLE products ALTER shelf DROP DEFAULT");
    fails(&pair, "DELETE FROM products WHERE id = 1", "2two,3three");
    fails(&pair, "DELETE FROM products WHERE id > 1", "");
    legacy.sql("ALTER TABLE products ADD CONSTRAINT no_three CHECK (name <> 'three')");
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(legacy.sql("SELECT string_agg(id || shelf, ',' ORDER BY id) FROM products"), "1A1,2A2");
    let was = "put back as it was";
    assert_eq!(recorded(&pair), format!("3 < three left as it is, 2 two < {was}, 1 one < {was}"));
}

/// Transactions that are still open may be more than are looked at in one go.
#[test]
fn s53_receipts_behind_many_that_stay_are_looked_at() {
    let pair = linked(Setup::shared());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    let session = new.session();
    session.run("BEGIN").unwrap();
    let open = session.run("SELECT pg_current_xact_id()").unwrap();
    new.sql("SELECT pg_current_xact_id()");
    legacy.sql(&format!(
        "INSERT INTO pgtandem.receipt (token, sender_xid, landed_at)
         SELECT gen_random_uuid(), '{open}', now() - interval '1 hour' FROM generate_series(1, 1100)"
    ));
    new.sql("INSERT INTO products (name) VALUES ('one')");
    assert_eq!(legacy.sql("SELECT count(*) FROM pgtandem.receipt"), "1101");
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(legacy.sql("SELECT count(*) FROM pgtandem.receipt"), "1100");
}
