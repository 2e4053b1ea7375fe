//! Going through one table on all nodes.

use super::CompareError;
use super::checksums::{Lone, Summary, Suspect, summarise};
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
use std::sync::atomic::{AtomicU8, Ordering};
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
    /// Called, too, or instead where nothing else matters of the key, if some node lacks it and its rows are the same where
    /// it is. Only of a comparison of rows that nobody changes.
    fn missing(&mut self, _missing: &Missing<'_>) {}
    /// From here another comparison can go on. Only called if `wants_checkpoints`.
    fn checkpoint(&mut self, _checkpoint: &Checkpoint) {}
    fn wants_checkpoints(&self) -> bool {
        false
    }
}

/// A key that only some nodes have.
#[derive(Debug, Clone, Copy)]
pub struct Missing<'a> {
    pub key: MissingKey<'a>,
    /// A bit for each node that has it, by its number.
    pub on: u64,
    /// The hash of its spelling on the first of them.
    pub spelling: i64,
    /// [`Watch::found`] was called.
    pub is_found: bool,
}

#[derive(Debug, Clone, Copy)]
pub enum MissingKey<'a> {
    Integer(i64),
    /// Its texts, node by node; where it is missing, those of one that has it.
    Texts(&'a [Vec<String>]),
}

impl Missing<'_> {
    /// Its texts on each node.
    pub fn texts(&self, nodes: usize) -> Vec<Vec<String>> {
        match self.key {
            MissingKey::Integer(key) => vec![vec![key.to_string()]; nodes],
            MissingKey::Texts(texts) => texts.to_vec(),
        }
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
    let mut ranges = Ranges::new(subject, &sessions.ranges, after.as_ref());
    if options.frozen {
        ranges.look_ahead().await?;
    }
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
    // What the last range was the next one is expected to be. Tables that nobody changes are compared to be merged.
    let differs = &AtomicU8::new(if options.frozen { 100 } else { 0 });
    let summaries = ranges.map(|range| async move {
        let summary = summarise(sides, subject, walker, range?, differs.load(Ordering::Relaxed)).await?;
        differs.store(summary.differs, Ordering::Relaxed);
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
            let range = summary.range.clone();
            let suspects = scan.count_lone(summary);
            scan.look_first(suspects).await?;
            scan.watch.rows(scan.tally.rows.iter().copied().max().unwrap_or_default());
            if scan.watch.wants_checkpoints() && last_checkpoint.elapsed() >= CHECKPOINT {
                scan.look_again().await?;
                let checkpoint = Checkpoint { after: range, tally: scan.tally.clone() };
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
                        if self.is_known_to_be_missing(suspect) {
                            self.watch.missing(&missing(suspect, MissingKey::Texts(&suspect.texts), true));
                        }
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
        let Suspect { on, texts, .. } = suspect;
        if !self.is_known_to_be_missing(suspect) || !self.subject.unique.is_empty() {
            return false;
        }
        if self.tally.wants_example(on, self.options.examples) {
            return false;
        }
        self.tally.add_partial(on, 1);
        self.watch.missing(&missing(suspect, MissingKey::Texts(texts), false));
        true
    }

    fn is_known_to_be_missing(&self, suspect: &Suspect) -> bool {
        self.options.frozen && suspect.uncontested && suspect.on.len() < self.sides.len()
    }

    /// As [`Self::is_missing_for_sure`], of many; answers with what is to be looked at.
    fn count_lone(&mut self, mut summary: Summary) -> Vec<Suspect> {
        if !self.options.frozen || !self.subject.unique.is_empty() {
            return summary.without_lone().suspects;
        }
        let lone = std::mem::take(&mut summary.lone);
        // Of each set of nodes, how many examples are wanted yet, and how many keys are counted.
        let mut sets: Vec<(u64, usize, u64)> = Vec::new();
        for one in &lone {
            let at = sets.iter().position(|(on, ..)| *on == one.on).unwrap_or_else(|| {
                let wanted = self.tally.examples_wanted(&summary.as_suspect(one).on, self.options.examples);
                sets.push((one.on, wanted, 0));
                sets.len() - 1
            });
            let (_, wanted, counted) = &mut sets[at];
            if *wanted > 0 {
                *wanted -= 1;
                summary.suspects.push(summary.as_suspect(one));
                continue;
            }
            *counted += 1;
            let Lone { key, on, spelling } = *one;
            self.watch.missing(&Missing { key: MissingKey::Integer(key), on, spelling, is_found: false });
        }
        for (on, _, counted) in sets.into_iter().filter(|(_, _, counted)| *counted > 0) {
            self.tally.add_partial(&nodes_of(on), counted);
        }
        summary.suspects
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

fn missing<'a>(suspect: &Suspect, key: MissingKey<'a>, is_found: bool) -> Missing<'a> {
    let on = suspect.on.iter().map(|node| 1 << node).sum();
    Missing { key, on, spelling: suspect.spelling, is_found }
}

fn nodes_of(set: u64) -> Vec<usize> {
    (0..64).filter(|node| set & 1 << node != 0).collect()
}
