//! One PostgreSQL server of our own, from initdb to removal.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::account::Account;
use super::error::{ClusterError, Result, SqlError};
use super::home::Home;
use super::options::ClusterOptions;
use super::pg_bin::PgBin;
use super::port::Port;
use super::processes::{freeze, runs, signal, thaw, wait_for};
use super::session::Session;
use super::template::initdb;

/// Crash recovery on a slow disk takes its time; a server that starts at all is there in one.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// How to stop a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Sessions are ended, everything is written (SIGINT).
    Fast,
    /// As in a power cut, but tidy: recovery follows at the next start (SIGQUIT).
    Immediate,
}

/// A server in a temporary directory of its own. Dropping it stops the server and removes the
/// directory; if this process is killed, a watchdog does both.
///
/// All methods block; all may be called from several threads.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    bin: PgBin,
    superuser: String,
    password: String,
    account: Account,
    port: Port,
    /// None: it is down. Dropped before `home`, which removes the directory.
    postmaster: Mutex<Option<Child>>,
    home: Home,
}

impl Cluster {
    /// Makes and starts a server; it accepts connections when this returns.
    pub fn start(options: ClusterOptions) -> Result<Cluster> {
        let account = Account::for_servers()?;
        let home = Home::create(&account)?;
        let password = match &options.template {
            Some(template) => template.copy_to(&home)?,
            None => initdb(&options, &account, &home)?,
        };
        let mut cluster = Cluster {
            name: options.name.clone(),
            bin: options.bin.clone(),
            superuser: options.superuser.clone(),
            password,
            account,
            port: Port::reserve(),
            postmaster: Mutex::new(None),
            home,
        };
        let conf_of_initdb = cluster.read("data/postgresql.conf")?;
        cluster.set_hba(&options.hba)?;
        // Another program may take the port between our look and the server's bind.
        let mut tries = 0;
        loop {
            let ours = options.conf(cluster.home.path(), cluster.port.number());
            let conf = format!("{conf_of_initdb}{ours}");
            cluster.write_file("postgresql.conf", &conf)?;
            tries += 1;
            let launched = cluster.launch(&mut cluster.lock());
            match launched {
                Err(ClusterError::Start { log, .. }) if tries < 10 && port_taken(&log) => {}
                started => {
                    started?;
                    return Ok(cluster);
                }
            }
            cluster.port = Port::reserve();
        }
    }

    /// Starts several servers side by side.
    pub fn start_all(options: impl IntoIterator<Item = ClusterOptions>) -> Result<Vec<Cluster>> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = options.into_iter().map(|options| scope.spawn(|| Cluster::start(options))).collect();
            threads.into_iter().map(|thread| thread.join().expect("starting a server does not panic")).collect()
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn bin(&self) -> &PgBin {
        &self.bin
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn superuser(&self) -> &str {
        &self.superuser
    }

    /// The superuser's, needed over TCP.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The directory of the socket, the data directory (`data`) and the log (`log`).
    pub fn dir(&self) -> &Path {
        self.home.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Over TCP, as superuser, with password.
    pub fn url(&self, database: &str) -> String {
        self.url_as(&self.superuser, &self.password, database)
    }

    /// Over TCP, as somebody else.
    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        format!("postgres://{}:{}@127.0.0.1:{}/{}", percent(user), percent(password), self.port(), percent(database))
    }

    /// Through the socket, without password.
    pub fn socket_url(&self, database: &str) -> String {
        format!(
            "postgres://{}@/{}?host={}&port={}",
            percent(&self.superuser),
            percent(database),
            percent(&self.dir().to_string_lossy()),
            self.port()
        )
    }

    /// A session as superuser, through the socket.
    pub fn session(&self, database: &str) -> Result<Session> {
        self.session_as(&self.superuser, database)
    }

    pub fn session_as(&self, user: &str, database: &str) -> Result<Session> {
        let session = Session::connect(&self.name, self.dir(), self.port(), user, database)?;
        Ok(session)
    }

    /// What `psql -At -c` would print, without needing psql.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String, SqlError> {
        Session::connect(&self.name, self.dir(), self.port(), &self.superuser, database)?.run(sql)
    }

    pub fn create_database(&self, database: &str) -> Result<()> {
        let quoted = database.replace('"', "\"\"");
        self.psql("postgres", &format!("CREATE DATABASE \"{quoted}\""))?;
        Ok(())
    }

    /// Writes a file into the data directory, owned by the server's user and readable by nobody
    /// else (as PostgreSQL wants a TLS key to be); returns its path.
    pub fn write_file(&self, name: &str, text: &str) -> Result<PathBuf> {
        self.home.write(&format!("data/{name}"), text)
    }

    /// Replaces the lines of pg_hba.conf that come before ours. `reload` makes them count.
    pub fn set_hba(&self, lines: &[String]) -> Result<()> {
        self.write_file("pg_hba.conf", &ClusterOptions::hba_file(lines))?;
        Ok(())
    }

    /// Has the server read its configuration files again (it does so in a moment, not at once).
    pub fn reload(&self) -> Result<()> {
        let mut state = self.lock();
        let pid = self.running_pid(&mut state)?;
        signal(pid, Signal::SIGHUP).map_err(|e| self.signal_error(e))
    }

    pub fn is_running(&self) -> bool {
        let mut state = self.lock();
        state.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub fn stop(&self, how: Stop) -> Result<()> {
        let mut state = self.lock();
        let pid = self.running_pid(&mut state)?;
        self.end(&mut state, pid, how, STOP_LIMIT)
    }

    /// SIGKILL to the postmaster and all its children, as the kernel does when memory runs out.
    pub fn kill9(&self) -> Result<()> {
        let mut state = self.lock();
        let pid = self.running_pid(&mut state)?;
        // Frozen first: otherwise a child could be born, or end properly, in between.
        let children = freeze(pid).map_err(|e| self.signal_error(e))?;
        for process in std::iter::once(pid).chain(children.iter().copied()) {
            signal(process, Signal::SIGKILL).map_err(|e| self.signal_error(e))?;
        }
        let gone = wait_for(STOP_LIMIT, || {
            let ended = match state.as_mut() {
                Some(child) => !matches!(child.try_wait(), Ok(None)),
                None => true,
            };
            ended && !children.iter().any(|child| runs(*child))
        });
        if !gone {
            return Err(self.stop_error(STOP_LIMIT));
        }
        *state = None;
        Ok(())
    }

    /// Starts a server that is down, with its data, on its port.
    pub fn start_again(&self) -> Result<()> {
        let mut state = self.lock();
        if self.running_pid(&mut state).is_ok() {
            return Err(self.state_error("runs already"));
        }
        let mut result = Ok(());
        // Its port is known to others and must stay; whoever took it may give it back.
        wait_for(Duration::from_secs(10), || {
            result = self.launch(&mut state);
            !matches!(&result, Err(ClusterError::Start { log, .. }) if port_taken(log))
        });
        result
    }

    pub fn restart(&self) -> Result<()> {
        self.stop(Stop::Fast)?;
        self.start_again()
    }

    /// SIGSTOP to all processes: connections stay open, nobody answers.
    pub fn freeze(&self) -> Result<()> {
        let mut state = self.lock();
        let pid = self.running_pid(&mut state)?;
        freeze(pid).map_err(|e| self.signal_error(e))?;
        Ok(())
    }

    pub fn thaw(&self) -> Result<()> {
        let mut state = self.lock();
        let pid = self.running_pid(&mut state)?;
        thaw(pid).map_err(|e| self.signal_error(e))
    }

    /// Everything the server logged so far.
    pub fn log(&self) -> String {
        match fs::read(self.home.path().join("log")) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) => format!("(no log: {e})"),
        }
    }

    /// From now on server and directory outlive this process. Returns the directory.
    pub fn keep(mut self) -> Result<PathBuf> {
        self.home.keep()?;
        *self.lock() = None;
        Ok(self.dir().to_owned())
    }

    /// Starts the postmaster and waits until it takes connections.
    fn launch(&self, state: &mut Option<Child>) -> Result<()> {
        let log_path = self.home.path().join("log");
        let log = self.open_log(&log_path)?;
        let log_start = log.metadata().map_or(0, |m| m.len()) as usize;
        let log_too = log.try_clone().map_err(|e| ClusterError::io("open", &log_path, e))?;
        let mut command = self.account.command(self.bin.program("postgres"), self.dir());
        command.arg("-D").arg(self.data_dir()).stdin(Stdio::null()).stdout(log).stderr(log_too);
        let child = command.spawn().map_err(|e| ClusterError::spawn(&self.name, &self.account, &command, e))?;
        let pid = child.id();
        let child = state.insert(child);
        let mut ended = None;
        let answered = wait_for(START_LIMIT, || {
            ended = child.try_wait().ok().flatten();
            ended.is_some() || self.says_ready(pid)
        });
        if answered && ended.is_none() {
            return Ok(());
        }
        let why = match ended {
            Some(status) => {
                *state = None;
                format!("it ended with {status}")
            }
            None => {
                let pid = Pid::from_raw(pid as i32);
                let _ = self.end(state, pid, Stop::Immediate, STOP_LIMIT);
                format!("it was not ready within {} s", START_LIMIT.as_secs())
            }
        };
        let log = self.log();
        Err(ClusterError::Start { name: self.name.clone(), why, log: log.get(log_start..).unwrap_or(&log).to_owned() })
    }

    /// The eighth line of postmaster.pid, which pg_ctl waits for, too. Needs no client.
    fn says_ready(&self, pid: u32) -> bool {
        let Ok(text) = fs::read_to_string(self.data_dir().join("postmaster.pid")) else {
            return false;
        };
        let mut lines = text.lines();
        let theirs = lines.next().and_then(|line| line.trim().parse().ok());
        // A file left by kill -9 names another process.
        theirs == Some(pid) && lines.nth(6).is_some_and(|line| line.trim() == "ready")
    }

    fn open_log(&self, path: &Path) -> Result<File> {
        if !path.exists() {
            self.home.write("log", "")?;
        }
        OpenOptions::new().append(true).open(path).map_err(|e| ClusterError::io("open", path, e))
    }

    fn end(&self, state: &mut Option<Child>, pid: Pid, how: Stop, limit: Duration) -> Result<()> {
        let number = match how {
            Stop::Fast => Signal::SIGINT,
            Stop::Immediate => Signal::SIGQUIT,
        };
        signal(pid, number).and_then(|()| thaw(pid)).map_err(|e| self.signal_error(e))?;
        let Some(child) = state.as_mut() else {
            return Ok(());
        };
        if !wait_for(limit, || !matches!(child.try_wait(), Ok(None))) {
            return Err(self.stop_error(limit));
        }
        *state = None;
        Ok(())
    }

    /// A server that was killed leaves a System V segment of 56 bytes, which its next start would
    /// remove; there is none, and the system allows only so many. The seventh line of
    /// postmaster.pid has its key and id.
    fn free_shared_memory(&self) {
        let left = self.read("data/postmaster.pid").unwrap_or_default();
        let id = left.lines().nth(6).and_then(|line| line.split_whitespace().nth(1));
        if let Some(id) = id {
            let mut remove = self.account.command("ipcrm", self.dir());
            // Without the tool it stays.
            let _ = remove.args(["-m", id]).stderr(Stdio::null()).status();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        // A test that panicked with the lock held must still be able to stop the server.
        self.postmaster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running_pid(&self, state: &mut Option<Child>) -> Result<Pid> {
        if let Some(child) = state
            && matches!(child.try_wait(), Ok(None))
        {
            return Ok(Pid::from_raw(child.id() as i32));
        }
        // The number of one that ended by itself may be another process's by now.
        *state = None;
        Err(self.state_error("does not run"))
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.home.path().join(name);
        fs::read_to_string(&path).map_err(|e| ClusterError::io("read", &path, e))
    }

    fn state_error(&self, state: &'static str) -> ClusterError {
        ClusterError::State { name: self.name.clone(), state }
    }

    fn signal_error(&self, source: nix::Error) -> ClusterError {
        ClusterError::Signal { name: self.name.clone(), source }
    }

    fn stop_error(&self, limit: Duration) -> ClusterError {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        ClusterError::Stop {
            name: self.name.clone(),
            seconds: limit.as_secs(),
            log: lines[lines.len().saturating_sub(20)..].join("\n"),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut state = self.lock();
        let Ok(pid) = self.running_pid(&mut state) else {
            return self.free_shared_memory();
        };
        // Nobody needs the data: no checkpoint. If it does not obey, kill it.
        let stopped = self.end(&mut state, pid, Stop::Immediate, Duration::from_secs(10));
        drop(state);
        if stopped.is_err() {
            if let Err(e) = self.kill9() {
                tracing::warn!("{e}");
            }
            self.free_shared_memory();
        }
    }
}

fn port_taken(log: &str) -> bool {
    log.contains("Address already in use") || log.contains("could not bind")
}

/// Everything but letters, digits and `-._~` as %XX.
fn percent(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte as char),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
