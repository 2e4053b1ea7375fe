//! `pgtandem conflicts`.

use super::{json, linked};
use crate::support::{PATIENCE, Setup, wait_until};
use pgtandem::cluster::Stop;

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
    assert!(lines[0].ends_with("products id=1  update/update"), "{text}");
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
