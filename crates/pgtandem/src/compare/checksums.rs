//! Where two nodes may differ: groups of rows by their checksums, and of those that differ the keys.

use super::CompareError;
use super::error::On;
use super::ranges::Range;
use super::subject::{Side, Subject};
use crate::sql::{Extent, RUN_BITS};
use futures::future::try_join_all;
use hashbrown::HashMap;
use tokio_postgres::types::ToSql;

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
    /// Of the spelling of the first one's row.
    pub spelling: i64,
}

/// A key of one integer that some node lacks, with rows of the same hash where it is.
#[derive(Debug, Clone, Copy)]
pub struct Lone {
    pub key: i64,
    /// A bit for each node that has it, by its number.
    pub on: u64,
    /// The hash of its spelling on the first of them: see [`crate::sql::ComparedTable::spelling_hash`].
    pub spelling: i64,
}

impl Lone {
    fn suspect(&self, nodes: usize) -> Suspect {
        let text = || vec![self.key.to_string()];
        Suspect {
            key: text(),
            texts: vec![text(); nodes],
            on: (0..nodes).filter(|node| self.on & 1 << node != 0).collect(),
            uncontested: true,
            spelling: self.spelling,
        }
    }
}

/// What is in a range.
pub(super) struct Summary {
    pub range: Range,
    /// Node by node.
    pub rows: Vec<u64>,
    pub suspects: Vec<Suspect>,
    /// Suspects, too: there may be as many of these as there are rows.
    pub lone: Vec<Lone>,
    /// How much of the range is not the same everywhere, in percent: none only if nothing is.
    pub differs: u8,
}

impl Summary {
    /// For who looks at each of them.
    pub fn without_lone(mut self) -> Self {
        let nodes = self.rows.len();
        self.suspects.extend(self.lone.drain(..).map(|lone| lone.suspect(nodes)));
        self.suspects.sort_by_cached_key(|suspect| order(&suspect.key));
        self
    }

    /// This one of [`Self::lone`] is a suspect like others.
    pub fn as_suspect(&self, lone: &Lone) -> Suspect {
        lone.suspect(self.rows.len())
    }
}

/// What a group that differs has of rows that do, in the mean, can hardly be less.
const SHARE_OF_GROUP: usize = 1 << RUN_BITS;
/// From so many percent on a range's rows are read at once, without looking which groups differ: they would be read again.
const MOST: u8 = 30;
/// So many keys of one integer with their hashes are in memory at a time, for each node.
const MOST_INTEGERS: u64 = 1 << 19;

fn percent(some: usize, all: usize) -> u8 {
    u8::try_from((some * 100).div_ceil(all.max(1)).min(100)).unwrap_or(100)
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

/// `walker`: where the range's boundaries were read. `expected`: how much of it may differ. If nothing, it is only otherwise
/// split up: putting rows into groups costs the servers almost as much as hashing them.
pub(super) async fn summarise(
    sides: &[Side<'_>],
    subject: &Subject,
    walker: usize,
    range: Range,
    expected: u8,
) -> Result<Summary, CompareError> {
    let extent = range.extent(&subject.key_types[walker]);
    let part = |node: usize| Part { side: sides[node], subject, node, range: &range, extent: &extent };
    let parts: Vec<Part<'_>> = (0..sides.len()).map(part).collect();
    let most_differs = expected >= MOST && subject.one_integer;
    let mut fits = most_differs && range.runs(subject).is_some();
    if expected == 0 || (most_differs && !fits) {
        let totals = try_join_all(parts.iter().map(Part::total)).await?;
        let rows: Vec<u64> = totals.iter().map(|total| total[0].unsigned_abs()).collect();
        if totals.iter().all(|total| *total == totals[0]) {
            return Ok(Summary { rows, suspects: Vec::new(), lone: Vec::new(), differs: 0, range });
        }
        fits = most_differs && rows.iter().all(|rows| *rows <= MOST_INTEGERS);
    }
    if fits {
        return all_of_integers(&parts, range.clone()).await;
    }
    let groups = try_join_all(parts.iter().map(Part::groups)).await?;
    let rows: Vec<u64> = groups.iter().map(|groups| groups.iter().map(|group| group[0].unsigned_abs()).sum()).collect();
    let there = (0..groups[0].len()).filter(|at| groups.iter().any(|of_node| of_node[*at][0] != 0)).count();
    let portions = differing(&groups);
    let differs = percent(portions.iter().map(Vec::len).sum(), there);
    if differs >= MOST && subject.one_integer && rows.iter().all(|rows| *rows <= MOST_INTEGERS) {
        return all_of_integers(&parts, range.clone()).await;
    }
    let (mut suspects, mut lone) = (Vec::new(), Vec::new());
    for numbers in portions {
        let (some, some_lone) = suspects_of(&parts, &numbers).await?;
        suspects.extend(some);
        lone.extend(some_lone);
    }
    suspects.sort_by_cached_key(|suspect| order(&suspect.key));
    lone.sort_unstable_by_key(|lone| lone.key);
    Ok(Summary { rows, suspects, lone, differs, range })
}

/// Looks at every row, of a range of keys of one integer that has not too many of them.
async fn all_of_integers(parts: &[Part<'_>], range: Range) -> Result<Summary, CompareError> {
    let answers = try_join_all(parts.iter().map(Part::rows_of_range)).await?;
    let rows: Vec<u64> = answers.iter().map(|answer| answer.keys.len() as u64).collect();
    let (suspects, lone) = suspects_of_integers(&answers);
    let most = answers.iter().map(|answer| answer.keys.len()).max().unwrap_or_default();
    let differs = percent((suspects.len() + lone.len()) * SHARE_OF_GROUP, most);
    Ok(Summary { rows, suspects, lone, differs, range })
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

type Suspects = (Vec<Suspect>, Vec<Lone>);

async fn suspects_of(parts: &[Part<'_>], numbers: &Vec<i32>) -> Result<Suspects, CompareError> {
    match parts[0].range.runs(parts[0].subject) {
        Some((first, _)) => {
            let runs: Vec<i64> = numbers.iter().map(|number| first + i64::from(*number)).collect();
            let answers = try_join_all(parts.iter().map(|part| part.rows_of_runs(&runs))).await?;
            Ok(suspects_of_integers(&answers))
        }
        None => Ok((suspects_of_groups(parts, numbers).await?, Vec::new())),
    }
}

/// A node's rows under keys of one integer.
struct Integers {
    keys: Vec<i64>,
    hashes: Vec<i64>,
    /// None: as `hashes`.
    spellings: Option<Vec<i64>>,
}

fn suspects_of_integers(answers: &[Integers]) -> Suspects {
    let all = answers.iter().enumerate();
    let rows = all.flat_map(|(node, rows)| rows.keys.iter().enumerate().map(move |(at, key)| (*key, node, at)));
    let mut rows: Vec<(i64, usize, usize)> = rows.collect();
    // Each node's are mostly in order already.
    rows.sort();
    let (mut suspects, mut lone) = (Vec::new(), Vec::new());
    for of_key in rows.chunk_by(|a, b| a.0 == b.0) {
        let (key, node, at) = of_key[0];
        let uncontested = of_key.iter().all(|(_, of, at_of)| answers[*of].hashes[*at_of] == answers[node].hashes[at]);
        if uncontested && of_key.len() == answers.len() {
            continue;
        }
        let spelling = answers[node].spellings.as_ref().unwrap_or(&answers[node].hashes)[at];
        let one = Lone { key, on: of_key.iter().map(|(_, of, _)| 1 << of).sum(), spelling };
        if uncontested {
            lone.push(one);
        } else {
            suspects.push(Suspect { uncontested: false, ..one.suspect(answers.len()) });
        }
    }
    (suspects, lone)
}

async fn suspects_of_groups(parts: &[Part<'_>], numbers: &Vec<i32>) -> Result<Vec<Suspect>, CompareError> {
    #[derive(Default)]
    struct Entry {
        hashes: Vec<Option<i64>>,
        spellings: Vec<i64>,
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
            entry.spellings.push(row.get(3));
            entry.texts[node] = Some(texts);
        }
    }
    let unequal = keys.into_iter().filter(|(_, entry)| entry.hashes.iter().any(|hash| *hash != entry.hashes[0]));
    let suspects = unequal.map(|(key, entry)| {
        let on: Vec<usize> = (0..parts.len()).filter(|node| entry.hashes[*node].is_some()).collect();
        let uncontested = on.iter().all(|node| entry.hashes[*node] == entry.hashes[on[0]]);
        let any = entry.texts.iter().flatten().next().cloned().unwrap_or_default();
        let texts = entry.texts.into_iter().map(|texts| texts.unwrap_or_else(|| any.clone())).collect();
        Suspect { key, texts, on, uncontested, spelling: entry.spellings[0] }
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
        let mut parameters = range.parameters();
        let runs = range.runs(subject);
        let query = match &runs {
            Some((first, last)) => {
                parameters.extend([first as &(dyn ToSql + Sync), last]);
                subject.tables[*node].runs(extent, subject.seed)
            }
            None => subject.tables[*node].groups(extent, range.grouping(subject), subject.seed),
        };
        let row = side.client.query_one(&query, &parameters).await.on(side.name, || self.doing())?;
        let numbers: Option<Vec<i32>> = row.get(0);
        let (rows, sums): (Option<Vec<i64>>, Option<Vec<Option<i64>>>) = (row.get(1), row.get(2));
        let sums = rows.into_iter().flatten().zip(sums.into_iter().flatten());
        for (number, (rows, sum)) in numbers.into_iter().flatten().zip(sums) {
            groups[usize::try_from(number).unwrap_or_default()] = [rows, sum.unwrap_or_default()];
        }
        Ok(groups)
    }

    async fn rows_of_runs(&self, runs: &Vec<i64>) -> Result<Integers, CompareError> {
        let query = self.subject.tables[self.node].rows_of_runs(self.extent, self.subject.seed);
        let mut parameters = self.range.parameters();
        parameters.push(runs);
        self.integers(&query, &parameters).await
    }

    async fn rows_of_range(&self) -> Result<Integers, CompareError> {
        let query = self.subject.tables[self.node].rows_of_range(self.extent, self.subject.seed);
        self.integers(&query, &self.range.parameters()).await
    }

    async fn integers(&self, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Integers, CompareError> {
        let row = self.side.client.query_one(query, parameters).await.on(self.side.name, || self.doing())?;
        let numbers = |at: usize| row.get::<_, Option<&[u8]>>(at).map(unpacked);
        let (keys, hashes) = (numbers(0).unwrap_or_default(), numbers(1).unwrap_or_default());
        Ok(Integers { keys, hashes, spellings: numbers(2) })
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

fn unpacked(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks::<8>().0.iter().map(|bytes| i64::from_be_bytes(*bytes)).collect()
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
