//! How fast a backlog is worked off: changes written while nothing replicates, then all of them at once.
//!
//! The clock runs from the source's walsender being at work (native: the apply worker has connected; pgtandem: the hub
//! has) to the last transaction's row being visible on the target. Starting up until then is given separately.

use std::time::Duration;

use crate::figures::{Bound, Compared, Series};
use crate::pair::{Capture, Content, Pair, TPCB_TABLES};
use crate::processes::{Cpu, peak_memory_mib};
use crate::report::Report;
use crate::system::{Stage, System};

/// What is drained.
pub struct Load {
    pub name: &'static str,
    content: Content,
    prepare: &'static str,
    tables: &'static [&'static str],
    /// A pgbench script; none: its built-in TPC-B.
    script: Option<&'static str>,
    transactions: u32,
    /// Of pgtandem's rate over native's, where changes are read from the WAL, and where from an outbox.
    bounds: [Option<Bound>; 2],
}

pub const TPCB: Load = Load {
    name: "TPC-B",
    content: Content::Tpcb,
    prepare: "",
    tables: &TPCB_TABLES,
    script: None,
    transactions: 40_000,
    bounds: [Some(Bound::at_least(2.0, 3.5)), Some(Bound::at_least(1.0, 1.67))],
};

/// What TPC-B lacks: foreign keys, a secondary unique index, values in TOAST.
pub const VARIED: Load = Load {
    name: "foreign keys, unique index, TOAST",
    content: Content::Nothing,
    prepare: include_str!("../sql/varied.sql"),
    tables: &["customers", "orders", "documents"],
    script: Some(include_str!("../sql/varied.pgbench")),
    transactions: 20_000,
    bounds: [None, None],
};

/// What a node finds that was away while the same rows were written over and over.
pub const CATCHUP: Load = Load {
    name: "200,000 changes on 20,000 keys",
    content: Content::Nothing,
    prepare: "CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL, filler text NOT NULL); \
        INSERT INTO counters SELECT i, 0, repeat('x', 80) FROM generate_series(1, 20000) AS i",
    tables: &["counters"],
    script: Some("\\set id random(1, 20000)\nUPDATE counters SET n = n + 1 WHERE id = :id;\n"),
    transactions: 200_000,
    bounds: [Some(Bound::at_least(2.0, 4.0)), None],
};

#[derive(Default)]
struct Results {
    rate: Compared,
    startup: Compared,
    cpu_source: Compared,
    cpu_target: Compared,
    cpu_hub: Series,
    cpu_all: Compared,
    memory: Series,
}

pub fn run(pair: &Pair, report: &mut Report, repeats: usize, load: &Load) {
    println!("\ndrain of {} transactions ({})", load.transactions, load.name);
    let mut results = Results::default();
    for _ in 0..repeats {
        for system in System::BOTH {
            once(pair, system, load, &mut results);
        }
    }
    let name = load.name;
    let [of_wal, of_outbox] = load.bounds;
    let rate_bound = match pair.capture {
        Capture::Wal => of_wal,
        Capture::Trigger => of_outbox,
    };
    report.compare(&format!("drain of {name}, transactions/s"), 0, &results.rate, rate_bound);
    report.compare(&format!("start-up before a drain of {name}, ms"), 0, &results.startup, None);
    let per = format!("ms of CPU per 1,000 transactions of {name}");
    report.compare(&format!("source server, {per}"), 1, &results.cpu_source, None);
    report.compare(&format!("target server, {per}"), 1, &results.cpu_target, None);
    report.alone(&format!("pgtandem, {per}"), 1, &results.cpu_hub, None);
    report.compare(&format!("all together, {per}"), 1, &results.cpu_all, None);
    let memory_bound = Some(Bound::at_most(128.0, 64.0));
    report.alone(&format!("peak memory of pgtandem in a drain of {name}, MiB"), 0, &results.memory, memory_bound);
}

fn once(pair: &Pair, system: System, load: &Load, results: &mut Results) {
    let mut stage = Stage::set(pair, system, load.content, load.prepare, load.tables);
    write_backlog(&stage, load);
    let target = stage.target();
    let before = Cpu::of(&stage);
    let began = stage.start();
    stage.wait_for_mark(&target, 1);
    let took = began.streaming_since.elapsed();
    // The servers may still be busy with it: pgtandem's deliveries are read back by their own server's slot.
    let cpu = settled_cpu(&stage).since(before);
    stage.check_equal();
    let thousands = f64::from(load.transactions) / 1000.0;
    let ms = |time: Duration| time.as_secs_f64() * 1000.0 / thousands;
    results.rate.of(system).push(f64::from(load.transactions) / took.as_secs_f64());
    results.startup.of(system).push(began.startup.as_secs_f64() * 1000.0);
    results.cpu_source.of(system).push(ms(cpu.source));
    results.cpu_target.of(system).push(ms(cpu.target));
    results.cpu_all.of(system).push(ms(cpu.all()));
    let mut said = format!("{:.0}/s", f64::from(load.transactions) / took.as_secs_f64());
    if let Some(pid) = stage.hub_pid() {
        results.cpu_hub.push(ms(cpu.hub));
        results.memory.push(peak_memory_mib(pid));
        let deliveries = stage.deliveries(&target);
        said += &format!(" in {deliveries} deliveries, hub {:.0} MiB", peak_memory_mib(pid));
    }
    println!(
        "  {system}: {said}; CPU ms per 1,000: source {:.1}, target {:.1}, hub {:.1}",
        ms(cpu.source),
        ms(cpu.target),
        ms(cpu.hub)
    );
    stage.tear_down();
}

fn write_backlog(stage: &Stage<'_>, load: &Load) {
    let clients = 4;
    let per_client = (load.transactions / clients).to_string();
    let mut args = vec!["-n", "-M", "prepared", "-c", "4", "-j", "2", "-t", &per_client];
    let script = load.script.map(|text| stage.pair.write_file("load.pgbench", text).display().to_string());
    if let Some(script) = &script {
        args.extend(["-f", script]);
    }
    let mut command = stage.pair.pgbench_command(&stage.pair.source, stage.database(), &args);
    // How it is written does not matter here, only that it is soon done.
    command.env("PGOPTIONS", "-c synchronous_commit=off");
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    stage.mark(&stage.pair.source, 1);
}

/// CPU times once nobody has been at work for a while.
fn settled_cpu(stage: &Stage<'_>) -> Cpu {
    let mut last = Cpu::of(stage);
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let now = Cpu::of(stage);
        if now.since(last).all() < Duration::from_millis(30) {
            return now;
        }
        last = now;
    }
}
