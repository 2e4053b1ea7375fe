//! The command line: one file per subcommand.
//!
//! Exit codes: 0 all is well; 1 something differs or a check failed; 2 the command line or the configuration is
//! wrong; 3 something failed at run time. What a command has to say goes to standard output, everything else
//! (progress, questions, errors) to standard error.

mod check;
mod confirm;
mod conflicts;
mod demo;
mod diff;
mod down;
mod failure;
mod init;
mod layout;
mod output;
mod pause;
mod plan;
mod rejoin;
mod renumbered;
mod repair;
mod run;
mod status;
mod style;
mod undo;
mod up;
mod verify;
mod when;

pub use failure::{Failure, Outcome};
pub use output::say;
pub use style::Style;

use crate::config::Config;
use crate::connect::Environment;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

const LEARN: &str = "\
From nothing to a link:
  pgtandem init new=postgres://app@db1.example/new_app legacy=postgres://app@db2.example/legacy_app
  pgtandem check      what stands in the way, and what mends it
  pgtandem diff       what the tables' rows have in common, and what not
  pgtandem plan       what `up` would do; --sql to read every statement
  pgtandem up         does it, after asking
  pgtandem run        keeps the tables the same, until it is stopped
  pgtandem verify     compares them again and again, at low load
  pgtandem repair     makes rows that differ nevertheless the same again
  pgtandem rejoin     brings back a node that lost its slot, was restored, or cloned
  pgtandem status     how it stands, from any machine, with and without the hub
  pgtandem undo merge makes merged tables what they were, for a week
  pgtandem down       takes it all away again, and proves it

Exit codes:
  0  fine
  1  something differs, a check failed, or something needs attention
  2  the command line or the configuration is wrong
  3  something failed at run time";

/// Keeps chosen tables the same in two or more independent PostgreSQL databases, both ways, live.
///
/// Begin with `pgtandem init new=postgres://… legacy=postgres://…`, which writes pgtandem.toml; then `check`,
/// `up`, and `run`.
#[derive(Parser)]
#[command(name = "pgtandem", version, max_term_width = 100, after_long_help = LEARN)]
struct CommandLine {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand understands.
#[derive(Args)]
pub struct Global {
    /// The configuration [default: pgtandem.toml in the working directory]
    #[arg(short, long = "config", value_name = "FILE", env = "PGTANDEM_CONFIG", global = true)]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    Init(init::Init),
    Check(check::Check),
    Plan(plan::PlanCommand),
    Up(up::Up),
    Diff(diff::Diff),
    Verify(verify::Verify),
    Repair(repair::Repair),
    Rejoin(rejoin::Rejoin),
    Run(run::Run),
    Status(status::Status),
    Conflicts(conflicts::Conflicts),
    Renumbered(renumbered::RenumberedCommand),
    Undo(undo::Undo),
    Pause(pause::Pause),
    Resume(pause::Resume),
    Down(down::Down),
    Demo(demo::DemoCommand),
}

impl Global {
    /// Where the configuration is, or would be.
    pub fn config_file(&self) -> PathBuf {
        Config::locate(self.config.as_deref(), &Environment::of_process())
    }

    pub fn load_config(&self) -> Result<Config, Failure> {
        Config::load(&self.config_file(), &Environment::of_process()).map_err(Failure::from)
    }
}

pub fn main() -> ExitCode {
    let CommandLine { global, command } = CommandLine::parse();
    let outcome = match command {
        // One thread of its own: the hub is one loop.
        Command::Run(run) => run.run(&global),
        Command::Demo(demo) => demo.run(),
        command => in_runtime(command, &global),
    };
    match outcome {
        // What nobody could read was not done well.
        Ok(_) if output::has_failed() => ExitCode::from(3),
        Ok(outcome) => outcome.into(),
        Err(failure) => failure.report(),
    }
}

fn in_runtime(command: Command, global: &Global) -> Result<Outcome, Failure> {
    // One thread here, too: a command mostly passes on what servers send, and waking another thread for each piece of it
    // costs more than the piece.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let outcome = match command {
            Command::Init(init) => init.run(global).await,
            Command::Check(check) => check.run(global).await,
            Command::Plan(plan) => plan.run(global).await,
            Command::Up(up) => up.run(global).await,
            Command::Diff(diff) => diff.run(global).await,
            Command::Verify(verify) => verify.run(global).await,
            Command::Repair(repair) => repair.run(global).await,
            Command::Rejoin(rejoin) => rejoin.run(global).await,
            Command::Run(run) => run.run(global),
            Command::Demo(demo) => demo.run(),
            Command::Status(status) => status.run(global).await,
            Command::Conflicts(conflicts) => conflicts.run(global).await,
            Command::Renumbered(renumbered) => renumbered.run(global).await,
            Command::Undo(undo) => undo.run(global).await,
            Command::Pause(pause) => pause.run(global).await,
            Command::Resume(resume) => resume.run(global).await,
            Command::Down(down) => down.run(global).await,
        };
        // So that the sessions that ended with it say so to their servers.
        tokio::task::yield_now().await;
        outcome
    });
    // A connection that hangs must not keep the process alive.
    runtime.shutdown_background();
    outcome
}
