//! Rows of single keys as all nodes have them.

use super::CompareError;
use super::error::On;
use super::subject::{Side, Subject};
use crate::sql::ComparedTable;
use futures::future::try_join_all;
use tokio_postgres::types::ToSql;

/// A row as one node has it.
#[derive(Debug, Clone)]
pub struct ComparedRow {
    /// Another after every write of the row; see [`crate::sql::ROW_VERSION`].
    pub version: String,
    /// Texts of the compared columns; none: NULL.
    pub values: Vec<Option<String>>,
    tokens: Vec<Option<String>>,
}

impl ComparedRow {
    /// As the columns' types see it.
    pub fn is_same(&self, other: &Self, subject: &Subject) -> bool {
        (0..self.values.len()).all(|column| self.has_same(other, subject, column))
    }

    /// A text that is the same for values that the columns' types on all nodes call equal; none: NULL.
    pub fn token(&self, column: usize) -> Option<&str> {
        self.tokens[column].as_deref()
    }

    pub fn has_same(&self, other: &Self, subject: &Subject, column: usize) -> bool {
        self.tokens[column] == other.tokens[column]
            || subject.is_hashed(column) && self.values[column] == other.values[column]
    }
}

/// The rows of these keys (`Found::keys`) on every side with all that is in them, as who makes them equal needs it: key
/// by key, side by side.
pub async fn read_whole(
    sides: &[Side<'_>],
    subject: &Subject,
    keys: &[impl AsRef<[Vec<String>]>],
) -> Result<Vec<Vec<Option<ComparedRow>>>, CompareError> {
    read_rows(sides, subject, keys, ComparedTable::read_whole, "reading rows").await
}

/// `keys`: of each the texts, node by node. `query`: answers with the place in the arrays of keys and a row's fields.
pub(super) async fn read_rows(
    sides: &[Side<'_>],
    subject: &Subject,
    keys: &[impl AsRef<[Vec<String>]>],
    query: fn(&ComparedTable) -> String,
    doing: &str,
) -> Result<Vec<Vec<Option<ComparedRow>>>, CompareError> {
    let reads = sides.iter().enumerate().map(|(node, side)| read_of(*side, node, subject, keys, query, doing));
    let mut by_node = try_join_all(reads).await?;
    let of_key = |at: usize| by_node.iter_mut().map(|rows: &mut Vec<Option<ComparedRow>>| rows[at].take()).collect();
    Ok((0..keys.len()).map(of_key).collect())
}

async fn read_of(
    side: Side<'_>,
    node: usize,
    subject: &Subject,
    keys: &[impl AsRef<[Vec<String>]>],
    query: fn(&ComparedTable) -> String,
    doing: &str,
) -> Result<Vec<Option<ComparedRow>>, CompareError> {
    let table = &subject.tables[node];
    let column = |at: usize| keys.iter().map(|texts| texts.as_ref()[node][at].as_str()).collect::<Vec<&str>>();
    let texts: Vec<Vec<&str>> = (0..table.key.len()).map(column).collect();
    let parameters: Vec<&(dyn ToSql + Sync)> = texts.iter().map(|texts| texts as &(dyn ToSql + Sync)).collect();
    let rows = side.client.query(&query(table), &parameters).await;
    let rows = rows.on(side.name, || format!("{doing} of {}", subject.name.plain()))?;
    let mut found: Vec<Option<ComparedRow>> = vec![None; keys.len()];
    for row in rows {
        let place: i64 = row.get(0);
        let row = ComparedRow { version: row.get(1), values: row.get(2), tokens: row.get(3) };
        if let Some(slot) = usize::try_from(place - 1).ok().and_then(|at| found.get_mut(at)) {
            *slot = Some(row);
        }
    }
    Ok(found)
}
