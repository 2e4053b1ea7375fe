//! Two servers that scenarios share which leave the servers themselves alone.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use pgtandem::cluster::{Cluster, ClusterOptions};

use super::template::template;
use super::wait::{PATIENCE, wait_until};

/// Never dropped: the servers' watchdogs end them with this process.
static CLUSTERS: OnceLock<Vec<Arc<Cluster>>> = OnceLock::new();
static FLEETS: AtomicU32 = AtomicU32::new(1);

/// `count` of them, and what to append to the names of databases and roles.
pub fn clusters(count: usize) -> (Vec<Arc<Cluster>>, String) {
    let clusters = CLUSTERS.get_or_init(|| {
        let options = [("first", 0), ("second", 1)].map(|(name, place)| {
            let options = ClusterOptions::new(name).unwrap_or_else(|e| panic!("{e}"));
            options
                .template(template(place))
                .without_fsync()
                .setting("max_replication_slots", "60")
                .setting("max_wal_senders", "60")
        });
        let clusters = Cluster::start_all(options).unwrap_or_else(|e| panic!("{e}"));
        clusters.into_iter().map(Arc::new).collect()
    });
    assert!(count <= clusters.len(), "only {} servers are shared", clusters.len());
    (clusters[..count].to_vec(), format!("_{}", FLEETS.fetch_add(1, Ordering::Relaxed)))
}

/// With its slots, which would keep the server's WAL for ever.
pub fn drop_database(cluster: &Cluster, database: &str) {
    let run = |sql: String| cluster.psql("postgres", &sql);
    let slots = format!("FROM pg_replication_slots WHERE database = '{database}'");
    wait_until("the slots are free", PATIENCE, || {
        // One whose walsender has not ended yet cannot be dropped.
        let _ = run(format!("SELECT pg_terminate_backend(active_pid) {slots} AND active"));
        let _ = run(format!("SELECT pg_drop_replication_slot(slot_name) {slots} AND NOT active"));
        run(format!("SELECT count(*) {slots}")).is_ok_and(|left| left == "0")
    });
    let _ = run(format!("DROP DATABASE {database} WITH (FORCE)"));
}
