//! S08: a partitioned table on one side, a plain one on the other, and what is there when COMMIT returns. No hub runs.

use crate::s50_at_commit::nothing_waits;
use crate::support::{Pair, Setup};

const PARTITIONED: &str = "
    CREATE TABLE events (region text, id int, what text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
    CREATE TABLE events_eu PARTITION OF events FOR VALUES IN ('de', 'fr');
    CREATE TABLE events_us PARTITION OF events FOR VALUES IN ('us');
    CREATE TABLE events_rest PARTITION OF events DEFAULT PARTITION BY RANGE (id);
    CREATE TABLE events_rest_low PARTITION OF events_rest FOR VALUES FROM (0) TO (100);
    CREATE TABLE events_rest_high PARTITION OF events_rest FOR VALUES FROM (100) TO (1000000)";
const PLAIN: &str =
    "CREATE TABLE events (id int, region text, note text DEFAULT 'none', what text, PRIMARY KEY (region, id))";
const ROWS: &str = "SELECT region, id, what FROM events";

fn events() -> Pair {
    let pair = Pair::with(Setup::shared().linking("events"));
    pair["new"].sql(PARTITIONED);
    pair["legacy"].sql(PLAIN);
    pair
}

#[track_caller]
fn same(pair: &Pair) {
    assert_eq!(pair.differs_in(ROWS), None);
}

#[test]
fn s08_everything_is_there_when_commit_returns() {
    let pair = events();
    pair.link();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    for (node, write) in [
        (new, "INSERT INTO events SELECT r, i, 'first' FROM unnest(ARRAY['de', 'us', 'jp']) r, generate_series(1, 200) i"),
        (new, "INSERT INTO events VALUES ('it', 1, 'one')"),
        (legacy, "INSERT INTO events (region, id, what) SELECT r, i, 'second' FROM unnest(ARRAY['us', 'it']) r, generate_series(500, 520) i"),
        (legacy, "UPDATE events SET what = 'third' WHERE id % 3 = 0"),
        (legacy, "DELETE FROM events WHERE id % 7 = 0"),
        (new, "UPDATE events SET what = 'fourth' WHERE id % 5 = 0"),
        (new, "DELETE FROM events WHERE region = 'jp' AND id > 150"),
        // Written to the partitions themselves.
        (new, "INSERT INTO events_us (region, id, what) VALUES ('us', 9000, 'itself'); UPDATE events_eu SET what = 'itself' WHERE id = 1;
               DELETE FROM events_rest_low WHERE id < 50"),
        (legacy, "TRUNCATE events"),
        (new, "INSERT INTO events VALUES ('de', 1, 'again')"),
        (new, "TRUNCATE events"),
    ] {
        node.sql(write);
        same(&pair);
        nothing_waits(new);
        nothing_waits(legacy);
    }
}

#[test]
fn s08_an_update_that_moves_rows_to_another_partition_is_an_update() {
    let pair = events();
    pair.link();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO events SELECT 'de', i, 'here' FROM generate_series(1, 30) i");
    legacy.sql("UPDATE events SET note = 'note ' || id");
    for (node, write) in [
        (new, "UPDATE events SET region = 'us', what = 'there' WHERE id = 1"),
        (new, "UPDATE events SET region = 'us', what = 'there' WHERE id <= 10"),
        (legacy, "UPDATE events SET region = 'jp' WHERE id BETWEEN 11 AND 20"),
        (new, "BEGIN; UPDATE events SET region = 'fr' WHERE id BETWEEN 5 AND 25; UPDATE events SET region = 'de' WHERE id = 6;
               INSERT INTO events VALUES ('us', 900, 'new'); DELETE FROM events WHERE id = 900; COMMIT"),
    ] {
        node.sql(write);
        same(&pair);
        nothing_waits(new);
    }
    let kept = "SELECT count(*) FROM events WHERE note = 'note ' || id";
    assert_eq!(legacy.sql(kept), "30", "its own column stays with a row");
}

#[test]
fn s08_what_waited_goes_along_and_a_moved_row_stays_whole() {
    let pair = events();
    pair.link();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO events SELECT 'de', i, 'here' FROM generate_series(1, 3) i");
    legacy.sql("UPDATE events SET note = 'note ' || id");
    new.sql("SELECT setval('pgtandem.direct_closed_until', 99999999999999)");
    new.sql("UPDATE events SET region = 'us' WHERE id <= 2");
    assert!(pair.differs_in(ROWS).is_some());
    new.sql("SELECT setval('pgtandem.direct_closed_until', 1)");
    new.sql("INSERT INTO events VALUES ('fr', 50, 'brings it')");
    same(&pair);
    nothing_waits(new);
    assert_eq!(legacy.sql("SELECT count(*) FROM events WHERE note = 'note ' || id"), "3");
}

#[test]
fn s08_what_is_written_to_a_partition_with_another_order_of_columns_waits_for_the_hub() {
    let pair = events();
    pair["new"].sql(
        "CREATE TABLE events_br (what text, id int NOT NULL, dropped int, region text NOT NULL);
         ALTER TABLE events_br DROP COLUMN dropped;
         ALTER TABLE events ATTACH PARTITION events_br FOR VALUES IN ('br')",
    );
    let said = pair.pgtandem(["check"]).stdout;
    assert!(said.contains("its partition events_br has its columns in another order"), "{said}");
    pair.link();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO events VALUES ('de', 1, 'at once')");
    same(&pair);
    new.sql("BEGIN; INSERT INTO events VALUES ('br', 1, 'later'); UPDATE events SET what = 'later' WHERE region = 'de'; COMMIT");
    assert_eq!(legacy.sql("SELECT what FROM events"), "at once");
    new.sql("UPDATE events SET what = 'behind it' WHERE region = 'de'");
    pair.pgtandem(["run", "--once"]).ok();
    same(&pair);
    assert_eq!(legacy.sql("SELECT region, what FROM events ORDER BY region"), "br|later\nde|behind it");
    new.sql("UPDATE events SET what = 'at once again' WHERE region = 'de'");
    same(&pair);
    assert_eq!(new.sql("SELECT count(*) FROM pgtandem.queued"), "0");
}

/// It is cut off before its moves are joined: that must not make it look small enough.
#[test]
fn s08_a_transaction_that_is_too_large_waits_whole() {
    let pair = events();
    pair.link();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO events VALUES ('de', 1, 'here'); UPDATE pgtandem.direct SET most = 10");
    new.sql(
        "BEGIN; UPDATE events SET region = 'us' WHERE id = 1;
             INSERT INTO events SELECT 'fr', i, 'many' FROM generate_series(100, 130) i; COMMIT",
    );
    assert_eq!(legacy.sql("SELECT string_agg(region || id, ',') FROM events"), "de1", "nothing of it");
    pair.pgtandem(["run", "--once"]).ok();
    same(&pair);
    assert_eq!(legacy.sql("SELECT count(*) FROM events"), "32");
}
