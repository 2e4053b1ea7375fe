//! Cutting a table into pieces that a server goes through in a moment.

use super::CompareError;
use super::error::On;
use super::subject::{Side, Subject};
use crate::sql::{Extent, Grouping};
use serde::{Deserialize, Serialize};
use tokio_postgres::types::ToSql;

/// A statement over so many rows takes a server a few hundredths of a second.
const RANGE_ROWS: u64 = 1 << 16;
/// Slices are found only by reading the whole table: the fewer, the better.
const SLICE_ROWS: u64 = 1 << 19;
/// Of a group that differs all rows' hashes are read.
const GROUP_ROWS: u64 = 1 << 5;

/// Some of a table's rows, the same ones on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Range {
    /// Keys after the first, up to and with the second, as their texts.
    Between { after: Option<Vec<String>>, upto: Option<Vec<String>> },
    /// Where two nodes may sort keys differently: by the topmost bits of their hashes.
    Slice { number: u32, bits: u32, groups: u32 },
}

impl Range {
    /// `types`: of the texts' columns, on the node where they were read.
    pub fn extent(&self, types: &[String]) -> Extent {
        match self {
            Self::Between { after, upto } => {
                Extent::Between { after: after.is_some(), upto: upto.is_some(), types: types.to_vec() }
            }
            Self::Slice { number, bits, .. } => Extent::Slice { number: *number, bits: *bits },
        }
    }

    pub fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        match self {
            Self::Between { after, upto } => {
                after.iter().chain(upto).flatten().map(|text| text as &(dyn ToSql + Sync)).collect()
            }
            Self::Slice { .. } => Vec::new(),
        }
    }

    pub fn grouping(&self, subject: &Subject) -> Grouping {
        match self {
            Self::Between { .. } if subject.one_integer => Grouping::Runs { bits: (RANGE_ROWS / GROUP_ROWS).ilog2() },
            Self::Between { .. } => Grouping::Hash { bits: (RANGE_ROWS / GROUP_ROWS).ilog2() },
            Self::Slice { groups, .. } => Grouping::Hash { bits: *groups },
        }
    }

    pub fn group_count(&self, subject: &Subject) -> usize {
        match self.grouping(subject) {
            Grouping::Runs { bits } | Grouping::Hash { bits } => 1 << bits,
        }
    }
}

/// Goes through a table's ranges, in the order of the key.
pub(super) struct Ranges<'a> {
    subject: &'a Subject,
    /// The node that has most rows: where it has one range of them, the others have no more.
    pub walker: usize,
    side: Side<'a>,
    next: Option<Range>,
}

impl<'a> Ranges<'a> {
    /// `sides`: for looking up boundaries. `after`: the last range that is done already.
    pub fn new(subject: &'a Subject, sides: &[Side<'a>], after: Option<&Range>) -> Self {
        let walker = (0..sides.len()).rev().max_by_key(|node| subject.estimates[*node]).unwrap_or_default();
        let next = match after {
            None => Some(first(subject)),
            Some(range) => following(range),
        };
        Self { subject, walker, side: sides[walker], next }
    }

    pub async fn next(&mut self) -> Result<Option<Range>, CompareError> {
        let Some(mut range) = self.next.take() else { return Ok(None) };
        if let Range::Between { upto, .. } = &mut range {
            *upto = None;
            let found = self.boundary(&range).await?;
            if let Range::Between { upto, .. } = &mut range {
                *upto = found;
            }
        }
        self.next = following(&range);
        Ok(Some(range))
    }

    async fn boundary(&self, open: &Range) -> Result<Option<Vec<String>>, CompareError> {
        let extent = open.extent(&self.subject.key_types[self.walker]);
        let query = self.subject.tables[self.walker].boundary(&extent, RANGE_ROWS);
        let row = self.side.client.query_opt(&query, &open.parameters()).await;
        let row = row.on(self.side.name, || format!("cutting {} into ranges", self.subject.name.plain()))?;
        Ok(row.map(|row| row.get(0)))
    }
}

fn first(subject: &Subject) -> Range {
    if subject.sorted {
        return Range::Between { after: None, upto: None };
    }
    let rows = subject.estimated_rows();
    let slices = rows.div_ceil(SLICE_ROWS).max(1).next_power_of_two();
    let groups = (rows / slices / GROUP_ROWS).max(1).next_power_of_two();
    Range::Slice { number: 0, bits: slices.ilog2(), groups: groups.ilog2() }
}

fn following(range: &Range) -> Option<Range> {
    match range {
        Range::Between { upto, .. } => Some(Range::Between { after: Some(upto.clone()?), upto: None }),
        Range::Slice { number, bits, groups } => {
            let number = number + 1;
            (number < 1 << bits).then_some(Range::Slice { number, bits: *bits, groups: *groups })
        }
    }
}
