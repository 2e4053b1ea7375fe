//! `pgtandem conflicts`.

use super::{json, linked};
use crate::support::{Hub, PATIENCE, PRODUCTS, Pair, Setup, wait_until};
use pgtandem::cluster::Stop;
use pgtandem::connect::{Endpoint, Environment};
use pgtandem::link;
use tokio_postgres::types::PgLsn;

#[test]
fn a_conflict_is_listed_once_with_both_rows_from_whichever_node_can_be_reached() {
    let pair = linked(Setup::default());
    assert_eq!(pair.pgtandem(["conflicts"]).ok(), "no conflicts\n");
    pair["new"].sql("UPDATE products SET price = 100");
    pair["legacy"].sql("UPDATE products SET price = 200, name = 'stool'");
    let hub = pair.hub();
    pair.settle();
    assert_eq!(pair["new"].sql("SELECT price, name FROM products"), "200|stool");
    // A node may hear of a decision a little later than another.
    for node in pair.nodes() {
        let decided = "SELECT count(*) FROM pgtandem.decision";
        wait_until("every node has the decision", PATIENCE, || node.sql(decided) == "1");
    }
    hub.terminate();

    let listed = json(&pair.pgtandem(["conflicts", "--json"]).ok());
    let conflicts = listed["conflicts"].as_array().unwrap();
    assert_eq!(conflicts.len(), 1, "{listed:#}");
    let conflict = &conflicts[0];
    assert_eq!((&conflict["table"], &conflict["kind"]), (&"products".into(), &"update/update".into()));
    assert_eq!(conflict["key"], serde_json::json!({ "id": "1" }));
    assert_eq!((&conflict["winner"]["node"], &conflict["loser"]["node"]), (&"legacy".into(), &"new".into()));
    assert_eq!((&conflict["policy"], &conflict["why"]), (&"newest".into(), &"committed later".into()));
    assert_eq!(
        (&conflict["winner"]["row"]["price"], &conflict["loser"]["row"]["price"]),
        (&"200".into(), &"100".into())
    );

    let text = pair.pgtandem(["conflicts", "--table", "products", "--since", "1h"]).ok();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert!(lines[0].contains("products id=1  update/update  "), "{text}");
    assert_eq!(lines[1], "legacy won over new (resolve = newest): committed later");
    let differing: Vec<&str> =
        lines.iter().filter(|line| line.starts_with('≠')).map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(differing, ["name", "price"], "{text}");

    assert_eq!(
        pair.pgtandem(["conflicts", "--since", "2000-01-01", "--limit", "1"]).ok().matches("won over").count(),
        1
    );
    assert_eq!(pair.pgtandem(["conflicts", "--since", "2999-01-01"]).ok(), "no conflicts\n");
    let wrong = pair.pgtandem(["conflicts", "--table", "nowhere"]).exits(2).stderr;
    assert!(wrong.contains("nowhere is not linked") && wrong.contains("one of: products"), "{wrong}");

    pair["new"].cluster.stop(Stop::Immediate).unwrap();
    let listed = pair.pgtandem(["conflicts", "--json"]);
    assert!(listed.stderr.contains("new is away: nothing accepts connections"), "{}", listed.stderr);
    let listed = json(&listed.ok());
    assert_eq!((listed["conflicts"].as_array().unwrap().len(), &listed["away"]), (1, &serde_json::json!(["new"])));
    pair["legacy"].cluster.stop(Stop::Immediate).unwrap();
    pair.pgtandem(["conflicts"]).exits(3);
}

#[test]
fn where_nothing_is_linked_no_conflicts_are_no_answer() {
    let pair = Pair::with(Setup::shared().table("products", PRODUCTS));
    let outcome = pair.pgtandem(["conflicts"]).exits(3);
    assert!(outcome.stderr.contains("nothing is linked here yet; run `pgtandem up` first"), "{}", outcome.stderr);
}

/// Both sides write the row that is there; `legacy` writes last and wins.
fn decided() -> (Pair, Hub, String) {
    let pair = linked(Setup::default());
    pair["new"].sql("UPDATE products SET price = 100, description = 'a \"quoted\" one, with NULLs'");
    pair["legacy"].sql("UPDATE products SET price = 200, name = 'stool', description = NULL");
    let hub = pair.hub();
    pair.settle();
    let listed = json(&pair.pgtandem(["conflicts", "--json"]).ok());
    let name = listed["conflicts"][0]["name"].as_str().unwrap().to_owned();
    (pair, hub, name)
}

#[test]
fn a_row_that_lost_is_put_back_everywhere() {
    let (pair, _hub, name) = decided();
    let shown = pair.pgtandem(["conflicts", "show", &name[..5]]).ok();
    assert!(shown.contains(&name) && shown.contains("≠  price") && shown.contains("a \"quoted\" one"), "{shown}");
    let one = json(&pair.pgtandem(["conflicts", "show", &name, "--json"]).ok());
    assert_eq!((&one["name"], &one["undone_at"]), (&name.as_str().into(), &serde_json::Value::Null));

    // Nobody is there to be asked.
    pair.pgtandem(["conflicts", "undo", &name]).exits(2);
    let undone = pair.pgtandem(["conflicts", "undo", &name, "--yes"]).ok();
    assert_eq!(undone, "products id=1 is again what it was on new; written on legacy, delivered from there\n");
    pair.settle();
    for node in pair.nodes() {
        let row = node.sql("SELECT price, name, description FROM products");
        assert_eq!(row, "100|chair|a \"quoted\" one, with NULLs", "{}", node.name());
    }
    // It was no conflict, and is known to have been done.
    assert_eq!(pair["new"].sql("SELECT count(*) FROM pgtandem.decision"), "1");
    assert!(pair.pgtandem(["conflicts"]).ok().contains("put back"));
    let again = pair.pgtandem(["conflicts", "undo", &name, "--yes"]).exits(1);
    assert!(again.stderr.contains("was put back already"), "{}", again.stderr);
}

#[test]
fn a_row_that_has_changed_since_is_put_back_only_by_force() {
    let (pair, _hub, name) = decided();
    pair["new"].sql("UPDATE products SET price = 300");
    pair.settle();
    let refused = pair.pgtandem(["conflicts", "undo", &name, "--yes"]).exits(1);
    let why = "the row has changed on new since the conflict was decided: price is 300, not 200";
    assert!(refused.stderr.contains(why) && refused.stderr.contains("--force"), "{}", refused.stderr);
    pair.pgtandem(["conflicts", "undo", &name, "--yes", "--force"]).ok();
    pair.settle();
    assert_eq!(pair["new"].sql("SELECT price FROM products"), "100");
    pair.pgtandem(["conflicts", "undo", "ffffffff", "--yes"]).exits(2);
}

#[test]
fn a_deletion_that_lost_is_put_back_and_so_is_a_row_that_lost_to_one() {
    let pair = linked(Setup::default());
    pair["new"].sql("INSERT INTO products (id, name, price) VALUES (2, 'table', 1)");
    let hub = pair.hub();
    pair.settle();
    hub.terminate();
    pair["new"].sql("DELETE FROM products WHERE id = 1; UPDATE products SET price = 2 WHERE id = 2");
    pair["legacy"].sql("UPDATE products SET price = 200 WHERE id = 1; DELETE FROM products WHERE id = 2");
    let _hub = pair.hub();
    pair.settle();
    assert_eq!(pair["new"].sql("SELECT id, price FROM products"), "1|200");
    let listed = json(&pair.pgtandem(["conflicts", "--json"]).ok());
    for conflict in listed["conflicts"].as_array().unwrap() {
        pair.pgtandem(["conflicts", "undo", conflict["name"].as_str().unwrap(), "--yes"]).ok();
    }
    pair.settle();
    for node in pair.nodes() {
        assert_eq!(node.sql("SELECT id, name, price FROM products"), "2|table|2", "{}", node.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_decisions_go_but_none_that_may_be_asked_for_again() {
    let pair = Pair::with(Setup::shared().table("products", PRODUCTS));
    pair.pgtandem(["up", "--yes"]).ok();
    let node = &pair["new"];
    let url = node.cluster.socket_url(node.database());
    let session = Endpoint::resolve(&url, &Environment::empty()).unwrap().connect("test", &[]).await.unwrap();
    let decide = "INSERT INTO pgtandem.decision (table_id, key, key_bytes, winner_node, winner_position, loser_node, \
            loser_position, winner_stamp, loser_stamp, kind, policy, why, decided_at, loser_row) \
        SELECT 1, '{}', '', 0, n::text::pg_lsn, 1, n::text::pg_lsn, now(), now(), 'update/update', 'newest', '', \
            now() - age, jsonb_build_object('text', (SELECT string_agg(md5(n || i), '') FROM generate_series(1, 100) i)) \
        FROM (VALUES ('0/1', interval '100 days'), ('0/2', '2 days'), ('0/3', '1 day'), ('0/9', '100 days')) AS v (n, age)";
    let left = "SELECT string_agg(winner_position::text, ' ' ORDER BY id) FROM pgtandem.decision";
    node.sql(decide);
    let settled = [PgLsn::from(5), PgLsn::from(5)];
    let prune = |days: f64, bytes: i64| link::prune_decisions(&session.client, days, bytes, &settled);
    assert_eq!(prune(365.0, 1 << 30).await.unwrap(), 0);
    assert_eq!(prune(90.0, 1 << 30).await.unwrap(), 1);
    assert_eq!(node.sql(left), "0/2 0/3 0/9");
    assert_eq!(prune(1.5, 1 << 30).await.unwrap(), 1);
    assert_eq!(node.sql(left), "0/3 0/9");
    node.sql(&format!("TRUNCATE pgtandem.decision; {decide}"));
    // The newest fits in.
    assert_eq!(prune(365.0, 4_000).await.unwrap(), 2);
    assert_eq!(node.sql(left), "0/3 0/9");
}
