//! Rows of single keys with all that is in them, as who makes them equal needs it.

use super::CompareError;
use super::error::On;
use super::subject::{Side, Subject};
use futures::future::try_join_all;
use tokio_postgres::types::ToSql;

/// A row as one node has it.
#[derive(Debug, Clone)]
pub struct WholeRow {
    /// Another after every write of the row; see [`crate::sql::ROW_VERSION`].
    pub version: String,
    /// Texts of the compared columns; none: NULL.
    pub values: Vec<Option<String>>,
    tokens: Vec<Option<String>>,
}

impl WholeRow {
    /// As the columns' types see it.
    pub fn is_same(&self, other: &Self, subject: &Subject) -> bool {
        (0..self.values.len()).all(|column| self.has_same(other, subject, column))
    }

    pub fn has_same(&self, other: &Self, subject: &Subject, column: usize) -> bool {
        self.tokens[column] == other.tokens[column]
            || subject.is_hashed(column) && self.values[column] == other.values[column]
    }
}

/// The rows of these keys (`Found::keys`) on every side: key by key, side by side.
pub async fn read_whole(
    sides: &[Side<'_>],
    subject: &Subject,
    keys: &[Vec<Vec<String>>],
) -> Result<Vec<Vec<Option<WholeRow>>>, CompareError> {
    let reads = sides.iter().enumerate().map(|(node, side)| read_of(*side, node, subject, keys));
    let mut by_node = try_join_all(reads).await?;
    let of_key = |at: usize| by_node.iter_mut().map(|rows: &mut Vec<Option<WholeRow>>| rows[at].take()).collect();
    Ok((0..keys.len()).map(of_key).collect())
}

async fn read_of(
    side: Side<'_>,
    node: usize,
    subject: &Subject,
    keys: &[Vec<Vec<String>>],
) -> Result<Vec<Option<WholeRow>>, CompareError> {
    let table = &subject.tables[node];
    let column = |at: usize| keys.iter().map(|texts| texts[node][at].as_str()).collect::<Vec<&str>>();
    let texts: Vec<Vec<&str>> = (0..table.key.len()).map(column).collect();
    let parameters: Vec<&(dyn ToSql + Sync)> = texts.iter().map(|texts| texts as &(dyn ToSql + Sync)).collect();
    let rows = side.client.query(&table.read_whole(), &parameters).await;
    let rows = rows.on(side.name, || format!("reading rows of {}", subject.name.plain()))?;
    let mut found: Vec<Option<WholeRow>> = vec![None; keys.len()];
    for row in rows {
        let place: i64 = row.get(0);
        let row = WholeRow { version: row.get(1), values: row.get(2), tokens: row.get(3) };
        if let Some(slot) = usize::try_from(place - 1).ok().and_then(|at| found.get_mut(at)) {
            *slot = Some(row);
        }
    }
    Ok(found)
}
