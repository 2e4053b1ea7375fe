//! The last that a node delivers, before it leaves a link in which others stay.
//!
//! A hub that merely ended could have delivered a transaction of that node to one peer and not yet to another, and no
//! later hub would: the two that stay would differ for good. So what the node has written up to one moment is delivered
//! to every peer, and what it writes afterwards to none.

use std::time::Instant;

use super::conductor::Ended;
use super::error::{ReachError, RunError};
use super::once::{Attendance, LIVES, lost_again_and_again};
use super::{BEAT, begin_from, holder, open_all};
use crate::config::Config;
use crate::link;

/// Delivers to its peers what `leaving` has written up to now, and does `then` before another hub can work.
///
/// # Errors
/// When a node cannot be reached, goes away, or something is wrong that waiting cannot mend. `then` was not done then.
pub async fn deliver_last<T>(config: &Config, leaving: &str, then: impl AsyncFnOnce() -> T) -> Result<T, RunError> {
    for _ in 0..LIVES {
        let controls = open_all(config).await?;
        for control in &controls {
            if !link::take_lock(&control.client).await.map_err(ReachError::from)? {
                let why = "another pgtandem is at work there and does not give way".to_owned();
                return Err(RunError::NotAllHere(vec![(control.name.clone(), why)]));
            }
        }
        let Some(at) = controls.iter().position(|control| control.name == leaving) else {
            return Err(ReachError::NotLinked { node: leaving.to_owned() }.into());
        };
        let (mut conductor, mut errands) = begin_from(config, &holder(), controls, None).await?;
        let last = conductor.let_go(at);
        let mut attendance = Attendance::default();
        let over = loop {
            match conductor.turn(Instant::now() + BEAT).await? {
                Some(Ended::Recover(why)) => break Some(why),
                // We have the lock because we asked for it, and whoever else asks gets it soon.
                Some(Ended::Asked | Ended::Yield) | None => {}
            }
            if let Some(Ended::Recover(why)) = errands.run(&mut conductor) {
                break Some(why);
            }
            attendance.check(config, &conductor)?;
            if conductor.has_landed_everywhere(at, last) {
                break None;
            }
        };
        conductor.settle().await;
        match over {
            Some(why) => tracing::warn!("starting over from the databases: {why}"),
            None => {
                let done = then().await;
                errands.say_goodbye().await;
                return Ok(done);
            }
        }
    }
    Err(lost_again_and_again())
}
