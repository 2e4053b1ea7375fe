//! S39: the tables change their shape while changes flow.

use crate::support::{Hub, PATIENCE, Pair, Setup, wait_until};

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, name text, price int)";
const OTHERS: &str = "CREATE TABLE others (id int PRIMARY KEY, name text)";

struct Link {
    pair: Pair,
    hub: Hub,
    written: std::cell::Cell<u32>,
}

impl Link {
    fn new() -> Self {
        let setup = Setup::default().config("[hub]\nstatus_interval_ms = 100");
        let pair = Pair::with(setup.table("items", ITEMS).table("others", OTHERS));
        let hub = pair.linked();
        pair["new"].sql("INSERT INTO items VALUES (1, 'one', 1), (2, 'two', 2)");
        pair.settle();
        Self { pair, hub, written: std::cell::Cell::new(0) }
    }

    /// The table is paused, and the reason names all of `parts`.
    #[track_caller]
    fn is_paused(&self, parts: &[&str]) {
        let paused = "SELECT paused_by, pause_reason FROM pgtandem.linked_table WHERE table_name = 'items'";
        wait_until(&format!("items is paused: {parts:?}"), PATIENCE, || {
            let said = self.pair["new"].sql(paused);
            said.starts_with("drift") && parts.iter().all(|part| said.contains(part))
        });
        self.others_go_on();
    }

    #[track_caller]
    fn others_go_on(&self) {
        let number = self.written.get() + 1;
        self.written.set(number);
        for (node, other, id) in [("new", "legacy", number), ("legacy", "new", number + 1000)] {
            self.pair[node].sql(&format!("INSERT INTO others VALUES ({id}, '{node}')"));
            wait_until(&format!("others go on from {node}"), PATIENCE, || {
                self.pair[other].sql(&format!("SELECT count(*) FROM others WHERE id = {id}")) == "1"
            });
        }
    }

    #[track_caller]
    fn goes_on(&self) {
        wait_until("items goes on and all is equal", PATIENCE, || {
            let paused = "SELECT count(*) FROM pgtandem.linked_table WHERE paused_by IS NOT NULL";
            self.pair["new"].sql(paused) == "0" && self.pair["legacy"].sql(paused) == "0"
        });
        self.pair.settle();
        wait_until("nothing is held", PATIENCE, || {
            self.pair
                .nodes()
                .iter()
                .all(|node| node.sql("SELECT count(*) FROM pgtandem.held WHERE released IS NULL") == "0")
        });
        assert!(self.hub.is_running());
    }
}

#[test]
fn s39_a_column_is_added_on_one_side_and_then_on_the_other() {
    let link = Link::new();
    let pair = &link.pair;
    pair["new"].sql("ALTER TABLE items ADD COLUMN colour text");
    pair["new"].sql("UPDATE items SET colour = 'red' WHERE id = 1");
    link.is_paused(&["colour", "legacy"]);
    pair["new"].sql("INSERT INTO items VALUES (3, 'three', 3, 'blue')");
    pair["legacy"].sql("UPDATE items SET name = 'two at legacy' WHERE id = 2");
    pair["legacy"].sql("ALTER TABLE items ADD COLUMN colour text");
    link.goes_on();
    assert_eq!(
        pair["legacy"].sql("SELECT id, name, colour FROM items ORDER BY id"),
        "1|one|red\n2|two at legacy|\n3|three|blue"
    );

    // First where it is written to, and a hub that dies meanwhile.
    pair["legacy"].sql("ALTER TABLE items ADD COLUMN size int DEFAULT 7");
    pair["legacy"].sql("UPDATE items SET size = 8 WHERE id = 1");
    link.is_paused(&["size", "new"]);
    let Link { pair, hub, written } = link;
    hub.kill9();
    let hub = pair.hub();
    let link = Link { pair, hub, written };
    link.is_paused(&["size", "new"]);
    let pair = &link.pair;
    pair["new"].sql("ALTER TABLE items ADD COLUMN size int DEFAULT 7");
    link.goes_on();
    assert_eq!(pair["new"].sql("SELECT size FROM items WHERE id = 1"), "8");

    // Dropped.
    pair["new"].sql("ALTER TABLE items DROP COLUMN colour");
    pair["new"].sql("UPDATE items SET name = 'without colour' WHERE id = 1");
    link.is_paused(&["colour", "dropped"]);
    pair["legacy"].sql("ALTER TABLE items DROP COLUMN colour");
    link.goes_on();
    assert_eq!(pair["legacy"].sql("SELECT name FROM items WHERE id = 1"), "without colour");

    // Dropped first where deliveries write it.
    pair["legacy"].sql("ALTER TABLE items DROP COLUMN size");
    pair["new"].sql("UPDATE items SET name = 'without size' WHERE id = 1");
    link.is_paused(&["size"]);
    pair["new"].sql("ALTER TABLE items DROP COLUMN size");
    link.goes_on();
    assert_eq!(pair["legacy"].sql("SELECT name FROM items WHERE id = 1"), "without size");
}

#[test]
fn s39_a_type_is_changed_and_a_table_renamed() {
    let link = Link::new();
    let pair = &link.pair;
    // Wider on one side is no misfit, only a value that does not fit would wait.
    pair["new"].sql("ALTER TABLE items ALTER price TYPE bigint");
    pair["new"].sql("UPDATE items SET price = 100 WHERE id = 1");
    pair["legacy"].sql("ALTER TABLE items ALTER price TYPE bigint");
    pair["new"].sql("UPDATE items SET price = 5000000000 WHERE id = 2");
    link.goes_on();
    // Another kind of value is.
    pair["legacy"].sql("ALTER TABLE items ALTER price TYPE date USING date '2025-01-01' + (price % 100)::int");
    pair["new"].sql("UPDATE items SET price = 7 WHERE id = 1");
    link.is_paused(&["price", "bigint", "date"]);
    pair["legacy"].sql("ALTER TABLE items ALTER price TYPE bigint USING 1");
    // What is written after the types fit is whole again.
    pair["new"].sql("UPDATE items SET price = id, name = 'again'");
    link.goes_on();

    for node in ["legacy", "new"] {
        pair[node].sql("ALTER TABLE items RENAME TO goods");
        pair[node].sql("UPDATE goods SET name = 'under another name' WHERE id = 1");
        let other = if node == "new" { "legacy" } else { "new" };
        pair[other].sql(&format!("UPDATE items SET name = 'from {other}' WHERE id = 2"));
        link.is_paused(&["renamed", node]);
        pair[node].sql("ALTER TABLE goods RENAME TO items");
        link.goes_on();
        assert_eq!(pair["new"].sql("SELECT name FROM items ORDER BY id"), format!("under another name\nfrom {other}"));
    }
}
