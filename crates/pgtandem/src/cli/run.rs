//! `pgtandem run`

use std::io::IsTerminal;
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use super::{Failure, Global, Outcome, Style};
use crate::config::Config;
use crate::daemon::{self, RunError, Stopped};
use crate::lifecycle::{self, LifecycleError, Progress};
use crate::sql::QualifiedName;

/// Runs the hub: reads every node's changes and delivers them to the others, until it is stopped.
///
/// Stays in the foreground and logs to standard error; let systemd or the like keep it running. SIGTERM or Ctrl-C
/// ends it once the deliveries in flight have landed; a second one ends it at once, which is safe, too: the next run
/// finds out from the databases where it stood. A node that goes away is waited for.
#[derive(Args)]
pub struct Run {
    /// Deliver what has been written up to now, and end: for cron
    ///
    /// Fails if a node cannot be reached. If a hub is at work already there is nothing to do.
    #[arg(long)]
    once: bool,
    /// How a line of the log looks
    #[arg(long, value_name = "FORM", default_value = "text", env = "PGTANDEM_LOG_FORM")]
    log: LogForm,
    /// What is logged: error, warn, info, debug or trace; or a filter such as `info,pgtandem::deliver=debug`
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "PGTANDEM_LOG", value_parser = filter)]
    log_level: Filter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogForm {
    /// One readable line per event
    Text,
    /// One JSON object per event
    Json,
}

impl Run {
    pub fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let config = global.load_config()?;
        start_log(self.log, &self.log_level);
        let (sender, stop) = watch::channel(false);
        listen_for_signals(sender)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tracing::info!(config = %config.file.display(), "pgtandem {} starts", env!("CARGO_PKG_VERSION"));
        let ended = match self.once {
            false => runtime.block_on(keep_running(&config, stop)),
            true => runtime.block_on(run_once(&config, stop)),
        };
        // A connection that hangs must not keep the process alive.
        runtime.shutdown_background();
        ended?;
        tracing::info!("ended");
        Ok(Outcome::Fine)
    }
}

/// Between attempts to settle what a node has missed.
const PAUSE: Duration = Duration::from_secs(1);

/// The hub, and between two of its lives what has to be settled before it can go on.
async fn keep_running(config: &Config, stop: watch::Receiver<bool>) -> Result<(), Failure> {
    loop {
        match daemon::run(config, stop.clone()).await {
            Ok(Stopped::Asked) => return Ok(()),
            Ok(Stopped::Returned(node)) => match lifecycle::bring_back(config, &node, &Log).await {
                Ok(()) => {}
                Err(error @ LifecycleError::Refused { .. }) => return Err(Failure::of_run(error)),
                Err(error) => {
                    tracing::warn!("{error}; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Err(error) => return Err(Failure::at_run_time(error.to_string())),
        }
    }
}

async fn run_once(config: &Config, stop: watch::Receiver<bool>) -> Result<(), Failure> {
    let mut ended = daemon::run_once(config, stop.clone()).await;
    if let Err(RunError::Returned { node }) = &ended {
        lifecycle::bring_back(config, node, &Log).await.map_err(Failure::of_run)?;
        ended = daemon::run_once(config, stop).await;
    }
    if !ended.map_err(|error| Failure::at_run_time(error.to_string()))? {
        tracing::info!("another pgtandem is at work: it delivers what waits");
    }
    Ok(())
}

/// Progress, for the log.
struct Log;

impl Progress for Log {
    fn step(&self, text: &str) {
        tracing::info!("{text}");
    }

    fn merged(&self, table: &QualifiedName, what: &str) {
        tracing::info!(table = %table.plain(), "{what}");
    }
}

/// The text of a filter that parses.
#[derive(Debug, Clone)]
struct Filter(String);

/// A bare level is about us; libraries are heard only when something is wrong, or when named.
fn filter(text: &str) -> Result<Filter, String> {
    let text = match text.to_lowercase().as_str() {
        level @ ("error" | "warn" | "info" | "debug" | "trace" | "off") => {
            let libraries = if level == "error" || level == "off" { level } else { "warn" };
            format!("{libraries},pgtandem={level},hub={level},wire={level}")
        }
        _ => text.to_owned(),
    };
    let known = |part: &str| {
        let level = part.rsplit('=').next().unwrap_or(part);
        matches!(level.to_lowercase().as_str(), "error" | "warn" | "info" | "debug" | "trace" | "off")
    };
    match (text.split(',').all(known), EnvFilter::try_new(&text)) {
        (true, Ok(_)) => Ok(Filter(text)),
        (_, Err(error)) => Err(error.to_string()),
        (false, _) => Err("a level is error, warn, info, debug, trace or off".to_owned()),
    }
}

fn start_log(form: LogForm, filter: &Filter) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&filter.0))
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(Style::of_stderr().is_coloured() && std::io::stderr().is_terminal());
    match form {
        LogForm::Text => log.init(),
        LogForm::Json => log.json().flatten_event(true).init(),
    }
}

/// The first signal asks the hub to end, the second ends the process, however busy the hub is: signals are heard on
/// a thread of their own.
fn listen_for_signals(stop: watch::Sender<bool>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    drop(entered);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            let mut asked = false;
            loop {
                let (name, number) = tokio::select! {
                    _ = terminate.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
                    _ = interrupt.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
                };
                if asked {
                    tracing::warn!("{name} again: ending at once");
                    std::process::exit(128 + number);
                }
                asked = true;
                tracing::info!("{name}: ending once the deliveries in flight have landed");
                // A hub that has ended already need not be asked.
                let _ = stop.send(true);
            }
        });
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn a_bare_level_leaves_libraries_quiet() {
        assert_eq!(filter("debug").unwrap().0, "warn,pgtandem=debug,hub=debug,wire=debug");
        assert_eq!(filter("ERROR").unwrap().0, "error,pgtandem=error,hub=error,wire=error");
        assert_eq!(filter("info,pgtandem::deliver=trace").unwrap().0, "info,pgtandem::deliver=trace");
        assert!(filter("loud").is_err());
        assert!(filter("pgtandem=loud").is_err());
    }
}
