//! A hub for as long as a command needs one.

use std::thread::JoinHandle;

use tokio::sync::watch;

use super::{RunError, Stopped};
use crate::config::Config;

/// Dropped, it is told to end, and not waited for.
pub struct Brief {
    stop: watch::Sender<bool>,
    thread: JoinHandle<Result<(), RunError>>,
}

impl Brief {
    /// Works on a thread of its own.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(config: &Config) -> std::io::Result<Self> {
        let (stop, stopping) = watch::channel(false);
        let config = config.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("hub".to_owned()).spawn(move || {
            let ended = runtime.block_on(super::run(&config, stopping));
            runtime.shutdown_background();
            match ended? {
                Stopped::Asked => Ok(()),
                Stopped::Returned(node) => Err(RunError::Returned { node }),
            }
        })?;
        Ok(Self { stop, thread })
    }

    /// Whether it has ended by itself; why, says [`Brief::stop`].
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// # Errors
    /// Why it had ended by itself, if it had.
    pub fn stop(self) -> Result<(), RunError> {
        // It may have ended already.
        let _ = self.stop.send(true);
        // One that panicked has said so on standard error.
        self.thread.join().unwrap_or(Ok(()))
    }
}
