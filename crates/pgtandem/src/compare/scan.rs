//! Going through one table on all nodes.

use super::CompareError;
use super::checksums::{Suspect, summarise};
use super::clashes::clashes;
use super::error::On;
use super::flight::{Landed, wait_for_landings};
use super::look::{Seen, Verdict, differing_columns, look, verdict, versions};
use super::pace::Pace;
use super::ranges::{Range, Ranges};
use super::subject::{Side, Subject};
use super::tally::{Found, Tally};
use crate::sql;
use futures::future::try_join;
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};

/// Keys that were unequal at first and wait for the second look. Each wait for what is on its way takes about a second.
const WAITING_KEYS: usize = 16_384;
/// A key that is written between each two looks is given up after so many.
const LOOKS: usize = 6;
/// So many ranges are summed up before those in front of them have been looked into.
const AHEAD: usize = 3;
/// So often a comparison can be taken up again.
const CHECKPOINT: Duration = Duration::from_secs(1);

/// How rows are compared.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The sessions see one state of the rows, which nobody changes: no second look.
    pub frozen: bool,
    /// The share of time that is spent working.
    pub max_load: f64,
    /// How many examples are kept of each kind.
    pub examples: usize,
}

/// Who watches, and may want every row that differs.
pub trait Watch {
    /// So many rows are done.
    fn rows(&mut self, _done: u64) {}
    /// Called once for each key, in the order of the ranges.
    fn found(&mut self, _found: &Found) {}
    /// Called instead where all that matters of a key is that some node lacks it: its texts, node by node. Only of a
    /// comparison of rows that nobody changes.
    fn missing(&mut self, _keys: &[Vec<String>]) {}
    /// From here another comparison can go on. Only called if `wants_checkpoints`.
    fn checkpoint(&mut self, _checkpoint: &Checkpoint) {}
    fn wants_checkpoints(&self) -> bool {
        false
    }
}

/// How far a comparison of a table has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Checkpoint {
    after: Range,
    tally: Tally,
}

impl Checkpoint {
    pub fn rows_done(&self) -> u64 {
        self.tally.rows.iter().copied().max().unwrap_or_default()
    }
}

/// One comparison under way.
struct Scan<'a> {
    sides: &'a [Side<'a>],
    subject: &'a Subject,
    options: Options,
    watch: &'a mut dyn Watch,
    tally: Tally,
    /// Unequal at the first look, with the versions seen then.
    waiting: Vec<(Suspect, Vec<Option<String>>)>,
}

/// The sessions of a comparison, one per node each.
///
/// A session answers in the order it was asked, and not at all while an earlier answer is left unread. So only where all
/// three are others is anything asked ahead.
#[derive(Clone)]
pub struct Sessions<'a> {
    /// Where checksums are asked for.
    pub sums: Vec<Side<'a>>,
    /// Where the ranges' boundaries are.
    pub ranges: Vec<Side<'a>>,
    /// Where everything else is.
    pub looks: Vec<Side<'a>>,
    pub ask_ahead: bool,
}

impl<'a> Sessions<'a> {
    /// One per node for everything.
    pub fn single(sides: Vec<Side<'a>>) -> Self {
        Self { sums: sides.clone(), ranges: sides.clone(), looks: sides, ask_ahead: false }
    }
}

/// Compares a table's rows on all nodes.
pub async fn compare_rows(
    subject: &Subject,
    sessions: &Sessions<'_>,
    options: Options,
    from: Option<Checkpoint>,
    watch: &mut dyn Watch,
) -> Result<Tally, CompareError> {
    let sides = sessions.sums.as_slice();
    let (after, mut tally) = from.map_or((None, Tally::default()), |from| (Some(from.after), from.tally));
    tally.rows.resize(sides.len(), 0);
    for side in sides {
        side.client.batch_execute(sql::FOR_GROUPS).await.on(side.name, || "preparing a comparison".to_owned())?;
    }
    let mut scan = Scan { sides: &sessions.looks, subject, options, watch, tally, waiting: Vec::new() };
    let ranges = Ranges::new(subject, &sessions.ranges, after.as_ref());
    let walker = ranges.walker;
    // While some ranges are looked into, others are being summed up.
    let pace = Pace::new(options.max_load);
    let ahead = if pace.is_full() && sessions.ask_ahead { AHEAD } else { 0 };
    let under_way = &Semaphore::new(ahead + 1);
    let ranges = stream::unfold(Some(ranges), |ranges| async move {
        let mut ranges = ranges?;
        // Never closed.
        if let Ok(permit) = under_way.acquire().await {
            permit.forget();
        }
        match ranges.next().await {
            Ok(range) => Some((Ok(range?), Some(ranges))),
            Err(error) => Some((Err(error), None)),
        }
    });
    // What the last range was the next one is expected to be.
    let equal = &AtomicBool::new(true);
    let summaries = ranges.map(|range| async move {
        let summary = summarise(sides, subject, walker, range?, equal.load(Ordering::Relaxed)).await?;
        equal.store(summary.suspects.is_empty(), Ordering::Relaxed);
        Ok::<_, CompareError>(summary)
    });
    let (found, mut summed_up) = mpsc::channel(ahead + 1);
    let sum_up = async {
        let mut summaries = pin!(summaries.buffered(ahead.max(1)));
        while let Some(summary) = summaries.next().await {
            // Nobody is there any more only if the other half has failed.
            let _ = found.send(summary?).await;
        }
        drop(found);
        Ok(())
    };
    let look = async {
        let (mut began, mut last_checkpoint) = (Instant::now(), Instant::now());
        while let Some(summary) = summed_up.recv().await {
            scan.tally.add_rows(&summary.rows);
            scan.look_first(summary.suspects).await?;
            scan.watch.rows(scan.tally.rows.iter().copied().max().unwrap_or_default());
            if scan.watch.wants_checkpoints() && last_checkpoint.elapsed() >= CHECKPOINT {
                scan.look_again().await?;
                let checkpoint = Checkpoint { after: summary.range, tally: scan.tally.clone() };
                scan.watch.checkpoint(&checkpoint);
                last_checkpoint = Instant::now();
            }
            pace.rest(began.elapsed()).await;
            began = Instant::now();
            under_way.add_permits(1);
        }
        scan.look_again().await
    };
    try_join(sum_up, look).await?;
    Ok(scan.tally)
}

impl Scan<'_> {
    async fn look_first(&mut self, suspects: Vec<Suspect>) -> Result<(), CompareError> {
        for portion in suspects.chunks(self.looked_at_once()) {
            let portion: Vec<&Suspect> = portion.iter().filter(|suspect| !self.is_missing_for_sure(suspect)).collect();
            let seen = look(self.sides, self.subject, &portion).await?;
            let mut sure = Vec::new();
            for (suspect, seen) in portion.into_iter().zip(&seen) {
                match verdict(self.subject, seen) {
                    Verdict::Equal => {}
                    Verdict::Different | Verdict::Missing if self.options.frozen => {
                        sure.push(self.found(suspect, seen));
                    }
                    Verdict::Different | Verdict::Missing => self.waiting.push((suspect.clone(), versions(seen))),
                }
            }
            self.count(&sure).await?;
            if self.waiting.len() >= WAITING_KEYS {
                self.look_again().await?;
            }
        }
        Ok(())
    }

    /// Where nobody changes rows, one that is not there is not looked at, unless it is to be shown or may clash: there may
    /// be as many as there are rows. If so, it is counted.
    fn is_missing_for_sure(&mut self, suspect: &Suspect) -> bool {
        let Suspect { on, texts, uncontested, .. } = suspect;
        let is_known = self.options.frozen && *uncontested && on.len() < self.sides.len();
        if !is_known || !self.subject.unique.is_empty() || self.tally.wants_example(on, self.options.examples) {
            return false;
        }
        self.tally.add_partial(on);
        self.watch.missing(texts);
        true
    }

    /// What was unequal and is still, though everything has arrived and nobody wrote it since, is different.
    async fn look_again(&mut self) -> Result<(), CompareError> {
        for _ in 0..LOOKS {
            if self.waiting.is_empty() {
                return Ok(());
            }
            let landed = wait_for_landings(self.sides).await?;
            let waiting = std::mem::take(&mut self.waiting);
            for portion in waiting.chunks(self.looked_at_once()) {
                self.decide(portion, landed).await?;
            }
            if landed == Landed::NotYet {
                break;
            }
        }
        self.tally.in_flight += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    async fn decide(&mut self, portion: &[(Suspect, Vec<Option<String>>)], landed: Landed) -> Result<(), CompareError> {
        let suspects: Vec<&Suspect> = portion.iter().map(|(suspect, _)| suspect).collect();
        let mut sure = Vec::new();
        for ((suspect, before), seen) in portion.iter().zip(look(self.sides, self.subject, &suspects).await?) {
            if verdict(self.subject, &seen) == Verdict::Equal {
                continue;
            }
            let now = versions(&seen);
            if landed == Landed::All && now == *before {
                sure.push(self.found(suspect, &seen));
            } else {
                self.waiting.push((suspect.clone(), now));
            }
        }
        self.count(&sure).await
    }

    async fn count(&mut self, sure: &[Found]) -> Result<(), CompareError> {
        for found in sure {
            self.tally.add(found, self.options.examples);
            self.watch.found(found);
        }
        for clash in clashes(self.sides, self.subject, sure).await? {
            self.tally.add_clash(clash, self.options.examples);
        }
        Ok(())
    }

    fn found(&self, suspect: &Suspect, seen: &Seen) -> Found {
        let node = seen.iter().position(Option::is_some).unwrap_or_default();
        Found {
            key: suspect.texts[node].clone(),
            rows: seen.iter().map(|row| row.as_ref().map(|row| row.values.clone())).collect(),
            differs: differing_columns(self.subject, seen),
            keys: suspect.texts.clone(),
        }
    }

    /// Wide rows take more memory.
    fn looked_at_once(&self) -> usize {
        const VALUES: usize = 8192;
        (VALUES / self.subject.columns.len().max(1)).clamp(16, 512)
    }
}
