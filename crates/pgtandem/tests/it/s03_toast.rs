//! S03: a large value that an update did not touch stays what it was.

use crate::support::{Hub, PATIENCE, Pair, Setup, wait_until};

const DOCUMENTS: &str = "CREATE TABLE documents (id int PRIMARY KEY, body text NOT NULL, n int, more text);
    ALTER TABLE documents ALTER body SET STORAGE EXTERNAL, ALTER more SET STORAGE EXTERNAL";

fn documents() -> Pair {
    Pair::with(Setup::shared().table("documents", DOCUMENTS))
}

fn insert(pair: &Pair, id: i32) {
    pair["new"].sql(&format!("INSERT INTO documents VALUES ({id}, repeat('body {id} ', 5000), 0, repeat('m', 9000))"));
}

/// On both nodes the row is there, with its values whole.
fn whole(pair: &Pair, id: i32, n: i32, body_of: i32) {
    let query = format!(
        "SELECT body = repeat('body {body_of} ', 5000), n, more = repeat('m', 9000) FROM documents WHERE id = {id}"
    );
    for node in pair.nodes() {
        let what = format!("{} has document {id} with n = {n}", node.name());
        wait_until(&what, PATIENCE, || {
            let found = node.sql(&query);
            assert!(found.is_empty() || found.starts_with("t|") && found.ends_with("|t"), "{}: {found}", node.name());
            found == format!("t|{n}|t")
        });
    }
    pair.quiesce();
}

/// While nobody delivers, legacy deletes the row and then new updates it: the update is the later one.
fn update_what_the_other_deleted(pair: &Pair, hub: Hub, id: i32, update: &str) -> Hub {
    hub.kill9();
    pair.apart();
    pair["legacy"].sql(&format!("DELETE FROM documents WHERE id = {id}"));
    pair["new"].sql(update);
    pair.hub()
}

#[test]
fn s03_unchanged_large_values_stay() {
    let pair = documents();
    let hub = pair.linked();
    for id in 1..=3 {
        insert(&pair, id);
        whole(&pair, id, 0, id);
    }
    pair["legacy"].sql("UPDATE documents SET n = 1 WHERE id = 1");
    whole(&pair, 1, 1, 1);
    pair["new"].sql("UPDATE documents SET id = 21 WHERE id = 2");
    whole(&pair, 21, 0, 2);
    assert_eq!(pair["legacy"].sql("SELECT count(*) FROM documents WHERE id = 2"), "0");
    pair["legacy"].sql("UPDATE documents SET id = 31, n = 5 WHERE id = 3");
    whole(&pair, 31, 5, 3);

    let hub = update_what_the_other_deleted(&pair, hub, 1, "UPDATE documents SET n = 2 WHERE id = 1");
    whole(&pair, 1, 2, 1);
    let _hub = update_what_the_other_deleted(&pair, hub, 21, "UPDATE documents SET id = 22 WHERE id = 21");
    whole(&pair, 22, 0, 2);
}

#[test]
fn s03_unchanged_large_values_stay_when_somebody_took_replica_identity_full_away() {
    if crate::CAPTURE != "wal" {
        return; // triggers see whole rows, whatever the replica identity
    }
    let pair = documents();
    let hub = pair.linked();
    for id in 1..=3 {
        insert(&pair, id);
        whole(&pair, id, 0, id);
    }
    for node in pair.nodes() {
        node.sql("ALTER TABLE documents REPLICA IDENTITY DEFAULT");
    }
    pair["new"].sql("UPDATE documents SET n = 1 WHERE id = 1");
    whole(&pair, 1, 1, 1);
    pair["legacy"].sql("UPDATE documents SET n = 2 WHERE id = 1");
    whole(&pair, 1, 2, 1);
    pair["new"].sql("UPDATE documents SET id = 21 WHERE id = 2");
    whole(&pair, 21, 0, 2);
    let hub = update_what_the_other_deleted(&pair, hub, 1, "UPDATE documents SET n = 3 WHERE id = 1");
    whole(&pair, 1, 3, 1);

    // Of what a row looked like in between nothing is left; it must not be made up.
    hub.kill9();
    pair["new"].sql("UPDATE documents SET n = 4 WHERE id = 3");
    pair["new"].sql("UPDATE documents SET n = 5, body = repeat('body 7 ', 5000) WHERE id = 3");
    pair["new"].sql("UPDATE documents SET n = 6 WHERE id = 21");
    pair["new"].sql("DELETE FROM documents WHERE id = 21");
    let hub = pair.hub();
    pair.settle();
    assert_eq!(pair["legacy"].sql("SELECT n, body = repeat('body 7 ', 5000) FROM documents WHERE id = 3"), "5|t");
    assert_eq!(pair["legacy"].sql("SELECT count(*) FROM documents WHERE id = 21"), "0");
    assert_eq!(pair["legacy"].sql("SELECT count(*) FROM pgtandem.held WHERE released IS NULL"), "0");
    assert!(hub.log().contains("large values are missing in the stream"), "{}", hub.log());
}

/// A change is in the WAL before anybody can see it on its own node; with a synchronous standby that is away, long before.
#[test]
fn s03_a_row_that_cannot_be_seen_yet_is_not_taken_for_gone() {
    if crate::CAPTURE != "wal" {
        return; // an outbox shows what is committed, and whole rows
    }
    let pair = Pair::with(Setup::default().table("documents", DOCUMENTS));
    let hub = pair.linked();
    insert(&pair, 1);
    whole(&pair, 1, 0, 1);
    let new = &pair["new"];
    new.sql("ALTER TABLE documents REPLICA IDENTITY DEFAULT");
    pair.settle();
    let standby = |name: &str| {
        new.sql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'"));
        new.sql("SELECT pg_reload_conf()");
        wait_until("it counts", PATIENCE, || new.sql("SHOW synchronous_standby_names") == name);
    };
    standby("nobody");
    std::thread::scope(|scope| {
        let application = new.session();
        scope.spawn(move || application.run("UPDATE documents SET id = 2 WHERE id = 1").unwrap());
        let heard = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            hub.wait_for_log("large values are missing in the stream");
            assert_eq!(new.sql("SELECT id FROM documents"), "1");
        }));
        // Else the application waits for ever, and this for it.
        standby("");
        heard.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    whole(&pair, 2, 0, 1);
    pair.settle();
    assert_eq!(pair["legacy"].sql("SELECT count(*) FROM pgtandem.held"), "0");
}
