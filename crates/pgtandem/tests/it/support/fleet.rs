//! Nodes on servers of their own, a config file that names them, and the binary run on it.

use std::cell::Cell;
use std::fs;
use std::ops::Index;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgtandem::cluster::{Cluster, ClusterOptions, PgBin, Session, SqlError};
use tempfile::TempDir;

use super::compare::difference;
use super::hub::Hub;
use super::proxy::Proxy;
use super::shared;
use super::template::template;
use super::wait::{PATIENCE, ask, wait_until};

pub type Pair = Fleet<2>;
pub type Trio = Fleet<3>;

pub(super) const NAMES: [&str; 4] = ["new", "legacy", "third", "fourth"];
/// Each node's database; another name on each, as in real life.
const DATABASES: [&str; 4] = ["new_app", "legacy_app", "third_app", "fourth_app"];

const LONGEST_COMMAND: Duration = Duration::from_secs(240);

/// How a fleet differs from the plain one.
#[derive(Default)]
pub struct Setup {
    settings: Vec<(String, String)>,
    tables: Vec<(String, String)>,
    proxied: bool,
    config: String,
    fsync: bool,
    programs: Option<(String, PgBin)>,
    shared: bool,
    role: Option<String>,
    captures: Vec<&'static str>,
    keys: String,
}

impl Setup {
    /// Lines of the config that say more of the last table.
    pub fn keys(mut self, lines: &str) -> Self {
        self.keys = format!("{lines}\n");
        self
    }

    /// Each node's capture, in order; by default this run's.
    pub fn captures(mut self, captures: impl IntoIterator<Item = &'static str>) -> Self {
        self.captures = captures.into_iter().collect();
        self
    }

    /// Databases of its own on two servers that all such fleets of this run share: cheap, for scenarios that leave
    /// the servers alone. Settings do not apply.
    pub fn shared() -> Self {
        Self { shared: true, ..Self::default() }
    }

    /// pgtandem connects as this role, which is made with what `options` say (after CREATE ROLE name LOGIN), owns the
    /// databases and makes the tables.
    pub fn role(mut self, options: &str) -> Self {
        self.role = Some(options.to_owned());
        self
    }

    /// A table to link that the test makes itself.
    pub fn linking(self, name: &str) -> Self {
        self.table(name, "")
    }

    /// On every server.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A table to link: made on every node by `create`, and named in the config.
    pub fn table(mut self, name: &str, create: &str) -> Self {
        self.tables.push((name.to_owned(), create.to_owned()));
        self
    }

    /// The config's URLs lead through a `Proxy` per node.
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// Text that stands at the head of the config file.
    pub fn config(mut self, text: &str) -> Self {
        self.config = format!("{text}\n");
        self
    }

    /// One node's server runs other programs than the rest.
    pub fn programs(mut self, node: &str, bin: PgBin) -> Self {
        self.programs = Some((node.to_owned(), bin));
        self
    }

    pub fn fsync(mut self) -> Self {
        self.fsync = true;
        self
    }
}

/// N nodes: `fleet["new"]` or `fleet[0]`, then "legacy", "third", "fourth".
pub struct Fleet<const N: usize> {
    nodes: Vec<Node>,
    tables: Vec<String>,
    keys: String,
    config: PathBuf,
    hubs: Cell<usize>,
    // Last: the hubs' logs are printed before it goes.
    dir: TempDir,
}

pub struct Node {
    pub cluster: Arc<Cluster>,
    pub proxy: Option<Proxy>,
    name: &'static str,
    database: String,
    /// Whom pgtandem connects as, and the password.
    role: Option<(String, String)>,
    shared: bool,
    capture: &'static str,
}

/// What a command of pgtandem did.
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    command: String,
}

impl<const N: usize> Fleet<N> {
    /// Empty databases, no tables in the config.
    pub fn start() -> Self {
        Self::with(Setup::default())
    }

    pub fn with(setup: Setup) -> Self {
        let (clusters, suffix) =
            if setup.shared { shared::clusters(N) } else { (own_clusters::<N>(&setup), String::new()) };
        let nodes: Vec<Node> = clusters
            .into_iter()
            .zip(NAMES.into_iter().zip(DATABASES))
            .enumerate()
            .map(|(at, (cluster, (name, database)))| Node {
                capture: setup.captures.get(at).copied().unwrap_or(crate::CAPTURE),
                proxy: setup.proxied.then(|| Proxy::start(cluster.port())),
                cluster,
                name,
                database: format!("{database}{suffix}"),
                role: setup.role.as_ref().map(|_| (format!("{name}_role{suffix}"), "secret".to_owned())),
                shared: setup.shared,
            })
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let fleet = Fleet {
            nodes,
            tables: setup.tables.iter().map(|(name, _)| name.clone()).collect(),
            keys: setup.keys.clone(),
            config: dir.path().join("pgtandem.toml"),
            hubs: Cell::new(0),
            dir,
        };
        for node in &fleet.nodes {
            node.cluster.create_database(&node.database).unwrap();
            if let Some(options) = &setup.role {
                node.create_role(options);
            }
            for (_, create) in setup.tables.iter().filter(|(_, create)| !create.is_empty()) {
                node.own_session().run(create.clone()).unwrap_or_else(|e| panic!("{e}"));
            }
        }
        fleet.write_config(&setup.config);
        fleet
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn config(&self) -> &PathBuf {
        &self.config
    }

    /// Replaces the config file: `head`, the nodes, the tables.
    pub fn write_config(&self, head: &str) {
        let is_direct = self.nodes.iter().all(|node| node.capture == "direct");
        let mut text = format!("{}{head}", if is_direct { "mode = \"direct\"\n" } else { "" });
        for node in &self.nodes {
            text += &format!("[nodes.{}]\nurl = \"{}\"\n", node.name(), node.url());
            // Otherwise the server decides, which has WAL enough.
            if node.capture == "trigger" {
                text += "capture = \"trigger\"\n";
            }
        }
        for table in &self.tables {
            let name = if table.contains('"') { format!("'{table}'") } else { format!("\"{table}\"") };
            text += &format!("\n[[tables]]\nname = {name}\n");
        }
        fs::write(&self.config, text + &self.keys).unwrap();
    }

    /// Runs the real binary to its end, with this fleet's config.
    pub fn pgtandem<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Outcome {
        let mut command = self.command(args);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        let (ended, patience) = mpsc::channel::<()>();
        // One that does not end by itself is a failure, and must not keep all other tests from ending.
        let guard = std::thread::spawn(move || {
            if patience.recv_timeout(LONGEST_COMMAND) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        let output = child.wait_with_output().unwrap();
        drop(ended);
        guard.join().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            command: format!("{command:?}"),
        }
    }

    /// The binary, ready to be spawned by a test that wants to do something to it meanwhile.
    pub fn command<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgtandem"));
        command.args(args);
        self.surroundings(&mut command);
        command
    }

    fn surroundings(&self, command: &mut Command) {
        command.env("PGTANDEM_CONFIG", &self.config).env("NO_COLOR", "1").current_dir(self.dir.path());
    }

    /// Starts `pgtandem run`; does not wait for anything. The hub dies with the thread that
    /// started it, so that a killed test run leaves none.
    pub fn hub(&self) -> Hub {
        self.hub_with([])
    }

    pub fn hub_with<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Hub {
        let number = self.hubs.get() + 1;
        self.hubs.set(number);
        let log = self.dir.path().join(format!("hub-{number}.log"));
        let mut command = unorphaned(env!("CARGO_BIN_EXE_pgtandem"));
        command.arg("run").args(args);
        self.surroundings(&mut command);
        Hub::spawn(command, log)
    }

    /// Direct mode: from now on nothing goes directly, as after an outage, until a hub is at work and finds that both
    /// answer. Otherwise only a hub delivers anyway.
    pub fn apart(&self) {
        let direct = || self.nodes.iter().filter(|node| node.capture == "direct");
        // A hub that was killed may have asked for the opposite just before.
        let at_work = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'
                       AND application_name LIKE 'pgtandem%' AND pid <> pg_backend_pid()";
        for node in direct() {
            wait_until("no statement of a hub is at work", PATIENCE, || node.sql(at_work) == "0");
        }
        for node in direct() {
            node.sql("SELECT setval('pgtandem.direct_closed_until', 9000000000000000)");
        }
    }

    /// `up`.
    #[track_caller]
    pub fn link(&self) {
        self.pgtandem(["up", "--yes"]).ok();
    }

    /// `up`, then the hub, which is at work when this returns.
    #[track_caller]
    pub fn linked(&self) -> Hub {
        self.link();
        let hub = self.hub();
        hub.wait_for_log("working");
        hub
    }

    /// Fails with the rows that differ unless every node has the same rows.
    #[track_caller]
    pub fn equal(&self, table: &str) {
        if let Some(report) = self.differs(table) {
            panic!("{table} is not the same on all nodes\n{report}");
        }
    }

    /// Waits until all tables of the config are the same on all nodes. Only when nobody writes
    /// does that mean that everything has arrived.
    #[track_caller]
    pub fn quiesce(&self) {
        self.quiesce_within(PATIENCE);
    }

    #[track_caller]
    pub fn quiesce_within(&self, limit: Duration) {
        assert!(!self.tables.is_empty(), "no table to wait for in the config");
        let mut report = String::new();
        let deadline = std::time::Instant::now() + limit;
        wait_until("all tables equal, or the time is up", limit * 2, || {
            let differs = |table: &String| Some(format!("{table}: {}", self.differs(table)?));
            report = self.tables.iter().filter_map(differs).collect();
            report.is_empty() || std::time::Instant::now() > deadline
        });
        assert!(report.is_empty(), "still not equal after {limit:?}\n{report}");
    }

    /// Like `quiesce`, and nothing is under way any more, not even what would make equal rows unequal.
    #[track_caller]
    pub fn settle(&self) {
        self.acknowledged();
        self.quiesce();
    }

    /// Every slot of pgtandem has passed what its node had written by now: it has reached all nodes.
    #[track_caller]
    pub fn acknowledged(&self) {
        let marks: Vec<String> = self.nodes.iter().map(|node| node.sql("SELECT pg_current_wal_insert_lsn()")).collect();
        for (node, mark) in self.nodes.iter().zip(&marks) {
            if node.capture != "wal" {
                let what = format!("nothing in the outbox of {} is needed", node.name());
                wait_until(&what, PATIENCE, || node.outbox_length() == "0");
                continue;
            }
            let passed = format!(
                "SELECT count(*) > 0 AND bool_and(confirmed_flush_lsn >= '{mark}')
                 FROM pg_replication_slots WHERE slot_name LIKE 'pgtandem%'"
            );
            let what = format!("the slot of {} passes {mark}", node.name());
            wait_until(&what, PATIENCE, || node.sql(&passed) == "t");
        }
    }

    /// As JSON: the order of the columns does not matter, and neither does the row's type.
    fn differs(&self, table: &str) -> Option<String> {
        let rows = format!("SELECT to_jsonb(t) FROM {table} t ORDER BY to_jsonb(t)::text");
        self.differs_in(&rows)
    }

    /// None: the query gives the same rows, in any order, on all nodes. A node that cannot be asked
    /// differs.
    pub fn differs_in(&self, query: &str) -> Option<String> {
        let mut contents = Vec::new();
        for node in &self.nodes {
            match node.try_sql(query) {
                Ok(text) => contents.push((node.name().to_owned(), text)),
                Err(e) => return Some(e.to_string()),
            }
        }
        difference(&contents)
    }

    /// What to know about a failure.
    fn print_logs(&self) {
        const LINES: usize = 60;
        let print = |title: &str, log: &str| {
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LINES)..];
            eprintln!("---- {title}\n{}", tail.join("\n"));
        };
        for number in 1..=self.hubs.get() {
            let log = self.dir.path().join(format!("hub-{number}.log"));
            let log = fs::read_to_string(&log).unwrap_or_else(|e| e.to_string());
            print(&format!("hub {number}"), &log);
        }
        for node in &self.nodes {
            print(&format!("server {}", node.name()), &node.cluster.log());
            let hub = "SELECT coalesce(jsonb_pretty(state), '-') FROM pgtandem.hub_status";
            let landings = "SELECT id, position, cover, acknowledged, row_count, landed_at FROM pgtandem.landing
                            ORDER BY id DESC LIMIT 5";
            for query in [hub, landings] {
                let answer = node.try_sql(query).unwrap_or_else(|e| e.to_string());
                print(&format!("{}: {query}", node.name()), &answer);
            }
        }
    }
}

/// The program, killed by the kernel when we die, where there is a tool to arrange that (Linux).
fn unorphaned(program: &str) -> Command {
    let arranger = "/usr/bin/setpriv";
    if !fs::exists(arranger).unwrap_or(false) {
        return Command::new(program);
    }
    let mut command = Command::new(arranger);
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}

impl<const N: usize> Drop for Fleet<N> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        for node in self.nodes.iter().filter(|node| node.shared) {
            shared::drop_database(&node.cluster, &node.database);
        }
    }
}

fn own_clusters<const N: usize>(setup: &Setup) -> Vec<Arc<Cluster>> {
    let options = NAMES[..N].iter().enumerate().map(|(place, name)| {
        let mut options = ClusterOptions::new(*name).unwrap_or_else(|e| panic!("{e}"));
        options.settings.clone_from(&setup.settings);
        if crate::CAPTURE != "wal" && setup.captures.is_empty() {
            options.settings.insert(0, ("wal_level".to_owned(), "replica".to_owned()));
        }
        options.fsync = setup.fsync;
        match setup.programs.as_ref().filter(|(of, _)| of == name) {
            Some((_, bin)) => options.bin = bin.clone(),
            None => options.template = Some(template(place)),
        }
        options
    });
    let clusters = Cluster::start_all(options).unwrap_or_else(|e| panic!("{e}"));
    clusters.into_iter().map(Arc::new).collect()
}

impl<const N: usize> Index<usize> for Fleet<N> {
    type Output = Node;

    fn index(&self, number: usize) -> &Node {
        &self.nodes[number]
    }
}

impl<const N: usize> Index<&str> for Fleet<N> {
    type Output = Node;

    fn index(&self, name: &str) -> &Node {
        let node = self.nodes.iter().find(|node| node.name() == name);
        node.unwrap_or_else(|| panic!("there is no node {name}"))
    }
}

impl Node {
    /// Drops the node's replication slot. A walsender needs a moment to notice that its hub is gone.
    #[track_caller]
    pub fn lose_slot(&self) {
        const DROP: &str = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                            WHERE database = current_database() AND NOT active";
        const LEFT: &str = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
        wait_until("its slot can be dropped", PATIENCE, || self.sql(DROP).is_empty() && self.sql(LEFT) == "0");
    }

    /// How many changes in the outbox are still needed.
    pub fn outbox_length(&self) -> String {
        self.sql(
            "SELECT count(*) FROM pgtandem.outbox o WHERE NOT coalesce((
                 SELECT pg_visible_in_snapshot(o.xid, r.snapshot) AND o.id <= r.drawn
                 FROM pgtandem.outbox_read r, pgtandem.outbox_acknowledged a
                 WHERE r.position <= a.position ORDER BY r.position DESC LIMIT 1), false)",
        )
    }

    pub fn name(&self) -> &str {
        self.name
    }

    /// Some transaction waits for another one that has a row.
    pub fn waits_for_a_row(&self) -> bool {
        self.sql("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype IN ('transactionid', 'tuple'))")
            == "t"
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    fn create_role(&self, options: &str) {
        let (role, password) = self.role.as_ref().expect("the setup names a role");
        let database = &self.database;
        self.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD '{password}' {options}"));
        self.sql(&format!("ALTER DATABASE {database} OWNER TO {role}"));
        self.sql(&format!("GRANT ALL ON SCHEMA public TO {role}"));
    }

    /// A session as whom pgtandem connects.
    #[track_caller]
    pub fn own_session(&self) -> Session {
        let user = self.role.as_ref().map_or(self.cluster.superuser(), |(role, _)| role);
        self.cluster.session_as(user, &self.database).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The role pgtandem connects as.
    pub fn role(&self) -> &str {
        self.role.as_ref().map_or(self.cluster.superuser(), |(role, _)| role)
    }

    /// What the config says: through the proxy, if there is one.
    pub fn url(&self) -> String {
        let url = match &self.role {
            Some((role, password)) => self.cluster.url_as(role, password, &self.database),
            None => self.cluster.url(&self.database),
        };
        match &self.proxy {
            Some(proxy) => {
                let direct = format!(":{}/", self.cluster.port());
                url.replacen(&direct, &format!(":{}/", proxy.port()), 1)
            }
            None => url,
        }
    }

    /// As `psql -At -c`, past the proxy.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn try_sql(&self, sql: &str) -> Result<String, SqlError> {
        ask(&self.cluster, &self.database, sql)
    }

    /// An application's connection: transactions over several calls, many statements quickly.
    #[track_caller]
    pub fn session(&self) -> Session {
        let session = self.cluster.session(&self.database);
        session.unwrap_or_else(|e| panic!("{e}"))
    }
}

impl Outcome {
    /// Exit code 0; returns what was printed.
    #[track_caller]
    pub fn ok(self) -> String {
        self.exits(0).stdout
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(
            self.code == code,
            "{}\nexited with {} instead of {code}\nstdout:\n{}\nstderr:\n{}",
            self.command,
            self.code,
            self.stdout,
            self.stderr
        );
        self
    }
}
