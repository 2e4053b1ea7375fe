//! Which rows need other ids.
//!
//! Rows that have the same id and equal matched columns on both nodes are settled, and so are their ids. Of the others
//! what is needed, id and matched values, goes into temporary tables on the node that is renumbered, where one join tells
//! which of them are the same: there may be millions.

use super::{EXAMPLES, Task};
use crate::compare::{ComparedRow, Side, Subject, read_whole};
use crate::lifecycle::error::On;
use crate::lifecycle::up::Work;
use crate::lifecycle::up::equal::Purpose;
use crate::lifecycle::{LifecycleError, OpenNode};
use crate::sql::{self, Canonical, Ident};
use std::fmt::Write as _;
use tokio_postgres::types::ToSql;

const DOING: &str = "looking for rows to renumber";
/// About so many bytes of rows are in memory.
const BATCH_BYTES: usize = 8 << 20;
const MOST_KEYS: usize = 2000;

/// What is in the session's temporary table now.
pub(super) struct Moves {
    /// Rows that need a new id.
    pub collisions: u64,
    /// Rows that get an id that another node has for the same thing.
    pub joined: u64,
    /// Those of them whose own id is another thing there.
    pub colliding_joins: u64,
    pub matched: Vec<(Ident, Canonical)>,
}

impl Moves {
    pub fn count(&self) -> u64 {
        self.collisions + self.joined
    }
}

/// Columns of rows on their way into a temporary table.
#[derive(Default)]
struct Unsettled<'r> {
    ids: Vec<&'r str>,
    tokens: Vec<Vec<Option<&'r str>>>,
    collide: Vec<bool>,
    clashes: Vec<Option<String>>,
}

/// What tells of two rows of one id.
struct Sorter<'s> {
    subject: &'s Subject,
    matched: &'s [usize],
    /// Unique indexes of which each of two things would need its own value.
    unique: Vec<&'s Vec<usize>>,
    settled: bool,
}

impl Work<'_> {
    pub(super) async fn find_moves(&self, task: &Task<'_>, session: &OpenNode) -> Result<Moves, LifecycleError> {
        let client = session.client();
        let mut sessions = Vec::new();
        for node in [task.node, task.against] {
            let reader = self.nodes[node].another().await?;
            let begin = reader.client().batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await;
            begin.on(&reader.name, DOING)?;
            sessions.push((node, reader));
        }
        let compared = self.compare(task.table, &sessions, Purpose::Renumbering).await?;
        client.batch_execute(&sql::create_unsettled()).await.on(&session.name, DOING)?;
        let Some(subject) = compared.subject else {
            return Err(LifecycleError::refused(format!("{} is gone", task.table.plain()), "make it again"));
        };
        let place = |name: &Ident| subject.columns.iter().position(|column| column == name);
        let matched: Vec<usize> = task.matching.columns.iter().filter_map(place).collect();
        let sides: Vec<Side<'_>> =
            sessions.iter().map(|(_, reader)| Side { name: &reader.name, client: reader.client() }).collect();
        let unique = subject.unique_indexes().iter().filter(|index| {
            let names: Vec<&Ident> = index.iter().map(|at| &subject.columns[*at]).collect();
            !self.shows_later(task.table, &names)
        });
        let unique = unique.collect();
        let sorter = Sorter { subject: &subject, matched: &matched, unique, settled: task.settled };
        let mut keys = compared.differences.into_keys()?;
        let mut count = 64;
        loop {
            let batch = keys.next(count)?;
            if batch.is_empty() {
                break;
            }
            let rows = read_whole(&sides, &subject, &batch).await?;
            let mut found = [Unsettled::default(), Unsettled::default()];
            for pair in &rows {
                sorter.sort_out(pair, &mut found);
            }
            for (unsettled, here) in found.iter().zip([true, false]) {
                unsettled.write(session, here, matched.len()).await?;
            }
            let values = rows.iter().flatten().flatten().flat_map(|row| row.values.iter().flatten());
            let bytes: usize = values.map(String::len).sum();
            count = (BATCH_BYTES / (bytes / batch.len()).max(1)).clamp(1, MOST_KEYS);
        }
        self.refuse_ambiguous(task, session).await?;
        for statement in sql::create_moves() {
            client.batch_execute(&statement).await.on(&session.name, DOING)?;
        }
        self.refuse_clashing(task, session).await?;
        let counted = client.query_one(&sql::count_moves(), &[]).await.on(&session.name, DOING)?;
        let number = |at: usize| counted.get::<_, i64>(at).unsigned_abs();
        let matched = matched.into_iter().map(|at| (subject.columns[at].clone(), subject.canonical(at))).collect();
        Ok(Moves { collisions: number(0), joined: number(1), colliding_joins: number(2), matched })
    }

    /// Two things that both claim one unique value cannot be in one table, whatever their ids.
    async fn refuse_clashing(&self, task: &Task<'_>, session: &OpenNode) -> Result<(), LifecycleError> {
        let rows = session.client().query(&sql::clashing_moves(EXAMPLES), &[]).await.on(&session.name, DOING)?;
        let Some(first) = rows.first() else { return Ok(()) };
        let (here, there) = (&self.nodes[task.node].name, &self.nodes[task.against].name);
        let pairs = if first.get::<_, i64>(0) == 1 { "pair" } else { "pairs" };
        let mut what = format!(
            "{}: rows that are different things on {here} and {there} claim the same unique value, and cannot be in one \
             table ({} {pairs})",
            task.table.plain(),
            first.get::<_, i64>(0)
        );
        for row in &rows {
            let _ = write!(what, "\n  {}: {} on both", row.get::<_, String>(2), row.get::<_, String>(1));
        }
        Err(LifecycleError::refused(
            what,
            "give one of each two another value, or match by that column, and run it again",
        ))
    }

    /// Nobody but a person knows which of two rows is the one.
    async fn refuse_ambiguous(&self, task: &Task<'_>, session: &OpenNode) -> Result<(), LifecycleError> {
        let rows = session.client().query(&sql::ambiguous(EXAMPLES), &[]).await.on(&session.name, DOING)?;
        let Some(first) = rows.first() else { return Ok(()) };
        let (here, there) = (&self.nodes[task.node].name, &self.nodes[task.against].name);
        let names: Vec<&str> = task.matching.columns.iter().map(Ident::as_str).collect();
        let mut what = format!(
            "{}: several rows of one node match rows of the other, and which are the same cannot be told ({} {})",
            task.table.plain(),
            first.get::<_, i64>(0),
            if first.get::<_, i64>(0) == 1 { "match" } else { "matches" }
        );
        for row in &rows {
            let tokens: Vec<Option<String>> = row.get(1);
            let values: Vec<&str> = tokens.iter().map(|token| token.as_deref().unwrap_or("NULL")).collect();
            let ids = |at: usize| row.get::<_, Vec<String>>(at).join(", ");
            let _ = write!(
                what,
                "\n  {} = {}: {} on {here}, {} on {there}",
                names.join(", "),
                values.join(", "),
                ids(2),
                ids(3)
            );
        }
        Err(LifecycleError::refused(
            what,
            "match by more columns, or make those rows one, or different, by hand, and run it again",
        ))
    }
}

impl Sorter<'_> {
    /// `pair`: the row of the node that is renumbered, and that of the other one. Values of long texts are told by their
    /// tokens, which the servers made.
    fn sort_out<'r>(&self, pair: &'r [Option<ComparedRow>], found: &mut [Unsettled<'r>; 2]) {
        let same = |columns: &[usize], here: &ComparedRow, there: &ComparedRow| {
            columns.iter().all(|at| here.token(*at) == there.token(*at))
        };
        let mut clash = None;
        let collides = match pair {
            [Some(here), Some(there)] => {
                if self.settled || same(self.matched, here, there) {
                    return;
                }
                let claimed =
                    |index: &&&Vec<usize>| index.iter().all(|at| here.token(*at).is_some()) && same(index, here, there);
                clash = self.unique.iter().find(claimed).map(|index| {
                    let value = |at: &usize| {
                        let value = here.values[*at].as_deref().unwrap_or_default();
                        format!("{} = {value}", self.subject.columns[*at].as_str())
                    };
                    index.iter().map(value).collect::<Vec<_>>().join(", ")
                });
                true
            }
            _ => false,
        };
        for (row, unsettled) in pair.iter().zip(found) {
            if let Some(row) = row {
                unsettled.ids.push(row.values[self.subject.key[0]].as_deref().unwrap_or_default());
                unsettled.tokens.push(self.matched.iter().map(|at| row.token(*at)).collect());
                unsettled.collide.push(collides);
                unsettled.clashes.push(clash.clone());
            }
        }
    }
}

impl Unsettled<'_> {
    async fn write(&self, session: &OpenNode, here: bool, matched: usize) -> Result<(), LifecycleError> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let columns: Vec<Vec<Option<&str>>> =
            (0..matched).map(|at| self.tokens.iter().map(|tokens| tokens[at]).collect()).collect();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&self.ids];
        parameters.extend(columns.iter().map(|column| column as &(dyn ToSql + Sync)));
        parameters.push(&self.collide);
        parameters.push(&self.clashes);
        let inserted = session.client().execute(&sql::insert_unsettled(here, matched), &parameters).await;
        inserted.on(&session.name, DOING)?;
        Ok(())
    }
}
