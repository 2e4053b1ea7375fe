//! Looking at single keys on all nodes.

use super::CompareError;
use super::checksums::Suspect;
use super::error::On;
use super::subject::{Side, Subject};
use futures::future::try_join_all;
use tokio_postgres::types::ToSql;

/// A row as it was seen on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenRow {
    /// Another after every write of the row.
    version: String,
    pub shown: Vec<Option<String>>,
    tokens: Vec<Option<String>>,
}

/// One key on all nodes; none: it is not there.
pub(super) type Seen = Vec<Option<SeenRow>>;

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
    suspects: &[Suspect],
) -> Result<Vec<Seen>, CompareError> {
    let looks = sides.iter().enumerate().map(|(node, side)| look_at(*side, node, subject, suspects));
    let mut by_node: Vec<Vec<Option<SeenRow>>> = try_join_all(looks).await?;
    let of_key = |at: usize| by_node.iter_mut().map(|rows| rows[at].take()).collect::<Seen>();
    Ok((0..suspects.len()).map(of_key).collect())
}

async fn look_at(
    side: Side<'_>,
    node: usize,
    subject: &Subject,
    suspects: &[Suspect],
) -> Result<Vec<Option<SeenRow>>, CompareError> {
    let table = &subject.tables[node];
    let column = |at: usize| suspects.iter().map(|suspect| suspect.texts[node][at].as_str()).collect::<Vec<&str>>();
    let keys: Vec<Vec<&str>> = (0..table.key.len()).map(column).collect();
    let parameters: Vec<&(dyn ToSql + Sync)> = keys.iter().map(|texts| texts as &(dyn ToSql + Sync)).collect();
    let rows = side.client.query(&table.look(), &parameters).await;
    let rows = rows.on(side.name, || format!("looking at rows of {}", subject.name.plain()))?;
    let mut seen: Vec<Option<SeenRow>> = vec![None; suspects.len()];
    for row in rows {
        let place: i64 = row.get(0);
        let row = SeenRow { version: row.get(1), shown: row.get(2), tokens: row.get(3) };
        if let Some(slot) = usize::try_from(place - 1).ok().and_then(|at| seen.get_mut(at)) {
            *slot = Some(row);
        }
    }
    Ok(seen)
}

pub(super) fn verdict(subject: &Subject, seen: &Seen) -> Verdict {
    let there: Vec<&SeenRow> = seen.iter().flatten().collect();
    match there.as_slice() {
        // Gone from everywhere meanwhile.
        [] => Verdict::Equal,
        [first, others @ ..] if there.len() == seen.len() => {
            let same = others.iter().all(|other| (0..subject.columns.len()).all(|at| same(subject, first, other, at)));
            if same { Verdict::Equal } else { Verdict::Different }
        }
        _ => Verdict::Missing,
    }
}

/// Which columns are not the same wherever the row is.
pub(super) fn differing_columns(subject: &Subject, seen: &Seen) -> Vec<bool> {
    let there: Vec<&SeenRow> = seen.iter().flatten().collect();
    let differs = |at: usize| there.iter().any(|row| !same(subject, there[0], row, at));
    (0..subject.columns.len()).map(differs).collect()
}

fn same(subject: &Subject, a: &SeenRow, b: &SeenRow, column: usize) -> bool {
    a.tokens[column] == b.tokens[column] || subject.is_hashed(column) && a.shown[column] == b.shown[column]
}

/// Tells whether anybody has written the key between two looks.
pub(super) fn versions(seen: &Seen) -> Vec<Option<String>> {
    seen.iter().map(|row| Some(row.as_ref()?.version.clone())).collect()
}
