//! The simulation: databases, applications, a daemon and mishaps, all from one seed.

mod database;
mod oracle;
mod run;
mod tests;
