//! Rails applications: where their databases are, by `config/database.yml`, and the tasks written for them.
//!
//! Reads files and writes files; what a database holds, the database itself says.

mod app;
mod database_yml;
mod erb;
mod fault;
mod settings;
mod tasks;

pub use app::{App, Place};
pub use fault::{Fault, Faults};
pub use settings::{NodeSettings, of_variables, prefix};
pub use tasks::{Tasks, TasksError};
