//! A PostgreSQL server of the test's own, in a temporary directory, gone when the test ends however
//! it ends.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_postgres::NoTls;
use wire::{ConnectOptions, Host, ReplicationClient, Tls};

/// How long anything may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the server until its own input ends, which it does when the test process is gone, for
/// whatever reason: a killed test leaves no server behind.
const KEEPER: &str = r#"directory=$1; shift
"$@" </dev/null & server=$!
cat >/dev/null
kill -QUIT $server
wait $server
rm -rf "$directory""#;

pub struct Cluster {
    pub port: u16,
    directory: TempDir,
    keeper: Child,
}

/// Whom to run the server as: it refuses to run as root.
#[derive(Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

fn account() -> Option<Account> {
    if fs::metadata("/proc/self").is_ok_and(|own| own.uid() != 0) {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let find = |name: &str| {
        let entry = passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.first() == Some(&name))?;
        Some(Account { uid: entry.get(2)?.parse().ok()?, gid: entry.get(3)?.parse().ok()? })
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("a user `postgres` or `nobody` to run the server as"))
}

fn bin_directory() -> PathBuf {
    let holds_initdb = |directory: &Path| directory.join("initdb").exists();
    if let Some(given) = std::env::var_os("PGTANDEM_PG_BIN") {
        let given = PathBuf::from(given);
        assert!(holds_initdb(&given), "no initdb in PGTANDEM_PG_BIN");
        return given;
    }
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        let directory = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        if holds_initdb(&directory) {
            return directory;
        }
    }
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let major = entry.file_name().to_str()?.parse().ok()?;
            Some((major, entry.path().join("bin")))
        })
        .filter(|(_, directory)| holds_initdb(directory))
        .collect();
    found.sort();
    let newest = found.pop();
    newest.expect("no PostgreSQL found; set PGTANDEM_PG_BIN").1
}

fn command(program: impl AsRef<OsStr>, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory).stdin(Stdio::null());
    // Neither the caller's PG* variables nor its language may change what the test sees.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C");
    if let Some(account) = account() {
        command.uid(account.uid).gid(account.gid);
    }
    command
}

fn run(command: &mut Command) {
    let output = command.output().expect("program starts");
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn server_directory() -> TempDir {
    let directory = tempfile::Builder::new().prefix("wire-").tempdir().expect("directory");
    if let Some(account) = account() {
        std::os::unix::fs::chown(directory.path(), Some(account.uid), Some(account.gid))
            .expect("directory belongs to the server's user");
    }
    directory
}

/// What initdb makes, which takes longer than all else that a server needs to start.
struct Template {
    data: PathBuf,
    _keeper: Child,
}

/// The first test makes it, the others copy it, and its keeper removes it.
fn template() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let directory = server_directory().keep();
        let mut keeper = command("sh", Path::new("/"));
        keeper.process_group(0).stdin(Stdio::piped());
        keeper.args(["-c", "cat >/dev/null; rm -rf \"$1\"", "keeper"]).arg(&directory);
        let keeper = keeper.spawn().expect("keeper starts");
        let data = directory.join("data");
        let mut initdb = command(bin_directory().join("initdb"), &directory);
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8"]);
        initdb.args(["--no-locale", "--no-sync", "-D"]).arg(&data);
        run(&mut initdb);
        Template { data, _keeper: keeper }
    })
}

/// Starts the server, and the shell that keeps it.
fn keep(postgres: &Path, directory: &Path, port: u16, settings: &[(&str, &str)]) -> Child {
    let mut keeper = command("sh", directory);
    // Its own process group: an interrupt from the keyboard is for the test alone.
    keeper.process_group(0).stdin(Stdio::piped());
    keeper.args(["-c", KEEPER, "keeper"]).arg(directory);
    keeper.arg(postgres).arg("-D").arg(directory.join("data"));
    keeper.arg("-k").arg(directory);
    let port = port.to_string();
    let ours = [
        ("listen_addresses", "127.0.0.1"),
        ("port", port.as_str()),
        ("wal_level", "logical"),
        ("fsync", "off"),
        ("autovacuum", "off"),
    ];
    for (name, value) in ours.iter().chain(settings) {
        keeper.arg("-c").arg(format!("{name}={value}"));
    }
    let log = fs::File::create(directory.join("log")).expect("log");
    keeper.stdout(log.try_clone().expect("log")).stderr(log);
    keeper.spawn().expect("server starts")
}

impl Cluster {
    /// A server with `wal_level = logical` and these settings, everybody trusted.
    pub async fn start(settings: &[(&str, &str)]) -> Cluster {
        let everybody = "local all all trust\nhost all all all trust\n";
        Cluster::prepare(settings, everybody, |_| {}).await
    }

    /// The same with a `pg_hba.conf` and files put in the data directory by `add_files`.
    pub async fn prepare(settings: &[(&str, &str)], hba: &str, add_files: impl FnOnce(&Path)) -> Cluster {
        let bin = bin_directory();
        let directory = server_directory();
        let data = directory.path().join("data");
        run(command("cp", directory.path()).arg("-Rp").arg(&template().data).arg(&data));
        fs::write(data.join("pg_hba.conf"), hba).expect("pg_hba.conf");
        add_files(&data);
        for entry in fs::read_dir(&data).expect("data directory").flatten() {
            let path = entry.path();
            if matches!(path.extension(), Some(kind) if kind == "key" || kind == "crt") {
                own(&path);
            }
        }
        let port = free_port();
        let keeper = keep(&bin.join("postgres"), directory.path(), port, settings);
        let cluster = Cluster { port, directory, keeper };
        cluster.until_ready().await;
        cluster
    }

    async fn until_ready(&self) {
        let since = Instant::now();
        while let Err(error) = tokio_postgres::connect(&self.dsn(), NoTls).await {
            assert!(since.elapsed() < PATIENCE, "{error}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The server's first process.
    pub fn postmaster(&self) -> u32 {
        let file = self.directory.path().join("data/postmaster.pid");
        let text = fs::read_to_string(file).expect("postmaster.pid");
        text.lines().next().and_then(|pid| pid.parse().ok()).expect("pid")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn dsn(&self) -> String {
        let socket = self.directory.path().display();
        format!("host={socket} port={} user=postgres dbname=postgres", self.port)
    }

    /// A session as superuser.
    pub async fn sql(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.dsn(), NoTls).await.expect("SQL session");
        tokio::spawn(connection);
        // A statement that waits for ever would hang the test and leave the server behind.
        client.batch_execute("SET statement_timeout = '60s'").await.expect("statement_timeout");
        client
    }

    /// Through the Unix socket, as superuser.
    pub fn options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new(Host::Unix(self.directory.path().to_owned()), "postgres", "postgres");
        options.port = self.port;
        options
    }

    /// Through TCP.
    pub fn tcp_options(&self, user: &str, password: Option<&str>, tls: Tls) -> ConnectOptions {
        let host = Host::Tcp("localhost".to_owned(), Some([127, 0, 0, 1].into()));
        let mut options = ConnectOptions::new(host, user, "postgres");
        options.port = self.port;
        options.password = password.map(Into::into);
        options.tls = tls;
        options
    }

    pub async fn replication(&self) -> ReplicationClient {
        ReplicationClient::connect(&self.options()).await.expect("replication connection")
    }
}

/// Waits until the query's only value is true.
pub async fn until(client: &tokio_postgres::Client, query: &str) {
    let since = Instant::now();
    loop {
        let row = client.query_one(query, &[]).await.expect("condition");
        if row.get::<_, Option<bool>>(0) == Some(true) {
            return;
        }
        assert!(since.elapsed() < PATIENCE, "never true: {query}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Hands a file to the server's user, unreadable for others, as the server demands of keys.
fn own(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("permissions");
    if let Some(account) = account() {
        std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid)).expect("owner");
    }
}

/// Sends a signal by name.
pub fn signal(name: &str, pid: u32) {
    run(Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()));
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Immediate shutdown: the server ends its own children, stopped ones after five seconds.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
