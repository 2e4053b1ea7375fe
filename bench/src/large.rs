//! What the target's own application notices of a large delivery: one transaction of the source that updates 100,000
//! rows, while the application on the target updates single ones of them, in transactions of one statement.
//!
//! It sets a column to the value it has. That locks the row and is replicated as any update, but leaves the sides
//! equal with native replication, too, which carries nothing back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::figures::{Bound, Compared, Series};
use crate::pair::{Content, Pair};
use crate::report::Report;
use crate::sql::Sql;
use crate::system::{Stage, System};

const ROWS: u32 = 100_000;
const CLIENTS: u32 = 4;
/// Statements per second and client.
const RATE: u32 = 100;
const TABLE: &str = "large";
const PREPARE: &str = "CREATE TABLE large (id int PRIMARY KEY, n int NOT NULL, noted int NOT NULL, filler text NOT NULL); \
    INSERT INTO large SELECT i, 0, 0, repeat('x', 80) FROM generate_series(1, 100000) AS i";

/// A delivery is whole, so a statement may wait for as long as the target takes to write it: no longer than for
/// native replication, which writes the same rows one by one.
const LONGEST_WAIT: Bound = Bound::at_most(1.0, 0.5);

#[derive(Default)]
struct Results {
    p99_before: Compared,
    longest_before: Compared,
    p99: Compared,
    longest: Compared,
    took: Compared,
}

pub fn run(pair: &Pair, report: &mut Report, repeats: usize, seconds: u32) {
    println!("\nthe target's application, {CLIENTS} clients at {RATE}/s, and a delivery of {ROWS} rows");
    let mut results = Results::default();
    for _ in 0..repeats {
        for system in System::BOTH {
            once(pair, system, seconds, &mut results);
        }
    }
    let Results { p99_before, longest_before, p99, longest, took } = &results;
    report.compare("target's application, without a delivery: p99, ms", 1, p99_before, None);
    report.compare("target's application, without a delivery: longest, ms", 1, longest_before, None);
    report.compare("target's application, during a delivery of 100,000 rows: p99, ms", 1, p99, None);
    report.compare(
        "target's application, during a delivery of 100,000 rows: longest, ms",
        1,
        longest,
        Some(LONGEST_WAIT),
    );
    report.compare("that delivery, from the source's commit until it is seen, ms", 0, took, None);
}

fn once(pair: &Pair, system: System, seconds: u32, results: &mut Results) {
    let mut stage = Stage::set(pair, system, Content::Nothing, PREPARE, &[TABLE]);
    stage.start();
    let (source, target) = (stage.source(), stage.target());
    let clients: Vec<Sql> = (0..CLIENTS).map(|_| stage.target()).collect();
    let over = AtomicBool::new(false);
    let (calm, committed, arrived, statements) = std::thread::scope(|scope| {
        // Also ends the clients should something panic in here.
        let until = Until(&over);
        let over = &over;
        let of_client = |(sql, number)| scope.spawn(move || work(&sql, number, over));
        let clients: Vec<_> = clients.into_iter().zip(1..).map(of_client).collect();
        // The first statements find nothing in memory.
        std::thread::sleep(Duration::from_millis(500));
        let calm = Instant::now();
        std::thread::sleep(Duration::from_secs(seconds.into()));
        let busy = Instant::now();
        source.run(&format!("UPDATE {TABLE} SET n = n + 1"));
        let committed = Instant::now();
        stage.mark(&pair.source, 1);
        stage.wait_for_mark(&target, 1);
        let arrived = Instant::now();
        drop(until);
        let statements: Vec<Statement> =
            clients.into_iter().flat_map(|client| client.join().expect("no client panics")).collect();
        ((calm, busy), committed, arrived, statements)
    });
    stage.wait_until_equal();
    let before = milliseconds(&statements, calm.0, calm.1);
    let during = milliseconds(&statements, committed, arrived);
    let took_ms = arrived.duration_since(committed).as_secs_f64() * 1000.0;
    let [p99_before, longest_before] = [0.99, 1.0].map(|part| before.quantile(part));
    let [p99, longest] = [0.99, 1.0].map(|part| during.quantile(part));
    println!(
        "  {system}: p99 {p99_before:.1}, longest {longest_before:.1} ms without; \
         p99 {p99:.1}, longest {longest:.1} ms during a delivery that took {took_ms:.0} ms"
    );
    results.p99_before.of(system).push(p99_before);
    results.longest_before.of(system).push(longest_before);
    results.p99.of(system).push(p99);
    results.longest.of(system).push(longest);
    results.took.of(system).push(took_ms);
    stage.tear_down();
}

/// Says that it is over when it is dropped.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Statement {
    sent: Instant,
    answered: Instant,
}

/// One client of the application, until it is over.
fn work(sql: &Sql, number: u32, over: &AtomicBool) -> Vec<Statement> {
    let update = sql.prepare(&format!("UPDATE {TABLE} SET noted = noted WHERE id = $1"));
    let pause = Duration::from_secs(1) / RATE;
    let mut due = Instant::now() + pause * number / CLIENTS;
    let mut random = number;
    let mut statements = Vec::new();
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // Xorshift: the same rows in every run.
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        let id = (random % ROWS + 1).cast_signed();
        let sent = Instant::now();
        sql.query(&update, &[&id]);
        statements.push(Statement { sent, answered: Instant::now() });
        // What became due while this one waited is left out: each statement is measured, not a queue of them.
        due = (due + pause).max(Instant::now());
    }
    statements
}

/// How long the statements took that were under way at some time between the two.
fn milliseconds(statements: &[Statement], from: Instant, until: Instant) -> Series {
    let mut series = Series::default();
    for Statement { sent, answered } in statements {
        if *answered > from && *sent < until {
            series.push(answered.duration_since(*sent).as_secs_f64() * 1000.0);
        }
    }
    series
}
