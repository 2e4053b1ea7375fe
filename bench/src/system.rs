//! What is measured: native logical replication and pgtandem, linked on databases of their own, started and stopped.

use std::fmt;
use std::time::{Duration, Instant};

use pgtandem::cluster::Cluster;

use crate::native::Native;
use crate::pair::{Capture, Content, Pair};
use crate::sql::Sql;
use crate::tandem::Tandem;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum System {
    Native,
    Tandem,
}

impl System {
    pub const BOTH: [System; 2] = [System::Native, System::Tandem];

    pub fn database(self) -> &'static str {
        match self {
            Self::Native => "by_native",
            Self::Tandem => "by_tandem",
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Tandem => "pgtandem",
        })
    }
}

/// A table of every run; what is written to it last tells that everything before it has arrived.
const MARKS: &str = "bench_marks";

/// A pair of databases, linked by one system.
pub struct Stage<'p> {
    pub pair: &'p Pair,
    pub system: System,
    pub tables: Vec<&'static str>,
    link: Link,
}

enum Link {
    NotYet,
    Native(Box<Native>),
    Tandem(Box<Tandem>),
}

/// What a start took until the source sent its first byte.
pub struct Began {
    pub startup: Duration,
    pub streaming_since: Instant,
}

impl<'p> Stage<'p> {
    /// Fresh databases, `prepare` run on both, the tables linked, nothing running.
    pub fn set(pair: &'p Pair, system: System, content: Content, prepare: &str, tables: &[&'static str]) -> Stage<'p> {
        let mut stage = Stage::fresh(pair, system, content, prepare, tables);
        let database = stage.database();
        stage.link = match system {
            System::Native => Link::Native(Box::new(Native::link(pair, database, &stage.tables))),
            System::Tandem => Link::Tandem(Box::new(Tandem::link(pair, database, &stage.tables))),
        };
        stage
    }

    /// Fresh databases, not linked.
    pub fn fresh(
        pair: &'p Pair,
        system: System,
        content: Content,
        prepare: &str,
        tables: &[&'static str],
    ) -> Stage<'p> {
        pair.create_databases(system.database(), content);
        let stage = Stage { pair, system, tables: [tables, &[MARKS]].concat(), link: Link::NotYet };
        for sql in [stage.source(), stage.target()] {
            sql.run(&format!("{prepare}; CREATE TABLE {MARKS} (id int PRIMARY KEY)"));
        }
        stage
    }

    /// What is written on either side appears on the other; pgtandem knows no other way.
    pub fn link_both_ways(&mut self) {
        let (pair, database) = (self.pair, self.database());
        self.link = match self.system {
            System::Native => Link::Native(Box::new(Native::link_both_ways(pair, database, &self.tables))),
            System::Tandem => Link::Tandem(Box::new(Tandem::link(pair, database, &self.tables))),
        };
    }

    /// Links tables that are empty on the target; returns when the rows are there. Native replicates from then on.
    pub fn link_and_copy(&mut self) {
        let (pair, database) = (self.pair, self.database());
        self.link = match self.system {
            System::Native => Link::Native(Box::new(Native::link_and_copy(pair, database, &self.tables))),
            System::Tandem => Link::Tandem(Box::new(Tandem::link(pair, database, &self.tables))),
        };
    }

    pub fn database(&self) -> &'static str {
        self.system.database()
    }

    pub fn source(&self) -> Sql {
        Sql::connect(&self.pair.source, self.database())
    }

    pub fn target(&self) -> Sql {
        Sql::connect(&self.pair.target, self.database())
    }

    /// Starts replicating; returns when the source streams.
    pub fn start(&mut self) -> Began {
        let began = Instant::now();
        match &mut self.link {
            Link::NotYet => panic!("{} is not linked", self.system),
            Link::Native(native) => native.start(),
            Link::Tandem(tandem) => tandem.start(),
        }
        self.wait_until_streaming(&self.pair.source);
        Began { startup: began.elapsed(), streaming_since: Instant::now() }
    }

    pub fn wait_until_streaming(&mut self, cluster: &Cluster) {
        let slots = Sql::connect(cluster, "postgres");
        let began = Instant::now();
        let query = match (self.system, self.pair.capture) {
            (System::Tandem, Capture::Trigger) => format!(
                "SELECT true FROM pg_stat_activity WHERE datname = '{}' AND application_name = 'pgtandem capture'",
                self.database()
            ),
            // At work from the moment it is there: it may read what was missed before it streams.
            (System::Tandem, Capture::Wal) => "SELECT true FROM pg_stat_activity \
                WHERE backend_type = 'walsender' AND application_name = 'pgtandem capture'"
                .to_owned(),
            (System::Native, _) => format!(
                "SELECT true FROM pg_stat_replication AS r JOIN pg_replication_slots AS s ON s.active_pid = r.pid \
                 WHERE s.database = '{}' AND r.state IN ('catchup', 'streaming')",
                self.database()
            ),
        };
        let query = slots.prepare(&query);
        while slots.query(&query, &[]).is_empty() {
            std::thread::sleep(Duration::from_micros(500));
            self.check_alive();
            assert!(began.elapsed() < Duration::from_secs(60), "{} does not start", self.system);
        }
    }

    /// Writes mark `id` on one side.
    pub fn mark(&self, on: &Cluster, id: i32) {
        Sql::connect(on, self.database()).run(&format!("INSERT INTO {MARKS} VALUES ({id})"));
    }

    /// Waits until mark `id`, and so what its side wrote before it, is seen on the other.
    pub fn wait_for_mark(&mut self, seen_by: &Sql, id: i32) {
        let query = seen_by.prepare(&format!("SELECT 1 FROM {MARKS} WHERE id = {id}"));
        let began = Instant::now();
        while seen_by.query(&query, &[]).is_empty() {
            std::thread::sleep(Duration::from_millis(1));
            self.check_alive();
            assert!(began.elapsed() < Duration::from_secs(300), "{}: the changes do not arrive", self.system);
        }
    }

    /// The process of pgtandem, while it runs.
    pub fn hub_pid(&self) -> Option<u32> {
        match &self.link {
            Link::NotYet | Link::Native(_) => None,
            Link::Tandem(tandem) => tandem.pid(),
        }
    }

    /// How many deliveries of pgtandem landed there.
    pub fn deliveries(&self, landed_on: &Sql) -> i64 {
        match self.system {
            System::Native => 0,
            System::Tandem => landed_on.field("SELECT coalesce(max(id), 0) FROM pgtandem.landing").unwrap_or_default(),
        }
    }

    pub fn check_alive(&mut self) {
        if let Link::Tandem(tandem) = &mut self.link {
            tandem.check_alive();
        }
    }

    /// Fails unless the tables are equal on both sides.
    pub fn check_equal(&self) {
        if let Some(difference) = self.difference() {
            panic!("WRONG RESULT: {}: {difference}", self.system);
        }
    }

    /// Both sides were written to, so that what lost a conflict may still have to be put right; returns when all is.
    pub fn wait_until_equal(&mut self) -> Instant {
        let began = Instant::now();
        loop {
            let looked = Instant::now();
            let Some(difference) = self.difference() else { return looked };
            self.check_alive();
            let given_up = began.elapsed() > Duration::from_secs(60);
            assert!(!given_up, "WRONG RESULT: {} stays unequal: {difference}", self.system);
        }
    }

    fn difference(&self) -> Option<String> {
        self.pair.difference(self.database(), &self.tables)
    }

    pub fn tear_down(self) {
        match self.link {
            Link::NotYet => {}
            Link::Native(native) => native.unlink(self.pair),
            Link::Tandem(tandem) => tandem.unlink(self.pair),
        }
        self.pair.drop_databases(self.system.database());
    }
}
