//! S33 where changes are read from an outbox, which is set back with the rest.

use crate::support::{PATIENCE, Pair, Setup, back_up, restore, wait_until};

#[test]
fn s33_a_restored_node_is_recognised_and_settled() {
    let table =
        "CREATE TABLE items (id bigserial PRIMARY KEY, what text, updated_at timestamptz NOT NULL DEFAULT now())";
    let pair = Pair::with(Setup::default().config("[hub]\nstatus_interval_ms = 100").table("items", table));
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO items (what) SELECT 'old' FROM generate_series(1, 4)");
    let hub = pair.linked();
    pair.settle();
    hub.terminate();
    // Written before the backup, and delivered only after it: in the backup it still waits.
    legacy.sql("INSERT INTO items (id, what) VALUES (1000, 'waits'); DELETE FROM items WHERE id = 4");
    let backup = back_up(legacy);
    let beat = |node: &crate::support::Node| -> i64 {
        let query = "SELECT beat FROM pgtandem.pulse JOIN pgtandem.peer ON number = node AND name = 'legacy'";
        node.sql(query).parse().unwrap()
    };
    let of_the_backup = beat(legacy);
    let hub = pair.hub();
    pair.settle();
    new.sql("UPDATE items SET what = 'new', updated_at = now() WHERE id IN (1, 1000)");
    legacy.sql("UPDATE items SET what = 'legacy', updated_at = now() WHERE id = 2");
    pair.settle();
    // A crash may set an outbox's positions back, too, so they do not tell: only what the peer has heard since does.
    wait_until("the peer has heard of a later beat", PATIENCE, || beat(new) > of_the_backup);
    hub.terminate();
    restore(legacy, &backup);
    let run = pair.pgtandem(["run"]).exits(3).stderr;
    assert!(run.contains("set back to an earlier state") && run.contains("pgtandem rejoin legacy"), "{run}");
    legacy.sql("INSERT INTO items (id, what) VALUES (2000, 'in the dark')");
    pair.pgtandem(["rejoin", "legacy", "--yes"]).ok();
    pair.equal("items");
    let rows = "SELECT string_agg(id || ' ' || what, ', ' ORDER BY id) FROM items";
    assert_eq!(legacy.sql(rows), "1 new, 2 legacy, 3 old, 1000 new, 2000 in the dark");
    let hub = pair.hub();
    for node in pair.nodes() {
        node.sql("INSERT INTO items (what) SELECT 'after' FROM generate_series(1, 20)");
        node.sql("UPDATE items SET what = what || '!' WHERE id = 3");
        pair.settle();
    }
    assert_eq!(new.sql("SELECT what FROM items WHERE id = 3"), "old!!");
    assert_eq!(new.sql("SELECT count(*) FROM items WHERE what = 'after'"), "40");
    assert!(hub.is_running());
    pair.pgtandem(["status"]).ok();
}
