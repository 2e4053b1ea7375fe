//! The hub, on a thread of the demo.

use std::thread::JoinHandle;

use tokio::sync::watch;

use super::error::DemoError;
use crate::config::Config;
use crate::daemon::{self, RunError};

/// Dropped, it is told to end, and not waited for.
pub(super) struct Hub {
    stop: watch::Sender<bool>,
    thread: JoinHandle<Result<(), RunError>>,
}

impl Hub {
    pub fn start(config: &Config) -> Result<Self, DemoError> {
        let (stop, stopping) = watch::channel(false);
        let config = config.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("hub".to_owned()).spawn(move || {
            let ended = runtime.block_on(daemon::run(&config, stopping));
            runtime.shutdown_background();
            ended.map(drop)
        })?;
        Ok(Self { stop, thread })
    }

    /// An error if it has ended by itself; why, says [`Hub::stop`].
    pub fn check(&self) -> Result<(), DemoError> {
        if self.thread.is_finished() { Err(DemoError::HubEnded) } else { Ok(()) }
    }

    pub fn stop(self) -> Result<(), DemoError> {
        // It may have ended already.
        let _ = self.stop.send(true);
        match self.thread.join() {
            Ok(ended) => Ok(ended?),
            Err(_) => Err(DemoError::HubEnded),
        }
    }
}
