//! S07: three nodes, each with names of its own.

use crate::support::{Setup, Trio};

#[test]
fn s07_three_nodes_call_it_each_its_own_way() {
    let keys = "names = { legacy = \"things\", third = \"shop.t\" }
columns = { legacy = { a = \"b\", b = \"a\" }, third = { id = \"no\", a = \"x\" } }";
    let trio = Trio::with(Setup::default().config("[hub]\nstatus_interval_ms = 100").linking("items").keys(keys));
    trio["new"].sql("CREATE TABLE items (id int PRIMARY KEY, a text, b text)");
    trio["legacy"].sql(
        "CREATE TABLE things (id int PRIMARY KEY, a text, b text);
         CREATE VIEW items AS SELECT id, b AS a, a AS b FROM things",
    );
    trio["third"].sql(
        "CREATE SCHEMA shop; CREATE TABLE shop.t (no int PRIMARY KEY, x text, b text);
         CREATE VIEW items AS SELECT no AS id, x AS a, b FROM shop.t",
    );
    let _hub = trio.linked();
    trio["new"].sql("INSERT INTO items VALUES (1, 'a of new', 'b of new')");
    trio["legacy"].sql("INSERT INTO things VALUES (2, 'b of legacy', 'a of legacy')");
    trio["third"].sql("INSERT INTO shop.t VALUES (3, 'a of third', 'b of third')");
    trio.settle();
    trio["third"].sql("UPDATE shop.t SET x = x || '!'");
    trio.settle();
    let all = "1|a of new!|b of new\n2|a of legacy!|b of legacy\n3|a of third!|b of third";
    assert_eq!(trio["new"].sql("SELECT * FROM items ORDER BY id"), all);
    trio.pgtandem(["diff"]).ok();
}
