//! Where two nodes may differ: groups of rows by their checksums, and of those that differ the keys.

use super::CompareError;
use super::error::On;
use super::ranges::Range;
use super::subject::{Side, Subject};
use crate::sql::Extent;
use futures::future::try_join_all;
use hashbrown::HashMap;

/// So many rows' hashes are in memory at a time.
const ROWS_AT_ONCE: u64 = 50_000;

/// A key whose rows may differ.
#[derive(Debug, Clone)]
pub(super) struct Suspect {
    /// What two nodes' keys have in common if they are the same.
    pub key: Vec<String>,
    /// Its texts on each node; where the key is missing, those of one that has it.
    pub texts: Vec<Vec<String>>,
    /// Numbers of the nodes that have it, ascending.
    pub on: Vec<usize>,
    /// Those have rows with the same hash.
    pub uncontested: bool,
}

/// What is in a range.
pub(super) struct Summary {
    pub range: Range,
    /// Node by node.
    pub rows: Vec<u64>,
    pub suspects: Vec<Suspect>,
}

/// Rows, and the sum over their hashes.
type Group = [i64; 2];

/// A range as one node is asked about it.
struct Part<'a> {
    side: Side<'a>,
    subject: &'a Subject,
    node: usize,
    range: &'a Range,
    extent: &'a Extent,
}

/// `walker`: where the range's boundaries were read. `as_one`: the range is expected to be the same on all nodes, and only
/// otherwise split up: putting rows into groups costs the servers almost as much as hashing them.
pub(super) async fn summarise(
    sides: &[Side<'_>],
    subject: &Subject,
    walker: usize,
    range: Range,
    as_one: bool,
) -> Result<Summary, CompareError> {
    let extent = range.extent(&subject.key_types[walker]);
    let part = |node: usize| Part { side: sides[node], subject, node, range: &range, extent: &extent };
    let parts: Vec<Part<'_>> = (0..sides.len()).map(part).collect();
    if as_one {
        let totals = try_join_all(parts.iter().map(Part::total)).await?;
        if totals.iter().all(|total| *total == totals[0]) {
            let rows = totals.iter().map(|total| total[0].unsigned_abs()).collect();
            return Ok(Summary { rows, suspects: Vec::new(), range });
        }
    }
    let groups = try_join_all(parts.iter().map(Part::groups)).await?;
    let rows = groups.iter().map(|groups| groups.iter().map(|group| group[0].unsigned_abs()).sum()).collect();
    let mut suspects = Vec::new();
    for numbers in differing(&groups) {
        suspects.extend(suspects_of(&parts, &numbers).await?);
    }
    suspects.sort_by_cached_key(|suspect| order(&suspect.key));
    Ok(Summary { rows, suspects, range })
}

/// The numbers of groups that are not the same everywhere, in portions that fit into memory.
fn differing(groups: &[Vec<Group>]) -> Vec<Vec<i32>> {
    let (mut portions, mut room) = (Vec::<Vec<i32>>::new(), 0);
    for at in 0..groups[0].len() {
        if groups.iter().all(|of_node| of_node[at] == groups[0][at]) {
            continue;
        }
        let rows: u64 = groups.iter().map(|of_node| of_node[at][0].unsigned_abs()).sum();
        if portions.is_empty() || rows > room {
            portions.push(Vec::new());
            room = ROWS_AT_ONCE;
        }
        room = room.saturating_sub(rows);
        let number = i32::try_from(at).unwrap_or(i32::MAX);
        portions.last_mut().expect("one was pushed").push(number);
    }
    portions
}

async fn suspects_of(parts: &[Part<'_>], numbers: &Vec<i32>) -> Result<Vec<Suspect>, CompareError> {
    match parts[0].range.runs(parts[0].subject, numbers) {
        Some(runs) => suspects_of_runs(parts, &runs).await,
        None => suspects_of_groups(parts, numbers).await,
    }
}

async fn suspects_of_runs(parts: &[Part<'_>], runs: &Vec<i64>) -> Result<Vec<Suspect>, CompareError> {
    let answers = try_join_all(parts.iter().map(|part| part.rows_of_runs(runs))).await?;
    let rows = answers
        .iter()
        .enumerate()
        .flat_map(|(node, rows)| rows.iter().map(move |row| (row.get::<_, i64>(0), node, row.get::<_, i64>(1))));
    let mut rows: Vec<(i64, usize, i64)> = rows.collect();
    rows.sort_unstable();
    let suspect = |of_key: &[(i64, usize, i64)]| {
        let uncontested = of_key.iter().all(|row| row.2 == of_key[0].2);
        let is_equal = uncontested && of_key.len() == parts.len();
        let text = || vec![of_key[0].0.to_string()];
        let on = || of_key.iter().map(|row| row.1).collect();
        (!is_equal).then(|| Suspect { key: text(), texts: vec![text(); parts.len()], on: on(), uncontested })
    };
    Ok(rows.chunk_by(|a, b| a.0 == b.0).filter_map(suspect).collect())
}

async fn suspects_of_groups(parts: &[Part<'_>], numbers: &Vec<i32>) -> Result<Vec<Suspect>, CompareError> {
    #[derive(Default)]
    struct Entry {
        hashes: Vec<Option<i64>>,
        texts: Vec<Option<Vec<String>>>,
    }
    let answers = try_join_all(parts.iter().map(|part| part.rows_of_groups(numbers))).await?;
    let mut keys: HashMap<Vec<String>, Entry> = HashMap::new();
    for (node, rows) in answers.into_iter().enumerate() {
        for row in rows {
            let (key, texts): (Vec<String>, Vec<String>) = (row.get(0), row.get(1));
            let entry = keys.entry(key).or_default();
            entry.hashes.resize(parts.len(), None);
            entry.texts.resize(parts.len(), None);
            entry.hashes[node] = Some(row.get(2));
            entry.texts[node] = Some(texts);
        }
    }
    let unequal = keys.into_iter().filter(|(_, entry)| entry.hashes.iter().any(|hash| *hash != entry.hashes[0]));
    let suspects = unequal.map(|(key, entry)| {
        let on: Vec<usize> = (0..parts.len()).filter(|node| entry.hashes[*node].is_some()).collect();
        let uncontested = on.iter().all(|node| entry.hashes[*node] == entry.hashes[on[0]]);
        let any = entry.texts.iter().flatten().next().cloned().unwrap_or_default();
        let texts = entry.texts.into_iter().map(|texts| texts.unwrap_or_else(|| any.clone())).collect();
        Suspect { key, texts, on, uncontested }
    });
    Ok(suspects.collect())
}

impl Part<'_> {
    async fn total(&self) -> Result<Group, CompareError> {
        let Self { side, subject, node, range, extent } = self;
        let query = subject.tables[*node].total(extent, range.grouping(subject), subject.seed);
        let row = side.client.query_one(&query, &range.parameters()).await.on(side.name, || self.doing())?;
        Ok([row.get(0), row.get::<_, Option<i64>>(1).unwrap_or_default()])
    }

    async fn groups(&self) -> Result<Vec<Group>, CompareError> {
        let Self { side, subject, node, range, extent } = self;
        let mut groups = vec![Group::default(); range.group_count(subject)];
        let query = subject.tables[*node].groups(extent, range.grouping(subject), subject.seed);
        let row = side.client.query_one(&query, &range.parameters()).await.on(side.name, || self.doing())?;
        let numbers: Option<Vec<i32>> = row.get(0);
        let (rows, sums): (Option<Vec<i64>>, Option<Vec<i64>>) = (row.get(1), row.get(2));
        let sums = rows.into_iter().flatten().zip(sums.into_iter().flatten());
        for (number, (rows, sum)) in numbers.into_iter().flatten().zip(sums) {
            groups[usize::try_from(number).unwrap_or_default()] = [rows, sum];
        }
        Ok(groups)
    }

    async fn rows_of_runs(&self, runs: &Vec<i64>) -> Result<Vec<tokio_postgres::Row>, CompareError> {
        let Self { side, subject, node, range, extent } = self;
        let mut parameters = range.parameters();
        parameters.push(runs);
        let query = subject.tables[*node].rows_of_runs(extent, subject.seed);
        side.client.query(&query, &parameters).await.on(side.name, || self.doing())
    }

    async fn rows_of_groups(&self, numbers: &Vec<i32>) -> Result<Vec<tokio_postgres::Row>, CompareError> {
        let Self { side, subject, node, range, extent } = self;
        let mut parameters = range.parameters();
        parameters.push(numbers);
        let query = subject.tables[*node].rows_of_groups(extent, range.grouping(subject), subject.seed);
        side.client.query(&query, &parameters).await.on(side.name, || self.doing())
    }

    fn doing(&self) -> String {
        format!("comparing {}", self.subject.name.plain())
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Number(i128),
    Text(String),
}

/// As a person would sort them: numbers by their value.
fn order(key: &[String]) -> Vec<Rank> {
    key.iter().map(|text| text.parse().map_or_else(|_| Rank::Text(text.clone()), Rank::Number)).collect()
}
