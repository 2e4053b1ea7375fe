//! S08: a partitioned table on one side, a plain one on the other.

use crate::support::{PATIENCE, Pair, Setup, wait_until};

fn events() -> Pair {
    let pair = Pair::with(Setup::shared().linking("events"));
    pair["new"].sql(
        "CREATE TABLE events (region text, id int, what text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
         CREATE TABLE events_eu PARTITION OF events FOR VALUES IN ('de', 'fr');
         CREATE TABLE events_us (what text, id int NOT NULL, dropped int, region text NOT NULL);
         ALTER TABLE events_us DROP COLUMN dropped;
         ALTER TABLE events ATTACH PARTITION events_us FOR VALUES IN ('us');
         CREATE TABLE events_rest PARTITION OF events DEFAULT PARTITION BY RANGE (id);
         CREATE TABLE events_rest_low PARTITION OF events_rest FOR VALUES FROM (0) TO (100);
         CREATE TABLE events_rest_high PARTITION OF events_rest FOR VALUES FROM (100) TO (1000000)",
    );
    pair["legacy"].sql(
        "CREATE TABLE events (id int, region text, note text DEFAULT 'none', what text, PRIMARY KEY (region, id))",
    );
    pair
}

fn same(pair: &Pair) {
    wait_until("the events are the same", PATIENCE, || {
        pair.differs_in("SELECT region, id, what FROM events").is_none()
    });
}

#[test]
fn s08_partitioned_on_one_side_plain_on_the_other() {
    let pair = events();
    let _hub = pair.linked();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO events SELECT r, i, 'first' FROM unnest(ARRAY['de', 'fr', 'us', 'jp']) r, generate_series(1, 200) i");
    same(&pair);
    legacy.sql("INSERT INTO events (region, id, what) SELECT r, i, 'second' FROM unnest(ARRAY['us', 'it']) r, generate_series(500, 520) i");
    legacy.sql("UPDATE events SET what = 'third' WHERE id % 3 = 0; DELETE FROM events WHERE id % 7 = 0");
    same(&pair);
    // Written to the partitions themselves.
    new.sql("INSERT INTO events_us (region, id, what) VALUES ('us', 9000, 'direct'); UPDATE events_eu SET what = 'direct' WHERE id = 1;
             DELETE FROM events_rest_low WHERE id < 50");
    same(&pair);
    legacy.sql("TRUNCATE events");
    same(&pair);
    new.sql("INSERT INTO events VALUES ('de', 1, 'again')");
    same(&pair);
    new.sql("TRUNCATE events");
    same(&pair);
    assert_eq!(new.sql("SELECT count(*) FROM pgtandem.held WHERE released IS NULL"), "0");
}

#[test]
fn s08_an_update_that_moves_a_row_to_another_partition_is_an_update() {
    let pair = events();
    let _hub = pair.linked();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO events SELECT 'de', i, 'here' FROM generate_series(1, 30) i");
    same(&pair);
    legacy.sql("UPDATE events SET note = 'note ' || id");
    new.sql("UPDATE events SET region = 'us', what = 'there' WHERE id <= 10");
    same(&pair);
    legacy.sql("UPDATE events SET region = 'jp' WHERE id BETWEEN 11 AND 20");
    same(&pair);
    new.sql("UPDATE events SET region = 'fr' WHERE id BETWEEN 5 AND 25");
    same(&pair);
    assert_eq!(
        legacy.sql("SELECT count(*) FROM events WHERE note = 'note ' || id"),
        "30",
        "its own column stays with a row"
    );
}
