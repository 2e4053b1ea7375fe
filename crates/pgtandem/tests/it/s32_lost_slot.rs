//! S32: a slot is gone. What was written meanwhile is unknown, and nobody may go on as if nothing were missing.

use crate::support::{PATIENCE, PRODUCTS, Pair, Setup, wait_until};

const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";

#[test]
fn s32_a_dropped_slot_is_named_and_never_made_anew_in_silence() {
    let pair = Pair::with(Setup::default().table("products", PRODUCTS));
    let hub = pair.linked();
    pair["new"].sql("INSERT INTO products (name) VALUES ('before')");
    pair.settle();
    hub.terminate();
    let legacy = &pair["legacy"];
    legacy.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");
    legacy.sql("UPDATE products SET name = 'nobody has read this'");

    let run = pair.pgtandem(["run"]).exits(3);
    assert!(run.stderr.contains("legacy") && run.stderr.contains("slot"), "{}", run.stderr);
    assert!(run.stderr.contains("pgtandem down"), "it says what to do: {}", run.stderr);
    let status = pair.pgtandem(["status"]).exits(1).stdout;
    assert!(status.contains("its replication slot is gone"), "{status}");
    let up = pair.pgtandem(["up", "--yes"]).exits(1);
    assert!((up.stdout + &up.stderr).contains("what was changed since is unknown"));
    assert_eq!(legacy.sql(SLOTS), "0", "nobody made a new one");

    // As told: what differs is found, and a person decides.
    pair.pgtandem(["down", "--yes"]).ok();
    let up = pair.pgtandem(["up", "--yes"]).exits(1);
    assert!(up.stderr.contains("1 on both but different"), "{}", up.stderr);
    pair["new"].sql("UPDATE products SET name = 'nobody has read this'");
    let _hub = pair.linked();
    pair.quiesce();
}

#[test]
fn s32_a_slot_that_goes_while_the_hub_works_ends_it() {
    let pair = Pair::with(Setup::default().table("products", PRODUCTS));
    let hub = pair.linked();
    pair["new"].sql("INSERT INTO products (name) VALUES ('before')");
    pair.settle();
    let legacy = &pair["legacy"];
    wait_until("the slot is dropped", PATIENCE, || {
        let _ = legacy.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active");
        legacy.try_sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots").is_ok()
            && legacy.sql(SLOTS) == "0"
    });
    assert_eq!(hub.wait().code(), Some(3), "{}", hub.log());
    assert!(hub.log().contains("slot") && hub.log().contains("pgtandem down"), "{}", hub.log());
    assert_eq!(legacy.sql(SLOTS), "0", "nobody made a new one");
}
