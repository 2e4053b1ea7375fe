//! What was decided about one key. Mostly nothing or little; but after a time apart in which one row was written over
//! and over on both sides, many thousands, and each further change asks for its own.

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::key::Dot;

/// A decision about the key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    pub winner: Dot,
    pub loser: Dot,
    /// The loser was a part of a key change that lost on another key. It may stand here as what it fell back to.
    pub forfeit: bool,
    /// Its number in the log, or `KEPT`.
    pub number: u64,
}

impl Made {
    /// Made before a restart.
    pub(crate) const KEPT: u64 = u64::MAX;
}

#[derive(Debug, Default)]
pub(crate) struct Decided {
    /// In the order in which they were made.
    made: Vec<Made>,
    /// `None` while looking through all is as fast.
    places: Option<Places>,
}

/// Where in `made` a change stands.
#[derive(Debug, Default)]
struct Places {
    as_loser: HashMap<Dot, SmallVec<[u32; 2]>>,
    as_winner: HashMap<Dot, SmallVec<[u32; 2]>>,
}

const FEW: usize = 16;

impl Decided {
    pub(crate) fn all(&self) -> &[Made] {
        &self.made
    }

    pub(crate) fn push(&mut self, made: Made) {
        self.made.push(made);
        let from = match self.places {
            Some(_) => self.made.len() - 1,
            None if self.made.len() > FEW => 0,
            None => return,
        };
        let places = self.places.get_or_insert_default();
        for (place, made) in (from as u32..).zip(&self.made[from..]) {
            places.as_loser.entry(made.loser).or_default().push(place);
            places.as_winner.entry(made.winner).or_default().push(place);
        }
    }

    /// It is a forfeit no more: the number of the decision that was one.
    pub(crate) fn confirm(&mut self, winner: Dot, loser: Dot) -> Option<u64> {
        let is_it = |made: &Made| made.forfeit && (made.winner, made.loser) == (winner, loser);
        let place = match &self.places {
            Some(places) => {
                let mut lost = places.as_loser.get(&loser)?.iter().map(|place| *place as usize);
                lost.find(|place| is_it(&self.made[*place]))?
            }
            None => self.made.iter().position(is_it)?,
        };
        let made = &mut self.made[place];
        made.forfeit = false;
        Some(made.number)
    }

    /// Those that the change lost, in order.
    pub(crate) fn lost_by(&self, dot: Dot) -> impl Iterator<Item = &Made> {
        let found = self.places.as_ref().map(|places| places.as_loser.get(&dot));
        self.at(found, move |made| made.loser == dot)
    }

    /// Those that the change won, in order.
    pub(crate) fn won_by(&self, dot: Dot) -> impl Iterator<Item = &Made> {
        let found = self.places.as_ref().map(|places| places.as_winner.get(&dot));
        self.at(found, move |made| made.winner == dot)
    }

    fn at<'d>(
        &'d self,
        found: Option<Option<&'d SmallVec<[u32; 2]>>>,
        is_it: impl Fn(&&Made) -> bool + 'd,
    ) -> impl Iterator<Item = &'d Made> {
        let rest = if found.is_some() { &[][..] } else { &self.made };
        let found = found.flatten().into_iter().flatten().map(|place| &self.made[*place as usize]);
        found.chain(rest.iter().filter(is_it))
    }
}

impl FromIterator<Made> for Decided {
    fn from_iter<T: IntoIterator<Item = Made>>(all: T) -> Decided {
        let mut decided = Decided::default();
        all.into_iter().for_each(|made| decided.push(made));
        decided
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{NodeId, Position};

    #[test]
    fn many_are_found_as_few_are() {
        let dot = |node: u8, position: u64| Dot { node: NodeId(node), position: Position(position) };
        let made = |number: u64| Made {
            winner: dot(0, number / 3),
            loser: dot(1, number % 7),
            forfeit: number.is_multiple_of(5),
            number,
        };
        for count in [0, 1, FEW as u64, FEW as u64 + 1, 100] {
            let all: Vec<Made> = (0..count).map(made).collect();
            let decided: Decided = all.iter().copied().collect();
            let numbers = |of: &mut dyn Iterator<Item = &Made>| of.map(|made| made.number).collect::<Vec<_>>();
            for position in 0..40 {
                let (winner, loser) = (dot(0, position), dot(1, position));
                let won = numbers(&mut all.iter().filter(|made| made.winner == winner));
                let lost = numbers(&mut all.iter().filter(|made| made.loser == loser));
                assert_eq!(numbers(&mut decided.won_by(winner)), won);
                assert_eq!(numbers(&mut decided.lost_by(loser)), lost);
            }
        }
    }
}
