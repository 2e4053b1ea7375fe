//! How a server is set up.

use std::path::Path;
use std::sync::Arc;

use super::error::Result;
use super::pg_bin::PgBin;
use super::template::Template;

/// What a server is to be. `ClusterOptions::new("new")?` is a server as an application would
/// have it, ready for logical decoding; the fields say what is different.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Appears in messages and, as `cluster_name`, in `ps`.
    pub name: String,
    pub bin: PgBin,
    /// Added to postgresql.conf; a setting given here beats ours.
    pub settings: Vec<(String, String)>,
    pub superuser: String,
    /// Lines for pg_hba.conf, before ours.
    pub hba: Vec<String>,
    /// Whether commits survive a crash of the machine. A crash of the server they survive anyway.
    pub fsync: bool,
    /// What to begin with; none: initdb makes it.
    pub template: Option<Arc<Template>>,
}

impl ClusterOptions {
    pub fn new(name: impl Into<String>) -> Result<ClusterOptions> {
        Ok(ClusterOptions::with_bin(name, PgBin::find()?))
    }

    pub fn with_bin(name: impl Into<String>, bin: PgBin) -> ClusterOptions {
        ClusterOptions {
            name: name.into(),
            bin,
            settings: Vec::new(),
            superuser: "postgres".to_owned(),
            hba: Vec::new(),
            fsync: true,
            template: None,
        }
    }

    /// For servers whose data nobody misses.
    pub fn without_fsync(mut self) -> Self {
        self.fsync = false;
        self
    }

    pub fn template(mut self, template: Arc<Template>) -> Self {
        self.template = Some(template);
        self
    }

    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    pub fn hba_line(mut self, line: impl Into<String>) -> Self {
        self.hba.push(line.into());
        self
    }

    /// What is appended to the postgresql.conf that initdb made.
    pub(super) fn conf(&self, socket_dir: &Path, port: u16) -> String {
        let port = port.to_string();
        let socket_dir = socket_dir.to_string_lossy();
        let mut settings = vec![
            ("cluster_name", self.name.as_str()),
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_directories", &socket_dir),
            ("wal_level", "logical"),
            ("max_wal_senders", "20"),
            ("max_replication_slots", "20"),
            ("max_prepared_transactions", "10"),
            ("password_encryption", "scram-sha-256"),
            ("logging_collector", "off"),
            ("log_destination", "stderr"),
            ("log_line_prefix", "%m [%p] %a "),
            ("log_timezone", "UTC"),
        ];
        if !self.fsync {
            // full_page_writes only guards against a crash of the machine, too. Files instead of
            // POSIX shared memory go with the directory, also after kill -9.
            settings.extend([("fsync", "off"), ("full_page_writes", "off"), ("dynamic_shared_memory_type", "mmap")]);
        }
        let given = self.settings.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        let mut conf = String::from("\n# what pgtandem set\n");
        for (name, value) in settings.into_iter().chain(given) {
            let value = value.replace('\\', "\\\\").replace('\'', "''");
            conf.push_str(&format!("{name} = '{value}'\n"));
        }
        conf
    }

    /// Who reaches the socket is let in (its directory is private); over TCP everybody needs a
    /// password.
    pub(super) fn hba_file(hba: &[String]) -> String {
        let mut text: String = hba.iter().map(|line| format!("{line}\n")).collect();
        text.push_str(
            "local all         all               trust\n\
             local replication all               trust\n\
             host  all         all 127.0.0.1/32  scram-sha-256\n\
             host  replication all 127.0.0.1/32  scram-sha-256\n",
        );
        text
    }
}
