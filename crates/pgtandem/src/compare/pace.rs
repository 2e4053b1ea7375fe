//! Leaving the servers time for others.

use std::time::Duration;

#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    max_load: f64,
}

impl Pace {
    pub fn new(max_load: f64) -> Self {
        Self { max_load: max_load.clamp(0.01, 1.0) }
    }

    pub fn is_full(self) -> bool {
        self.max_load >= 1.0
    }

    /// After so much work.
    pub async fn rest(self, worked: Duration) {
        if !self.is_full() {
            tokio::time::sleep(self.pause(worked)).await;
        }
    }

    fn pause(self, worked: Duration) -> Duration {
        worked.mul_f64((1.0 - self.max_load) / self.max_load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_load_rests_as_long_as_it_works() {
        let second = Duration::from_secs(1);
        assert_eq!(Pace::new(0.5).pause(second), second);
        assert_eq!(Pace::new(0.2).pause(second), 4 * second);
        assert!(Pace::new(1.0).is_full() && Pace::new(1.0).pause(second).is_zero());
    }
}
