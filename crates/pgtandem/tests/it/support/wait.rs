//! The only place in the tests that sleeps.

use std::time::{Duration, Instant};

/// Long enough for whatever is going to happen at all, on a busy machine, too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls until the condition holds; panics, naming it, when it does not hold in time.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    let mut pause = Duration::from_millis(1);
    while !condition() {
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(pause);
        // What takes long is worth fewer looks.
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
