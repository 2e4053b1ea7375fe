//! Ids that never collide: each node's sequence makes numbers of its own residue.
//!
//! With 4 slots node 0 makes 4, 8, 12, …, node 1 makes 5, 9, 13, … A sequence that counted in steps of 50 (an
//! application that takes ids in blocks) goes on to: its blocks are interleaved instead.

use super::identity::Identity;
use super::{LifecycleError, NodeSurvey};
use crate::catalog::Sequence;
use crate::link::Restore;
use crate::sql::{Ident, QualifiedName, SequenceOptions};
use serde::{Deserialize, Serialize};

/// The sequences behind one key column on all nodes that have one.
#[derive(Debug, Clone)]
pub struct Interleaving {
    pub table: QualifiedName,
    pub column: Ident,
    pub pattern: Pattern,
    pub sequences: Vec<NodeSequence>,
}

#[derive(Debug, Clone)]
pub struct NodeSequence {
    /// Index of the node in the configuration.
    pub node: usize,
    pub number: i16,
    pub sequence: Sequence,
    /// As it was before the link.
    pub original: SequenceBefore,
    pub is_done: bool,
}

/// Which values a node may make: `step * (slots * m + number) + offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pattern {
    pub step: i64,
    pub slots: i64,
    pub offset: i64,
}

/// Saved before a sequence is altered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceBefore {
    /// Finds it again if it has been renamed.
    pub oid: u32,
    /// The table's.
    pub relid: u32,
    /// As pgtandem calls it.
    pub schema: String,
    pub table: String,
    /// Whose highest value counts when it is restored, as the node calls it.
    pub column: String,
    pub options: SequenceOptions,
    pub last_value: i64,
    pub is_called: bool,
}

/// Saved with it: what it was altered to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceAfter {
    pub options: SequenceOptions,
    pub pattern: Pattern,
    /// The first value after the change.
    pub restart: i64,
}

impl Pattern {
    pub fn increment(self) -> i64 {
        self.step.saturating_mul(self.slots)
    }

    /// The smallest value of the node's that is `at_least`; none if it is beyond what an int8 holds.
    pub fn next(self, number: i16, at_least: i64) -> Option<i64> {
        let first = self.step.checked_mul(i64::from(number))?.checked_add(self.offset)?;
        let missing = at_least.checked_sub(first)?;
        let rounds = missing.div_euclid(self.increment()) + i64::from(missing.rem_euclid(self.increment()) > 0);
        first.checked_add(rounds.checked_mul(self.increment())?)
    }

    /// The node's first values, for people.
    pub fn examples(self, number: i16) -> Option<String> {
        let first = self.next(number, 1)?;
        let increment = self.increment();
        Some(format!("{first}, {}, {}, …", first.checked_add(increment)?, first.checked_add(increment * 2)?))
    }

    fn contains(self, number: i16, value: i64) -> bool {
        let first = self.step.saturating_mul(i64::from(number)).saturating_add(self.offset);
        value.saturating_sub(first).rem_euclid(self.increment()) == 0
    }
}

impl NodeSequence {
    /// Its options in the link. `START WITH` keeps the residue too, so that TRUNCATE … RESTART IDENTITY does.
    pub fn options(&self, pattern: Pattern) -> Option<SequenceOptions> {
        let start = pattern.next(self.number, self.original.options.start)?;
        Some(SequenceOptions { increment: pattern.increment(), start, ..self.original.options.clone() })
    }
}

/// Every key column of the table that some node has a sequence behind.
pub fn interleavings(
    table: &QualifiedName,
    surveys: &[NodeSurvey],
    identities: &[Identity],
    slots: i16,
) -> Vec<Interleaving> {
    let mut all: Vec<Interleaving> = Vec::new();
    for (node, (survey, identity)) in surveys.iter().zip(identities).enumerate() {
        let Some(shape) = survey.table(table) else {
            continue;
        };
        for sequence in survey.key_sequences(shape) {
            let saved = saved(survey, sequence);
            let original = saved
                .and_then(|saved| serde_json::from_value(saved.before.clone()).ok())
                .unwrap_or_else(|| before(table, sequence));
            let entry =
                NodeSequence { node, number: identity.number, sequence: sequence.clone(), original, is_done: false };
            match all.iter_mut().find(|interleaving| interleaving.column == sequence.column) {
                Some(interleaving) => interleaving.sequences.push(entry),
                None => all.push(Interleaving {
                    table: table.clone(),
                    column: sequence.column.clone(),
                    pattern: Pattern { step: 1, slots: i64::from(slots), offset: 0 },
                    sequences: vec![entry],
                }),
            }
        }
    }
    for interleaving in &mut all {
        interleaving.settle(surveys);
    }
    all
}

impl Interleaving {
    fn settle(&mut self, surveys: &[NodeSurvey]) {
        let originals = || self.sequences.iter().map(|sequence| &sequence.original.options);
        let step = originals().map(|options| options.increment).max().unwrap_or(1).max(1);
        let start = originals().map(|options| options.start).next().unwrap_or(1);
        self.pattern.step = step;
        self.pattern.offset = start.rem_euclid(step);
        for entry in &mut self.sequences {
            let saved = saved(&surveys[entry.node], &entry.sequence).and_then(|saved| saved.after.clone());
            let after = saved.and_then(|after| serde_json::from_value::<SequenceAfter>(after).ok());
            entry.is_done = after.is_some_and(|after| {
                after.pattern == self.pattern
                    && after.options == entry.sequence.options
                    // The application may have set it by hand.
                    && self.pattern.contains(entry.number, entry.sequence.last_value)
            });
        }
    }

    pub fn is_done(&self) -> bool {
        self.sequences.iter().all(|sequence| sequence.is_done)
    }

    /// The first value of each sequence above `highest`, which is the highest value there is on any node.
    pub fn restarts(&self, highest: i64) -> Result<Vec<i64>, LifecycleError> {
        let restart = |entry: &NodeSequence| {
            let next = self.pattern.next(entry.number, highest.saturating_add(1).max(entry.original.options.min));
            next.filter(|next| *next <= entry.sequence.options.max).ok_or_else(|| {
                LifecycleError::refused(
                    format!(
                        "the sequence {} has no room: the highest {} of {} on any node is {highest}, its own limit is {}",
                        entry.sequence.name,
                        self.column,
                        self.table.plain(),
                        entry.sequence.options.max
                    ),
                    format!("make column and sequence bigint, or write ids = \"keep\" for {}", self.table.plain()),
                )
            })
        };
        self.sequences.iter().map(restart).collect()
    }
}

pub fn before(table: &QualifiedName, sequence: &Sequence) -> SequenceBefore {
    SequenceBefore {
        oid: sequence.oid,
        relid: sequence.relid,
        schema: table.schema.as_str().to_owned(),
        table: table.name.as_str().to_owned(),
        column: sequence.column.own_str().to_owned(),
        options: sequence.options.clone(),
        last_value: sequence.last_value,
        is_called: sequence.is_called,
    }
}

fn saved<'a>(survey: &'a NodeSurvey, sequence: &Sequence) -> Option<&'a Restore> {
    let mut all = survey.link.as_ref()?.sequences_before.iter();
    all.find(|saved| saved.before["oid"].as_u64() == Some(u64::from(sequence.oid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_numbers_of_its_own() {
        let pattern = Pattern { step: 1, slots: 4, offset: 0 };
        let of = |number| {
            (0..5).scan(1, move |from, _| {
                let next = pattern.next(number, *from)?;
                *from = next + 1;
                Some(next)
            })
        };
        assert_eq!(of(0).collect::<Vec<_>>(), [4, 8, 12, 16, 20]);
        assert_eq!(of(1).collect::<Vec<_>>(), [1, 5, 9, 13, 17]);
        assert_eq!(of(3).collect::<Vec<_>>(), [3, 7, 11, 15, 19]);
        assert_eq!(pattern.next(1, 1_000_001), Some(1_000_001));
        assert_eq!(pattern.next(1, 1_000_002), Some(1_000_005));
        assert_eq!(pattern.next(1, i64::MAX), None);
    }

    #[test]
    fn blocks_stay_whole() {
        // Takes ids in blocks of 50: 1, 51, 101, ...
        let pattern = Pattern { step: 50, slots: 4, offset: 1 };
        assert_eq!(pattern.increment(), 200);
        assert_eq!(pattern.next(0, 2), Some(201));
        assert_eq!(pattern.next(1, 2), Some(51));
        assert_eq!(pattern.next(2, 120), Some(301));
        assert!(pattern.contains(2, 301) && !pattern.contains(1, 301));
    }
}
