//! `pgtandem demo`: two servers of our own, two applications that write at once, an outage, a conflict.
//!
//! Everything happens in temporary directories, through the same code that the commands run. Nothing here prints:
//! `cli/demo.rs` tells the story.

mod app;
mod error;
mod hub;
mod keep;
mod lag;
mod products;
mod rows;

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use app::{App, Written};
pub use error::DemoError;
pub use keep::Kept;
pub use lag::Lags;
pub use rows::Equal;

use hub::Hub;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::cluster::{Cluster, ClusterOptions, Session, Stop};
use crate::config::Config;
use crate::connect::Environment;
use crate::lifecycle::{self, Look, Silent, Until};
use crate::observe::{self, Conflict, ConflictFilter, Observer, Status};

/// The nodes, and the database of each: another name on each, as in real life.
pub const NODES: [(&str, &str); 2] = [("new", "new_app"), ("legacy", "legacy_app")];
/// How many products the legacy application has sold for years; the new one starts with none.
pub const LEGACY_PRODUCTS: u32 = 2_000;
/// The product that both applications change while no hub looks.
pub const DISPUTED: u32 = 7;

/// Whatever has to happen happens sooner, on a slow machine, too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Servers, applications and a hub. Dropped, it leaves nothing behind.
pub struct Demo {
    // In the order in which they must end.
    hub: Option<Hub>,
    runtime: Runtime,
    config: Config,
    clusters: Vec<Cluster>,
    dir: TempDir,
}

impl Demo {
    /// Starts the servers and makes the applications' tables.
    ///
    /// # Errors
    /// When no PostgreSQL is installed, or a server does not start.
    pub fn start() -> Result<Self, DemoError> {
        let options: Result<Vec<_>, _> =
            NODES.iter().map(|(name, _)| Ok(ClusterOptions::new(*name)?.without_fsync())).collect();
        let options = options.map_err(DemoError::Cluster)?;
        let clusters = Cluster::start_all(options)?;
        for (cluster, (_, database)) in clusters.iter().zip(NODES) {
            cluster.create_database(database)?;
            cluster.psql(database, products::CREATE)?;
        }
        clusters[1].psql(NODES[1].1, &products::fill(LEGACY_PRODUCTS))?;
        let ours = fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().prefix("pgtandem-demo-").permissions(ours).tempdir()?;
        let file = dir.path().join("pgtandem.toml");
        // The URLs hold the servers' passwords.
        let mut written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
        std::io::Write::write_all(&mut written, toml(&clusters).as_bytes())?;
        let config = Config::load(&file, &Environment::of_process())
            .map_err(|faults| DemoError::Config(faults.render(false)))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { hub: None, runtime, config, clusters, dir })
    }

    /// The directory of the configuration and the hub's log; those of the servers are elsewhere.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn log_file(&self) -> PathBuf {
        self.dir.path().join("hub.log")
    }

    pub fn server_version(&self) -> String {
        self.clusters[0].bin().version().to_string()
    }

    /// What `pgtandem up` does.
    ///
    /// # Errors
    /// As it does.
    pub fn link(&self) -> Result<(), DemoError> {
        self.runtime.block_on(async {
            let (report, plan) = lifecycle::make_plan(&self.config, Look::Ids).await?;
            let Some(plan) = plan else {
                let faults: Vec<String> = report.faults().map(|finding| finding.what.clone()).collect();
                return Err(DemoError::Check(faults.join("; ")));
            };
            Ok(lifecycle::up(&self.config, &plan, Until::Linked, &Silent).await?)
        })
    }

    /// What `pgtandem run` does, on a thread; returns once it works.
    ///
    /// # Errors
    /// When it ends, with what it said.
    pub fn start_hub(&mut self) -> Result<(), DemoError> {
        self.hub = Some(Hub::start(&self.config)?);
        self.wait_for_hub()
    }

    fn wait_for_hub(&self) -> Result<(), DemoError> {
        let began = Instant::now();
        while self.status().hub.state != observe::HubState::Running {
            self.check_hub()?;
            pause_within(began, "the hub to start working")?;
        }
        Ok(())
    }

    /// As by SIGTERM.
    ///
    /// # Errors
    /// When it had failed before.
    pub fn stop_hub(&mut self) -> Result<(), DemoError> {
        self.hub.take().map_or(Ok(()), Hub::stop)
    }

    /// An application at work on a node.
    pub fn app(&self, node: usize, seed: u64) -> App {
        App::start(&self.clusters[node], NODES[node].1, seed)
    }

    /// # Errors
    /// When it does not stop.
    pub fn stop_server(&self, node: usize) -> Result<(), DemoError> {
        Ok(self.clusters[node].stop(Stop::Fast)?)
    }

    /// # Errors
    /// When it does not start.
    pub fn start_server(&self, node: usize) -> Result<(), DemoError> {
        Ok(self.clusters[node].start_again()?)
    }

    /// The state of the link, as `pgtandem status` shows it.
    pub fn status(&self) -> Status {
        let observed = self.runtime.block_on(Observer::new(&self.config).look());
        Status::new(&self.config, &observed, jiff::Timestamp::now())
    }

    /// Reads all rows of both sides and compares them.
    ///
    /// # Errors
    /// When they differ: in which rows.
    pub fn compare(&self) -> Result<Equal, DemoError> {
        rows::compare(&self.sides()?)
    }

    /// Waits until both sides are equal, nobody writing.
    ///
    /// # Errors
    /// When they still differ after a minute, or the hub has failed.
    pub fn wait_until_equal(&self) -> Result<Equal, DemoError> {
        let began = Instant::now();
        let sides = self.sides()?;
        loop {
            match rows::compare(&sides) {
                Err(error @ DemoError::Differ { .. }) if began.elapsed() > PATIENCE => return Err(error),
                Err(DemoError::Differ { .. }) => {}
                done => return done,
            }
            self.check_hub()?;
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// With the hub stopped, each application sets another price for one product, the legacy one later.
    ///
    /// # Errors
    /// When a server does not take it.
    pub fn dispute(&self) -> Result<(), DemoError> {
        for ((_, session), price) in self.sides()?.into_iter().zip([1_999, 2_499]) {
            session.run(products::reprice(DISPUTED, price))?;
        }
        Ok(())
    }

    /// The decision about it, once it is made.
    ///
    /// # Errors
    /// When there is none after a minute.
    pub fn decision(&self) -> Result<Conflict, DemoError> {
        let began = Instant::now();
        let mut observer = Observer::new(&self.config);
        let names: Vec<&str> = NODES.iter().map(|(name, _)| *name).collect();
        let filter = ConflictFilter { limit: 100, ..ConflictFilter::default() };
        loop {
            let (conflicts, _) = self.runtime.block_on(observe::read_conflicts(&names, &mut observer, &filter));
            let id = DISPUTED.to_string();
            let about = |conflict: &Conflict| conflict.key.get("id").and_then(|id| id.as_str()) == Some(&id);
            if let Some(found) = conflicts.into_iter().flatten().find(about) {
                return Ok(found);
            }
            self.check_hub()?;
            pause_within(began, "the conflict to be decided")?;
        }
    }

    /// From COMMIT's return on one side until a reader on the other side sees it, `times` times.
    ///
    /// # Errors
    /// When a change does not arrive within a minute.
    pub fn measure_lag(&self, from: usize, times: u32) -> Result<Lags, DemoError> {
        let session = |node: usize| self.clusters[node].session(NODES[node].1);
        lag::measure(&session(from)?, &session(1 - from)?, times)
    }

    /// Leaves the servers and a hub running.
    ///
    /// # Errors
    /// When the hub cannot be started as a process of its own.
    pub fn keep(mut self) -> Result<Kept, DemoError> {
        self.stop_hub()?;
        let hub = keep::start_hub(self.dir())?;
        self.wait_for_hub()?;
        keep::keep(hub, self.clusters, self.dir)
    }

    fn sides(&self) -> Result<Vec<(&'static str, Session)>, DemoError> {
        let open = |(cluster, (name, database)): (&Cluster, _)| Ok((name, cluster.session(database)?));
        self.clusters.iter().zip(NODES).map(open).collect()
    }

    fn check_hub(&self) -> Result<(), DemoError> {
        self.hub.as_ref().map_or(Ok(()), Hub::check)
    }
}

fn toml(clusters: &[Cluster]) -> String {
    let mut text = String::new();
    for (cluster, (name, database)) in clusters.iter().zip(NODES) {
        text.push_str(&format!("[nodes.{name}]\nurl = \"{}\"\n\n", cluster.url(database)));
    }
    text.push_str("[[tables]]\nname = \"products\"\nresolve = \"newest\"\n");
    text
}

fn pause_within(began: Instant, what: &'static str) -> Result<(), DemoError> {
    if began.elapsed() > PATIENCE {
        return Err(DemoError::Late { what, seconds: PATIENCE.as_secs() });
    }
    std::thread::sleep(Duration::from_millis(20));
    Ok(())
}
