//! S36: a row that a node refuses waits there, with all that comes after it; everything else goes on.

use crate::support::{Hub, PATIENCE, Pair, Setup, wait_until};

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, name text, price int)";

fn linked_pair() -> (Pair, Hub) {
    let pair = Pair::with(Setup::default().config("[hub]\nstatus_interval_ms = 100").table("items", ITEMS));
    let hub = pair.linked();
    (pair, hub)
}

fn held(pair: &Pair) -> String {
    pair["legacy"].sql(
        "SELECT key->>'id', row->>'price', coalesce(sqlstate, '-') FROM pgtandem.held WHERE released IS NULL ORDER BY 1",
    )
}

#[track_caller]
fn is_held(pair: &Pair, what: &str) {
    wait_until(&format!("held: {what}"), PATIENCE, || held(pair) == what);
}

#[track_caller]
fn arrives(pair: &Pair, id: u32, price: &str) {
    let price_of = format!("SELECT price FROM items WHERE id = {id}");
    wait_until(&format!("row {id} has price {price}"), PATIENCE, || pair["legacy"].sql(&price_of) == price);
}

#[test]
fn s36_a_refused_row_waits_and_everything_else_goes_on() {
    let (pair, hub) = linked_pair();
    pair["legacy"].sql("ALTER TABLE items ADD CONSTRAINT not_negative CHECK (price >= 0)");
    pair["new"].sql("INSERT INTO items VALUES (1, 'one', 1), (2, 'two', -1), (3, 'three', 3)");
    is_held(&pair, "2|-1|23514");
    arrives(&pair, 3, "3");
    hub.wait_for_log("not_negative");
    // What comes later for the key waits with it.
    pair["new"].sql("UPDATE items SET price = -2 WHERE id = 2; UPDATE items SET price = 10 WHERE id = 1");
    is_held(&pair, "2|-2|23514");
    arrives(&pair, 1, "10");
    // It survives its hub and its server.
    hub.kill9();
    pair["legacy"].cluster.restart().unwrap();
    let hub = pair.hub();
    pair["new"].sql("UPDATE items SET price = 30 WHERE id = 3");
    arrives(&pair, 3, "30");
    assert_eq!(held(&pair), "2|-2|23514");
    pair["new"].sql("UPDATE items SET price = -3 WHERE id = 2");
    is_held(&pair, "2|-3|23514");
    // The cause is removed.
    pair["legacy"].sql("ALTER TABLE items DROP CONSTRAINT not_negative");
    arrives(&pair, 2, "-3");
    pair.settle();
    assert_eq!(held(&pair), "");
    assert_eq!(pair["new"].sql("SELECT count(*) FROM pgtandem.decision"), "0");
    // And then it is a row like any other.
    pair["legacy"].sql("UPDATE items SET price = 4 WHERE id = 2");
    pair.settle();
    assert_eq!(pair["new"].sql("SELECT price FROM items WHERE id = 2"), "4");
    wait_until("the record is gone", PATIENCE, || {
        pair["new"].sql("UPDATE items SET price = price + 1 WHERE id = 3");
        pair["legacy"].sql("SELECT count(*) FROM pgtandem.held") == "0"
    });
    assert!(hub.is_running());
}

#[test]
fn s36_a_row_that_becomes_acceptable_is_released_by_its_own_change() {
    let (pair, _hub) = linked_pair();
    pair["legacy"].sql("ALTER TABLE items ADD CHECK (price >= 0), ALTER COLUMN name SET NOT NULL");
    pair["new"].sql("INSERT INTO items VALUES (1, 'one', -1), (2, NULL, 2)");
    is_held(&pair, "1|-1|23514\n2|2|23502");
    pair["new"].sql("UPDATE items SET price = 1 WHERE id = 1; DELETE FROM items WHERE id = 2");
    pair.settle();
    assert_eq!(held(&pair), "");
    assert_eq!(pair["legacy"].sql("SELECT id, price FROM items"), "1|1");
}

#[test]
fn s36_a_held_row_and_a_write_on_the_node_that_holds_it_are_a_conflict() {
    let (pair, hub) = linked_pair();
    pair["new"].sql("INSERT INTO items VALUES (1, 'one', 1), (2, 'two', 2)");
    pair.settle();
    pair["legacy"].sql("ALTER TABLE items ADD CONSTRAINT not_negative CHECK (price >= 0)");
    pair["new"].sql("UPDATE items SET price = -1");
    is_held(&pair, "1|-1|23514\n2|-1|23514");
    // It has not seen what is held, and is later.
    pair["legacy"].sql("UPDATE items SET price = 7 WHERE id = 1");
    wait_until("the write arrives", PATIENCE, || pair["new"].sql("SELECT price FROM items WHERE id = 1") == "7");
    is_held(&pair, "2|-1|23514");
    hub.kill9();
    let _hub = pair.hub();
    pair["legacy"].sql("UPDATE items SET price = 8 WHERE id = 2");
    pair.settle();
    assert_eq!(pair["legacy"].sql("SELECT id, price FROM items ORDER BY id"), "1|7\n2|8");
    let decided = "SELECT kind, winner_row->>'price', loser_row->>'price' FROM pgtandem.decision ORDER BY 2";
    assert_eq!(pair.differs_in(decided), None);
    assert_eq!(pair["new"].sql(decided), "update/update|7|-1\nupdate/update|8|-1");
    assert_eq!(held(&pair), "");
}

#[test]
fn s36_a_trigger_that_raises_or_is_broken_holds_the_key() {
    let (pair, hub) = linked_pair();
    pair["legacy"].sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF new.price = 13 THEN RAISE EXCEPTION 'thirteen is unlucky'; END IF;
             IF new.price = 14 THEN PERFORM * FROM no_such_table; END IF;
             IF new.price = 15 THEN new.no_such_column := 1; END IF;
             RETURN new;
         END $$;
         CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION refuse();
         ALTER TABLE items ENABLE ALWAYS TRIGGER refuse",
    );
    pair["new"].sql("INSERT INTO items VALUES (1, 'one', 13), (2, 'two', 2), (3, 'three', 14), (4, 'four', 15)");
    arrives(&pair, 2, "2");
    is_held(&pair, "1|13|P0001\n3|14|42P01\n4|15|42703");
    hub.wait_for_log("thirteen is unlucky");
    hub.wait_for_log("no_such_table");
    // It is tried again now and then, not all the time, and nothing else waits.
    pair["new"].sql("INSERT INTO items VALUES (5, 'five', 5)");
    arrives(&pair, 5, "5");
    pair["legacy"].sql("ALTER TABLE items DISABLE TRIGGER refuse");
    pair.settle();
    wait_until("nothing is held", PATIENCE, || held(&pair).is_empty());
    pair.equal("items");
}
