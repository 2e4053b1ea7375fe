//! Cutting a table into pieces that a server goes through in a moment.

use super::CompareError;
use super::error::On;
use super::subject::{Side, Subject};
use crate::sql::{Extent, Grouping, RUN_BITS};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use tokio_postgres::types::ToSql;

/// A statement over so many rows takes a server a few hundredths of a second.
const RANGE_ROWS: u64 = 1 << 16;
/// The first few ranges have so many: whether most of the table differs is not known yet, and how it is gone through best.
const FIRST_ROWS: u64 = 1 << 12;
const FIRST_RANGES: u32 = 4;
/// Slices are found only by reading the whole table: the fewer, the better.
const SLICE_ROWS: u64 = 1 << 19;
/// Of a group that differs all rows' hashes are read.
const GROUP_ROWS: u64 = 16;
/// Where consecutive keys are not further apart than this on average, ranges are counted off instead of looked up: most
/// keys are numbered through, and looking takes a fifth of the time that summing takes.
const SPREAD: i64 = 4;
/// Runs of consecutive keys in a range, a few more than in one that was counted off.
const MOST_RUNS: i64 = (2 * SPREAD) << (RANGE_ROWS.ilog2() - RUN_BITS);
/// So many are counted off before one is looked up again.
const STRIDES: u32 = 8;

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

    /// The numbers of the first and the last run of keys that it holds, if that is not too many: then it cannot hold many more
    /// rows than it has on the node where its boundaries were read.
    pub fn runs(&self, subject: &Subject) -> Option<(i64, i64)> {
        let Self::Between { after, upto } = self else { return None };
        if !subject.one_integer {
            return None;
        }
        let first = integer(after.as_deref())?.checked_add(1)? >> RUN_BITS;
        let last = integer(upto.as_deref())? >> RUN_BITS;
        (0..=MOST_RUNS).contains(&last.checked_sub(first)?).then_some((first, last))
    }

    pub fn group_count(&self, subject: &Subject) -> usize {
        if let Some((first, last)) = self.runs(subject) {
            return usize::try_from(last - first + 1).unwrap_or_default();
        }
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
    sides: &'a [Side<'a>],
    next: Option<Range>,
    /// By how much the key grew over the last range that was looked up, and how often that may be taken for granted. At first,
    /// by how much it grows on average.
    stride: Option<(i64, u32)>,
    /// How many have only [`FIRST_ROWS`] yet.
    short: u32,
}

impl<'a> Ranges<'a> {
    /// `sides`: for looking up boundaries. `after`: the last range that is done already.
    pub fn new(subject: &'a Subject, sides: &'a [Side<'a>], after: Option<&Range>) -> Self {
        let walker = (0..sides.len()).rev().max_by_key(|node| subject.estimates[*node]).unwrap_or_default();
        let next = match after {
            None => Some(first(subject)),
            Some(range) => following(range),
        };
        Self { subject, walker, sides, next, stride: None, short: FIRST_RANGES }
    }

    /// Where nobody changes rows: looks where keys of one integer begin and end, so that even the first range has a beginning,
    /// and no more rows than fit, and the first few need not be looked up.
    pub async fn look_ahead(&mut self) -> Result<(), CompareError> {
        let subject = self.subject;
        if !subject.one_integer || self.next != Some(Range::Between { after: None, upto: None }) {
            return Ok(());
        }
        let ends = subject.tables.iter().zip(self.sides).map(|(table, side)| async move {
            let row = side.client.query_one(&table.ends(), &[]).await;
            let row = row.on(side.name, || format!("looking where {} begins and ends", subject.name.plain()))?;
            Ok::<_, CompareError>((row.get::<_, Option<i64>>(0), row.get::<_, Option<i64>>(1)))
        });
        let ends = try_join_all(ends).await?;
        let first = ends.iter().filter_map(|(first, _)| *first).min();
        let last = ends.iter().filter_map(|(_, last)| *last).max();
        let (Some(first), Some(last)) = (first, last) else { return Ok(()) };
        self.stride = mean_stride(first, last, subject.estimated_rows()).map(|stride| (stride, STRIDES));
        self.short = if self.stride.is_some() { 0 } else { self.short };
        // All nodes can say it.
        let before = first.checked_sub(1).filter(|before| *before >= -subject.highest_key);
        if let Some(before) = before {
            self.next = Some(Range::Between { after: Some(vec![before.to_string()]), upto: None });
        }
        Ok(())
    }

    pub async fn next(&mut self) -> Result<Option<Range>, CompareError> {
        let Some(mut range) = self.next.take() else { return Ok(None) };
        if let Range::Between { after, .. } = &range {
            let after = after.clone();
            let upto = match self.counted_off(after.as_deref()) {
                Some(upto) => Some(vec![upto.to_string()]),
                None => {
                    let open = Range::Between { after: after.clone(), upto: None };
                    if self.short > 0 {
                        self.short -= 1;
                        self.boundary(&open, FIRST_ROWS).await?
                    } else {
                        let upto = self.boundary(&open, RANGE_ROWS).await?;
                        self.stride = stride(after.as_deref(), upto.as_deref()).map(|stride| (stride, STRIDES));
                        upto
                    }
                }
            };
            range = Range::Between { after, upto };
        }
        self.next = following(&range);
        Ok(Some(range))
    }

    fn counted_off(&mut self, after: Option<&[String]>) -> Option<i64> {
        let (stride, times) = self.stride.filter(|(_, times)| self.subject.one_integer && *times > 0)?;
        self.stride = Some((stride, times - 1));
        integer(after)?.checked_add(stride).filter(|upto| *upto <= self.subject.highest_key)
    }

    async fn boundary(&self, open: &Range, rows: u64) -> Result<Option<Vec<String>>, CompareError> {
        let extent = open.extent(&self.subject.key_types[self.walker]);
        let query = self.subject.tables[self.walker].boundary(&extent, rows);
        let side = self.sides[self.walker];
        let row = side.client.query_opt(&query, &open.parameters()).await;
        let row = row.on(side.name, || format!("cutting {} into ranges", self.subject.name.plain()))?;
        Ok(row.map(|row| row.get(0)))
    }
}

/// None: the keys are too far apart.
fn stride(after: Option<&[String]>, upto: Option<&[String]>) -> Option<i64> {
    let stride = integer(upto)?.checked_sub(integer(after)?)?;
    (stride <= SPREAD * RANGE_ROWS.cast_signed()).then_some(stride)
}

/// None: the keys are too far apart, or nobody knows how many there are.
fn mean_stride(first: i64, last: i64, rows: u64) -> Option<i64> {
    let span = u128::from(last.abs_diff(first)) + 1;
    let stride = i64::try_from((span * u128::from(RANGE_ROWS)).checked_div(u128::from(rows))?).ok()?;
    (stride <= SPREAD * RANGE_ROWS.cast_signed()).then_some(stride.max(RANGE_ROWS.cast_signed()))
}

fn integer(key: Option<&[String]>) -> Option<i64> {
    key?.first()?.parse().ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Option<Vec<String>> {
        Some(vec![text.to_owned()])
    }

    #[test]
    fn ranges_follow_each_other_to_the_end() {
        let range = Range::Between { after: None, upto: key("9") };
        let next = Range::Between { after: key("9"), upto: None };
        assert_eq!(following(&range), Some(next.clone()));
        assert_eq!(following(&next), None);
        let slice = |number| Range::Slice { number, bits: 1, groups: 3 };
        assert_eq!((following(&slice(0)), following(&slice(1))), (Some(slice(1)), None));
    }

    #[test]
    fn only_keys_that_are_close_together_are_counted_off() {
        let stride = |after: Option<&str>, upto: &str| stride(after.and_then(key).as_deref(), key(upto).as_deref());
        assert_eq!(stride(Some("-10"), "65526"), Some(65_536));
        assert_eq!(stride(Some("0"), "262145"), None);
        assert_eq!(stride(None, "65536"), None);
        assert_eq!(stride(Some("-9223372036854775808"), "1"), None);
    }

    #[test]
    fn ranges_are_as_wide_as_there_are_rows() {
        assert_eq!(mean_stride(-999_999, 1_000_000, 1_000_000), Some(131_072));
        assert_eq!(mean_stride(1, 10, 10), Some(65_536));
        assert_eq!(mean_stride(1, 10, 0), None);
        assert_eq!(mean_stride(i64::MIN, i64::MAX, 1_000_000), None);
        assert_eq!(mean_stride(i64::MIN, i64::MAX, u64::MAX), Some(65_536));
    }
}
