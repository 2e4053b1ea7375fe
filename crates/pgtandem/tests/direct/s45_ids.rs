//! S45: ids that both nodes draw from the same numbers (`ids = "mirror"`).

use std::fs;

use crate::s43_lifecycle::traces;
use crate::s50_at_commit::nothing_waits;
use crate::support::{PRODUCTS, Pair, Setup};

const IDS: &str = "SELECT string_agg(id::text, ',' ORDER BY id) FROM products";
const INSERT: &str = "INSERT INTO products (name) VALUES ('x') RETURNING id";

/// What the one table of the config says of its ids from now on.
fn set_ids(pair: &Pair, ids: &str) {
    let text = fs::read_to_string(pair.config()).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("ids = ")).collect();
    fs::write(pair.config(), format!("{}\nids = \"{ids}\"\n", kept.join("\n"))).unwrap();
}

fn mirrored() -> Pair {
    let pair = Pair::with(Setup::shared().table("products", PRODUCTS));
    set_ids(&pair, "mirror");
    pair
}

#[test]
fn s45_mirrored_ids_count_on_on_both_sides() {
    let pair = mirrored();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("INSERT INTO products (name) VALUES ('a'), ('b'), ('c')");
    let before = traces(&pair);
    pair.link();
    for id in (4..10).step_by(2) {
        assert_eq!(new.sql(INSERT), id.to_string());
        assert_eq!(legacy.sql(INSERT), (id + 1).to_string());
    }
    legacy.sql("INSERT INTO products (name) SELECT 'many' FROM generate_series(1, 20)");
    assert_eq!(new.sql(INSERT), "30");
    // An id that the application makes itself, and one far away, on the side that has it and on the other.
    legacy.sql("INSERT INTO products (id, name) VALUES (40, 'own')");
    assert_eq!((new.sql(INSERT), legacy.sql(INSERT)), ("41".to_owned(), "42".to_owned()));
    new.sql("INSERT INTO products (id, name) VALUES (5000000, 'far')");
    let next: i64 = legacy.sql(INSERT).parse().unwrap();
    assert!((5_000_001..5_000_010).contains(&next), "{next}");
    pair.nodes().iter().for_each(nothing_waits);
    // What waits counts when it is delivered.
    pair.apart();
    let waits: i64 = new.sql(INSERT).parse().unwrap();
    assert!(waits > next);
    pair.pgtandem(["run", "--once"]).ok();
    assert!(legacy.sql(INSERT).parse::<i64>().unwrap() > waits);
    pair.equal("products");
    assert_eq!(new.sql("SELECT count(*) FROM pgtandem.decision"), "0");
    let said = pair.pgtandem(["down", "--yes"]).ok();
    assert!(said.contains("legacy: nothing left."), "{said}");
    assert_eq!(traces(&pair), before);
    let last: i64 = legacy.sql("SELECT max(id) FROM products").parse().unwrap();
    for node in pair.nodes() {
        assert!(node.sql(INSERT).parse::<i64>().unwrap() > last);
    }
}

/// The sequence that goes on is each node's own, whatever table and column are called there.
#[test]
fn s45_mirrored_ids_of_tables_with_other_names() {
    let names = "ids = \"mirror\"\nnames = { legacy = \"old_things\" }\ncolumns = { legacy = { id = \"no\", name = \"title\" } }";
    let pair = Pair::with(Setup::shared().linking("things").keys(names));
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("CREATE TABLE things (id bigserial PRIMARY KEY, name text)");
    legacy.sql("CREATE TABLE old_things (title text, no bigserial PRIMARY KEY, id int)");
    pair.link();
    let (insert_new, insert_legacy) = (
        "INSERT INTO things (name) VALUES ('n') RETURNING id",
        "INSERT INTO old_things (title) VALUES ('l') RETURNING no",
    );
    // The first number was drawn when they were linked.
    for id in (2..7).step_by(2) {
        assert_eq!(new.sql(insert_new), id.to_string());
        assert_eq!(legacy.sql(insert_legacy), (id + 1).to_string());
    }
    assert_eq!(legacy.sql("SELECT string_agg(no || title, ',' ORDER BY no) FROM old_things"), "2n,3l,4n,5l,6n,7l");
    pair.nodes().iter().for_each(nothing_waits);
    pair.pgtandem(["down", "--yes"]).ok();
    assert_eq!((new.sql(insert_new), legacy.sql(insert_legacy)), ("8".to_owned(), "8".to_owned()));
}

/// That is what cannot be helped: it is a conflict, and the row that lost is kept.
#[test]
fn s45_two_mirrored_inserts_at_one_moment_get_the_same_id() {
    let pair = mirrored();
    pair.link();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    let sessions = [new.session(), legacy.session()];
    for (session, name) in sessions.iter().zip(["new", "legacy"]) {
        let id = session.run(format!("BEGIN; INSERT INTO products (name) VALUES ('{name}') RETURNING id")).unwrap();
        assert_eq!(id, "2");
    }
    let commits = sessions.each_ref().map(|session| session.send("COMMIT"));
    commits.into_iter().for_each(|commit| drop(commit.wait().unwrap()));
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
    let lost = "SELECT count(*) FROM pgtandem.decision WHERE kind = 'insert/insert' AND loser_row->>'id' = '2'";
    assert_eq!((new.sql(lost), legacy.sql(lost)), ("1".to_owned(), "1".to_owned()));
    assert_eq!((new.sql(INSERT), legacy.sql(INSERT)), ("3".to_owned(), "4".to_owned()));
    assert_eq!(legacy.sql(IDS), "2,3,4");
}

#[test]
fn s45_ids_may_be_treated_otherwise_while_linked() {
    let pair = mirrored();
    let said = pair.pgtandem(["check"]).ok();
    assert!(said.contains("two inserts at one moment"), "{said}");
    pair.link();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    assert_eq!((new.sql(INSERT), legacy.sql(INSERT)), ("2".to_owned(), "3".to_owned()));
    set_ids(&pair, "interleave");
    let said = pair.pgtandem(["plan"]).ok();
    assert!(said.contains("no longer move the sequence of products past what arrives"), "{said}");
    pair.link();
    assert_eq!((new.sql(INSERT), new.sql(INSERT)), ("4".to_owned(), "8".to_owned()));
    assert_eq!(legacy.sql(INSERT), "5");
    set_ids(&pair, "mirror");
    let said = pair.pgtandem(["plan"]).ok();
    assert!(said.contains("let the ids of products (id) go on at the same number on new and legacy"), "{said}");
    pair.link();
    assert_eq!((new.sql(INSERT), legacy.sql(INSERT)), ("9".to_owned(), "10".to_owned()));
    let said = pair.pgtandem(["up", "--yes"]).ok();
    assert!(said.contains("nothing to do"), "{said}");
    let text = fs::read_to_string(pair.config()).unwrap();
    fs::write(pair.config(), text.replace("mode = \"direct\"\n", "")).unwrap();
    let said = pair.pgtandem(["check"]).exits(2).stderr;
    assert!(said.contains("goes with mode = \"direct\""), "{said}");
}
