//! How a command ends.

use super::Style;
use crate::config::ConfigFaults;
use crate::lifecycle::LifecycleError;
use crate::rails::Faults;
use std::process::ExitCode;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Fine,
    /// Something differs, or a check failed; the command has said what.
    Differs,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Fine => Self::SUCCESS,
            Outcome::Differs => Self::from(1),
        }
    }
}

/// Why a command did not get to its end.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
    /// The message has its own head, as a report of several faults does.
    is_report: bool,
    remedy: Option<String>,
}

impl Failure {
    /// The command line or the configuration is wrong.
    pub fn in_usage(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code: 2, message: message.into(), is_report: false, remedy: Some(remedy.into()) }
    }

    pub fn at_run_time(message: impl Into<String>) -> Self {
        Self { code: 3, message: message.into(), is_report: false, remedy: None }
    }

    /// What ends a hub, and a person must mend, has one code, whoever found it.
    pub fn of_run(error: LifecycleError) -> Self {
        Self { code: 3, ..Self::from(error) }
    }

    /// Says it on standard error.
    pub fn report(&self) -> ExitCode {
        let style = Style::of_stderr();
        match self.is_report {
            true => eprintln!("{}", self.message.trim_end()),
            false => eprintln!("{} {}", style.bad("error:"), self.message.trim_end()),
        }
        if let Some(remedy) = &self.remedy {
            eprintln!("{} {remedy}", style.dim("  try:"));
        }
        ExitCode::from(self.code)
    }
}

impl From<ConfigFaults> for Failure {
    fn from(faults: ConfigFaults) -> Self {
        let message = faults.render(Style::of_stderr().is_coloured());
        Self { code: 2, message, is_report: true, remedy: None }
    }
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Self {
        Self { code: 2, message: faults.to_string(), is_report: false, remedy: None }
    }
}

impl From<LifecycleError> for Failure {
    fn from(error: LifecycleError) -> Self {
        let code = match error {
            LifecycleError::Refused { .. } => 1,
            LifecycleError::Unknown { .. } => 2,
            LifecycleError::Away { .. }
            | LifecycleError::Connect { .. }
            | LifecycleError::Sql { .. }
            | LifecycleError::Replication { .. }
            | LifecycleError::Several(_) => 3,
        };
        Self { code, message: error.to_string(), is_report: false, remedy: error.remedy() }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::at_run_time(error.to_string())
    }
}
