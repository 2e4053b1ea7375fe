//! S31 and S32 where changes are read from an outbox: it does not fill the disk, and triggers that are lost are noticed.

use pgtandem::cluster::Stop;

use crate::support::{PATIENCE, PRODUCTS, Pair, Setup, wait_until};

#[test]
fn s32_lost_triggers_are_named_and_what_they_missed_is_settled() {
    let pair = Pair::with(Setup::default().table("products", PRODUCTS));
    let hub = pair.linked();
    pair["new"].sql("INSERT INTO products (name) VALUES ('before'), ('deleted')");
    pair.settle();
    hub.terminate();
    let legacy = &pair["legacy"];
    legacy.sql("ALTER TABLE products DISABLE TRIGGER USER");
    legacy.sql("UPDATE products SET name = 'nobody has read this' WHERE name = 'before'");
    legacy.sql("DELETE FROM products WHERE name = 'deleted'");
    let run = pair.pgtandem(["run"]).exits(3).stderr;
    assert!(run.contains("has lost the triggers") && run.contains("pgtandem rejoin legacy"), "{run}");
    pair["new"].sql("INSERT INTO products (name) VALUES ('of new')");
    pair.pgtandem(["rejoin", "legacy", "--yes"]).ok();
    pair.equal("products");
    assert_eq!(
        pair["new"].sql("SELECT string_agg(name, ', ' ORDER BY name) FROM products"),
        "nobody has read this, of new"
    );
    let _hub = pair.hub();
    legacy.sql("UPDATE products SET name = 'read' WHERE name = 'of new'");
    pair.settle();
}

#[test]
fn s31_an_outbox_does_not_grow_for_a_node_that_is_away_for_long() {
    let setup = Setup::default().config("[hub]\nkeep_wal = \"1MiB\"");
    let pair = Pair::with(setup.table("items", "CREATE TABLE items (id int PRIMARY KEY, what text)"));
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO items SELECT n, 'old' FROM generate_series(1, 2000) n");
    let hub = pair.linked();
    pair.settle();
    hub.terminate();
    legacy.sql("UPDATE items SET what = 'legacy' WHERE id <= 10; DELETE FROM items WHERE id = 11");
    legacy.cluster.stop(Stop::Fast).unwrap();
    let hub = pair.hub();
    hub.wait_for_log("waiting for legacy");
    new.sql("DELETE FROM items WHERE id BETWEEN 30 AND 39");
    let write = || new.sql("UPDATE items SET what = repeat(md5(random()::text), 30) WHERE id >= 100");
    wait_until("it is left behind", PATIENCE, || {
        write();
        hub.log().contains("only the keys that change are kept")
    });
    (0..20).for_each(|_| drop(write()));
    let size = "SELECT pg_total_relation_size('pgtandem.outbox_0') + pg_total_relation_size('pgtandem.outbox_1')
                + pg_total_relation_size('pgtandem.outbox_2') < 16777216";
    wait_until("the outbox is small", PATIENCE, || new.sql(size) == "t");
    new.sql("UPDATE items SET what = 'last' WHERE id >= 100");
    legacy.cluster.start_again().unwrap();
    hub.wait_for_log("is back: settling items");
    pair.quiesce();
    pair.settle();
    let count = |what: &str| legacy.sql(&format!("SELECT count(*) FROM items WHERE {what}"));
    assert_eq!(count("what = 'last'"), "1901");
    assert_eq!(count("what = 'legacy'"), "10");
    assert_eq!(count("id = 11 OR id BETWEEN 30 AND 39"), "0");
    assert!(hub.is_running());
}
