//! What the triggers of trigger capture cost the application that writes: pgbench's TPC-B with and without them, no hub
//! at work.

use crate::figures::{Bound, Compared};
use crate::pair::{Content, Pair, TPCB_TABLES};
use crate::report::Report;
use crate::system::{Stage, System};
use crate::writer::Writer;

const CLIENTS: &str = "2";

pub fn run(pair: &Pair, report: &mut Report, repeats: usize, seconds: u32) {
    println!("\nTPC-B without and with triggers, {CLIENTS} clients, {seconds} s each");
    let mut rate = Compared::default();
    for _ in 0..repeats {
        // In the place of native replication: nothing.
        for system in System::BOTH {
            let stage = match system {
                System::Native => Stage::fresh(pair, system, Content::Tpcb, "", &TPCB_TABLES),
                System::Tandem => Stage::set(pair, system, Content::Tpcb, "", &TPCB_TABLES),
            };
            let args = ["-n", "-c", CLIENTS, "-j", CLIENTS, "-T", &seconds.to_string()];
            let tps = Writer::start(pair, &pair.source, stage.database(), &args).finish();
            let which = if system == System::Native { "without" } else { "with" };
            println!("  {which}: {tps:.0}/s");
            rate.of(system).push(tps);
            stage.tear_down();
        }
    }
    let what = "TPC-B without (here under native) and with triggers, transactions/s";
    report.compare(what, 0, &rate, Some(Bound::at_least(0.75, 0.85)));
}
