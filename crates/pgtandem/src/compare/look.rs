//! Looking at single keys on all nodes.

use super::CompareError;
use super::checksums::Suspect;
use super::row::{ComparedRow, read_rows};
use super::subject::{Side, Subject};
use crate::sql::ComparedTable;

/// One key on all nodes; none: it is not there.
pub(super) type Seen = Vec<Option<ComparedRow>>;

/// What to say of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Equal,
    /// It is on all nodes, but not the same.
    Different,
    /// Some node lacks it.
    Missing,
}

/// Every key, in the order given.
pub(super) async fn look(
    sides: &[Side<'_>],
    subject: &Subject,
    suspects: &[&Suspect],
) -> Result<Vec<Seen>, CompareError> {
    if suspects.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<&[Vec<String>]> = suspects.iter().map(|suspect| suspect.texts.as_slice()).collect();
    read_rows(sides, subject, &keys, ComparedTable::look, "looking at rows").await
}

pub(super) fn verdict(subject: &Subject, seen: &Seen) -> Verdict {
    let there: Vec<&ComparedRow> = seen.iter().flatten().collect();
    match there.as_slice() {
        // Gone from everywhere meanwhile.
        [] => Verdict::Equal,
        [first, others @ ..] if there.len() == seen.len() => {
            let same = others.iter().all(|other| first.is_same(other, subject));
            if same { Verdict::Equal } else { Verdict::Different }
        }
        _ => Verdict::Missing,
    }
}

/// Which columns are not the same wherever the row is.
pub(super) fn differing_columns(subject: &Subject, seen: &Seen) -> Vec<bool> {
    let there: Vec<&ComparedRow> = seen.iter().flatten().collect();
    let differs = |at: usize| there.iter().any(|row| !there[0].has_same(row, subject, at));
    (0..subject.columns.len()).map(differs).collect()
}

/// Tells whether anybody has written the key between two looks.
pub(super) fn versions(seen: &Seen) -> Vec<Option<String>> {
    seen.iter().map(|row| Some(row.as_ref()?.version.clone())).collect()
}
