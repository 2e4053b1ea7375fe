//! Which rows need other ids.
//!
//! Rows that have the same id and equal matched columns on both nodes are settled, and so are their ids. Of the others
//! what is needed, id and matched values, goes into temporary tables on the node that is renumbered, where one join tells
//! which of them are the same: there may be millions.

use super::{EXAMPLES, Task};
use crate::compare::{ComparedRow, Side, read_whole};
use crate::lifecycle::error::On;
use crate::lifecycle::up::Work;
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
        let compared = self.compare(task.table, &sessions, true).await?;
        client.batch_execute(&sql::create_unsettled()).await.on(&session.name, DOING)?;
        let Some(subject) = compared.subject else {
            return Err(LifecycleError::refused(format!("{} is gone", task.table.plain()), "make it again"));
        };
        let place = |name: &Ident| subject.columns.iter().position(|column| column == name);
        let matched: Vec<usize> = task.matching.columns.iter().filter_map(place).collect();
        let sides: Vec<Side<'_>> =
            sessions.iter().map(|(_, reader)| Side { name: &reader.name, client: reader.client() }).collect();
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
                sort_out(pair, &matched, subject.key[0], task.settled, &mut found);
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
        let counted = client.query_one(&sql::count_moves(), &[]).await.on(&session.name, DOING)?;
        let number = |at: usize| counted.get::<_, i64>(at).unsigned_abs();
        let matched = matched.into_iter().map(|at| (subject.columns[at].clone(), subject.canonical(at))).collect();
        Ok(Moves { collisions: number(0), joined: number(1), colliding_joins: number(2), matched })
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

/// `pair`: the row of the node that is renumbered, and that of the other one. Values of long texts are told by their
/// tokens, which the servers made.
fn sort_out<'r>(
    pair: &'r [Option<ComparedRow>],
    matched: &[usize],
    key: usize,
    settled: bool,
    found: &mut [Unsettled<'r>; 2],
) {
    let collides = match pair {
        [Some(here), Some(there)] => {
            if settled || matched.iter().all(|at| here.token(*at) == there.token(*at)) {
                return;
            }
            true
        }
        _ => false,
    };
    for (row, unsettled) in pair.iter().zip(found) {
        if let Some(row) = row {
            unsettled.ids.push(row.values[key].as_deref().unwrap_or_default());
            unsettled.tokens.push(matched.iter().map(|at| row.token(*at)).collect());
            unsettled.collide.push(collides);
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
        let inserted = session.client().execute(&sql::insert_unsettled(here, matched), &parameters).await;
        inserted.on(&session.name, DOING)?;
        Ok(())
    }
}
