//! How long a delivery waits for a row that the application has locked.
//!
//! Short at first: who deadlocks with a delivery, or waits for a row that it has written already, waits as long as it
//! does. Longer after each delivery that gave up, so that rows which are always locked are delivered in the end; but
//! never up to the server's deadlock_timeout, so that the victim of a deadlock is the delivery, never the application.

use std::time::Duration;

use super::error::DeliverError;

const FIRST: Duration = Duration::from_millis(150);

#[derive(Debug)]
pub struct Patience {
    longest: Duration,
    now: Duration,
    /// What the session has been told.
    set: Option<Duration>,
}

impl Patience {
    #[must_use]
    pub fn below(deadlock_timeout: Duration) -> Self {
        let longest = (deadlock_timeout * 7 / 10).max(Duration::from_millis(1));
        Self { longest, now: FIRST.min(longest), set: None }
    }

    /// The statement that tells the session, if it does not know yet.
    pub(super) fn change(&mut self) -> Option<String> {
        if self.set.replace(self.now) == Some(self.now) {
            return None;
        }
        Some(format!("SET lock_timeout = {}", self.now.as_millis()))
    }

    /// From how a delivery ended.
    pub(super) fn learn(&mut self, error: Option<&DeliverError>) {
        match error {
            None => self.now = FIRST.min(self.longest),
            Some(error) if error.is_lock_timeout() => self.now = (self.now * 3 / 2).min(self.longest),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_is_told_once_and_never_to_wait_as_long_as_the_server_looks_for_deadlocks() {
        let mut patience = Patience::below(Duration::from_secs(1));
        assert_eq!(patience.change().as_deref(), Some("SET lock_timeout = 150"));
        assert_eq!(patience.change(), None);
        let mut hasty = Patience::below(Duration::from_millis(100));
        assert_eq!(hasty.change().as_deref(), Some("SET lock_timeout = 70"));
        let mut least = Patience::below(Duration::from_millis(1));
        assert_eq!(least.change().as_deref(), Some("SET lock_timeout = 1"));
    }
}
