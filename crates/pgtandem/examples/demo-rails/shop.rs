//! The two Rails applications on servers of their own, linked, with a hub.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgtandem::cluster::{Cluster, ClusterOptions};
use tempfile::TempDir;

use super::browser::Browser;
use super::wait::{PATIENCE, wait_until};

pub const NEW: usize = 0;
pub const LEGACY: usize = 1;
const NODES: [&str; 2] = ["new", "legacy"];
/// What `scripts/setup rails` installs.
const NEEDED: &str = "require 'rails'; require 'active_record/railtie'; require 'action_controller/railtie'; \
                      require 'action_view/railtie'; require 'pg'; require 'puma'; print Rails.version";

const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Dropped, it leaves nothing behind.
pub struct Shop {
    // In the order in which they must end.
    hub: Option<Process>,
    apps: Vec<Process>,
    clusters: Vec<Cluster>,
    pgtandem: PathBuf,
    dir: TempDir,
}

/// A program of ours that goes on until it is ended.
pub struct Process {
    child: Mutex<Child>,
    log: PathBuf,
}

/// What a program did.
pub struct Done {
    pub code: i32,
    /// Standard output and error.
    pub said: String,
    command: String,
}

/// The version of Rails that is there.
///
/// # Errors
/// What to install where there is none.
pub fn rails_version() -> Result<String, String> {
    let ruby = Command::new("ruby").args(["-e", NEEDED]).stderr(Stdio::null()).output();
    match ruby {
        Ok(ruby) if ruby.status.success() => Ok(String::from_utf8_lossy(&ruby.stdout).into_owned()),
        _ => Err("Ruby with Rails, pg and puma is missing: run scripts/setup rails".to_owned()),
    }
}

// The demo needs less of it than the test.
#[allow(dead_code)]
impl Shop {
    /// Starts the servers and makes the applications' databases, with what the legacy one has sold for years. The
    /// legacy server cannot decode its WAL: it is read by triggers.
    ///
    /// # Errors
    /// What failed.
    pub fn open(pgtandem: PathBuf) -> Result<Self, String> {
        rails_version()?;
        let options = |name: &str| Ok(ClusterOptions::new(name)?.without_fsync());
        let new = options("new").map_err(|error: pgtandem::cluster::ClusterError| error.to_string())?;
        let legacy = options("legacy").map_err(|error: pgtandem::cluster::ClusterError| error.to_string())?;
        let clusters = Cluster::start_all([new, legacy.setting("wal_level", "replica")]).map_err(|e| e.to_string())?;
        let dir = tempfile::Builder::new().prefix("pgtandem-rails-").tempdir().map_err(|e| e.to_string())?;
        let shop = Self { hub: None, apps: Vec::new(), clusters, pgtandem, dir };
        for app in [NEW, LEGACY] {
            copy(&examples().join(format!("{}_app", NODES[app])), &shop.root(app)).map_err(|e| e.to_string())?;
        }
        shop.both(|app| shop.rake(app, &["db:create", "db:migrate", "db:seed"])?.ok().map(drop))?;
        Ok(shop)
    }

    /// `pgtandem init --rails`, the tasks it writes, a hub, and both applications on the web.
    ///
    /// # Errors
    /// What failed.
    pub fn link(&mut self) -> Result<(), String> {
        let apps: Vec<PathBuf> = [NEW, LEGACY].map(|app| self.root(app)).into();
        let init = ["init".as_ref(), "--force".as_ref(), "--rails".as_ref(), apps[0].as_os_str()];
        let mut command = self.command(&self.pgtandem, self.dir.path());
        run(command.args(init).arg("--rails").arg(&apps[1]))?.ok()?;
        self.rake(NEW, &["db_connection:create"])?.ok()?;
        self.hub = Some(self.start_hub()?);
        let tables =
            ["db_connection:legacy_products:create_foreign_table", "db_connection:new_products:create_foreign_table"];
        self.both(|app| self.rake(app, &[tables[app]])?.ok().map(drop))?;
        self.apps = [NEW, LEGACY].into_iter().map(|app| self.serve(app)).collect::<Result<_, _>>()?;
        for app in [NEW, LEGACY] {
            let process = &self.apps[app];
            wait_until(&format!("{} listens", NODES[app]), PATIENCE, || {
                process.log().contains("Listening on") || !process.is_running()
            });
            self.url(app)?;
        }
        Ok(())
    }

    fn start_hub(&self) -> Result<Process, String> {
        let mut command = self.unorphaned(&self.pgtandem, self.dir.path());
        let hub = Process::start(command.arg("run"), self.dir.path().join("hub.log"))?;
        wait_until("the hub works", PATIENCE, || hub.log().contains("working") || !hub.is_running());
        if hub.is_running() { Ok(hub) } else { Err(format!("the hub has ended:\n{}", hub.log())) }
    }

    fn serve(&self, app: usize) -> Result<Process, String> {
        let mut command = self.unorphaned(Path::new("puma"), &self.root(app));
        Process::start(command.env("PORT", "0"), self.dir.path().join(format!("{}.log", NODES[app])))
    }

    /// Where an application's pages are.
    ///
    /// # Errors
    /// When it did not start.
    pub fn url(&self, app: usize) -> Result<String, String> {
        let log = self.apps[app].log();
        let url = log.split_once("Listening on ").and_then(|(_, rest)| rest.split_whitespace().next());
        url.map(str::to_owned).ok_or_else(|| format!("{} does not listen:\n{log}", NODES[app]))
    }

    pub fn browser(&self, app: usize) -> Result<Browser, String> {
        Ok(Browser::new(&self.url(app)?))
    }

    /// The copy of the application that runs.
    pub fn root(&self, app: usize) -> PathBuf {
        self.dir.path().join(format!("{}_app", NODES[app]))
    }

    /// # Errors
    /// When there is no such program.
    pub fn rake(&self, app: usize, tasks: &[&str]) -> Result<Done, String> {
        self.rake_with(app, tasks, &[])
    }

    pub fn rake_with(&self, app: usize, tasks: &[&str], variables: &[(&str, &str)]) -> Result<Done, String> {
        run(self.command(Path::new("rake"), &self.root(app)).args(tasks).envs(variables.iter().copied()))
    }

    /// Runs Ruby inside an application.
    pub fn runner(&self, app: usize, script: &Path, argument: &str) -> Result<Done, String> {
        run(self.command(Path::new("bin/rails"), &self.root(app)).arg("runner").arg(script).arg(argument))
    }

    pub fn sql(&self, app: usize, sql: &str) -> Result<String, String> {
        self.sql_in(app, &format!("{}_app", NODES[app]), sql)
    }

    pub fn sql_in(&self, app: usize, database: &str, sql: &str) -> Result<String, String> {
        self.clusters[app].psql(database, sql).map_err(|error| error.to_string())
    }

    pub fn stop_hub(&mut self) {
        self.hub = None;
    }

    /// Does something in both applications at once.
    ///
    /// # Errors
    /// The first of the two.
    pub fn both(&self, work: impl Fn(usize) -> Result<(), String> + Sync) -> Result<(), String> {
        std::thread::scope(|scope| {
            let legacy = scope.spawn(|| work(LEGACY));
            work(NEW).and(legacy.join().unwrap_or_else(|_| Err("a thread panicked".to_owned())))
        })
    }

    fn command(&self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        self.surround(&mut command, directory);
        command
    }

    /// Killed by the kernel when we die, where there is a tool to arrange that (Linux).
    fn unorphaned(&self, program: &Path, directory: &Path) -> Command {
        let arranger = Path::new("/usr/bin/setpriv");
        if !arranger.exists() {
            return self.command(program, directory);
        }
        let mut command = self.command(arranger, directory);
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    }

    fn surround(&self, command: &mut Command, directory: &Path) {
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if ["PG", "BUNDLE", "DATABASE_", "RAILS_", "RUBYOPT"].iter().any(|begin| name.starts_with(begin)) {
                command.env_remove(&*name);
            }
        }
        for (cluster, node) in self.clusters.iter().zip(NODES) {
            let port = cluster.port().to_string();
            let database = format!("{node}_app");
            let (user, password) = (cluster.superuser(), cluster.password());
            let values =
                [("HOST", "127.0.0.1"), ("PORT", &port), ("NAME", &database), ("USER", user), ("PASSWORD", password)];
            for (end, value) in values {
                command.env(format!("{}_DATABASE_{end}", node.to_uppercase()), value);
            }
        }
        // pg_dump and psql, for Rails, of the servers' version.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let bin = self.clusters[0].bin().dir().to_owned();
        let path = std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path)));
        command.env("PATH", path.unwrap_or_default());
        command.env("PGTANDEM", &self.pgtandem).env("RAILS_ENV", "development").env("NO_COLOR", "1");
        // Ctrl-C reaches us alone, and we decide in which order things end.
        command.current_dir(directory).stdin(Stdio::null()).process_group(0);
    }

    /// What to know about a failure.
    pub fn logs(&self) -> String {
        let mut files = vec![self.dir.path().join("hub.log")];
        for app in [NEW, LEGACY] {
            files.extend([
                self.dir.path().join(format!("{}.log", NODES[app])),
                self.root(app).join("log/development.log"),
            ]);
        }
        let mut text = String::new();
        for file in files {
            let log = fs::read_to_string(&file).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            text.push_str(&format!("---- {}\n{}\n", file.display(), tail.join("\n")));
        }
        text
    }
}

impl Process {
    fn start(command: &mut Command, log: PathBuf) -> Result<Self, String> {
        let file = File::create(&log).map_err(|e| e.to_string())?;
        command.stdout(file.try_clone().map_err(|e| e.to_string())?).stderr(file);
        let child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        Ok(Self { child: Mutex::new(child), log })
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn is_running(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
            let pid = Pid::from_raw(child.id().try_into().unwrap_or(i32::MAX));
            let _ = kill(pid, Signal::SIGTERM);
        }
        let began = Instant::now();
        while self.is_running() && began.elapsed() < STOP_LIMIT {
            std::thread::sleep(Duration::from_millis(20));
        }
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Done {
    /// Exit code 0; what was said.
    ///
    /// # Errors
    /// Otherwise.
    pub fn ok(self) -> Result<String, String> {
        match self.code {
            0 => Ok(self.said),
            code => Err(format!("{}\nexited with {code}:\n{}", self.command, self.said)),
        }
    }
}

fn run(command: &mut Command) -> Result<Done, String> {
    let output = command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let args: Vec<String> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let command = format!("{} {}", command.get_program().to_string_lossy(), args.join(" "));
    Ok(Done { code: output.status.code().unwrap_or(-1), said, command })
}

/// Where the applications are in the source tree.
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/rails")
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            // What running it in place leaves behind.
            if name != "log" && name != "tmp" && name != "vendor" {
                copy(&entry.path(), &target)?;
            }
        } else if name != "Gemfile.lock" {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
