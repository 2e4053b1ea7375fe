//! No node can be reached.

use super::{NOWHERE, config, pgtandem};

#[test]
fn status_says_why_and_what_to_do() {
    let (code, stdout, stderr) = pgtandem(&config(NOWHERE), &["status"]);
    assert_eq!(code, 3);
    insta::assert_snapshot!(stdout, @r"
    hub  unknown: no node could be asked

    node    server  read from  delivered to  owed  lag  behind  WAL kept
    new     away: nothing accepts connections at 127.0.0.1:1
            → check that the server runs, that its listen_addresses and port fit
            the connection string, and the firewall
    legacy  away: nothing accepts connections at 127.0.0.1:1
            → check that the server runs, that its listen_addresses and port fit
            the connection string, and the firewall

    needs attention: new is away; legacy is away
    ");
    insta::assert_snapshot!(stderr, @"error: no node could be reached");
}

#[test]
fn status_as_json_has_all_fields_all_the_same() {
    let (code, stdout, _) = pgtandem(&config(NOWHERE), &["status", "--json"]);
    assert_eq!(code, 3);
    let status: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(status["hub"]["state"], "unknown");
    assert_eq!(status["attention"], serde_json::json!(["new is away", "legacy is away"]));
    let fields: Vec<&String> = status["nodes"][0].as_object().unwrap().keys().collect();
    let expected = [
        "name",
        "state",
        "reason",
        "remedy",
        "server_version",
        "standby",
        "capture",
        "outbox_changes",
        "outbox_bytes",
        "direct",
        "behind_bytes",
        "retained_bytes",
        "left_behind_since",
        "dirty_keys",
        "read",
        "delivered",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn conflicts_and_pause_fail_and_name_the_nodes() {
    let dir = config(NOWHERE);
    let (code, stdout, stderr) = pgtandem(&dir, &["conflicts"]);
    assert_eq!((code, stdout.as_str()), (3, ""));
    insta::assert_snapshot!(stderr, @r"
    warning: new is away: nothing accepts connections at 127.0.0.1:1
    warning: legacy is away: nothing accepts connections at 127.0.0.1:1
    error: no node could be reached
    ");
    let (code, stdout, stderr) = pgtandem(&dir, &["pause", "products"]);
    assert_eq!((code, stdout.as_str()), (3, ""));
    insta::assert_snapshot!(stderr, @r"
    error: no node could be told; repeat the command when it is back
    new: nothing accepts connections at 127.0.0.1:1
    legacy: nothing accepts connections at 127.0.0.1:1
    ");
}

#[test]
fn diff_names_every_node_it_cannot_reach() {
    let (code, stdout, stderr) = pgtandem(&config(NOWHERE), &["diff", "--csv"]);
    assert_eq!((code, stdout.as_str()), (3, ""));
    insta::assert_snapshot!(stderr, @r"
    error: 2 nodes cannot be reached
      node new: cannot connect to new_app on 127.0.0.1:1 as app: nothing accepts connections at 127.0.0.1:1
        try: check that the server runs, that its listen_addresses and port fit the connection string, and the firewall
      node legacy: cannot connect to legacy_app on 127.0.0.1:1 as app: nothing accepts connections at 127.0.0.1:1
        try: check that the server runs, that its listen_addresses and port fit the connection string, and the firewall
    ");
}

#[test]
fn init_names_every_node_it_cannot_reach() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = ["new=postgres://app@127.0.0.1:1/new_app", "legacy=postgres://app@127.0.0.1:2/legacy_app"];
    let (code, stdout, stderr) = pgtandem(&dir, &["init", nodes[0], nodes[1]]);
    assert_eq!((code, stdout.as_str()), (3, ""));
    insta::assert_snapshot!(stderr, @r"
    error: 2 nodes cannot be reached
      node new: cannot connect to new_app on 127.0.0.1:1 as app: nothing accepts connections at 127.0.0.1:1
        try: check that the server runs, that its listen_addresses and port fit the connection string, and the firewall
      node legacy: cannot connect to legacy_app on 127.0.0.1:2 as app: nothing accepts connections at 127.0.0.1:2
        try: check that the server runs, that its listen_addresses and port fit the connection string, and the firewall
    ");
    assert!(!dir.path().join("pgtandem.toml").exists());
}
