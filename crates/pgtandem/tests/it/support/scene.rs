//! Databases on servers that many tests share, and the command itself run on them.

use super::{PATIENCE, template, wait_until};
use pgtandem::cluster::{Cluster, ClusterOptions};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;
use tempfile::TempDir;

/// Three servers that all tests here share, each test with databases of its own.
pub fn servers() -> &'static [Cluster] {
    static SERVERS: OnceLock<Vec<Cluster>> = OnceLock::new();
    SERVERS.get_or_init(|| {
        let options = [0, 1, 2].map(|place| {
            let options = ClusterOptions::new(NAMES[place]).unwrap().template(template(place)).without_fsync();
            let options = match crate::CAPTURE {
                "wal" => options,
                _ => options.setting("wal_level", "replica"),
            };
            options
                .setting("max_replication_slots", "60")
                .setting("max_wal_senders", "60")
                .setting("max_connections", "200")
        });
        Cluster::start_all(options).unwrap_or_else(|error| panic!("{error}"))
    })
}

const NAMES: [&str; 3] = ["new", "legacy", "third"];

/// As a Rails application would have made it.
pub const PRODUCTS: &str =
    "CREATE TABLE products (id bigserial PRIMARY KEY, name varchar, description text, price integer,
                                               created_at timestamp(6) NOT NULL DEFAULT now())";

/// A link to be: some databases and a configuration.
pub struct Scene {
    pub database: String,
    pub nodes: Vec<usize>,
    pub dir: TempDir,
}

/// How a command ended.
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Scene {
    /// `sql` runs on each of `nodes` nodes, in a new database.
    pub fn new(test: &str, nodes: usize, sql: &str) -> Self {
        let scene = Self { database: test.to_owned(), nodes: (0..nodes).collect(), dir: tempfile::tempdir().unwrap() };
        for node in 0..nodes {
            servers()[node].create_database(test).unwrap();
            scene.on(node, sql);
        }
        scene
    }

    pub fn on(&self, node: usize, sql: &str) -> String {
        servers()[node].psql(&self.database, sql).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same on all nodes.
    pub fn everywhere(&self, sql: &str) -> Vec<String> {
        self.nodes.iter().map(|node| self.on(*node, sql)).collect()
    }

    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("pgtandem.toml")
    }

    pub fn url(&self, node: usize) -> String {
        servers()[node].socket_url(&self.database)
    }

    /// Writes a configuration of these nodes and tables.
    pub fn configure(&self, tables: &[&str]) {
        let urls: Vec<String> = self.nodes.iter().map(|node| self.url(*node)).collect();
        self.configure_with(&urls, tables);
    }

    pub fn configure_with(&self, urls: &[String], tables: &[&str]) {
        let nodes =
            self.nodes.iter().zip(urls).map(|(node, url)| format!("[nodes.{}]\nurl = \"{url}\"\n", NAMES[*node]));
        let tables = tables.iter().map(|table| match table.contains("name =") {
            true => format!("[[tables]]\n{table}\n"),
            false => format!("[[tables]]\nname = \"{table}\"\n"),
        });
        let mode = if crate::CAPTURE == "direct" { "mode = \"direct\"\n" } else { "" };
        let text: String = std::iter::once(mode.to_owned()).chain(nodes).chain(tables).collect();
        std::fs::write(self.config_file(), text).unwrap();
    }

    /// Whatever its server is.
    pub fn read_from_wal(&self, node: &str) {
        let (head, wanted) = (format!("[nodes.{node}]\n"), format!("[nodes.{node}]\ncapture = \"wal\"\n"));
        let text = std::fs::read_to_string(self.config_file()).unwrap();
        std::fs::write(self.config_file(), text.replace(&head, &wanted)).unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgtandem"));
        command.args(arguments).current_dir(self.dir.path()).env_remove("PGTANDEM_CONFIG");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.command(arguments).output().unwrap().into()
    }

    /// Runs a command that has to succeed.
    pub fn must(&self, arguments: &[&str]) -> Ended {
        let ended = self.run(arguments);
        assert_eq!(ended.code, 0, "pgtandem {arguments:?}: {}", ended.all());
        ended
    }

    pub fn check_codes(&self) -> Vec<(String, String, String)> {
        let ended = self.run(&["check", "--json"]);
        let report: serde_json::Value =
            serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{}", ended.all()));
        let text = |finding: &serde_json::Value, field: &str| finding[field].as_str().unwrap_or("-").to_owned();
        let findings = report["findings"].as_array().unwrap().iter();
        let faults = findings.filter(|finding| finding["severity"] == "fault").inspect(|finding| {
            assert!(finding["remedy"].is_string(), "no remedy: {finding}");
        });
        faults.map(|finding| (text(finding, "code"), text(finding, "node"), text(finding, "table"))).collect()
    }

    /// Everything about the objects of the application that `up` may touch, and whether anything of ours is there.
    pub fn traces(&self, node: usize) -> String {
        // A session that has ended may still be at clearing its temporary tables away.
        let temporary = "SELECT count(*) FROM pg_class WHERE relpersistence = 't'";
        wait_until("temporary tables are gone", PATIENCE, || self.on(node, temporary) == "0");
        self.on(
            node,
            "SELECT c.oid::regclass, relkind, relreplident, s.* FROM pg_class c LEFT JOIN pg_sequence s ON seqrelid = c.oid
             WHERE relnamespace = 'public'::regnamespace ORDER BY 1;
             SELECT nspname FROM pg_namespace WHERE nspname = 'pgtandem';
             SELECT pubname FROM pg_publication;
             SELECT slot_name FROM pg_replication_slots WHERE database = current_database() AND NOT temporary;
             SELECT count(*) FROM pg_depend",
        )
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A test that failed may leave slots behind, and others need some.
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                   WHERE database = current_database() AND NOT active AND NOT temporary";
        for node in &self.nodes {
            let _ = servers()[*node].psql(&self.database, sql);
        }
    }
}

impl Ended {
    pub fn all(&self) -> String {
        format!("exit code {}\n{}\n{}", self.code, self.stdout, self.stderr)
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
