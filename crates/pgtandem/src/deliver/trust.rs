//! Whether deliveries are written as what the hub expects to find suggests.
//!
//! An INSERT of the source is copied in and an UPDATE is an update, which is about twice as fast as writing a row whether
//! it is there or not. Where the target's own changes prove an expectation wrong, the delivery is written once more
//! without expecting anything; after each such surprise fewer deliveries expect something.

/// What a delivery counts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Every row is written whether its key is there or not.
    Nothing,
    /// Rows that the source inserted are not there yet, rows that it updated are.
    Presence,
}

/// So many deliveries at the most expect nothing after a surprise.
const LONGEST_DOUBT: u32 = 1_024;

/// What was learnt from earlier deliveries to a target.
#[derive(Debug, Default)]
pub struct Experience {
    /// So many deliveries are to come before one may expect something again.
    doubt: u32,
    /// How many that will be after the next surprise.
    next_doubt: u32,
}

impl Experience {
    pub fn trust(&mut self) -> Trust {
        if self.doubt == 0 {
            return Trust::Presence;
        }
        self.doubt -= 1;
        Trust::Nothing
    }

    pub fn was_right(&mut self) {
        self.next_doubt = 0;
    }

    pub fn was_surprised(&mut self) {
        self.next_doubt = (self.next_doubt * 2).clamp(4, LONGEST_DOUBT);
        self.doubt = self.next_doubt;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surprises_in_a_row_make_for_longer_doubt() {
        let mut experience = Experience::default();
        assert_eq!(experience.trust(), Trust::Presence);
        for doubted in [4, 8, 16] {
            experience.was_surprised();
            for _ in 0..doubted {
                assert_eq!(experience.trust(), Trust::Nothing);
            }
            assert_eq!(experience.trust(), Trust::Presence);
        }
        experience.was_right();
        experience.was_surprised();
        (0..4).for_each(|_| assert_eq!(experience.trust(), Trust::Nothing));
        assert_eq!(experience.trust(), Trust::Presence);
    }
}
