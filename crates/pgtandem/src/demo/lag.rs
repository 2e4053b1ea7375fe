//! How long a change takes to the other side.

use std::time::{Duration, Instant};

use super::error::DemoError;
use super::{DISPUTED, PATIENCE, products};
use crate::cluster::Session;

/// Sorted.
#[derive(Debug, Clone)]
pub struct Lags(Vec<Duration>);

impl Lags {
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `percent` of all took at most this long.
    #[must_use]
    pub fn at(&self, percent: usize) -> Duration {
        let at = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(at).copied().unwrap_or_default()
    }
}

/// The reader asks again and again, so what it sees is late by up to one round trip.
pub(super) fn measure(writer: &Session, reader: &Session, times: u32) -> Result<Lags, DemoError> {
    let id = DISPUTED - 1;
    let mut lags = Vec::new();
    let read = format!("SELECT price FROM products WHERE id = {id}");
    for time in 0..times {
        let price = 100_000 + time;
        writer.run(products::reprice(id, price))?;
        let committed = Instant::now();
        while reader.run(&read)? != price.to_string() {
            if committed.elapsed() > PATIENCE {
                return Err(DemoError::Late { what: "a change to arrive", seconds: PATIENCE.as_secs() });
            }
        }
        lags.push(committed.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    lags.sort_unstable();
    Ok(Lags(lags))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let lags = Lags((1..=100).map(Duration::from_millis).collect());
        assert_eq!([lags.at(50), lags.at(99), lags.at(100)].map(|lag| lag.as_millis()), [50, 99, 100]);
        assert_eq!(Lags(vec![Duration::from_millis(3)]).at(50).as_millis(), 3);
    }
}
