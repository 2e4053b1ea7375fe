//! S31: what a node has kept for long is read in one go, and then streaming goes on where that ended.

use std::time::Duration;

use crate::support::{Pair, Setup, wait_until};

const LIMIT: Duration = Duration::from_secs(300);
const READS: &str = "of its WAL in one go";

/// Both sides have written some thirty megabytes of WAL in three thousand transactions, no hub was there, and a thousand
/// keys were written on both.
fn written(setup: Setup) -> Pair {
    let create = "CREATE TABLE items (id int PRIMARY KEY, what text, pad text)";
    let pair = Pair::with(setup.setting("synchronous_commit", "off").table("items", create));
    for node in pair.nodes() {
        node.sql("ALTER TABLE items ALTER pad SET STORAGE PLAIN");
    }
    pair.link();
    std::thread::scope(|scope| {
        for (node, from) in pair.nodes().iter().zip([0, 8_000]) {
            scope.spawn(move || {
                let name = node.name();
                node.sql(&format!(
                    "DO $$ BEGIN FOR i IN 0..2999 LOOP
                         INSERT INTO items SELECT {from} + i * 3 + n, '{name}', repeat('x', 1000) FROM generate_series(0, 2) n;
                         IF i % 3 = 0 THEN UPDATE items SET what = '{name} ' || i WHERE id = {from} + i * 3; END IF;
                         IF i % 100 = 0 AND i BETWEEN 400 AND 2600 THEN DELETE FROM items WHERE id = {from} + i * 3 + 1; END IF;
                         COMMIT;
                     END LOOP; END $$"
                ));
            });
        }
    });
    pair
}

fn become_equal(pair: &Pair) {
    pair.settle();
    assert_eq!(pair.differs_in("SELECT count(*), md5(string_agg(id || what, ',' ORDER BY id)) FROM items"), None);
    // 9,000 rows each, of which the last thousand of one and the first of the other are the same; 23 deleted each.
    assert_eq!(pair["new"].sql("SELECT count(*) FROM items"), "16954");
    // Of two that wrote one key unknowing, one lost, and that was decided once.
    let decided = pair["new"].sql("SELECT count(*), count(DISTINCT (table_id, key)) FROM pgtandem.decision");
    assert_eq!(decided, "1000|1000");
}

#[test]
fn s31_what_was_missed_is_read_in_one_go_even_by_a_hub_that_is_killed_at_it() {
    let pair = written(Setup::default());
    for _ in 0..2 {
        let hub = pair.hub();
        hub.wait_for_log(READS);
        hub.kill9();
    }
    let hub = pair.hub();
    become_equal(&pair);
    pair["legacy"].sql("INSERT INTO items VALUES (-1, 'after', '')");
    wait_until("live again", LIMIT, || pair["new"].sql("SELECT count(*) FROM items WHERE id = -1") == "1");
    let left = "SELECT count(*) FROM pg_replication_slots WHERE temporary";
    assert_eq!(pair["new"].sql(left), "0");
    assert!(hub.is_running());
}

#[test]
fn s31_a_server_without_room_for_another_slot_streams_what_was_missed() {
    let pair = written(Setup::default().setting("max_replication_slots", "2"));
    for node in pair.nodes() {
        node.sql("SELECT pg_create_physical_replication_slot('another')");
    }
    let hub = pair.hub();
    become_equal(&pair);
    assert!(!hub.log().contains(READS), "{}", hub.log());
}

/// Also where a hub recovers, which must not begin anew for ever.
#[test]
fn s31_a_server_that_fails_at_it_streams_what_was_missed() {
    let pair = written(Setup::default());
    let limit = |what: &str| {
        for node in pair.nodes() {
            node.sql(&format!("ALTER DATABASE {} {what}", node.database()));
        }
    };
    // Less than an answer takes.
    limit("SET temp_file_limit = '1MB'");
    for _ in 0..2 {
        let hub = pair.hub();
        hub.wait_for_log("so it is streamed");
        hub.kill9();
    }
    let hub = pair.hub();
    hub.wait_for_log("working");
    limit("RESET temp_file_limit");
    become_equal(&pair);
    assert!(hub.is_running());
}
