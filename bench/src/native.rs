//! PostgreSQL's own logical replication, with its defaults.

use std::time::{Duration, Instant};

use pgtandem::cluster::Cluster;

use crate::pair::Pair;
use crate::sql::Sql;

/// The first release whose subscriptions can leave out what they did not write themselves (`origin = none`), without
/// which two of them in a ring send every change round for ever.
pub const BOTH_WAYS_SINCE: u32 = 16;

pub struct Native {
    database: &'static str,
    /// Where there is a subscription.
    targets: Vec<Sql>,
}

impl Native {
    /// A publication and a subscription that waits to be enabled; the tables are equal already.
    pub fn link(pair: &Pair, database: &'static str, tables: &[&str]) -> Native {
        let target = subscribe(pair, database, tables, [&pair.source, &pair.target], "");
        Native { database, targets: vec![target] }
    }

    /// The same in both directions.
    pub fn link_both_ways(pair: &Pair, database: &'static str, tables: &[&str]) -> Native {
        let there = [&pair.source, &pair.target];
        let back = [&pair.target, &pair.source];
        let targets = [there, back].map(|way| subscribe(pair, database, tables, way, ", origin = none"));
        Native { database, targets: targets.into() }
    }

    /// The tables are empty on the target; returns when their rows are there and changes follow.
    pub fn link_and_copy(pair: &Pair, database: &'static str, tables: &[&str]) -> Native {
        let target = Sql::connect(&pair.target, database);
        publish(&Sql::connect(&pair.source, database), database, tables);
        target.run(&format!(
            "CREATE SUBSCRIPTION {database} CONNECTION '{}' PUBLICATION {database}",
            pair.connection(&pair.source, database)
        ));
        let unready = target.prepare("SELECT 1 FROM pg_subscription_rel WHERE srsubstate <> 'r'");
        let began = Instant::now();
        while !target.query(&unready, &[]).is_empty() {
            std::thread::sleep(Duration::from_millis(5));
            assert!(began.elapsed() < Duration::from_secs(120), "the subscription does not get ready");
        }
        Native { database, targets: vec![target] }
    }

    pub fn start(&self) {
        for target in &self.targets {
            target.run(&format!("ALTER SUBSCRIPTION {} ENABLE", self.database));
        }
    }

    pub fn unlink(self, pair: &Pair) {
        let database = self.database;
        for target in self.targets {
            target.run(&format!("ALTER SUBSCRIPTION {database} DISABLE"));
            target.run(&format!("ALTER SUBSCRIPTION {database} SET (slot_name = NONE)"));
            target.run(&format!("DROP SUBSCRIPTION {database}"));
        }
        drop_slots(pair, database);
    }
}

fn publish(source: &Sql, database: &str, tables: &[&str]) {
    source.run(&format!("CREATE PUBLICATION {database} FOR TABLE {}", tables.join(", ")));
}

fn subscribe(pair: &Pair, database: &str, tables: &[&str], [from, to]: [&Cluster; 2], options: &str) -> Sql {
    let (source, target) = (Sql::connect(from, database), Sql::connect(to, database));
    publish(&source, database, tables);
    // The slot is made beforehand: CREATE SUBSCRIPTION cannot make one and leave it alone.
    source.run(&format!("SELECT pg_create_logical_replication_slot('{database}', 'pgoutput')"));
    target.run(&format!(
        "CREATE SUBSCRIPTION {database} CONNECTION '{}' PUBLICATION {database} \
         WITH (copy_data = false, create_slot = false, enabled = false{options})",
        pair.connection(from, database)
    ));
    target
}

/// Drops the database's slots on both servers, ending who still uses them.
pub fn drop_slots(pair: &Pair, database: &str) {
    for cluster in pair.clusters() {
        let sql = Sql::connect(cluster, "postgres");
        let of_database = format!("FROM pg_replication_slots WHERE database = '{database}'");
        while sql.field::<i64>(&format!("SELECT count(*) {of_database}")) != Some(0) {
            sql.run(&format!("SELECT pg_terminate_backend(active_pid) {of_database} AND active_pid IS NOT NULL"));
            sql.run(&format!("SELECT pg_drop_replication_slot(slot_name) {of_database} AND active_pid IS NULL"));
        }
    }
}
