//! PostgreSQL's own logical replication, one way, with its defaults.

use crate::pair::Pair;
use crate::sql::Sql;

pub struct Native {
    database: &'static str,
    target: Sql,
}

impl Native {
    /// A publication and a subscription that waits to be enabled; the tables are equal already.
    pub fn link(pair: &Pair, database: &'static str, tables: &[&str]) -> Native {
        let source = Sql::connect(&pair.source, database);
        let target = Sql::connect(&pair.target, database);
        source.run(&format!("CREATE PUBLICATION {database} FOR TABLE {}", tables.join(", ")));
        // The slot is made beforehand: CREATE SUBSCRIPTION cannot make one and leave it alone.
        source.run(&format!("SELECT pg_create_logical_replication_slot('{database}', 'pgoutput')"));
        target.run(&format!(
            "CREATE SUBSCRIPTION {database} CONNECTION '{}' PUBLICATION {database} \
             WITH (copy_data = false, create_slot = false, enabled = false)",
            pair.connection(&pair.source, database)
        ));
        Native { database, target }
    }

    pub fn start(&self) {
        self.target.run(&format!("ALTER SUBSCRIPTION {} ENABLE", self.database));
    }

    pub fn unlink(self, pair: &Pair) {
        let database = self.database;
        self.target.run(&format!("ALTER SUBSCRIPTION {database} DISABLE"));
        self.target.run(&format!("ALTER SUBSCRIPTION {database} SET (slot_name = NONE)"));
        self.target.run(&format!("DROP SUBSCRIPTION {database}"));
        drop_slots(pair, database);
    }
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
