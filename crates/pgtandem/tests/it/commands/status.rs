//! `pgtandem status`, with and without a hub, with and without the nodes.

use super::{json, linked, node};
use crate::support::{PATIENCE, PRODUCTS, Pair, Setup, wait_until};
use pgtandem::cluster::Stop;

fn hub_state(pair: &Pair) -> String {
    let status = json(&pair.pgtandem(["status", "--json"]).stdout);
    status["hub"]["state"].as_str().unwrap().to_owned()
}

#[test]
fn status_tells_a_working_link_from_one_whose_hub_has_ended_or_was_killed() {
    let pair = linked(Setup::shared());
    let before = json(&pair.pgtandem(["status", "--json"]).exits(1).stdout);
    assert_eq!(before["hub"]["state"], "never_ran");
    assert_eq!(before["attention"], serde_json::json!(["the hub is not running"]));

    let hub = pair.hub();
    wait_until("the hub runs", PATIENCE, || hub_state(&pair) == "running");
    pair["new"].sql("UPDATE products SET price = 7");
    pair.settle();
    wait_until("it has said what it delivered", PATIENCE, || {
        let status = json(&pair.pgtandem(["status", "--json"]).stdout);
        status["well"] == true && node(&status, "legacy")["delivered"]["rows"] == 1
    });
    let status = json(&pair.pgtandem(["status", "--json"]).ok());
    assert_eq!((&status["well"], &status["attention"]), (&true.into(), &serde_json::json!([])));
    assert_eq!(node(&status, "new")["read"], serde_json::json!({ "transactions": 1, "changes": 1 }));
    let legacy = node(&status, "legacy");
    assert_eq!((&legacy["state"], &legacy["standby"]), (&"linked".into(), &false.into()));
    assert_eq!(legacy["delivered"]["owed_rows"], 0);
    assert!(legacy["delivered"]["lag_ms"].as_f64().unwrap() > 0.0, "{legacy}");
    assert!(legacy["retained_bytes"].as_i64().unwrap() >= legacy["behind_bytes"].as_i64().unwrap());
    assert_eq!((&status["tables"][0]["name"], &status["tables"][0]["state"]), (&"products".into(), &"live".into()));
    let text = pair.pgtandem(["status"]).ok();
    assert!(text.starts_with("hub  running: pid ") && text.ends_with("\nall is well\n"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");

    assert_eq!(hub.terminate().code(), Some(0));
    assert_eq!(hub_state(&pair), "ended");
    let hub = pair.hub();
    wait_until("the next hub runs", PATIENCE, || hub_state(&pair) == "running");
    hub.kill9();
    wait_until("its locks are gone", PATIENCE, || hub_state(&pair) == "lost");
    let text = pair.pgtandem(["status"]).exits(1).stdout;
    assert!(text.contains("needs attention: the hub is not running"), "{text}");
}

#[test]
fn a_node_that_is_away_or_silent_does_not_keep_status_from_answering() {
    let pair = linked(Setup::default());
    let hub = pair.hub();
    wait_until("the hub runs", PATIENCE, || hub_state(&pair) == "running");
    let (new, legacy) = (&pair["new"].cluster, &pair["legacy"].cluster);

    legacy.stop(Stop::Fast).unwrap();
    hub.wait_for_log("cannot be reached");
    new.psql(pair["new"].database(), "UPDATE products SET price = 7").unwrap();
    wait_until("status shows what waits", PATIENCE, || {
        let status = json(&pair.pgtandem(["status", "--json"]).exits(1).stdout);
        let legacy = node(&status, "legacy");
        let reason = legacy["reason"].as_str().unwrap();
        legacy["state"] == "away" && reason.contains("nothing accepts") && legacy["delivered"]["owed_rows"] == 1
    });
    let text = pair.pgtandem(["status"]).exits(1).stdout;
    assert!(text.contains("legacy  away: nothing accepts connections at"), "{text}");
    assert!(text.contains("1 rows wait for it"), "{text}");
    legacy.start_again().unwrap();
    pair.quiesce();

    legacy.freeze().unwrap();
    let status = json(&pair.pgtandem(["status", "--json"]).exits(1).stdout);
    assert_eq!(node(&status, "legacy")["reason"], "no answer within 5 s");
    assert_eq!(node(&status, "new")["state"], "linked");
    legacy.thaw().unwrap();

    legacy.stop(Stop::Immediate).unwrap();
    new.stop(Stop::Immediate).unwrap();
    let status = pair.pgtandem(["status"]).exits(3);
    assert!(status.stderr.contains("no node could be reached"), "{}", status.stderr);
}

#[test]
fn what_is_not_linked_yet_is_said() {
    let pair = Pair::with(Setup::shared().table("products", PRODUCTS));
    let status = json(&pair.pgtandem(["status", "--json"]).exits(1).stdout);
    assert_eq!(status["attention"], serde_json::json!(["new is not linked yet", "legacy is not linked yet"]));
    assert_eq!(node(&status, "new")["remedy"], "run `pgtandem up`");
    assert!(pair.pgtandem(["status", "--watch"]).exits(2).stderr.contains("--watch draws on a terminal"));
}
