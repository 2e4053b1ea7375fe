//! How long it takes to link a table that is filled on the source and empty on the target: a million rows.
//!
//! The clock starts with the statement (native) or the process (pgtandem) that is to link. Native's stops when the
//! subscription says that the table is ready, pgtandem's when `up` ends. When the rows could be seen, and when a
//! change made after that did follow, is given separately; the latter counts in that pgtandem's hub starts only then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::figures::{Bound, Compared};
use crate::pair::{Content, Pair};
use crate::report::Report;
use crate::sql::Sql;
use crate::system::{Stage, System};

const TABLE: &str = "pgbench_accounts";

#[derive(Default)]
struct Results {
    seen: Compared,
    done: Compared,
    live: Compared,
}

pub fn run(pair: &Pair, report: &mut Report, repeats: usize) {
    println!("\ncopy of 1,000,000 rows into an empty table");
    let mut results = Results::default();
    for _ in 0..repeats {
        for system in System::BOTH {
            once(pair, system, &mut results);
        }
    }
    report.compare("copy of 1,000,000 accounts until it is done, s", 2, &results.done, Some(Bound::at_most(1.0, 0.5)));
    report.compare("the same until the rows are seen, s", 2, &results.seen, None);
    report.compare("the same until a later change has followed, s", 2, &results.live, None);
}

fn once(pair: &Pair, system: System, results: &mut Results) {
    let mut stage = Stage::fresh(pair, system, Content::Tpcb, "", &[TABLE]);
    let (source, target) = (stage.source(), stage.target());
    // The primary key stays, for both.
    target.run(&format!("TRUNCATE {TABLE}"));
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let (done, seen) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| wait_until_seen(&target, &over));
        stage.link_and_copy();
        let done = began.elapsed();
        over.store(true, Ordering::Relaxed);
        (done, watcher.join().expect("the watcher does not panic").duration_since(began))
    });
    source.run(&format!("UPDATE {TABLE} SET abalance = 1 WHERE aid = 1"));
    stage.mark(&pair.source, 1);
    if system == System::Tandem {
        stage.start();
    }
    let target = stage.target();
    stage.wait_for_mark(&target, 1);
    let live = began.elapsed();
    println!("  {system}: done after {done:.2?}, rows seen after {seen:.2?}, live after {live:.2?}");
    results.seen.of(system).push(seen.as_secs_f64());
    results.done.of(system).push(done.as_secs_f64());
    results.live.of(system).push(live.as_secs_f64());
    stage.check_equal();
    stage.tear_down();
}

/// When the rows, which come in one transaction, could be seen; at the latest when it is over.
fn wait_until_seen(target: &Sql, over: &AtomicBool) -> Instant {
    // A scan of the table would have to step over all rows that are not committed yet.
    target.run("SET enable_seqscan = off");
    let query = target.prepare(&format!("SELECT 1 FROM {TABLE} WHERE aid = 1"));
    while target.query(&query, &[]).is_empty() && !over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(10));
    }
    Instant::now()
}
