//! pgtandem, both ways: the real binary on a config file of its own.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::native::drop_slots;
use crate::pair::Pair;

pub struct Tandem {
    database: &'static str,
    dir: TempDir,
    hub: Option<Child>,
}

impl Tandem {
    pub fn link(pair: &Pair, database: &'static str, tables: &[&str]) -> Tandem {
        let tandem = Tandem::configure(pair, database, tables);
        tandem.run_to_end(&["up", "--yes"]);
        tandem
    }

    /// Writes the config file; touches no database.
    pub fn configure(pair: &Pair, database: &'static str, tables: &[&str]) -> Tandem {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut config = String::new();
        for cluster in pair.clusters() {
            config += &format!("[nodes.{}]\nurl = \"{}\"\n", cluster.name(), pair.url(cluster, database));
        }
        for table in tables {
            config += &format!("[[tables]]\nname = \"{table}\"\n");
        }
        fs::write(dir.path().join("pgtandem.toml"), config).expect("the config file can be written");
        Tandem { database, dir, hub: None }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("-c").arg(self.dir.path().join("pgtandem.toml")).args(args).stdin(Stdio::null());
        command
    }

    /// Runs a subcommand that must succeed.
    pub fn run_to_end(&self, args: &[&str]) {
        let mut command = self.command(args);
        let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub fn start(&mut self) {
        let log = File::create(self.log()).expect("the log can be written");
        let mut command = self.command(&["run"]);
        command.stdout(log.try_clone().expect("a file")).stderr(log);
        self.hub = Some(command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")));
    }

    pub fn pid(&self) -> Option<u32> {
        self.hub.as_ref().map(Child::id)
    }

    pub fn check_alive(&mut self) {
        if let Some(hub) = &mut self.hub
            && let Ok(Some(status)) = hub.try_wait()
        {
            panic!("pgtandem ended with {status}:\n{}", fs::read_to_string(self.log()).unwrap_or_default());
        }
    }

    pub fn unlink(mut self, pair: &Pair) {
        self.stop();
        if std::env::var_os("BENCH_LOG").is_some() {
            eprintln!("{}", fs::read_to_string(self.log()).unwrap_or_default());
        }
        drop_slots(pair, self.database);
    }

    fn stop(&mut self) {
        if let Some(mut hub) = self.hub.take() {
            // It may have ended by itself; its log says why.
            let _ = kill(Pid::from_raw(hub.id().cast_signed()), Signal::SIGINT);
            let _ = hub.wait();
        }
    }
}

impl Drop for Tandem {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Stands beside this program.
pub fn binary() -> PathBuf {
    let path = std::env::current_exe().expect("this program has a path").with_file_name("pgtandem");
    assert!(path.exists(), "{} is missing: cargo build --release", path.display());
    path
}
