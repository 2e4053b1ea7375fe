//! pgtandem and native logical replication side by side on the same two servers, in one run, in turns.

mod application;
mod both_ways;
mod by_hand;
mod copy;
mod diff;
mod direct;
mod drain;
mod figures;
mod lag;
mod large;
mod merge;
mod native;
mod pair;
mod processes;
mod report;
mod sql;
mod system;
mod tandem;
mod triggers;
mod writer;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use pair::{Capture, Pair, Way};
use report::Report;

/// Compares pgtandem with native logical replication.
#[derive(Parser)]
struct Args {
    /// What to measure; everything if not given.
    #[arg(value_enum)]
    sections: Vec<Section>,
    /// How often each measurement is repeated, in turns.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// How replication reaches the servers.
    #[arg(long, value_enum, default_value = "tcp")]
    way: Way,
    /// How pgtandem reads changes off the servers.
    #[arg(long, value_enum, default_value = "wal")]
    capture: Capture,
    /// Two repeats and shorter runs: to see that it works.
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// A backlog of pgbench's TPC-B
    Drain,
    /// A backlog with foreign keys, a unique index and TOAST
    Varied,
    /// A backlog of many changes on few keys
    Catchup,
    /// From commit to visible
    Lag,
    /// Filling an empty table
    Copy,
    /// Speed of the application that writes
    Application,
    /// Both sides write
    Both,
    /// What the target's application notices of a large delivery
    Large,
    /// Comparing two filled tables
    Diff,
    /// Making one table of two halves
    Merge,
    /// What the triggers of trigger capture cost the application
    Triggers,
    /// Direct mode, and triggers made by hand
    Direct,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let repeats = if args.quick { 2 } else { args.repeats };
    let seconds = if args.quick { 2 } else { 5 };
    let wanted = |section| args.sections.is_empty() || args.sections.contains(&section);
    let pair = Pair::start(args.way, args.capture);
    let mut report = Report::default();
    if wanted(Section::Drain) {
        drain::run(&pair, &mut report, repeats, &drain::TPCB);
    }
    if wanted(Section::Varied) {
        drain::run(&pair, &mut report, repeats, &drain::VARIED);
    }
    if wanted(Section::Catchup) {
        drain::run(&pair, &mut report, repeats, &drain::CATCHUP);
    }
    if wanted(Section::Lag) {
        lag::run(&pair, &mut report, repeats, seconds);
    }
    if args.capture == Capture::Trigger && wanted(Section::Triggers) {
        triggers::run(&pair, &mut report, repeats, 2 * seconds);
    }
    if wanted(Section::Copy) {
        copy::run(&pair, &mut report, repeats);
    }
    if wanted(Section::Application) {
        application::run(&pair, &mut report, repeats, 2 * seconds);
    }
    if wanted(Section::Both) {
        both_ways::run(&pair, &mut report, repeats, seconds);
    }
    if wanted(Section::Large) {
        large::run(&pair, &mut report, repeats, seconds.min(3));
    }
    if wanted(Section::Diff) {
        diff::run(&pair, &mut report, repeats);
    }
    if wanted(Section::Merge) {
        merge::run(&pair, &mut report, repeats);
    }
    if wanted(Section::Direct) {
        direct::run(&pair, &mut report, repeats, seconds);
    }
    report.print_table();
    if report.missed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
