//! S35: what passes by itself is tried again without end, and nothing is dropped.

use std::time::{Duration, Instant};

use pgtandem::cluster::Session;

use crate::support::{Hub, PATIENCE, Pair, Setup, wait_until};

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, name text)";
/// Fails as a server in trouble does, for deliveries as well, while a code stands in `trouble`.
const TROUBLE: &str = "
    CREATE TABLE trouble (code text);
    CREATE FUNCTION in_trouble() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE trouble text := (SELECT min(code) FROM public.trouble);
    BEGIN
        IF trouble IS NOT NULL AND new.name NOT LIKE 'local%' THEN
            RAISE EXCEPTION 'trouble %', trouble USING ERRCODE = trouble;
        END IF;
        RETURN new;
    END $$;
    CREATE TRIGGER in_trouble BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION in_trouble();
    ALTER TABLE items ENABLE ALWAYS TRIGGER in_trouble";

fn linked_pair(setup: Setup) -> (Pair, Hub) {
    let config = "[hub]\nstatus_interval_ms = 100\nsilence_timeout_s = 5";
    let pair = Pair::with(setup.proxied().config(config).table("items", ITEMS));
    let hub = pair.linked();
    (pair, hub)
}

#[test]
fn s35_what_may_pass_is_tried_again_until_it_does() {
    let (pair, hub) = linked_pair(Setup::default());
    pair["legacy"].sql(TROUBLE);
    // Serialization failure, deadlock, lock not available, disk full, out of memory, too many connections, cancelled,
    // an input/output error. (The disk is not really full: the server's answer is the same.)
    for (number, code) in ["40001", "40P01", "55P03", "53100", "53200", "53300", "57014", "58030"].iter().enumerate() {
        pair["legacy"].sql(&format!("INSERT INTO trouble VALUES ('{code}')"));
        pair["new"].sql(&format!("INSERT INTO items VALUES ({number}, 'through {code}')"));
        hub.wait_for_log(&format!("trouble {code}"));
        wait_until("status shows the trouble", PATIENCE, || {
            let error = "SELECT state->'nodes'->'legacy'->>'last_error' FROM pgtandem.hub_status";
            pair["new"].sql(error).contains(code)
        });
        // The other way goes on.
        pair["legacy"].sql(&format!("INSERT INTO items VALUES (10{number}, 'local {code}')"));
        wait_until("the other way goes on", PATIENCE, || {
            pair["new"].sql(&format!("SELECT count(*) FROM items WHERE id = 10{number}")) == "1"
        });
        assert_eq!(pair["legacy"].sql(&format!("SELECT count(*) FROM items WHERE id = {number}")), "0");
        pair["legacy"].sql("TRUNCATE trouble");
        pair.settle();
        let said = hub.log().matches(&format!("trouble {code}")).count();
        assert!(said <= 2, "said {said} times\n{}", hub.log());
    }
    assert_eq!(pair["legacy"].sql("SELECT count(*) FROM pgtandem.held"), "0");
    // A code of the application's own: the row waits, nothing is dropped.
    pair["legacy"].sql("INSERT INTO trouble VALUES ('ZZ999')");
    pair["new"].sql("INSERT INTO items VALUES (50, 'unknown')");
    hub.wait_for_log("trouble ZZ999");
    assert_eq!(pair["legacy"].sql("SELECT sqlstate FROM pgtandem.held"), "ZZ999");
    pair["legacy"].sql("TRUNCATE trouble");
    pair.settle();
}

#[test]
fn s35_an_application_is_never_held_up_for_long_nor_a_deadlocks_victim() {
    // Far above the delivery's first wait (150 ms): a busy machine makes none of the two the other.
    let (pair, hub) = linked_pair(Setup::default().setting("deadlock_timeout", "20s"));
    pair["new"].sql("INSERT INTO items SELECT n, 'old' FROM generate_series(1, 3) n");
    pair.settle();
    let app = pair["legacy"].session();
    for round in 0..3 {
        // The application has the last row and wants the first, the delivery the other way round.
        app.run(format!("BEGIN; UPDATE items SET name = 'local {round}' WHERE id = 3")).unwrap();
        pair["new"].sql(&format!("UPDATE items SET name = 'new {round}'"));
        let waits = "SELECT count(*) FROM pg_stat_activity
                     WHERE application_name = 'pgtandem deliver' AND wait_event_type = 'Lock'";
        wait_until("the delivery waits", PATIENCE, || pair["legacy"].sql(waits) == "1");
        let began = Instant::now();
        app.run(format!("UPDATE items SET name = 'local {round}' WHERE id = 1")).unwrap();
        let waited = began.elapsed();
        assert!(waited < Duration::from_secs(10), "the application waited for {waited:?}");
        // Meanwhile the delivery gives up again and again, and takes no harm.
        wait_until("the delivery gives up", PATIENCE, || hub.log().contains("lock timeout"));
        app.run("COMMIT").unwrap();
        pair.settle();
    }
    assert!(!pair["legacy"].cluster.log().contains("deadlock detected"));
    assert_eq!(pair["legacy"].sql("SELECT count(*) FROM pgtandem.held"), "0");
}

#[test]
fn s35_a_server_out_of_connections_is_waited_for() {
    let few = Setup::default().setting("max_connections", "14").setting("superuser_reserved_connections", "0");
    let (pair, hub) = linked_pair(few);
    pair["new"].sql("INSERT INTO items VALUES (1, 'before')");
    pair.settle();
    let legacy = &pair["legacy"];
    let mut crowd: Vec<Session> = Vec::new();
    let proxy = legacy.proxy.as_ref().unwrap();
    proxy.refuse();
    hub.wait_for_log("away");
    wait_until("no connection is left", PATIENCE, || {
        let more = legacy.cluster.session(legacy.database());
        let full = more.is_err();
        crowd.extend(more.ok());
        full && crowd.len() > 10
    });
    proxy.clear();
    pair["new"].sql("INSERT INTO items VALUES (2, 'into the crowd')");
    hub.wait_for_log("too many");
    drop(crowd);
    pair.settle();
    assert_eq!(legacy.sql("SELECT count(*) FROM items"), "2");
    assert!(hub.is_running());
}

/// From PostgreSQL 17 on such a limit ends the session.
#[test]
fn s35_a_limit_for_the_applications_transactions_ends_none_of_ours() {
    let (pair, _hub) = linked_pair(Setup::default());
    let legacy = &pair["legacy"];
    if legacy.sql("SELECT count(*) FROM pg_settings WHERE name = 'transaction_timeout'") == "0" {
        return;
    }
    legacy.sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.6); RETURN new; END $$;
         CREATE TRIGGER slow BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION slow();
         ALTER TABLE items ENABLE ALWAYS TRIGGER slow;
         DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET transaction_timeout = 200', current_database()); END $$;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pgtandem%' AND pid <> pg_backend_pid()",
    );
    pair["new"].sql("INSERT INTO items VALUES (1, 'slow')");
    wait_until("the row is there", PATIENCE, || legacy.sql("SELECT count(*) FROM items") == "1");
}
