//! An application: it inserts, updates and deletes products of its own database, and knows of nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{DISPUTED, LEGACY_PRODUCTS, products};
use crate::cluster::{Cluster, Session, SqlError};

/// Between two writes, so that a person can follow.
const PACE: Duration = Duration::from_millis(4);
/// An application whose server is away asks again.
const AGAIN: Duration = Duration::from_millis(100);

/// What an application has written so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    /// Writes its server did not take, because it was away.
    pub refused: u64,
}

impl Written {
    #[must_use]
    pub fn total(&self) -> u64 {
        self.inserted + self.updated + self.deleted
    }
}

impl std::ops::Add for Written {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            inserted: self.inserted + other.inserted,
            updated: self.updated + other.updated,
            deleted: self.deleted + other.deleted,
            refused: self.refused + other.refused,
        }
    }
}

#[derive(Default)]
struct Counters {
    inserted: AtomicU64,
    updated: AtomicU64,
    deleted: AtomicU64,
    refused: AtomicU64,
    stop: AtomicBool,
}

/// It writes until it is stopped or dropped.
pub struct App {
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl App {
    pub(super) fn start(cluster: &Cluster, database: &str, seed: u64) -> Self {
        let counters = Arc::new(Counters::default());
        let place = Place {
            name: cluster.name().to_owned(),
            socket_dir: cluster.dir().to_owned(),
            port: cluster.port(),
            user: cluster.superuser().to_owned(),
            database: database.to_owned(),
        };
        let shared = Arc::clone(&counters);
        let thread = std::thread::spawn(move || work(&place, &shared, Dice(seed)));
        Self { counters, thread: Some(thread) }
    }

    #[must_use]
    pub fn written(&self) -> Written {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { inserted, updated, deleted, refused, .. } = &*self.counters;
        Written { inserted: count(inserted), updated: count(updated), deleted: count(deleted), refused: count(refused) }
    }

    /// Lets it finish the write it is at.
    #[must_use]
    pub fn stop(mut self) -> Written {
        self.end();
        self.written()
    }

    fn end(&mut self) {
        self.counters.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // One that panicked has written what it has written.
            let _ = thread.join();
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.end();
    }
}

struct Place {
    name: String,
    socket_dir: std::path::PathBuf,
    port: u16,
    user: String,
    database: String,
}

impl Place {
    fn connect(&self) -> Result<Session, SqlError> {
        Session::connect(&self.name, &self.socket_dir, self.port, &self.user, &self.database)
    }
}

fn work(place: &Place, counters: &Counters, mut dice: Dice) {
    let mut session = None;
    while !counters.stop.load(Ordering::Relaxed) {
        let wrote = match &session {
            Some(open) => write(open, counters, &mut dice),
            None => place.connect().map(|open| session = Some(open)),
        };
        if wrote.is_err() {
            session = None;
            counters.refused.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(AGAIN);
        }
        std::thread::sleep(PACE);
    }
}

/// Half of the writes are new products, most others change a price.
fn write(session: &Session, counters: &Counters, dice: &mut Dice) -> Result<(), SqlError> {
    let number = dice.roll();
    // The one they will argue about stays.
    let id = u64::from(DISPUTED) + 1 + dice.roll() % u64::from(LEGACY_PRODUCTS * 2);
    let (sql, counter) = match dice.roll() % 10 {
        0..5 => (products::insert(number), &counters.inserted),
        5..9 => (products::update(id, number), &counters.updated),
        _ => (products::delete(id), &counters.deleted),
    };
    let rows = session.run(sql)?;
    counter.fetch_add(rows.lines().count() as u64, Ordering::Relaxed);
    Ok(())
}

/// Xorshift: good enough to pick products.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }
}
