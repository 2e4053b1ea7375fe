//! S33 where changes are read from an outbox, which is set back with the rest.

use crate::support::{Pair, Setup, back_up, restore};

#[test]
fn s33_a_restored_node_is_recognised_and_settled() {
    let table =
        "CREATE TABLE items (id bigserial PRIMARY KEY, what text, updated_at timestamptz NOT NULL DEFAULT now())";
    let pair = Pair::with(Setup::default().table("items", table));
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO items (what) SELECT 'old' FROM generate_series(1, 4)");
    let hub = pair.linked();
    pair.settle();
    hub.terminate();
    // Written before the backup, and delivered only after it: in the backup it still waits.
    legacy.sql("INSERT INTO items (id, what) VALUES (1000, 'waits'); DELETE FROM items WHERE id = 4");
    let backup = back_up(legacy);
    let hub = pair.hub();
    pair.settle();
    new.sql("UPDATE items SET what = 'new', updated_at = now() WHERE id IN (1, 1000)");
    legacy.sql("UPDATE items SET what = 'legacy', updated_at = now() WHERE id = 2");
    pair.settle();
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
