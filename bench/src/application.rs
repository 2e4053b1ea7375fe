//! What replication leaves of the writing application's speed: pgbench's TPC-B on the source while changes flow.

use std::time::{Duration, Instant};

use crate::figures::{Bound, Compared};
use crate::pair::{Content, Pair, TPCB_TABLES};
use crate::processes::Cpu;
use crate::report::Report;
use crate::system::{Stage, System};
use crate::writer::Writer;

const CLIENTS: &str = "2";

#[derive(Default)]
struct Results {
    rate: Compared,
    behind: Compared,
    cpu_all: Compared,
}

pub fn run(pair: &Pair, report: &mut Report, repeats: usize, seconds: u32) {
    println!("\nwriting application, {CLIENTS} clients, {seconds} s each");
    let mut results = Results::default();
    for _ in 0..repeats {
        for system in System::BOTH {
            once(pair, system, seconds, &mut results);
        }
    }
    let what = format!("TPC-B of the writing application, {CLIENTS} clients, transactions/s");
    report.compare(&what, 0, &results.rate, Some(Bound::at_least(1.0, 1.1)));
    report.compare("everything there after its last transaction, ms", 0, &results.behind, None);
    // The application is slower because somebody else is at work, or because it is made to wait: this tells which.
    report.compare("CPU of both servers and pgtandem meanwhile, ms/s", 0, &results.cpu_all, None);
}

fn once(pair: &Pair, system: System, seconds: u32, results: &mut Results) {
    let mut stage = Stage::set(pair, system, Content::Tpcb, "", &TPCB_TABLES);
    stage.start();
    let target = stage.target();
    let args = ["-n", "-c", CLIENTS, "-j", CLIENTS, "-T", &seconds.to_string()];
    let before = Cpu::of(&stage);
    let tps = Writer::start(pair, &pair.source, stage.database(), &args).finish();
    let stopped = Instant::now();
    let cpu = Cpu::of(&stage).since(before);
    stage.mark(&pair.source, 1);
    stage.wait_for_mark(&target, 1);
    let behind_ms = stopped.elapsed().as_secs_f64() * 1000.0;
    let deliveries = stage.deliveries(&target);
    let in_deliveries = if deliveries > 0 { format!(", in {deliveries} deliveries") } else { String::new() };
    let per_second = |time: Duration| time.as_secs_f64() * 1000.0 / f64::from(seconds);
    println!(
        "  {system}: {tps:.0}/s; everything there {behind_ms:.0} ms after the last{in_deliveries}; \
         CPU ms/s: source {:.0}, target {:.0}, hub {:.0}",
        per_second(cpu.source),
        per_second(cpu.target),
        per_second(cpu.hub)
    );
    results.rate.of(system).push(tps);
    results.behind.of(system).push(behind_ms);
    results.cpu_all.of(system).push(per_second(cpu.all()));
    stage.check_equal();
    stage.tear_down();
}
