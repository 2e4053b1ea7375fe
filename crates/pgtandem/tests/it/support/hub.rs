//! A running `pgtandem run`.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait::{PATIENCE, wait_until};

/// Killed when dropped. What it printed is in `log()`.
pub struct Hub {
    child: RefCell<Child>,
    log: PathBuf,
}

impl Hub {
    pub(super) fn spawn(mut command: Command, log: PathBuf) -> Hub {
        let file = File::create(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", command.get_program().to_string_lossy()));
        Hub { child: RefCell::new(child), log }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.borrow().id() as i32)
    }

    pub fn is_running(&self) -> bool {
        self.status().is_none()
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill9(self) {
        let mut child = self.child.borrow_mut();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and waits until it has ended by itself.
    pub fn terminate(&self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Until it ends by itself.
    #[track_caller]
    pub fn wait(&self) -> ExitStatus {
        wait_until("the hub ends", PATIENCE, || !self.is_running());
        self.status().unwrap()
    }

    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        let what = format!("the hub logs `{text}`");
        wait_until(&what, PATIENCE, || self.log().contains(text));
    }

    /// Resident memory at its highest, in bytes (Linux).
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<u64>().unwrap() * 1024
    }

    fn signal(&self, signal: Signal) {
        // Its number may be another process's once it has ended and was waited for.
        assert!(self.is_running(), "the hub has ended:\n{}", self.log());
        kill(self.pid(), signal).unwrap();
    }

    fn status(&self) -> Option<ExitStatus> {
        self.child.borrow_mut().try_wait().unwrap()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        let _ = child.kill();
        let _ = child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (tempfile::TempDir, Hub) {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        let hub = Hub::spawn(command, dir.path().join("log"));
        (dir, hub)
    }

    #[test]
    fn a_hub_is_terminated_killed_and_dropped() {
        const OBEDIENT: &str = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.01; done";
        let (_dir, hub) = shell(OBEDIENT);
        hub.wait_for_log("up");
        assert!(hub.is_running());
        #[cfg(target_os = "linux")]
        assert!(hub.peak_memory() > 0);
        assert_eq!(hub.terminate().code(), Some(3));
        assert_eq!(hub.log(), "up\nbye\n");

        let (_dir, hub) = shell(OBEDIENT);
        let pid = hub.pid();
        hub.kill9();
        assert!(kill(pid, None).is_err());

        let (_dir, hub) = shell(OBEDIENT);
        let pid = hub.pid();
        drop(hub);
        assert!(kill(pid, None).is_err());
    }
}
