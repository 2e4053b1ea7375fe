//! pgtandem, both ways: the real binary on a config file of its own.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgtandem::cluster::Cluster;

use crate::native::drop_slots;
use crate::pair::{Capture, Pair};

pub struct Tandem {
    database: &'static str,
    config: PathBuf,
    log: PathBuf,
    hub: Option<Hub>,
}

/// `pgtandem run`, and what ends it should this program be killed: its servers would be gone, and it would try to
/// reach them for ever.
struct Hub {
    process: Child,
    watchdog: Child,
}

/// Its standard input ends with this program, however that ends, and says `leave` if there is nothing to do.
const WATCHDOG: &str = r#"trap '' HUP INT TERM; read -r word; [ "$word" = leave ] || kill -KILL "$1""#;

impl Tandem {
    pub fn link(pair: &Pair, database: &'static str, tables: &[&str]) -> Tandem {
        Tandem::up(pair, database, &config(pair, database, tables))
    }

    /// In direct mode: the application's COMMIT carries its changes over.
    pub fn link_directly(pair: &Pair, database: &'static str, tables: &[&str]) -> Tandem {
        Tandem::up(pair, database, &format!("mode = \"direct\"\n{}", nodes_and_tables(pair, "", database, tables)))
    }

    fn up(pair: &Pair, database: &'static str, config: &str) -> Tandem {
        let config = pair.write_file("pgtandem.toml", config);
        let tandem = Tandem { database, config, log: pair.path("pgtandem.log"), hub: None };
        tandem.run_to_end(&["up", "--yes"]);
        tandem
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("-c").arg(&self.config).args(args).stdin(Stdio::null());
        command
    }

    /// Runs a subcommand that must succeed.
    fn run_to_end(&self, args: &[&str]) {
        let mut command = self.command(args);
        let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Delivers what waits, and ends.
    pub fn run_once(&self) {
        self.run_to_end(&["run", "--once"]);
    }

    pub fn start(&mut self) {
        let log = File::create(&self.log).expect("the log can be written");
        let mut command = self.command(&["run"]);
        command.stdout(log.try_clone().expect("a file")).stderr(log);
        let process = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut watch = Command::new("/bin/sh");
        watch.args(["-c", WATCHDOG, "bench-watchdog", &process.id().to_string()]).stdin(Stdio::piped());
        let watchdog = watch.spawn().unwrap_or_else(|e| panic!("{watch:?}: {e}"));
        self.hub = Some(Hub { process, watchdog });
    }

    pub fn pid(&self) -> Option<u32> {
        self.hub.as_ref().map(|hub| hub.process.id())
    }

    pub fn check_alive(&mut self) {
        if let Some(hub) = &mut self.hub
            && let Ok(Some(status)) = hub.process.try_wait()
        {
            panic!("pgtandem ended with {status}:\n{}", self.said());
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn unlink(mut self, pair: &Pair) {
        self.stop();
        if std::env::var_os("BENCH_LOG").is_some() {
            eprintln!("{}", self.said());
        }
        drop_slots(pair, self.database);
    }

    fn stop(&mut self) {
        if let Some(Hub { mut process, mut watchdog }) = self.hub.take() {
            // It may have ended by itself; its log says why.
            let _ = kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGINT);
            let _ = process.wait();
            if let Some(mut pipe) = watchdog.stdin.take() {
                let _ = pipe.write_all(b"leave\n");
            }
            let _ = watchdog.wait();
        }
    }
}

impl Drop for Tandem {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn config(pair: &Pair, database: &str, tables: &[&str]) -> String {
    let capture = match pair.capture {
        Capture::Wal => "",
        Capture::Trigger => "capture = \"trigger\"\n",
    };
    nodes_and_tables(pair, capture, database, tables)
}

fn nodes_and_tables(pair: &Pair, capture: &str, database: &str, tables: &[&str]) -> String {
    let node = |cluster: &&Cluster| {
        format!("[nodes.{}]\nurl = \"{}\"\n{capture}", cluster.name(), pair.url(cluster, database))
    };
    let table = |table: &&str| format!("[[tables]]\nname = \"{table}\"\n");
    pair.clusters().iter().map(node).chain(tables.iter().map(table)).collect()
}

/// Stands beside this program.
pub fn binary() -> PathBuf {
    let path = std::env::current_exe().expect("this program has a path").with_file_name("pgtandem");
    assert!(path.exists(), "{} is missing: cargo build --release", path.display());
    path
}
