//! The two servers, and on them one fresh pair of databases per run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;
use pgtandem::cluster::{Cluster, ClusterOptions};

use crate::sql::Sql;

/// Same settings for everything that is measured: durable servers, no checkpoint in the middle of a run.
const SETTINGS: [(&str, &str); 6] = [
    ("shared_buffers", "512MB"),
    ("max_wal_size", "16GB"),
    ("checkpoint_timeout", "1h"),
    ("max_connections", "60"),
    ("max_worker_processes", "16"),
    ("max_logical_replication_workers", "8"),
];

/// Scale of the pgbench tables: a million accounts.
pub const SCALE: &str = "10";
pub const TPCB_TABLES: [&str; 4] = ["pgbench_accounts", "pgbench_branches", "pgbench_history", "pgbench_tellers"];
const TPCB_TEMPLATE: &str = "tpcb";
const EMPTY_TEMPLATE: &str = "template1";

pub struct Pair {
    pub source: Cluster,
    pub target: Cluster,
    pub way: Way,
    pub capture: Capture,
    pgbench: PathBuf,
    psql: PathBuf,
}

/// How replication reaches the servers. Applications use the socket either way.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Way {
    Socket,
    Tcp,
}

/// How pgtandem reads changes. Native replication always reads the WAL.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Capture {
    Wal,
    Trigger,
}

/// What a run's databases begin with.
#[derive(Clone, Copy)]
pub enum Content {
    Tpcb,
    Nothing,
    /// What this database has, on each side its own.
    Like(&'static str),
}

impl Pair {
    pub fn start(way: Way, capture: Capture) -> Pair {
        let options = ["source", "target"].map(|name| {
            let mut options = ClusterOptions::new(name).unwrap_or_else(|e| panic!("{e}"));
            for (setting, value) in SETTINGS {
                options = options.setting(setting, value);
            }
            options
        });
        let mut clusters = Cluster::start_all(options).unwrap_or_else(|e| panic!("{e}")).into_iter();
        let (Some(source), Some(target)) = (clusters.next(), clusters.next()) else {
            unreachable!("two were asked for")
        };
        let (pgbench, psql) = (find("pgbench", &source), find("psql", &source));
        let pair = Pair { source, target, way, capture, pgbench, psql };
        for cluster in pair.clusters() {
            cluster.create_database(TPCB_TEMPLATE).unwrap_or_else(|e| panic!("{e}"));
            pair.pgbench(cluster, TPCB_TEMPLATE, &["-i", "-q", "-s", SCALE]);
            // Native replication and pgtandem both want to know rows by a key.
            for text in ["ALTER TABLE pgbench_history ADD hid bigserial PRIMARY KEY", "VACUUM ANALYZE"] {
                cluster.psql(TPCB_TEMPLATE, text).unwrap_or_else(|e| panic!("{e}"));
            }
        }
        pair
    }

    pub fn clusters(&self) -> [&Cluster; 2] {
        [&self.source, &self.target]
    }

    /// Where a file may be put: a directory that goes with the servers, even when this program is killed.
    pub fn path(&self, name: &str) -> PathBuf {
        self.source.dir().join(name)
    }

    pub fn write_file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }

    pub fn psql(&self) -> &Path {
        &self.psql
    }

    /// Runs pgbench to its end.
    pub fn pgbench(&self, cluster: &Cluster, database: &str, args: &[&str]) {
        let mut command = self.pgbench_command(cluster, database, args);
        let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn pgbench_command(&self, cluster: &Cluster, database: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.pgbench);
        command.arg("-h").arg(cluster.dir()).args(["-p", &cluster.port().to_string(), "-U", cluster.superuser()]);
        command.args(args).arg(database);
        command
    }

    /// As `pgtandem` is told where a database is.
    pub fn url(&self, cluster: &Cluster, database: &str) -> String {
        match self.way {
            Way::Socket => cluster.socket_url(database),
            Way::Tcp => cluster.url(database),
        }
    }

    /// As a subscription is told where a database is.
    pub fn connection(&self, cluster: &Cluster, database: &str) -> String {
        let host = match self.way {
            Way::Socket => cluster.dir().display().to_string(),
            Way::Tcp => format!("127.0.0.1 password={}", cluster.password()),
        };
        format!("host={host} port={} user={} dbname={database}", cluster.port(), cluster.superuser())
    }

    pub fn create_databases(&self, name: &str, content: Content) {
        let template = match content {
            Content::Tpcb => TPCB_TEMPLATE,
            Content::Nothing => EMPTY_TEMPLATE,
            Content::Like(database) => database,
        };
        for cluster in self.clusters() {
            let postgres = Sql::connect(cluster, "postgres");
            postgres.run(&format!("CREATE DATABASE {name} TEMPLATE {template}"));
            postgres.run("CHECKPOINT");
        }
    }

    pub fn drop_databases(&self, name: &str) {
        for cluster in self.clusters() {
            Sql::connect(cluster, "postgres").run(&format!("DROP DATABASE {name} WITH (FORCE)"));
        }
    }

    /// The first table that is not the same on both sides, and how.
    pub fn difference(&self, database: &str, tables: &[&str]) -> Option<String> {
        let sums = self.clusters().map(|cluster| {
            let sql = Sql::connect(cluster, database);
            let sum = |table: &&str| {
                let text = format!(
                    "SELECT concat(count(*), ' rows, sum of hashes ', sum(hashtextextended(to_jsonb(t)::text, 0))) \
                     FROM {table} t"
                );
                sql.field::<String>(&text).unwrap_or_default()
            };
            tables.iter().map(sum).collect::<Vec<_>>()
        });
        let [source, target] = sums;
        let differing = tables.iter().zip(source.iter().zip(&target)).find(|(_, (source, target))| source != target);
        differing.map(|(table, (source, target))| format!("{table}: source has {source}, target has {target}"))
    }
}

/// Beside the server's own programs, else on the path.
fn find(program: &str, cluster: &Cluster) -> PathBuf {
    let beside = cluster.bin().program(program);
    if beside.exists() { beside } else { PathBuf::from(program) }
}
