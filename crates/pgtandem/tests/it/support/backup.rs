//! A server's data directory is saved, and put in its place again.

use std::path::Path;
use std::process::Command;

use pgtandem::cluster::Stop;
use tempfile::TempDir;

use super::fleet::Node;

/// As it is now: the server is stopped for that.
pub fn back_up(node: &Node) -> TempDir {
    let backup = tempfile::tempdir().unwrap();
    node.cluster.stop(Stop::Fast).unwrap();
    copy(&node.cluster.data_dir(), &backup.path().join("data"));
    node.cluster.start_again().unwrap();
    backup
}

pub fn restore(node: &Node, backup: &TempDir) {
    node.cluster.stop(Stop::Fast).unwrap();
    std::fs::remove_dir_all(node.cluster.data_dir()).unwrap();
    copy(&backup.path().join("data"), &node.cluster.data_dir());
    node.cluster.start_again().unwrap();
}

/// As root the servers run as somebody else, who owns their files.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", "--"]).args([from, to]).status().unwrap();
    assert!(copied.success());
}
