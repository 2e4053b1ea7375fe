//! How long after a commit has returned its row is seen on the other side: one writer, 200 transactions a second, or 20
//! with trigger capture.
//!
//! A second session asks the target, from the moment of the commit on, without pause until it sees the row; so the
//! figures hold up to one round trip too much (about 0.05 ms), the same for both systems.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::figures::{Bound, Compared, Series};
use crate::pair::{Capture, Content, Pair};
use crate::report::Report;
use crate::sql::Sql;
use crate::system::{Stage, System};

/// Transactions a second, and what the median must reach, by how changes are read.
fn demand(capture: Capture) -> (u32, Bound) {
    match capture {
        Capture::Wal => (200, Bound::at_most(3.0, 1.5)),
        Capture::Trigger => (20, Bound::at_most(15.0, 6.0)),
    }
}

const TABLE: &str = "lag";
const PREPARE: &str = "CREATE TABLE lag (id int PRIMARY KEY, n int NOT NULL, filler text NOT NULL); \
    INSERT INTO lag SELECT i, 0, repeat('x', 80) FROM generate_series(1, 1000) AS i";

pub fn run(pair: &Pair, report: &mut Report, repeats: usize, seconds: u32) {
    let (rate, bound) = demand(pair.capture);
    println!("\nlag at {rate} transactions/s, {seconds} s each");
    let [mut p50, mut p99] = [Compared::default(), Compared::default()];
    for _ in 0..repeats {
        for system in System::BOTH {
            let mut stage = Stage::set(pair, system, Content::Nothing, PREPARE, &[TABLE]);
            stage.start();
            let warm = rate;
            measure(&mut stage, rate, warm, 0);
            let lags = measure(&mut stage, rate, rate * seconds, warm);
            let [half, most] = [0.5, 0.99].map(|part| lags.quantile(part));
            p50.of(system).push(half);
            p99.of(system).push(most);
            println!("  {system}: p50 {half:.3} ms, p99 {most:.3} ms, max {:.3} ms", lags.quantile(1.0));
            stage.check_equal();
            stage.tear_down();
        }
    }
    let bound = Some(bound);
    report.compare("lag p50, ms", 3, &p50, bound);
    report.compare("lag p99, ms", 3, &p99, bound);
}

/// In milliseconds.
fn measure(stage: &mut Stage<'_>, rate: u32, transactions: u32, first: u32) -> Series {
    let (committed, to_see) = mpsc::channel::<(i32, Instant)>();
    let source = stage.source();
    let target = stage.target();
    let lags = std::thread::scope(|scope| {
        let reader = scope.spawn(move || read(&target, &to_see));
        write(&source, rate, transactions, first, &committed);
        drop(committed);
        reader.join().expect("the reader does not panic")
    });
    stage.check_alive();
    lags
}

fn write(source: &Sql, rate: u32, transactions: u32, first: u32, committed: &mpsc::Sender<(i32, Instant)>) {
    let update = source.prepare(&format!("UPDATE {TABLE} SET n = $2 WHERE id = $1"));
    let pause = Duration::from_secs(1) / rate;
    let began = Instant::now();
    for i in 0..transactions {
        let due = began + pause * i;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let n = (first + i + 1).cast_signed();
        source.query(&update, &[&id_of(n), &n]);
        committed.send((n, Instant::now())).expect("the reader listens");
    }
}

fn id_of(n: i32) -> i32 {
    n % 1000 + 1
}

fn read(target: &Sql, to_see: &mpsc::Receiver<(i32, Instant)>) -> Series {
    let query = target.prepare(&format!("SELECT n FROM {TABLE} WHERE id = $1"));
    let mut lags = Series::default();
    for (n, committed) in to_see {
        while target.query(&query, &[&id_of(n)]).first().map(|row| row.get::<_, i32>(0)) != Some(n) {
            assert!(committed.elapsed() < Duration::from_secs(30), "change {n} does not arrive");
        }
        lags.push(committed.elapsed().as_secs_f64() * 1000.0);
    }
    lags
}
