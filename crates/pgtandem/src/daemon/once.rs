//! `pgtandem run --once`: delivers what waits now, and ends.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::conductor::{Conductor, Ended};
use super::control::Control;
use super::error::{ReachError, RunError};
use super::reach::written_up_to;
use super::{BEAT, begin_from, direct, holder, open_all};
use crate::config::{Capture, Config};
use crate::link;
use hub::Position;
use tokio_postgres::types::PgLsn;

/// Between two looks whether a node has forgotten what was delivered.
const LOOK: Duration = Duration::from_millis(50);
/// The session of a command that has just ended holds the lock until its server notices: what waits would be left to nobody.
const LINGERS: Duration = Duration::from_secs(3);
/// A hub that starts over is given that many lives.
pub(super) const LIVES: usize = 5;

/// What is to be delivered: everything that a node's order of changes has up to here.
struct Mark {
    position: Position,
    /// In which transactions count that wrote it; direct mode's keys wait until theirs is done.
    snapshot: String,
}

/// Delivers what has been written up to now on each node. False: another hub is at work, which does that.
///
/// # Errors
/// When a node cannot be reached, goes away, or something is wrong that waiting cannot mend.
pub async fn run_once(config: &Config, mut stop: watch::Receiver<bool>) -> Result<bool, RunError> {
    for _ in 0..LIVES {
        let controls = open_all(config).await?;
        for control in &controls {
            if !link::try_lock_for(&control.client, LINGERS).await.map_err(ReachError::from)? {
                return Ok(false);
            }
        }
        let mut marks = Vec::new();
        for control in &controls {
            marks.push(mark(control).await?);
        }
        match work(config, controls, &marks, &mut stop).await? {
            Ended::Recover(why) => tracing::warn!("starting over from the databases: {why}"),
            Ended::Asked | Ended::Yield => {
                settle(config).await;
                return Ok(true);
            }
        }
    }
    Err(lost_again_and_again())
}

pub(super) fn lost_again_and_again() -> RunError {
    RunError::NotAllHere(vec![("a node".to_owned(), "it was lost again and again".to_owned())])
}

/// What comes of it must not keep the rest from being delivered.
async fn settle(config: &Config) {
    if config.direct.is_some()
        && let Err(error) = direct::settle(&config.nodes, config.hub.silence_timeout * 2).await
    {
        tracing::warn!("receipts of direct deliveries were not all looked through: {error}");
    }
}

async fn mark(control: &Control) -> Result<Mark, ReachError> {
    let client = &control.client;
    let (position, snapshot) = match control.row.capture {
        Capture::Wal => (written_up_to(client).await?, String::new()),
        Capture::Trigger => link::record_read(client).await?,
    };
    Ok(Mark { position, snapshot })
}

async fn work(
    config: &Config,
    controls: Vec<Control>,
    marks: &[Mark],
    stop: &mut watch::Receiver<bool>,
) -> Result<Ended, RunError> {
    let holder = holder();
    let (mut conductor, mut errands) = tokio::select! {
        _ = stop.wait_for(|stop| *stop) => return Ok(Ended::Asked),
        begun = begin_from(config, &holder, controls, None) => begun?,
    };
    let mut attendance = Attendance::default();
    let ended = loop {
        if *stop.borrow() {
            break Ended::Asked;
        }
        if let Some(ended) = conductor.turn(Instant::now() + BEAT).await? {
            break ended;
        }
        if let Some(ended) = errands.run(&mut conductor) {
            break ended;
        }
        attendance.check(config, &conductor)?;
        let acknowledged = conductor.acknowledged_positions();
        let done = |(acknowledged, mark): (&PgLsn, &Mark)| u64::from(*acknowledged) >= mark.position.0;
        if acknowledged.iter().zip(marks).all(done) && errands.have_forgotten(&snapshots(marks), LOOK).await? {
            break Ended::Asked;
        }
    };
    conductor.settle().await;
    errands.say_goodbye().await;
    Ok(ended)
}

/// Since when not all nodes are here: who delivers something and ends does not wait for one that stays away.
#[derive(Default)]
pub(super) struct Attendance {
    away_since: Option<Instant>,
}

impl Attendance {
    /// # Errors
    /// When a node has been away for too long.
    pub fn check(&mut self, config: &Config, conductor: &Conductor) -> Result<(), RunError> {
        let Some(node) = conductor.first_away() else {
            self.away_since = None;
            return Ok(());
        };
        if self.away_since.get_or_insert_with(Instant::now).elapsed() > config.hub.silence_timeout {
            return Err(RunError::NotAllHere(vec![(node.to_owned(), "it went away".to_owned())]));
        }
        Ok(())
    }
}

fn snapshots(marks: &[Mark]) -> Vec<&str> {
    marks.iter().map(|mark| mark.snapshot.as_str()).collect()
}
