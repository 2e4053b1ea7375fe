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

/// `walker`: where the range's boundaries were read.
pub(super) async fn summarise(
    sides: &[Side<'_>],
    subject: &Subject,
    walker: usize,
    range: Range,
) -> Result<Summary, CompareError> {
    let extent = range.extent(&subject.key_types[walker]);
    let part = |node: usize| Part { side: sides[node], subject, node, range: &range, extent: &extent };
    let parts: Vec<Part<'_>> = (0..sides.len()).map(part).collect();
    let groups = try_join_all(parts.iter().map(Part::groups)).await?;
    let rows = groups.iter().map(|groups| groups.iter().map(|group| group[0].unsigned_abs()).sum()).collect();
    let mut suspects = Vec::new();
    for numbers in differing(&groups) {
        suspects.extend(suspects_of(&parts, &numbers).await?);
    }
    suspects.sort_by(|a, b| order(&a.key, &b.key));
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
    #[derive(Default)]
    struct Entry {
        hashes: Vec<Option<i64>>,
        texts: Vec<Option<Vec<String>>>,
    }
    let answers = try_join_all(parts.iter().map(|part| part.rows(numbers))).await?;
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
        let any = entry.texts.iter().flatten().next().cloned().unwrap_or_default();
        Suspect { key, texts: entry.texts.into_iter().map(|texts| texts.unwrap_or_else(|| any.clone())).collect() }
    });
    Ok(suspects.collect())
}

impl Part<'_> {
    async fn groups(&self) -> Result<Vec<Group>, CompareError> {
        let Self { side, subject, node, range, extent } = self;
        let mut groups = vec![Group::default(); range.group_count(subject)];
        let query = subject.tables[*node].groups(extent, range.grouping(subject), subject.seed);
        let rows = side.client.query(&query, &range.parameters()).await;
        for row in rows.on(side.name, || self.doing())? {
            let at = usize::try_from(row.get::<_, i32>(0)).unwrap_or_default();
            groups[at] = [row.get(1), row.get(2)];
        }
        Ok(groups)
    }

    async fn rows(&self, numbers: &Vec<i32>) -> Result<Vec<tokio_postgres::Row>, CompareError> {
        let Self { side, subject, node, range, extent } = self;
        let table = &subject.tables[*node];
        let runs = range.runs(subject, numbers);
        let mut parameters = range.parameters();
        let query = match &runs {
            Some(runs) => {
                parameters.push(runs);
                table.rows_of_runs(extent, subject.seed)
            }
            None => {
                parameters.push(numbers);
                table.rows_of_groups(extent, range.grouping(subject), subject.seed)
            }
        };
        side.client.query(&query, &parameters).await.on(side.name, || self.doing())
    }

    fn doing(&self) -> String {
        format!("comparing {}", self.subject.name.plain())
    }
}

/// As a person would sort them: numbers by their value.
fn order(a: &[String], b: &[String]) -> std::cmp::Ordering {
    let each = a.iter().zip(b).map(|(a, b)| match (a.parse::<i128>(), b.parse::<i128>()) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        _ => a.cmp(b),
    });
    each.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
}
