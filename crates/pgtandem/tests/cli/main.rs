//! Exact output and exit codes of the commands, where no server is needed.

mod away;
mod usage;

use std::fs;
use std::process::Output;

use assert_cmd::Command;
use tempfile::TempDir;

/// Nothing listens there.
const NOWHERE: &str = r#"[nodes.new]
url = "postgres://app@127.0.0.1:1/new_app"
[nodes.legacy]
url = "postgres://app@127.0.0.1:1/legacy_app"

[[tables]]
name = "products"
"#;

/// A directory with this text as its configuration.
fn config(text: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("pgtandem.toml"), text).unwrap();
    dir
}

/// Runs the binary there; its exit code, and what it wrote to both.
fn pgtandem(dir: &TempDir, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::cargo_bin("pgtandem").unwrap();
    let variables = std::env::vars()
        .map(|(name, _)| name)
        .filter(|name| ["PG", "RAILS_", "NEW_DATABASE", "LEGACY_DATABASE"].iter().any(|begin| name.starts_with(begin)));
    for name in variables {
        command.env_remove(name);
    }
    let Output { status, stdout, stderr } =
        command.args(args).current_dir(dir.path()).env("TZ", "UTC").output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}
