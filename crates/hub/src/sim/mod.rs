//! The simulation: databases, applications, a daemon and mishaps, all from one seed.

mod broken;
mod database;
mod inline;
mod oracle;
mod outbox;
mod run;
mod server;
mod tests;
