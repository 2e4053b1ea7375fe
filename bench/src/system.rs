//! What is measured: native logical replication and pgtandem, linked on databases of their own, started and stopped.

use std::fmt;
use std::time::{Duration, Instant};

use crate::native::Native;
use crate::pair::{Content, Pair};
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

/// A pair of databases, linked by one system, that goes when this is dropped.
pub struct Stage<'p> {
    pub pair: &'p Pair,
    pub system: System,
    pub tables: Vec<&'static str>,
    link: Link,
}

enum Link {
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
        let database = system.database();
        pair.create_databases(database, content);
        for cluster in pair.clusters() {
            Sql::connect(cluster, database).run(prepare);
        }
        let link = match system {
            System::Native => Link::Native(Box::new(Native::link(pair, database, tables))),
            System::Tandem => Link::Tandem(Box::new(Tandem::link(pair, database, tables))),
        };
        Stage { pair, system, tables: tables.to_vec(), link }
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
        let slots = Sql::connect(&self.pair.source, "postgres");
        let began = Instant::now();
        match &mut self.link {
            Link::Native(native) => native.start(),
            Link::Tandem(tandem) => tandem.start(),
        }
        let query = format!(
            "SELECT true FROM pg_stat_replication AS r JOIN pg_replication_slots AS s ON s.active_pid = r.pid \
             WHERE s.database = '{}' AND r.state IN ('catchup', 'streaming')",
            self.database()
        );
        let query = slots.prepare(&query);
        while slots.query(&query, &[]).is_empty() {
            std::thread::sleep(Duration::from_micros(500));
            self.check_alive();
            assert!(began.elapsed() < Duration::from_secs(60), "{} does not start", self.system);
        }
        Began { startup: began.elapsed(), streaming_since: Instant::now() }
    }

    /// The process of pgtandem, while it runs.
    pub fn hub_pid(&self) -> Option<u32> {
        match &self.link {
            Link::Native(_) => None,
            Link::Tandem(tandem) => tandem.pid(),
        }
    }

    pub fn check_alive(&mut self) {
        if let Link::Tandem(tandem) = &mut self.link {
            tandem.check_alive();
        }
    }

    pub fn check_equal(&self) {
        self.pair.check_equal(self.database(), &self.tables);
    }

    pub fn tear_down(self) {
        match self.link {
            Link::Native(native) => native.unlink(self.pair),
            Link::Tandem(tandem) => tandem.unlink(self.pair),
        }
        self.pair.drop_databases(self.system.database());
    }
}
