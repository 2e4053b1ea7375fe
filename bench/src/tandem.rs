//! pgtandem, both ways: the real binary on a config file of its own.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::native::drop_slots;
use crate::pair::Pair;
use crate::sql::Sql;

const SCHEMA: &str = include_str!("../../crates/pgtandem/sql/schema.sql");

pub struct Tandem {
    database: &'static str,
    dir: TempDir,
    hub: Option<Child>,
}

impl Tandem {
    pub fn link(pair: &Pair, database: &'static str, tables: &[&str]) -> Tandem {
        let tandem = Tandem::configure(pair, database, tables);
        link_by_hand(pair, database, tables);
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

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub fn start(&mut self) {
        let log = File::create(self.log()).expect("the log can be written");
        let mut command = Command::new(binary());
        command.arg(self.dir.path().join("pgtandem.toml")).stdin(Stdio::null());
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

/// What `pgtandem up` does for tables that are equal already.
fn link_by_hand(pair: &Pair, database: &str, tables: &[&str]) {
    let list = tables.join(", ");
    for (number, cluster) in pair.clusters().into_iter().enumerate() {
        let sql = Sql::connect(cluster, database);
        sql.run(SCHEMA);
        sql.run(&format!(
            "INSERT INTO pgtandem.node (number, name, incarnation, system_identifier, database_oid, slot, publication, \
                                        secret, schema_version) \
             SELECT {number}, '{name}', gen_random_uuid(), (SELECT system_identifier::text FROM pg_control_system()), \
                    (SELECT oid FROM pg_database WHERE datname = current_database()), '{database}_{number}', \
                    'pgtandem', gen_random_uuid(), 1; \
             INSERT INTO pgtandem.peer SELECT 0, 'source', gen_random_uuid(); \
             INSERT INTO pgtandem.peer SELECT 1, 'target', gen_random_uuid()",
            name = cluster.name()
        ));
        for table in tables {
            let toasted = format!("SELECT reltoastrelid <> 0 FROM pg_class WHERE oid = '{table}'::regclass");
            if sql.field(&toasted) == Some(true) {
                sql.run(&format!("ALTER TABLE {table} REPLICA IDENTITY FULL"));
            }
        }
        sql.run(&format!("CREATE PUBLICATION pgtandem FOR TABLE {list} WITH (publish_via_partition_root = true)"));
        let slot =
            format!("SELECT lsn::text FROM pg_create_logical_replication_slot('{database}_{number}', 'pgoutput')");
        let start = sql.field::<String>(&slot).expect("one row");
        for (id, table) in (1..).zip(tables) {
            sql.run(&format!(
                "INSERT INTO pgtandem.linked_table (id, schema_name, table_name, relid, resolve, ids, columns, \
                                                    start_position, state) \
                 SELECT {id}, 'public', '{table}', '{table}'::regclass, 'newest', 'keep', \
                        array_agg(attname::text), '{start}', 'live' \
                 FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped"
            ));
        }
    }
}
