//! Rows get other ids, a batch in a transaction.

use super::find::Moves;
use super::{Moved, References, Task, move_ids, renumbered};
use crate::connect::FaultClass;
use crate::lifecycle::error::On;
use crate::lifecycle::locks::{Attempts, busy, is_lock_timeout, set_lock_timeout};
use crate::lifecycle::up::{Work, own};
use crate::lifecycle::{LifecycleError, OpenNode};
use crate::link::{self, Why};
use crate::sql::{self, QualifiedName};
use std::time::{Duration, Instant};

const DOING: &str = "renumbering rows";
const FIRST_BATCH: i64 = 50;
const MOST_ROWS: i64 = 1000;
/// What a transaction holds its row locks for, about.
const AIM: Duration = Duration::from_millis(150);
/// Below `deadlock_timeout`, so that the victim of a deadlock is never the application.
const LONGEST_LOCK_WAIT: Duration = Duration::from_millis(900);

/// One batch: its places in the list.
struct Batch<'b> {
    task: &'b Task<'b>,
    writer: &'b OpenNode,
    references: &'b References,
    renumbered: sql::Renumbered,
    sequence: Option<&'b QualifiedName>,
    replica_role: bool,
    from: i64,
    upto: i64,
}

impl Work<'_> {
    /// Those that could not be moved are for the next pass.
    pub(super) async fn write_moves(
        &self,
        task: &Task<'_>,
        moves: &Moves,
        references: &References,
        writer: &OpenNode,
    ) -> Result<Moved, LifecycleError> {
        let mut batch = Batch {
            task,
            writer,
            references,
            renumbered: renumbered(task.shape, moves.matched.clone(), references),
            sequence: self.key_sequence(task),
            replica_role: self.surveys[task.node].role.may_set_replication_role,
            from: 0,
            upto: 0,
        };
        let (total, mut size) = (moves.count().cast_signed(), FIRST_BATCH);
        let (mut moved, mut attempts) = (Moved::default(), Attempts::new());
        while batch.from < total {
            batch.upto = (batch.from + size).min(total);
            let began = Instant::now();
            match batch.write().await {
                Ok(some) => {
                    moved.add(some);
                    batch.from = batch.upto;
                    self.progress.rows(task.table, batch.from.unsigned_abs(), total.unsigned_abs());
                    // A server that is slow with few rows would be slower with fewer.
                    let half = if size > FIRST_BATCH { (size / 2).max(FIRST_BATCH) } else { size };
                    size = if began.elapsed() < AIM { (size * 2).min(MOST_ROWS) } else { half };
                    attempts = Attempts::new();
                }
                Err(error) => {
                    writer.client().batch_execute("ROLLBACK").await.on(&writer.name, DOING)?;
                    if is_about_a_row(&error) && size == 1 {
                        return Err(refuse(task, writer, &error));
                    }
                    if !(is_lock_timeout(&error) || is_timeout(&error) || is_about_a_row(&error)) {
                        return Err(error);
                    }
                    if !is_about_a_row(&error) && !attempts.again().await {
                        return Err(busy(writer, DOING, &task.shape.name).await);
                    }
                    size = (size / 4).max(1);
                }
            }
        }
        Ok(moved)
    }
}

impl Batch<'_> {
    async fn write(&self) -> Result<Moved, LifecycleError> {
        let (client, node) = (self.writer.client(), self.writer.name.as_str());
        let settings = self.settings();
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        own::begin(self.writer, self.replica_role, &settings, DOING).await?;
        let held = self.held_tables();
        if !held.is_empty() {
            client.batch_execute(&sql::hold_writers(held)).await.on(node, DOING)?;
        }
        let locked = client.query(&self.renumbered.lock(), &[&self.from, &self.upto]).await.on(node, DOING)?;
        let (mut wanted, mut counts): (Vec<(String, Option<String>)>, _) = (Vec::new(), Moved::default());
        for row in &locked {
            let (old, new, collides, taken) = (row.get(0), row.get::<_, Option<String>>(1), row.get(2), row.get(3));
            match (new, collides, taken) {
                (Some(new), _, false) => {
                    counts.joined += 1;
                    wanted.push((old, Some(new)));
                }
                // Whoever stands there has to go first, and this one may be in the way of another.
                (new, true, _) => {
                    counts.new_ids += u64::from(new.is_none());
                    wanted.push((old, None));
                }
                (_, false, _) => {}
            }
        }
        let mut fresh = self.draw(wanted.iter().filter(|(_, new)| new.is_none()).count()).await?.into_iter();
        let moved = wanted.into_iter().filter_map(|(old, new)| {
            let why = if new.is_some() { Why::Joined } else { Why::Collision };
            Some((old, new.or_else(|| fresh.next())?, why))
        });
        let moved: Vec<(String, String, Why)> = moved.collect();
        if !moved.is_empty() {
            let pairs = moved.iter().map(|(old, new, _)| (old.as_str(), new.as_str()));
            move_ids(self.writer, &self.renumbered, self.references, pairs).await.on(node, DOING)?;
            let noted: Vec<(&str, &str, Why)> =
                moved.iter().map(|(old, new, why)| (old.as_str(), new.as_str(), *why)).collect();
            link::insert_renumbered(client, self.task.id, &noted).await.on(node, DOING)?;
        }
        client.batch_execute("COMMIT").await.on(node, DOING)?;
        Ok(counts)
    }

    /// With a pause, writers queue up behind us while we wait, and then while the batch is written: each for half of it.
    fn settings(&self) -> Vec<String> {
        match self.task.matching.write_pause {
            None => vec![set_lock_timeout()],
            Some(pause) => vec![
                format!("SET LOCAL lock_timeout = {}", (pause / 2).min(LONGEST_LOCK_WAIT).as_millis().max(1)),
                format!("SET LOCAL statement_timeout = {}", (pause / 2).as_millis().max(1)),
            ],
        }
    }

    /// Where no foreign key keeps an old id from being written while we are at it, nobody writes.
    fn held_tables(&self) -> Vec<&QualifiedName> {
        match self.task.matching.write_pause {
            None => self.references.unguarded.iter().collect(),
            Some(_) => {
                let mut all: Vec<&QualifiedName> = vec![&self.task.shape.name];
                for table in self.references.holders.iter().map(|holder| &holder.table) {
                    if !all.contains(&table) {
                        all.push(table);
                    }
                }
                all
            }
        }
    }

    async fn draw(&self, count: usize) -> Result<Vec<String>, LifecycleError> {
        let Some(sequence) = self.sequence.filter(|_| count > 0) else { return Ok(Vec::new()) };
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let drawn = self.writer.client().query(&sql::draw(sequence), &[&count]).await;
        Ok(drawn.on(&self.writer.name, "drawing new ids")?.iter().map(|row| row.get(0)).collect())
    }
}

fn is_timeout(error: &LifecycleError) -> bool {
    error.sqlstate() == Some("57014")
}

fn is_about_a_row(error: &LifecycleError) -> bool {
    error.sqlstate().is_some_and(|state| FaultClass::of_sqlstate(state) == FaultClass::RowRejected)
}

fn refuse(task: &Task<'_>, writer: &OpenNode, error: &LifecycleError) -> LifecycleError {
    LifecycleError::refused(
        format!(
            "node {}: a row of {} cannot get another id: {}",
            writer.name,
            task.table.plain(),
            error.without_node(&writer.name)
        ),
        "mend that row, or what refers to it, by hand, and run `pgtandem up` again: it goes on where it was",
    )
}
