//! Commands that are killed on the way.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Kills `command` when it has announced so many steps. None: it had fewer.
pub fn killed_after(mut command: Command, steps: usize) -> Option<String> {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let last = lines.by_ref().nth(steps).and_then(Result::ok);
    if last.is_some() {
        child.kill().unwrap();
    }
    drop(lines);
    child.wait().unwrap();
    last
}
