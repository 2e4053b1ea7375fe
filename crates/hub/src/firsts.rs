//! Where a node's changes to the keys of the window begin, in order of position: what holds back its acknowledged
//! position. The changes of one transaction have one position, which stands here once.

use crate::fifo::Fifo;
use crate::key::Position;
use crate::window::SlotRef;

#[derive(Debug)]
pub(crate) struct Firsts {
    entries: Fifo<SlotRef>,
    /// Positions, each with how many of the entries it is for.
    runs: Fifo<(Position, usize)>,
}

impl Firsts {
    pub(crate) fn new() -> Firsts {
        Firsts { entries: Fifo::new(), runs: Fifo::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entry's first change of the node stands at `position`, behind all others so far.
    pub(crate) fn push(&mut self, position: Position, entry: SlotRef) {
        match self.runs.back_mut() {
            Some((last, count)) if *last == position => *count += 1,
            _ => self.runs.push((position, 1)),
        }
        self.entries.push(entry);
    }

    pub(crate) fn front(&self) -> Option<(Position, SlotRef)> {
        Some((self.runs.front()?.0, *self.entries.front()?))
    }

    pub(crate) fn pop(&mut self) -> Option<(Position, SlotRef)> {
        let first = self.front()?;
        self.entries.pop();
        let (_, count) = self.runs.front_mut()?;
        *count -= 1;
        if *count == 0 {
            self.runs.pop();
        }
        Some(first)
    }

    /// Keeps what `keep` wants, in order.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(SlotRef) -> bool) {
        let mut kept = Firsts::new();
        while let Some((position, entry)) = self.pop() {
            if keep(entry) {
                kept.push(position, entry);
            }
        }
        *self = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_stay_with_their_entries() {
        let pairs = [(1, 10), (1, 11), (2, 12), (5, 13), (5, 14), (5, 15)];
        let entry = |slot| SlotRef { slot, generation: 0 };
        let mut firsts = Firsts::new();
        pairs.iter().for_each(|(position, slot)| firsts.push(Position(*position), entry(*slot)));
        firsts.retain(|entry| entry.slot % 3 != 0);
        assert_eq!(firsts.len(), 4);
        let left: Vec<_> = std::iter::from_fn(|| firsts.pop()).map(|(at, entry)| (at.0, entry.slot)).collect();
        assert_eq!(left, [(1, 10), (1, 11), (5, 13), (5, 14)]);
    }
}
