//! A comparison that was killed goes on.

use super::pair;
use crate::support::{PATIENCE, wait_until};
use std::fs;
use std::process::Stdio;

#[test]
fn a_killed_comparison_goes_on_where_it_was() {
    let pair = pair("things", "CREATE TABLE things (k int PRIMARY KEY, v int)");
    for node in pair.nodes() {
        node.sql("INSERT INTO things SELECT i, i FROM generate_series(1, 600000) i; ANALYZE things");
    }
    pair["legacy"].sql("UPDATE things SET v = 0 WHERE k IN (10, 590000)");
    let state = pair.config().with_file_name("state.json");
    let state_text = state.display().to_string();
    let mut slowly = pair
        .command(["diff", "--resume", &state_text, "--max-load", "0.05"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("it has noted how far it is", PATIENCE, || state.exists());
    slowly.kill().unwrap();
    assert_eq!(slowly.wait().unwrap().code(), None);
    // What was found before is remembered, not looked for again.
    pair["legacy"].sql("UPDATE things SET v = k WHERE k = 10");
    let said = pair.pgtandem(["diff", "--resume", &state_text]).exits(1).stdout;
    assert!(said.contains("599,998 equal, 2 different"), "{said}");
    assert!(said.contains("k=10  different") && said.contains("k=590000  different"), "{said}");
    assert!(!state.exists(), "a finished comparison leaves no state behind");
    let said = pair.pgtandem(["diff", "--resume", &state_text]).exits(1).stdout;
    assert!(said.contains("599,999 equal, 1 different"), "{said}");
}

#[test]
fn a_state_of_another_comparison_is_refused() {
    let pair = pair("things", "CREATE TABLE things (k int PRIMARY KEY)");
    let state = pair.config().with_file_name("state.json");
    let text = state.display().to_string();
    fs::write(&state, "{}").unwrap();
    let said = pair.pgtandem(["diff", "--resume", &text]).exits(2);
    assert!(said.stderr.contains("is not what a comparison has left behind"), "{}", said.stderr);
    fs::write(&state, r#"{"nodes": ["a", "b"], "tables": ["others"], "finished": [], "under_way": null}"#).unwrap();
    let said = pair.pgtandem(["diff", "--resume", &text]).exits(2);
    assert!(said.stderr.contains("is of a comparison of others on a, b"), "{}", said.stderr);
    assert!(said.stderr.contains("try: name another file"), "{}", said.stderr);
}
