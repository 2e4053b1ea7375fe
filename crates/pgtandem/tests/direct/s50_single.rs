//! S50 to S55 for transactions that change a single row, in a session that has delivered before: they go a short way.

use std::time::{Duration, Instant};

use crate::s50_at_commit::{linked, nothing_waits};
use crate::s51_peer_away::waits_no_more;
use crate::support::{PATIENCE, Pair, Setup, wait_until};

const NAMES: &str = "SELECT string_agg(id || name, ',' ORDER BY id) FROM products";
/// Changes that have gone the short way, and are not forgotten yet.
const GONE: &str = "SELECT count(*) FROM pgtandem.single";

type Session = pgtandem::cluster::Session;

/// Of which the next transaction may go the short way.
#[track_caller]
fn opened_by(pair: &Pair, write: &str) -> Session {
    let session = pair["new"].session();
    session.run(write).unwrap();
    assert_eq!(session.run("SHOW pgtandem.single").unwrap(), "open");
    session
}

/// On `new`, with row 0.
fn opened(pair: &Pair) -> Session {
    opened_by(pair, "INSERT INTO products (id, name) VALUES (0, 'zero')")
}

fn opened_again(pair: &Pair) -> Session {
    opened_by(pair, "UPDATE products SET name = name WHERE id = 0")
}

#[track_caller]
fn landed(session: &Session) {
    assert_eq!(session.run("SHOW pgtandem.why_queued").unwrap(), "landed");
}

#[track_caller]
fn goes(pair: &Pair, session: &Session, write: &str, short: bool) {
    let gone = |session: &Session| session.run(GONE).unwrap().parse::<i32>().unwrap();
    let before = gone(session);
    session.run(write).unwrap();
    assert_eq!(session.run("SHOW pgtandem.why_queued").unwrap(), "landed", "{write}");
    assert_eq!(gone(session) - before, i32::from(short), "{write}");
    pair.equal("products");
    pair.nodes().iter().for_each(nothing_waits);
}

/// It was not taken, and waits; `run --once` makes both sides equal.
#[track_caller]
fn waits(pair: &Pair, session: &Session, why: &str) {
    assert_eq!(session.run("SHOW pgtandem.why_queued").unwrap(), why);
    assert_eq!(session.run("SELECT count(DISTINCT q.xid) FROM pgtandem.queued q").unwrap(), "1");
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
    pair.nodes().iter().for_each(waits_no_more);
}

#[test]
fn s50_a_single_row_goes_the_short_way() {
    let pair = linked(Setup::shared());
    let session = opened(&pair);
    for (write, short) in [
        ("INSERT INTO products (id, name, price) VALUES (1, 'one', 1)", true),
        ("UPDATE products SET name = 'uno', price = 2 WHERE id = 1", true),
        ("UPDATE products SET id = 2 WHERE id = 1", true),
        ("DELETE FROM products WHERE id = 2", true),
        ("INSERT INTO products (id, name) VALUES (3, 'a quote '' and a \\ and ü')", true),
        ("INSERT INTO products (id, name) VALUES (4, repeat('long', 10000))", false),
        ("INSERT INTO products (id, name) VALUES (5, 'five'), (6, 'six')", false),
        (
            "BEGIN; INSERT INTO products (id, name) VALUES (7, 'seven'); UPDATE products SET name = 'x' WHERE id = 7; COMMIT",
            false,
        ),
        ("BEGIN; INSERT INTO products (id, name) VALUES (8, 'eight'); UPDATE products SET name = 'y'; COMMIT", false),
        ("BEGIN; UPDATE products SET name = 'z' WHERE id = 0; TRUNCATE products; COMMIT", false),
    ] {
        goes(&pair, &session, write, short);
    }
}

#[test]
fn s50_savepoints_and_settings_that_are_reset_do_not_matter() {
    let pair = linked(Setup::shared());
    let session = opened(&pair);
    for (write, gone) in [
        (
            "BEGIN; INSERT INTO products (id, name) VALUES (1, 'one'); SAVEPOINT a;
             UPDATE products SET name = 'uno' WHERE id = 1; ROLLBACK TO a; COMMIT",
            "1",
        ),
        (
            "BEGIN; SAVEPOINT a; INSERT INTO products (id, name) VALUES (2, 'two'); ROLLBACK TO a;
             INSERT INTO products (id, name) VALUES (2, 'due'); COMMIT",
            "2",
        ),
        (
            "BEGIN; SAVEPOINT a; INSERT INTO products (id, name) VALUES (3, 'three'); RELEASE a;
             UPDATE products SET name = 'tre' WHERE id = 3; COMMIT",
            "2",
        ),
        ("BEGIN; INSERT INTO products (id, name) VALUES (4, 'four'); ROLLBACK", "2"),
    ] {
        session.run(write).unwrap();
        assert_eq!(session.run(GONE).unwrap(), gone, "{write}");
        pair.equal("products");
        pair.nodes().iter().for_each(nothing_waits);
    }
    assert_eq!(pair["legacy"].sql(NAMES), "0zero,1one,2due,3tre");
    // What has not gone by then goes the long way, in its order.
    for write in [
        "BEGIN; INSERT INTO products (id, name) VALUES (5, 'five'); RESET ALL; COMMIT",
        "BEGIN; INSERT INTO products (id, name) VALUES (6, 'six'); RESET ALL;
         UPDATE products SET name = 'sei' WHERE id = 6; COMMIT",
        "BEGIN; INSERT INTO products (id, name) VALUES (7, 'seven'); SET pgtandem.single = 'nonsense';
         SET pgtandem.landed = 'nonsense'; SET pgtandem.waits = 'nonsense'; UPDATE products SET price = 7 WHERE id = 7; COMMIT",
        "BEGIN; UPDATE products SET price = 1 WHERE id = 7; SET LOCAL session_replication_role = replica; COMMIT",
        "SET pgtandem.single_until = '0'; BEGIN; UPDATE products SET price = 2 WHERE id = 7;
         SET LOCAL session_replication_role = replica; COMMIT",
        "BEGIN; UPDATE products SET price = price + 1; SET LOCAL session_replication_role = replica; COMMIT",
    ] {
        opened_again(&pair).run(write).unwrap();
        pair.equal("products");
        pair.nodes().iter().for_each(nothing_waits);
    }
    // Who says what is not so has no short way.
    let write = "BEGIN; INSERT INTO products (id, name) VALUES (8, 'eight'); SET pgtandem.single = 'open';
                 UPDATE products SET name = 'otto' WHERE id = 8; COMMIT";
    opened_again(&pair).run(write).unwrap();
    let write = "BEGIN; UPDATE products SET name = 'a' WHERE id = 8; SET pgtandem.single = 'open';
                 UPDATE products SET name = 'b' WHERE id = 8; COMMIT";
    opened_again(&pair).run(write).unwrap();
    pair.equal("products");
    assert_eq!(pair["legacy"].sql(NAMES), "0zero,1one,2due,3tre,5five,6sei,7seven,8b");
}

/// What an application still does at COMMIT goes with it, or comes behind it; where it may still fail, nothing goes the short way.
#[test]
fn s50_with_deferred_triggers_there_is_no_short_way() {
    let pair = linked(Setup::shared());
    let (new, session) = (&pair["new"], opened(&pair));
    new.sql(
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            UPDATE products SET price = 7 WHERE id = NEW.id; RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER late AFTER INSERT ON products DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION late()",
    );
    // It has looked before that.
    session.run("SET pgtandem.single_until = '99999999999'").unwrap();
    session.run("INSERT INTO products (id, name) VALUES (1, 'one')").unwrap();
    pair.equal("products");
    pair.nodes().iter().for_each(nothing_waits);
    let session = new.session();
    for id in 2..4 {
        session.run(format!("INSERT INTO products (id, name) VALUES ({id}, 'more')")).unwrap();
        assert_eq!(session.run("SELECT coalesce(current_setting('pgtandem.single', true), '')").unwrap(), "");
        pair.equal("products");
    }
    assert_eq!(pair["legacy"].sql("SELECT sum(price) FROM products"), "21");
}

#[test]
fn s50_set_constraints_immediate_sends_a_single_row_at_once() {
    let pair = linked(Setup::shared());
    let session = opened(&pair);
    session.run("BEGIN; INSERT INTO products (id, name) VALUES (1, 'one'); SET CONSTRAINTS ALL IMMEDIATE").unwrap();
    assert_eq!(pair["legacy"].sql(NAMES), "0zero,1one");
    session.run("UPDATE products SET name = 'uno' WHERE id = 1; COMMIT").unwrap();
    pair.equal("products");
    pair.nodes().iter().for_each(nothing_waits);
    session
        .run("BEGIN; INSERT INTO products (id, name) VALUES (2, 'two'); SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK")
        .unwrap();
    assert_eq!(pair["legacy"].sql(NAMES), "0zero,1uno,2two");
    session.run("UPDATE products SET price = 1 WHERE id = 0").unwrap();
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(pair["legacy"].sql(NAMES), "0zero,1uno");
    pair.equal("products");
}

/// The transaction fails behind us: what the other side has alone is put back.
#[test]
fn s53_a_single_row_whose_transaction_fails_is_put_back() {
    let pair = linked(Setup::shared());
    let (new, session) = (&pair["new"], opened(&pair));
    // Later than the session has looked for such things, and will.
    session.run("SET pgtandem.single_until = '99999999999'").unwrap();
    new.sql(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'too late'; END $$;
         CREATE TABLE asked (id int);
         CREATE CONSTRAINT TRIGGER ask AFTER INSERT ON asked DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION fail()",
    );
    for write in [
        "INSERT INTO products (id, name) VALUES (1, 'one')",
        "UPDATE products SET name = 'changed' WHERE id = 0",
        "DELETE FROM products WHERE id = 0",
    ] {
        session.run(format!("BEGIN; {write}; INSERT INTO asked VALUES (1)")).unwrap();
        session.run("COMMIT").unwrap_err();
        assert_ne!(
            pair["legacy"].sql("SELECT coalesce((SELECT string_agg(id || name, ',') FROM products), '')"),
            "0zero"
        );
        pair.pgtandem(["run", "--once"]).ok();
        assert_eq!(pair["legacy"].sql(NAMES), "0zero", "{write}");
        pair.equal("products");
    }
}

#[test]
fn s51_a_single_row_that_the_other_side_does_not_take_waits() {
    let pair = linked(Setup::shared());
    let (legacy, session) = (&pair["legacy"], opened(&pair));
    legacy.sql("ALTER TABLE products ADD CONSTRAINT cheap CHECK (price < 100)");
    session.run("UPDATE products SET price = 1000 WHERE id = 0").unwrap();
    assert!(session.run("SHOW pgtandem.why_queued").unwrap().contains("cheap"));
    legacy.sql("ALTER TABLE products DROP CONSTRAINT cheap");
    // Its key waits: nothing of it overtakes.
    session.run("UPDATE products SET price = 2000, name = 'zero and more' WHERE id = 0").unwrap();
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(legacy.sql("SELECT price FROM products WHERE id = 0"), "2000");
    pair.nodes().iter().for_each(waits_no_more);
    // And the session's connection is good for more.
    let again = opened_again(&pair);
    goes(&pair, &again, "UPDATE products SET price = 1 WHERE id = 0", true);
    // Errors of any kind are answers, and nobody else minds.
    legacy.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.price = 51 THEN RAISE 'x' USING ERRCODE = '57014'; ELSIF NEW.price = 52 THEN RAISE 'x' USING ERRCODE = '0A000';
            ELSIF NEW.price = 53 THEN ASSERT false; ELSIF NEW.price = 54 THEN RAISE 'x' USING ERRCODE = '08006'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION refuse();
         ALTER TABLE products ENABLE ALWAYS TRIGGER refuse",
    );
    for price in 51..55 {
        let again = opened_again_by_insert(&pair, price);
        again.run(format!("UPDATE products SET price = {price} WHERE id = 0")).unwrap();
        assert_ne!(again.run("SHOW pgtandem.why_queued").unwrap(), "landed");
        assert_eq!(again.run("SELECT count(*) FROM pgtandem.sent WHERE outcome = '?'").unwrap(), "0", "{price}");
        assert_eq!(again.run("SELECT last_value FROM pgtandem.direct_closed_until").unwrap(), "0", "{price}");
        legacy.sql("ALTER TABLE products DISABLE TRIGGER refuse");
        pair.pgtandem(["run", "--once"]).ok();
        legacy.sql("ALTER TABLE products ENABLE ALWAYS TRIGGER refuse");
        pair.equal("products");
    }
    legacy.sql("DROP FUNCTION refuse() CASCADE");
    let again = opened_again(&pair);
    // A row that is not there, and one that somebody has locked.
    legacy.sql("SET session_replication_role = replica; DELETE FROM products WHERE id = 0");
    again.run("UPDATE products SET price = 2 WHERE id = 0").unwrap();
    waits(&pair, &again, "a row is not here");
    let holder = legacy.session();
    holder.run("BEGIN; SELECT FROM products FOR UPDATE").unwrap();
    let again = opened_again_by_insert(&pair, 50);
    again.run("UPDATE products SET price = 3 WHERE id = 0").unwrap();
    holder.run("ROLLBACK").unwrap();
    assert!(again.run("SHOW pgtandem.why_queued").unwrap().contains("lock timeout"));
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
}

fn opened_again_by_insert(pair: &Pair, id: i32) -> Session {
    opened_by(pair, &format!("INSERT INTO products (id, name) VALUES ({id}, 'opens')"))
}

/// A change of the same key waits on the other side: the two are a conflict, which a hub judges.
#[test]
fn s54_a_single_row_does_not_overtake_what_waits_on_the_other_side() {
    let pair = linked(Setup::shared());
    let (legacy, session) = (&pair["legacy"], opened(&pair));
    legacy.sql("BEGIN; SET LOCAL transaction_isolation = 'serializable'; INSERT INTO products (id, name) VALUES (1, 'theirs'); COMMIT");
    assert_eq!(legacy.sql("SELECT count(*) FROM pgtandem.queued"), "1");
    session.run("INSERT INTO products (id, name) VALUES (1, 'ours')").unwrap();
    assert_ne!(session.run("SHOW pgtandem.why_queued").unwrap(), "landed");
    session.run("UPDATE products SET name = 'other' WHERE id = 0").unwrap();
    landed(&session);
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
    assert_eq!(pair["new"].sql("SELECT count(*) FROM pgtandem.decision"), "1");
    pair.nodes().iter().for_each(waits_no_more);
}

#[test]
fn s50_what_is_not_ordinary_goes_the_long_way() {
    let pair = linked(Setup::shared());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    for (write, short) in [
        ("SET TimeZone = 'America/New_York'; INSERT INTO products (id, name) VALUES (1, 'one')", false),
        ("SET synchronous_commit = off; INSERT INTO products (id, name) VALUES (2, 'two')", false),
        ("BEGIN ISOLATION LEVEL REPEATABLE READ; UPDATE products SET name = 'rr' WHERE id = 0; COMMIT", false),
        ("SET search_path = pg_temp, public, pg_catalog; INSERT INTO public.products (id, name) VALUES (3, 'three')", true),
        ("DO $$ BEGIN INSERT INTO products (id, name) VALUES (4, 'four'); BEGIN INSERT INTO products (id, name) VALUES (4, 'again');
          EXCEPTION WHEN unique_violation THEN NULL; END; END $$", true),
    ] {
        let session = match new.sql("SELECT count(*) FROM products").as_str() {
            "0" => opened(&pair),
            _ => opened_again(&pair),
        };
        goes(&pair, &session, write, short);
    }
    // A table with another column on one side.
    let session = opened_again(&pair);
    new.sql("ALTER TABLE products ADD COLUMN more text");
    session.run("INSERT INTO products (id, name, more) VALUES (10, 'ten', 'm')").unwrap();
    assert_eq!(session.run("SHOW pgtandem.why_queued").unwrap(), "a table is paused, or not as it was linked");
    legacy.sql("ALTER TABLE products ADD COLUMN more text");
    pair.pgtandem(["up", "--yes"]).ok();
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
    // The peer's own session is gone.
    let session = opened_again(&pair);
    const ITS: &str =
        "FROM pg_stat_activity WHERE application_name = 'pgtandem direct' AND datname = current_database()";
    // Its process ends a moment after it is no longer listed, and only then is the connection closed.
    assert_eq!(legacy.sql(&format!("SELECT bool_and(pg_terminate_backend(pid, 60000)) {ITS}")), "t");
    session.run("UPDATE products SET name = 'after' WHERE id = 0").unwrap();
    landed(&session);
    pair.equal("products");
}

/// Link and session are not the same age.
#[test]
fn s43_a_session_that_stays_while_all_is_removed_and_linked_anew() {
    let pair = linked(Setup::shared());
    let session = opened(&pair);
    goes(&pair, &session, "INSERT INTO products (id, name) VALUES (1, 'one')", true);
    pair.pgtandem(["down", "--yes"]).ok();
    const ALONE: &str =
        "INSERT INTO products (id, name, created_at, updated_at) VALUES (2, 'alone', '2026-01-01', '2026-01-01')";
    session.run(ALONE).unwrap();
    pair["legacy"].sql(ALONE);
    pair.pgtandem(["up", "--yes"]).ok();
    for id in 3..6 {
        session.run(format!("INSERT INTO products (id, name) VALUES ({id}, 'more')")).unwrap();
        landed(&session);
        pair.equal("products");
        pair.nodes().iter().for_each(nothing_waits);
    }
}

/// The connection is there, and the peer does not answer: the bound, then nothing at all, and it counts once.
#[test]
fn s51_a_single_row_and_a_frozen_peer() {
    let pair = linked(Setup::default());
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    let session = opened(&pair);
    legacy.cluster.freeze().unwrap();
    let begun = Instant::now();
    session.run("INSERT INTO products (id, name) VALUES (1, 'one')").unwrap();
    assert!(
        begun.elapsed() >= Duration::from_millis(1500) && begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(new.sql("SELECT outcome FROM pgtandem.sent WHERE outcome <> 'l'"), "?");
    assert_eq!(new.sql(GONE), "0");
    let begun = Instant::now();
    session.run("UPDATE products SET name = 'uno' WHERE id = 1").unwrap();
    assert!(begun.elapsed() < Duration::from_millis(1900), "{:?}", begun.elapsed());
    assert_eq!(session.run("SHOW pgtandem.why_queued").unwrap(), "the peer does not answer");
    legacy.cluster.thaw().unwrap();
    wait_until("it is carried out", PATIENCE, || legacy.sql("SELECT count(*) FROM products WHERE id = 1") == "1");
    legacy.sql("UPDATE products SET price = 5 WHERE id = 0");
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
    assert_eq!(new.sql("SELECT count(*) FROM pgtandem.decision"), "0");
    pair.nodes().iter().for_each(waits_no_more);
    let again = opened_again(&pair);
    again.run("UPDATE products SET name = 'due' WHERE id = 1").unwrap();
    landed(&again);
    pair.equal("products");
}

/// What a session would still tell the other side to forget, a hub clears away: that is not kept in mind for ever.
#[test]
fn s53_a_session_does_not_keep_in_mind_what_a_hub_has_cleared_away() {
    let pair = linked(Setup::shared());
    let session = opened(&pair);
    for i in 0..70 {
        session.run(format!("UPDATE products SET price = {i} WHERE id = 0")).unwrap();
        landed(&session);
        // As a hub does it, that looks through the receipts more often than the session writes.
        pair["legacy"].sql("DELETE FROM pgtandem.receipt");
        pair["new"].sql("DELETE FROM pgtandem.single");
    }
    let kept: i32 = session.run("SELECT length(current_setting('pgtandem.single_landed'))").unwrap().parse().unwrap();
    assert!(kept < 1300, "{kept}");
    pair.equal("products");
}

/// A transaction that was prepared may still be rolled back: until then the other side keeps its receipt.
#[test]
fn s53_a_receipt_of_what_was_prepared_is_kept() {
    let pair = linked(Setup::default().setting("max_prepared_transactions", "5"));
    let session = opened(&pair);
    session.run("BEGIN; INSERT INTO products (id, name) VALUES (1, 'one'); PREPARE TRANSACTION 'late'").unwrap();
    session.run("COMMIT PREPARED 'late'").unwrap();
    assert_eq!(pair["legacy"].sql(NAMES), "0zero");
    pair.pgtandem(["run", "--once"]).ok();
    assert_eq!(pair["legacy"].sql(NAMES), "0zero,1one");
    for (at, way) in ["single", "landed"].into_iter().enumerate() {
        let session = opened_again(&pair);
        let id = 10 + at;
        let more = if way == "landed" { ", (99, 'more')" } else { "" };
        session
            .run(format!(
                "BEGIN; INSERT INTO products (id, name) VALUES ({id}, 'alone'){more}; SET CONSTRAINTS ALL IMMEDIATE"
            ))
            .unwrap();
        session.run(format!("PREPARE TRANSACTION '{id}'")).unwrap();
        assert_eq!(pair["legacy"].sql(&format!("SELECT count(*) FROM products WHERE id = {id}")), "1");
        for i in 0..80 {
            session.run(format!("UPDATE products SET price = {i} WHERE id = 0")).unwrap();
            if way == "landed" {
                session.run(format!("UPDATE products SET price = {i}")).unwrap();
            }
            landed(&session);
        }
        session.run(format!("ROLLBACK PREPARED '{id}'")).unwrap();
        pair.pgtandem(["run", "--once"]).ok();
        pair.equal("products");
        assert_eq!(pair["legacy"].sql(NAMES), "0zero,1one", "{way}");
    }
}

/// Neither settings nor types of the application's own lead astray what runs with our rights.
#[test]
fn s55_an_application_cannot_lead_our_functions_astray() {
    let pair = linked(Setup::shared());
    let new = &pair["new"];
    let database = new.sql("SELECT current_database()");
    new.sql(&format!(
        "DROP ROLE IF EXISTS plain; CREATE ROLE plain; GRANT ALL ON products TO plain;
         GRANT TEMPORARY ON DATABASE \"{database}\" TO plain"
    ));
    let session = new.session();
    session.run("SET ROLE plain; CREATE TEMPORARY TABLE ran (who text)").unwrap();
    session
        .run(
            "CREATE FUNCTION pg_temp.f(t pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
               IF current_user <> 'plain' THEN INSERT INTO pg_temp.ran VALUES (current_user); END IF; RETURN true; END $$;
             GRANT ALL ON ran TO PUBLIC;
             CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (pg_temp.f(VALUE));
             CREATE DOMAIN pg_temp.uuid AS pg_catalog.uuid CHECK (pg_temp.f(VALUE::pg_catalog.text));
             CREATE DOMAIN pg_temp.timestamptz AS pg_catalog.timestamptz CHECK (pg_temp.f(VALUE::pg_catalog.text))",
        )
        .unwrap();
    for i in 1..4 {
        session
            .run(format!(
                "INSERT INTO products (id, name) VALUES ({i}, 'x'); UPDATE products SET name = 'y' WHERE id = {i}"
            ))
            .unwrap();
        session.run(format!("UPDATE products SET name = 'z' WHERE id = {i}")).unwrap();
    }
    assert_eq!(session.run("SELECT count(*) FROM ran").unwrap(), "0");
    pair.equal("products");
}
