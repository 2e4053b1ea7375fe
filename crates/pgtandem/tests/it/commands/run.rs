//! `pgtandem run`: signals, logs, exit codes.

use super::{json, linked};
use crate::support::{PATIENCE, PRODUCTS, Pair, Setup, wait_until};
use nix::sys::signal::{Signal, kill};

#[test]
fn sigterm_and_sigint_end_it_in_good_order() {
    let pair = linked(Setup::shared());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let hub = pair.hub();
        hub.wait_for_log("working: new and legacy");
        kill(hub.pid(), signal).unwrap();
        assert_eq!(hub.wait().code(), Some(0), "{}", hub.log());
        assert!(hub.log().contains(&format!("{signal}: ending once the deliveries in flight have landed")));
        assert!(hub.log().trim_end().ends_with("ended"), "{}", hub.log());
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let pair = linked(Setup::default());
    let hub = pair.hub();
    pair.settle();
    // A delivery that does not come to its end.
    pair["legacy"].cluster.freeze().unwrap();
    pair["new"].sql("UPDATE products SET price = 7");
    let owed = "SELECT state->'nodes'->'legacy'->>'owed_rows' FROM pgtandem.hub_status";
    wait_until("it is under way", PATIENCE, || pair["new"].sql(owed) == "1");
    kill(hub.pid(), Signal::SIGTERM).unwrap();
    hub.wait_for_log("SIGTERM: ending");
    kill(hub.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(hub.wait().code(), Some(128 + 15), "{}", hub.log());
    pair["legacy"].cluster.thaw().unwrap();
    let _hub = pair.hub();
    pair.settle();
    assert_eq!(pair["legacy"].sql("SELECT price FROM products"), "7");
}

#[test]
fn the_log_is_for_people_or_for_machines_and_holds_no_password() {
    let pair = linked(Setup::default());
    let hub = pair.hub_with(["--log", "json", "--log-level", "trace"]);
    pair["new"].sql("UPDATE products SET price = 7");
    pair.settle();
    assert_eq!(hub.terminate().code(), Some(0));
    let log = hub.log();
    let events: Vec<_> = log.lines().map(json).collect();
    assert!(events.iter().all(|event| event["timestamp"].is_string() && event["level"].is_string()), "{log}");
    let working = events.iter().find(|event| event["message"] == "working: new and legacy").unwrap();
    assert_eq!((&working["level"], &working["tables"]), (&"INFO".into(), &1.into()));
    for node in pair.nodes() {
        assert!(!log.contains(node.cluster.password()), "{log}");
    }
}

#[test]
fn a_node_that_the_configuration_names_differently_is_told_from_another_database() {
    let pair = linked(Setup::shared());
    let config = std::fs::read_to_string(pair.config()).unwrap();
    std::fs::write(pair.config(), config.replace("[nodes.legacy]", "[nodes.renamed]")).unwrap();
    let outcome = pair.pgtandem(["run"]).exits(3);
    let expected = "renamed: this database is linked under the name legacy; write [nodes.legacy] into";
    assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
}

#[test]
fn it_says_what_is_missing_before_it_can_run() {
    let pair = Pair::with(Setup::shared().table("products", PRODUCTS));
    let outcome = pair.pgtandem(["run"]).exits(3);
    assert!(outcome.stderr.contains("pgtandem is not installed here; run `pgtandem up`"), "{}", outcome.stderr);
    let outcome = pair.pgtandem(["run", "--log-level", "loud"]).exits(2);
    assert!(outcome.stderr.contains("a level is error, warn, info, debug, trace or off"), "{}", outcome.stderr);
}

#[test]
fn a_link_that_another_version_made_is_refused_with_the_remedy() {
    let pair = linked(Setup::default());
    let renumber =
        |by: i32| pair["legacy"].sql(&format!("UPDATE pgtandem.node SET schema_version = schema_version + {by}"));
    for (by, who, remedy) in
        [(-1, "an older", "run `pgtandem down`, then `pgtandem up`"), (1, "a newer", "use that version")]
    {
        renumber(by);
        for command in [&["run"][..], &["check"], &["up", "--yes"], &["status"]] {
            let outcome = pair.pgtandem(command.iter().copied());
            let said = format!("{}{}", outcome.stdout, outcome.stderr);
            assert_ne!(outcome.code, 0, "{command:?}: {said}");
            assert!(said.contains(&format!("{who} pgtandem has linked this node")), "{command:?}: {said}");
            assert!(said.contains(remedy), "{command:?}: {said}");
        }
        renumber(-by);
    }
    // What the older one made does not have the columns of today.
    pair["legacy"].sql("UPDATE pgtandem.node SET schema_version = 1; ALTER TABLE pgtandem.held DROP COLUMN since");
    pair.pgtandem(["run"]).exits(3);
    pair.pgtandem(["down", "--yes"]).exits(0);
    pair.pgtandem(["up", "--yes"]).exits(0);
}
