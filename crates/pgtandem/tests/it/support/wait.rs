//! The only place in the tests that sleeps.

use std::time::{Duration, Instant};

/// Long enough for whatever is going to happen at all, on a busy machine, too.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Polls until the condition holds; panics, naming it, when it does not hold in time.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    let mut pause = Duration::from_millis(1);
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
