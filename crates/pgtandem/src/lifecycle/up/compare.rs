//! Whether two nodes' rows are equal, and by how many they differ.

use crate::lifecycle::error::On;
use crate::lifecycle::{LifecycleError, OpenNode};
use crate::sql::{self, Ident, QualifiedName};
use futures::{Stream, TryStreamExt};
use std::cmp::Ordering;
use std::pin::pin;
use tokio_postgres::{Row, RowStream};

const DOING: &str = "comparing rows";

/// All rows of a table in three numbers: how many, and the sums of two independent hashes of their texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digest {
    rows: i64,
    sums: [String; 2],
}

pub(super) async fn digest(
    session: &OpenNode,
    table: &QualifiedName,
    columns: &[Ident],
) -> Result<Digest, LifecycleError> {
    let row = session.client().query_one(&sql::digest(table, columns), &[]).await.on(&session.name, DOING)?;
    Ok(Digest { rows: row.get(0), sums: [row.get(1), row.get(2)] })
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Differences {
    pub only_first: u64,
    pub only_second: u64,
    /// The key is on both, the row is not the same.
    pub different: u64,
}

/// Goes through both in the order of their keys' hashes, so no table has to fit into memory.
pub(super) async fn compare(
    (first, second): (&OpenNode, &OpenNode),
    table: &QualifiedName,
    key: &[Ident],
    columns: &[Ident],
) -> Result<Differences, LifecycleError> {
    let query = sql::row_hashes(table, key, columns);
    let (a, b) = (rows_of(first, &query).await?, rows_of(second, &query).await?);
    let (mut a, mut b) = (pin!(a), pin!(b));
    let mut differences = Differences::default();
    let (mut left, mut right) = (next(&mut a, &first.name).await?, next(&mut b, &second.name).await?);
    loop {
        let order = match (&left, &right) {
            (None, None) => return Ok(differences),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => left.key.cmp(&right.key),
        };
        match order {
            Ordering::Less => differences.only_first += 1,
            Ordering::Greater => differences.only_second += 1,
            Ordering::Equal if left != right => differences.different += 1,
            Ordering::Equal => {}
        }
        if order != Ordering::Greater {
            left = next(&mut a, &first.name).await?;
        }
        if order != Ordering::Less {
            right = next(&mut b, &second.name).await?;
        }
    }
}

async fn rows_of(session: &OpenNode, query: &str) -> Result<RowStream, LifecycleError> {
    let parameters: [&str; 0] = [];
    session.client().query_raw(query, parameters).await.on(&session.name, DOING)
}

#[derive(Debug, PartialEq, Eq)]
struct RowHash {
    key: [i64; 2],
    row: [i64; 2],
}

async fn next(
    rows: &mut (impl Stream<Item = Result<Row, tokio_postgres::Error>> + Unpin),
    node: &str,
) -> Result<Option<RowHash>, LifecycleError> {
    let row = rows.try_next().await.on(node, DOING)?;
    Ok(row.map(|row| RowHash { key: [row.get(0), row.get(1)], row: [row.get(2), row.get(3)] }))
}
