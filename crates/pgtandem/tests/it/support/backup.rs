//! A node is set back: its data directory is kept, and put back later.

use std::path::Path;
use std::process::Command;

use pgtandem::cluster::Stop;

use super::Node;

/// As root the servers run as somebody else, who owns their files.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", "--"]).args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// Its data directory, as it is now: the server is stopped for that.
pub fn back_up(node: &Node) -> tempfile::TempDir {
    let backup = tempfile::tempdir().unwrap();
    node.cluster.stop(Stop::Fast).unwrap();
    copy(&node.cluster.data_dir(), &backup.path().join("data"));
    node.cluster.start_again().unwrap();
    backup
}

/// Puts it back in its place.
pub fn restore(node: &Node, backup: &tempfile::TempDir) {
    node.cluster.stop(Stop::Fast).unwrap();
    std::fs::remove_dir_all(node.cluster.data_dir()).unwrap();
    copy(&backup.path().join("data"), &node.cluster.data_dir());
    node.cluster.start_again().unwrap();
}
