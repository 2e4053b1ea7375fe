//! `pgtandem run`: the process that owns the hub, the captures and the deliveries.

mod alone;
mod backlog;
mod brief;
mod conductor;
mod control;
mod direct;
pub mod drift;
mod errands;
mod error;
mod in_one_go;
mod leave;
mod left_out;
mod look;
mod once;
mod probe;
mod reach;
mod records;
mod seat;
mod settings;
mod start;
mod state;
mod tables;
mod verify;

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

pub use alone::note_all_changes;
pub use backlog::{Backlog, read_backlog};
pub use brief::Brief;
use conductor::{Conductor, Ended};
use control::Control;
use errands::Errands;
pub use error::{ReachError, RunError};
pub use leave::deliver_last;
use left_out::LeftOut;
pub use left_out::stand_where_it_would;
pub use once::run_once;
pub use settings::SPELLING;

use crate::config::Config;
use crate::connect::Retry;
use crate::link;

/// How often, at least, the conductor looks up: empty landings, retries, acknowledgements.
const BEAT: Duration = Duration::from_millis(50);
/// After something went wrong, the first pause before starting over; doubled up to [`LONGEST_PAUSE`].
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why a run is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    Asked,
    /// This node is back after its peer had stopped to keep changes for it: before a hub works again, what both have
    /// changed has to be settled.
    Returned(String),
}

/// Runs the hub until `stop` becomes true, or something has to be settled first.
///
/// # Errors
/// When something is wrong that waiting cannot mend.
pub async fn run(config: &Config, mut stop: watch::Receiver<bool>) -> Result<Stopped, RunError> {
    let holder = holder();
    let mut pause = SHORTEST_PAUSE;
    let mut last_said = String::new();
    loop {
        let began = Instant::now();
        match work(config, &holder, &mut stop).await {
            Ok(Ended::Asked) => return Ok(Stopped::Asked),
            Ok(Ended::Yield) => tracing::info!("another pgtandem command asked for the lock; waiting for it to finish"),
            Ok(Ended::Recover(why)) => tracing::warn!("starting over from the databases: {why}"),
            Err(RunError::Returned { node }) => return Ok(Stopped::Returned(node)),
            Err(error) => match error.retry() {
                Retry::Never => return Err(error),
                Retry::Soon | Retry::AfterPerson => {
                    // Tried again without end, said once.
                    let text = error.to_string();
                    if text != last_said || began.elapsed() > LONGEST_PAUSE * 2 {
                        tracing::warn!("{text}; trying again");
                    }
                    last_said = text;
                    stand_in(config, &error, &holder, &mut stop).await?;
                }
            },
        }
        if began.elapsed() > LONGEST_PAUSE {
            pause = SHORTEST_PAUSE;
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(Stopped::Asked),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Where a hub cannot begin because one of two nodes is away: see [`alone`].
async fn stand_in(
    config: &Config,
    error: &RunError,
    holder: &str,
    stop: &mut watch::Receiver<bool>,
) -> Result<(), RunError> {
    let RunError::NotAllHere(missing) = error else { return Ok(()) };
    let ([(away, _)], 2) = (missing.as_slice(), config.nodes.len()) else { return Ok(()) };
    match alone::stand_in(config, away, holder, stop).await {
        Err(error) if error.retry() == Retry::Never => Err(error),
        Err(error) => {
            tracing::warn!("{error}; trying again");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Who holds the epoch, for a person who finds it in a database.
fn holder() -> String {
    let host =
        nix::sys::utsname::uname().map(|name| name.nodename().to_string_lossy().into_owned()).unwrap_or_default();
    format!("pid {} on {host}", std::process::id())
}

/// One life of a hub: from taking the locks to giving them back.
async fn work(config: &Config, holder: &str, stop: &mut watch::Receiver<bool>) -> Result<Ended, RunError> {
    let (mut conductor, mut errands) = tokio::select! {
        // Nothing has been delivered yet, so there is nothing to bring to an end.
        _ = stop.wait_for(|stop| *stop) => return Ok(Ended::Asked),
        begun = begin(config, holder) => begun?,
    };
    let ended = conduct(&mut conductor, &mut errands, stop).await;
    conductor.settle().await;
    // One that starts over is still there for whoever asks.
    if !matches!(&ended, Ok(Ended::Recover(_))) {
        errands.say_goodbye().await;
    }
    ended
}

/// A session with every node, or what is wrong with all those that cannot be had. A hub begins with all nodes only:
/// what one node may forget depends on what has landed on every other one, and only that one knows.
async fn open_all(config: &Config) -> Result<Vec<Control>, RunError> {
    let (controls, missing) = open_present(config).await?;
    if missing.is_empty() { Ok(controls) } else { Err(RunError::NotAllHere(missing)) }
}

/// A session with every node that is here, and what is wrong with the others.
async fn open_present(config: &Config) -> Result<(Vec<Control>, Vec<(String, String)>), RunError> {
    let limit = config.hub.silence_timeout;
    let opened = config.nodes.iter().map(|node| probe::answer_of(&node.name, limit, Control::open(node)));
    let mut controls = Vec::new();
    let mut missing = Vec::new();
    for (node, opened) in config.nodes.iter().zip(futures::future::join_all(opened).await) {
        match opened {
            Ok(control) => controls.push(control),
            Err(error) if error.retry() == Retry::Never => return Err(error.into()),
            Err(error) => missing.push((node.name.clone(), error.to_string())),
        }
    }
    controls.sort_by_key(|control| control.id);
    Ok((controls, missing))
}

/// Becomes the hub, which may mean to wait for another one's end.
async fn begin(config: &Config, holder: &str) -> Result<(Conductor, Errands), RunError> {
    let (controls, missing) = open_present(config).await?;
    let left_out = match missing.as_slice() {
        [(away, _)] => LeftOut::of(config, away, &controls).await?,
        _ => None,
    };
    if left_out.is_none() && !missing.is_empty() {
        return Err(RunError::NotAllHere(missing));
    }
    begin_from(config, holder, controls, left_out).await
}

/// `controls`: of all nodes in their order, but for the one that is left out.
async fn begin_from(
    config: &Config,
    holder: &str,
    controls: Vec<Control>,
    left_out: Option<LeftOut>,
) -> Result<(Conductor, Errands), RunError> {
    let here: Vec<_> = controls.iter().filter_map(|control| config.node(&control.name).cloned()).collect();
    check_numbers(&controls, left_out.as_ref())?;
    let (report, reports) = mpsc::unbounded_channel();
    // Locks are waited for, and recovering takes what it takes; a node that has fallen silent would take for ever.
    let started = tokio::select! {
        started = async {
            take_locks(&controls).await?;
            match &left_out {
                Some(left_out) => left_out.require_alone(&controls).await?,
                None => {
                    if let Some(node) = alone::returned(&controls).await? {
                        return Err(RunError::Returned { node });
                    }
                }
            }
            alone::end_returns(&controls).await?;
            start::start(config, &controls, holder, left_out.as_ref(), &report).await
        } => started?,
        silent = probe::first_silent(&here, config.hub.silence_timeout) => return Err(silent.into()),
    };
    for table in &started.linked {
        match &table.pause_reason {
            None => tracing::debug!(table = %table.name.plain(), "linked"),
            Some(why) => tracing::warn!(table = %table.name.plain(), "is paused: {why}"),
        }
    }
    tracing::info!(
        epoch = started.epoch,
        tables = started.linked.len(),
        nodes = controls.len(),
        "working: {}",
        controls.iter().map(|control| control.name.as_str()).collect::<Vec<_>>().join(" and ")
    );
    let mut conductor = Conductor::new(started.hub, started.seats, report, reports);
    let mut errands = Errands::new(config, controls, left_out, started.linked, started.epoch, holder.to_owned());
    errands.look_first(&mut conductor).await?;
    Ok((conductor, errands))
}

async fn conduct(
    conductor: &mut Conductor,
    errands: &mut Errands,
    stop: &watch::Receiver<bool>,
) -> Result<Ended, RunError> {
    loop {
        if *stop.borrow() {
            return Ok(Ended::Asked);
        }
        if let Some(ended) = conductor.turn(Instant::now() + BEAT).await? {
            return Ok(ended);
        }
        if let Some(ended) = errands.run(conductor) {
            return Ok(ended);
        }
    }
}

/// The numbers of the nodes must be 0, 1, 2, …: the hub counts on it.
fn check_numbers(controls: &[Control], left_out: Option<&LeftOut>) -> Result<(), RunError> {
    let misfit = |node: &str| {
        let reason = "it is not part of the same link as the other nodes of the configuration; run `pgtandem up`";
        Err(ReachError::Misfit { node: node.to_owned(), reason: reason.to_owned() }.into())
    };
    let expected = (0..).filter(|number| left_out.is_none_or(|left_out| left_out.place() != *number));
    for (expected, control) in expected.zip(controls) {
        if usize::from(control.id.0) != expected {
            return misfit(&control.name);
        }
    }
    match left_out.filter(|left_out| left_out.place() > controls.len()) {
        Some(left_out) => misfit(&left_out.node.name),
        None => Ok(()),
    }
}

/// One hub works at a time: the locks are taken in node order, so two that start together do not block each other.
async fn take_locks(controls: &[Control]) -> Result<(), RunError> {
    for control in controls {
        if link::try_lock(&control.client).await.map_err(ReachError::from)? {
            continue;
        }
        tracing::info!(node = %control.name, "another pgtandem is at work; waiting until it ends");
        link::lock(&control.client).await.map_err(ReachError::from)?;
    }
    Ok(())
}
