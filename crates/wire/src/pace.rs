//! Reading in larger pieces while much comes in.
//!
//! A walsender sends every message by itself. A reader that is woken for each spends more on being woken than on
//! reading, and so does the sender on waking it: on two cores that takes a quarter of the rate. So while the
//! server sends fast, a read waits a moment for more to come. At a lower rate it never waits.

use std::time::Duration;

use tokio::time::Instant;

/// Fast: more than this many bytes in a millisecond.
const FAST_BYTES_PER_MS: u128 = 8 << 10;
/// The rate is looked at over at least this time.
const WINDOW: Duration = Duration::from_millis(1);
/// For how long a read waits; timers are no finer.
pub(crate) const REST: Duration = Duration::from_millis(1);

pub(crate) struct Pace {
    since: Instant,
    bytes: usize,
    fast: bool,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Pace { since: now, bytes: 0, fast: false }
    }

    /// Whether the next read should wait for more to come.
    pub(crate) fn is_fast(&self) -> bool {
        self.fast
    }

    /// A read brought this much.
    pub(crate) fn read(&mut self, bytes: usize, now: Instant) {
        self.bytes += bytes;
        let elapsed = now.duration_since(self.since);
        if elapsed >= WINDOW {
            self.fast = self.bytes as u128 * 1000 > FAST_BYTES_PER_MS * elapsed.as_micros();
            (self.since, self.bytes) = (now, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fast_stream_is_waited_for_and_only_as_long_as_it_is_fast() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut pace = Pace::new(start);
        pace.read(100 << 10, start);
        assert!(!pace.is_fast(), "one large read is no rate");
        pace.read(1, at(1));
        assert!(pace.is_fast());
        pace.read(40 << 10, at(3));
        assert!(pace.is_fast());
        pace.read(300, at(4));
        assert!(!pace.is_fast(), "what comes now must not wait");
        pace.read(100 << 10, at(1_000));
        assert!(!pace.is_fast(), "after a long silence");
    }
}
