//! The processes of one server: the postmaster and its children. Every child is in a session of
//! its own, so no process group reaches them all.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often a state that no event announces is looked at again.
pub(super) const POLL: Duration = Duration::from_millis(5);

/// Polls until `done`, or until the time is up; says which.
pub(super) fn wait_for(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
}

/// A process that is gone by now is not an error: it is what the caller wants, or will notice.
pub(super) fn signal(pid: Pid, signal: Signal) -> nix::Result<()> {
    match kill(pid, signal) {
        Err(Errno::ESRCH) => Ok(()),
        other => other,
    }
}

/// SIGSTOP to the postmaster and all its children. The postmaster first: then no child is added.
/// Returns the children.
pub(super) fn freeze(postmaster: Pid) -> nix::Result<Vec<Pid>> {
    signal(postmaster, Signal::SIGSTOP)?;
    // The postmaster may have been in the middle of fork() when the signal was sent: look until
    // the list stays as it is.
    let mut frozen = Vec::new();
    loop {
        let children = children(postmaster);
        for child in &children {
            signal(*child, Signal::SIGSTOP)?;
        }
        if children == frozen {
            return Ok(children);
        }
        frozen = children;
    }
}

pub(super) fn thaw(postmaster: Pid) -> nix::Result<()> {
    for child in children(postmaster) {
        signal(child, Signal::SIGCONT)?;
    }
    signal(postmaster, Signal::SIGCONT)
}

/// Whether the process still runs; one that ended and waits for its parent does not.
pub(super) fn runs(pid: Pid) -> bool {
    if kill(pid, None) == Err(Errno::ESRCH) {
        return false;
    }
    match state_and_parent(pid) {
        Some((state, _)) => state != 'Z' && state != 'X',
        // Without /proc the signal's answer has to do.
        None => !fs::exists("/proc/self/stat").unwrap_or(false),
    }
}

fn children(parent: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return children_by_ps(parent);
    };
    let mut found: Vec<Pid> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .filter(|pid| state_and_parent(*pid).is_some_and(|(_, of)| of == parent))
        .collect();
    found.sort();
    found
}

/// From /proc/PID/stat: `PID (name, which may hold anything) STATE PARENT …`.
fn state_and_parent(pid: Pid) -> Option<(char, Pid)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut after_name = stat.rsplit_once(") ")?.1.split(' ');
    let state = after_name.next()?.chars().next()?;
    let parent = after_name.next()?.parse().ok()?;
    Some((state, Pid::from_raw(parent)))
}

/// Where there is no /proc (macOS).
fn children_by_ps(parent: Pid) -> Vec<Pid> {
    let Ok(output) = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output() else {
        return Vec::new();
    };
    let mut found: Vec<Pid> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(|n| n.parse().ok());
            let pid = numbers.next()??;
            let of: i32 = numbers.next()??;
            (of == parent.as_raw()).then_some(Pid::from_raw(pid))
        })
        .collect();
    found.sort();
    found
}
