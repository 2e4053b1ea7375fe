//! What a server is and how it is set.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use tokio_postgres::{Error, GenericClient};

#[derive(Debug, Clone)]
pub struct ServerFacts {
    /// 150018 for 15.18.
    pub version_num: i32,
    pub version: String,
    pub system_identifier: String,
    pub database: String,
    pub database_oid: u32,
    /// Encoding of the database, `UTF8` for instance.
    pub encoding: String,
    /// A standby: it takes no writes.
    pub in_recovery: bool,
    pub wal_level: String,
    pub max_replication_slots: i64,
    pub slots_used: i64,
    pub max_wal_senders: i64,
    pub senders_used: i64,
    pub max_connections: i64,
    pub connections_used: i64,
    pub deadlock_timeout: Duration,
    /// Bytes of WAL a slot may keep; none: without limit.
    pub max_slot_wal_keep_size: Option<u64>,
    /// The trusted output plugins, on servers that have such a list.
    pub output_plugin_libraries: Option<String>,
    pub wal_bytes: Option<u64>,
    /// The server's clock, read between `clock_asked` and `clock_answered` of ours.
    pub clock: SystemTime,
    pub clock_asked: SystemTime,
    pub clock_answered: SystemTime,
}

impl ServerFacts {
    pub fn major(&self) -> i32 {
        self.version_num / 10_000
    }

    /// How far the server's clock is from ours, in seconds (positive: ahead), and by how much that may be wrong.
    pub fn clock_offset(&self) -> (f64, f64) {
        let seconds = |time: SystemTime| match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => since.as_secs_f64(),
            Err(before) => -before.duration().as_secs_f64(),
        };
        let (asked, answered) = (seconds(self.clock_asked), seconds(self.clock_answered));
        (seconds(self.clock) - (asked + answered) / 2.0, (answered - asked).abs() / 2.0)
    }
}

pub async fn read_server(client: &impl GenericClient) -> Result<ServerFacts, Error> {
    const SETTINGS: &str = "
        SELECT name::text, CASE unit WHEN 'MB' THEN (setting::bigint * 1048576)::text ELSE setting END
        FROM pg_catalog.pg_settings
        WHERE name IN ('server_version_num', 'server_version', 'wal_level', 'max_replication_slots', 'max_wal_senders',
                       'max_connections', 'deadlock_timeout', 'max_slot_wal_keep_size', 'output_plugin_libraries')";
    const FACTS: &str = "
        SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS system_identifier,
               d.datname::text AS database, d.oid AS database_oid, pg_catalog.pg_encoding_to_char(d.encoding)::text AS encoding,
               pg_catalog.pg_is_in_recovery() AS in_recovery,
               (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots
                WHERE slot_name NOT LIKE 'pgtandem\\_backlog\\_%') AS slots_used,
               (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication) AS senders_used,
               (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend') AS connections_used
        FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()";
    let settings: BTreeMap<String, String> =
        client.query(SETTINGS, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect();
    let text = |name: &str| settings.get(name).cloned().unwrap_or_default();
    let number = |name: &str| text(name).parse::<i64>().unwrap_or_default();
    let facts = client.query_one(FACTS, &[]).await?;
    let (clock_asked, clock, clock_answered) = read_clock(client).await?;
    Ok(ServerFacts {
        version_num: number("server_version_num") as i32,
        version: text("server_version"),
        system_identifier: facts.get("system_identifier"),
        database: facts.get("database"),
        database_oid: facts.get("database_oid"),
        encoding: facts.get("encoding"),
        in_recovery: facts.get("in_recovery"),
        wal_level: text("wal_level"),
        max_replication_slots: number("max_replication_slots"),
        slots_used: facts.get("slots_used"),
        max_wal_senders: number("max_wal_senders"),
        senders_used: facts.get("senders_used"),
        max_connections: number("max_connections"),
        connections_used: facts.get("connections_used"),
        deadlock_timeout: Duration::from_millis(number("deadlock_timeout").unsigned_abs()),
        max_slot_wal_keep_size: u64::try_from(number("max_slot_wal_keep_size")).ok(),
        output_plugin_libraries: settings.get("output_plugin_libraries").cloned(),
        wal_bytes: read_wal_bytes(client).await?,
        clock,
        clock_asked,
        clock_answered,
    })
}

/// The shortest of three round trips says most.
async fn read_clock(client: &impl GenericClient) -> Result<(SystemTime, SystemTime, SystemTime), Error> {
    let statement = client.prepare("SELECT pg_catalog.clock_timestamp()").await?;
    let mut best: Option<(SystemTime, SystemTime, SystemTime)> = None;
    for _ in 0..3 {
        let asked = SystemTime::now();
        let clock: SystemTime = client.query_one(&statement, &[]).await?.get(0);
        let answered = SystemTime::now();
        let width = |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default();
        if best.is_none_or(|(from, _, to)| width(asked, answered) < width(from, to)) {
            best = Some((asked, clock, answered));
        }
    }
    Ok(best.unwrap_or((SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH)))
}

/// Only superusers and members of pg_monitor may ask.
async fn read_wal_bytes(client: &impl GenericClient) -> Result<Option<u64>, Error> {
    const MAY: &str = "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_ls_waldir()', 'EXECUTE')";
    if !client.query_one(MAY, &[]).await?.get::<_, bool>(0) {
        return Ok(None);
    }
    const BYTES: &str = "SELECT pg_catalog.sum(size)::bigint FROM pg_catalog.pg_ls_waldir()";
    let bytes: Option<i64> = client.query_one(BYTES, &[]).await?.get(0);
    Ok(bytes.map(i64::unsigned_abs))
}
