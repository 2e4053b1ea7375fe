//! Sequences of several nodes that will hand out the same key.

use super::CompareError;
use super::error::On;
use super::report::Shapes;
use super::subject::Side;
use crate::catalog::{Sequence, read_sequences};
use serde::{Deserialize, Serialize};

/// The sequences behind one key column, two of which will make the same value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    pub column: String,
    pub sequences: Vec<Next>,
}

/// What a sequence makes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// Number of the node.
    pub node: usize,
    pub value: i64,
    pub increment: i64,
    /// How far it may go, in its direction.
    end: i64,
}

pub(super) async fn find_overlaps(sides: &[Side<'_>], table: &Shapes) -> Result<Vec<Overlap>, CompareError> {
    let mut all: Vec<Overlap> = Vec::new();
    for (node, (side, shape)) in sides.iter().zip(&table.shapes).enumerate() {
        let unique = |column| {
            shape.is_key(column)
                || shape.unique_indexes.iter().any(|index| index.columns.iter().flatten().any(|name| name == column))
        };
        let sequences = read_sequences(side.client, std::slice::from_ref(shape)).await;
        let sequences = sequences.on(side.name, || format!("reading the sequences of {}", table.name.plain()))?;
        for sequence in sequences.iter().filter(|sequence| sequence.is_readable && unique(&sequence.column)) {
            let column = sequence.column.as_str();
            let next = Next::of(node, sequence);
            match all.iter_mut().find(|overlap| overlap.column == column) {
                Some(overlap) => overlap.sequences.push(next),
                None => all.push(Overlap { column: column.to_owned(), sequences: vec![next] }),
            }
        }
    }
    all.retain(|overlap| overlap.is_real());
    Ok(all)
}

impl Overlap {
    fn is_real(&self) -> bool {
        let pairs = self.sequences.iter().enumerate();
        pairs.into_iter().any(|(at, a)| self.sequences[..at].iter().any(|b| a.node != b.node && a.meets(*b)))
    }
}

impl Next {
    fn of(node: usize, sequence: &Sequence) -> Self {
        let options = &sequence.options;
        let increment = options.increment;
        let value = match sequence.is_called {
            true => sequence.last_value.saturating_add(increment),
            false => sequence.last_value,
        };
        Self { node, value, increment, end: if increment > 0 { options.max } else { options.min } }
    }

    /// Whether both will make one value, if each goes on to its end.
    fn meets(self, other: Self) -> bool {
        let (low, high) = (self.value.min(self.end), self.value.max(self.end));
        let (other_low, other_high) = (other.value.min(other.end), other.value.max(other.end));
        let step = gcd(self.increment.unsigned_abs(), other.increment.unsigned_abs());
        let apart = i128::from(self.value) - i128::from(other.value);
        low <= other_high && other_low <= high && apart.rem_euclid(i128::from(step.max(1))) == 0
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(value: i64, increment: i64) -> Next {
        Next { node: 0, value, increment, end: if increment > 0 { i64::MAX } else { 1 } }
    }

    #[test]
    fn sequences_meet_unless_their_residues_differ() {
        assert!(next(5, 1).meets(next(9_000, 1)));
        assert!(!next(4, 4).meets(next(5, 4)));
        assert!(next(4, 4).meets(next(8_000, 4)));
        assert!(next(4, 4).meets(next(5, 3)));
        assert!(!next(4, 4).meets(next(5, 2)));
        assert!(!next(100, -1).meets(next(101, 1)) && next(101, -1).meets(next(101, 1)));
    }
}
