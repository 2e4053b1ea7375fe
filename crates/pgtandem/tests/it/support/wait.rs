//! The only place in the tests that sleeps.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use pgtandem::cluster::{Cluster, Session, SqlError};

/// Long enough for whatever is going to happen at all, on a busy machine, too.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Polls until the condition holds; panics, naming it, when it does not hold in time.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    let mut pause = Duration::from_millis(1);
    let _looking = Looking::begin();
    loop {
        let look = Instant::now();
        if condition() {
            return;
        }
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        // Nor is what we wait for to be held up by our looking.
        std::thread::sleep(look.elapsed().clamp(pause, LONGEST_PAUSE));
        // What takes long is worth fewer looks.
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

thread_local! {
    static LOOKING: Cell<u32> = const { Cell::new(0) };
    /// By port and database.
    static SESSIONS: RefCell<Vec<((u16, String), Session)>> = const { RefCell::new(Vec::new()) };
}

/// While this thread looks again and again it keeps its sessions: a new one takes a server longer than what is asked.
struct Looking;

impl Looking {
    fn begin() -> Self {
        LOOKING.set(LOOKING.get() + 1);
        Self
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        LOOKING.set(LOOKING.get() - 1);
        if LOOKING.get() == 0 {
            SESSIONS.take();
        }
    }
}

/// In a session of its own; within `wait_until` in one that is kept until that ends.
#[allow(dead_code, reason = "the demo with Rails only waits")]
pub(super) fn ask(cluster: &Cluster, database: &str, sql: &str) -> Result<String, SqlError> {
    if LOOKING.get() == 0 {
        return cluster.psql(database, sql);
    }
    let place = (cluster.port(), database.to_owned());
    let kept = SESSIONS.with_borrow_mut(|sessions| {
        let at = sessions.iter().position(|(of, _)| *of == place)?;
        Some(sessions.swap_remove(at).1)
    });
    let is_kept = kept.is_some();
    let session = match kept {
        Some(session) => session,
        None => Session::connect(database, cluster.dir(), cluster.port(), cluster.superuser(), database)?,
    };
    let answer = session.run(sql);
    match &answer {
        Ok(_) => SESSIONS.with_borrow_mut(|sessions| sessions.push((place, session))),
        Err(error) if is_kept && is_over(error) => return cluster.psql(database, sql),
        Err(_) => {}
    }
    answer
}

/// Of the session, not of what it was asked.
#[allow(dead_code, reason = "the demo with Rails only waits")]
fn is_over(error: &SqlError) -> bool {
    error.sqlstate.as_deref().is_none_or(|code| code.starts_with("57P"))
}
