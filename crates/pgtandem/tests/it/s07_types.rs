//! S07: columns of narrower and wider types. A value that does not fit is held and reported, never cut off.

use crate::support::{PATIENCE, Pair, Setup, wait_until};

fn pair() -> Pair {
    let pair = Pair::with(Setup::default().config("[hub]\nstatus_interval_ms = 100").linking("items"));
    pair["new"]
        .sql("CREATE TABLE items (id bigint PRIMARY KEY, name text, stock integer, code text, price numeric(9,2))");
    pair["legacy"].sql(
        "CREATE TABLE items (id integer PRIMARY KEY, name varchar(10), stock smallint, code char(3), price numeric(6,2))",
    );
    pair
}

fn held(pair: &Pair) -> String {
    pair["legacy"]
        .sql("SELECT key->>'id', sqlstate FROM pgtandem.held WHERE released IS NULL ORDER BY (key->>'id')::bigint")
}

#[test]
fn s07_a_value_that_does_not_fit_is_held_and_never_cut_off() {
    let pair = pair();
    let check = pair.pgtandem(["check"]).ok();
    assert!(check.contains("held, not delivered"), "{check}");
    let hub = pair.linked();
    pair["new"].sql(
        "INSERT INTO items VALUES (1, 'fits', 1, 'abc', 1.25), (2, 'a name of more than ten', 2, 'abc', 2),
             (3, 'stock', 40000, 'abc', 3), (4, 'code', 4, 'abcd', 4), (5, 'price', 5, 'abc', 100000),
             (6000000000, 'id', 6, 'abc', 6), (7, 'fits too', 7, 'abc', 7)",
    );
    wait_until("five rows are held", PATIENCE, || {
        held(&pair) == "2|22001\n3|22003\n4|22001\n5|22003\n6000000000|22003"
    });
    wait_until("the others are there", PATIENCE, || pair["legacy"].sql("SELECT id FROM items ORDER BY 1") == "1\n7");
    let status = pair.pgtandem(["status"]).stdout;
    assert!(status.contains("held"), "{status}");
    hub.wait_for_log("value too long for type character varying(10)");
    // What fits is delivered; what is held stays whole on the node that wrote it.
    pair["new"].sql("UPDATE items SET name = 'short' WHERE id = 2; UPDATE items SET stock = 3 WHERE id = 3");
    wait_until("two of them go on", PATIENCE, || held(&pair) == "4|22001\n5|22003\n6000000000|22003");
    assert_eq!(
        pair["new"].sql("SELECT code, price FROM items WHERE id IN (4, 5) ORDER BY id"),
        "abcd|4.00\nabc|100000.00"
    );
    // Columns are widened. The key that has no place there is deleted; another one becomes one that has.
    pair["legacy"].sql("ALTER TABLE items ALTER code TYPE text, ALTER price TYPE numeric(9,2)");
    pair["new"].sql("INSERT INTO items VALUES (7000000000, 'id')");
    wait_until("the other one is held", PATIENCE, || held(&pair).contains("7000000000"));
    pair["new"].sql("DELETE FROM items WHERE id = 6000000000; UPDATE items SET id = 8 WHERE id = 7000000000");
    wait_until("nothing is held", PATIENCE, || held(&pair).is_empty());
    pair["legacy"].sql("UPDATE items SET stock = 32767, price = 0.10 WHERE id = 7");
    pair.acknowledged();
    assert_eq!(pair["new"].sql("SELECT stock, price FROM items WHERE id = 7"), "32767|0.10");
    pair.pgtandem(["diff"]).ok();
}

#[test]
fn s07_a_first_copy_cuts_nothing_off_either() {
    let pair = pair();
    pair["new"].sql("INSERT INTO items VALUES (1, 'fits', 1, 'abc', 1), (2, 'a name of more than ten', 2, 'abc', 2)");
    let refused = pair.pgtandem(["up", "--yes"]);
    assert!(refused.code != 0 && refused.stderr.contains("value too long"), "{}{}", refused.stdout, refused.stderr);
    assert_eq!(pair["legacy"].sql("SELECT count(*) FROM items"), "0");
}

#[test]
fn s07_types_that_would_round_are_refused() {
    let pair = Pair::with(Setup::shared().linking("items"));
    pair["new"]
        .sql("CREATE TABLE items (id int PRIMARY KEY, a numeric, b numeric(8,4), c timestamp, d numeric(4), e int)");
    pair["legacy"].sql(
        "CREATE TABLE items (id int PRIMARY KEY, a numeric(9,2), b numeric(8,2), c timestamp(0), d numeric(9), e numeric(9,2))",
    );
    let report = pair.pgtandem(["check"]).exits(1).stdout;
    let rounded: Vec<&str> = report.lines().filter(|line| line.contains("rounds what")).collect();
    assert_eq!(rounded.len(), 3, "{report}");
}
