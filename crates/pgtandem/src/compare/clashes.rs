//! Rows under different keys that claim one unique value.

use super::CompareError;
use super::error::On;
use super::subject::{Side, Subject};
use super::tally::{Clash, Found};
use crate::catalog::TableShape;
use crate::sql::{ComparedColumn, LONGEST_SHOWN};
use tokio_postgres::types::ToSql;

/// The columns of each secondary unique index that some node has; numbers of compared columns. Not of indexes over
/// expressions or over some of the rows.
pub(super) fn unique_columns(shapes: &[&TableShape], columns: &[super::Columns]) -> Vec<Vec<usize>> {
    let mut all: Vec<Vec<usize>> = Vec::new();
    for (node, shape) in shapes.iter().enumerate() {
        for index in shape.unique_indexes.iter().filter(|index| !index.partial && !index.is_exclusion) {
            let places = index.columns.iter().map(|name| {
                let name = name.as_ref()?;
                columns.iter().position(|names| names[node] == *name)
            });
            let Some(mut places) = places.collect::<Option<Vec<usize>>>() else { continue };
            places.sort_unstable();
            if !all.contains(&places) {
                all.push(places);
            }
        }
    }
    all
}

/// Clashes in which rows of keys that differ take part; no others can. Each pair is found from the side of the node that
/// comes first.
pub(super) async fn clashes(
    sides: &[Side<'_>],
    subject: &Subject,
    found: &[Found],
) -> Result<Vec<Clash>, CompareError> {
    let mut clashes = Vec::new();
    for columns in &subject.unique {
        for here in 0..sides.len() {
            let rows: Vec<(&Found, Vec<&str>)> =
                found.iter().filter_map(|found| Some((found, values(found, here, columns)?))).collect();
            if rows.is_empty() {
                continue;
            }
            for (there, side) in sides.iter().enumerate().skip(here + 1) {
                clashes.extend(claims(*side, subject, (here, there), columns, &rows).await?);
            }
        }
    }
    Ok(clashes)
}

/// NULLs never clash (where NULLS NOT DISTINCT says otherwise, they are not looked for).
fn values<'a>(found: &'a Found, node: usize, columns: &[usize]) -> Option<Vec<&'a str>> {
    let row = found.rows[node].as_ref()?;
    let values = columns.iter().map(|at| row[*at].as_deref().filter(|text| text.chars().count() <= LONGEST_SHOWN));
    values.collect()
}

async fn claims(
    side: Side<'_>,
    subject: &Subject,
    (here, there): (usize, usize),
    columns: &[usize],
    rows: &[(&Found, Vec<&str>)],
) -> Result<Vec<Clash>, CompareError> {
    let table = &subject.tables[there];
    let wanted: Vec<&ComparedColumn> = columns.iter().map(|at| &table.columns[*at]).collect();
    let key = (0..table.key.len()).map(|at| rows.iter().map(|(found, _)| found.key[at].as_str()).collect());
    let value = (0..columns.len()).map(|at| rows.iter().map(|(_, values)| values[at]).collect());
    let arrays: Vec<Vec<&str>> = key.chain(value).collect();
    let parameters: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|texts| texts as &(dyn ToSql + Sync)).collect();
    let answer = side.client.query(&table.claims(&wanted), &parameters).await;
    let answer = answer.on(side.name, || format!("looking for unique values of {}", subject.name.plain()))?;
    let clash = |row: &tokio_postgres::Row| {
        let place: i64 = row.get(0);
        let (found, values) = rows.get(usize::try_from(place - 1).ok()?)?;
        Some(Clash {
            columns: columns.to_vec(),
            values: values.iter().map(|text| (*text).to_owned()).collect(),
            rows: [(here, found.key.clone()), (there, row.get(1))],
        })
    };
    Ok(answer.iter().filter_map(clash).collect())
}
