//! Both sides write at once.
//!
//! Native replication can do that from PostgreSQL 16 on (`origin = none`) as long as no row is written on both sides:
//! it knows no conflicts and the sides would stay different. So it is compared on disjoint rows only, and rows that
//! overlap are pgtandem's alone.

use std::collections::HashSet;
use std::time::Instant;

use pgtandem::cluster::Cluster;

use crate::figures::{Compared, Series};
use crate::native::BOTH_WAYS_SINCE;
use crate::pair::{Content, Pair};
use crate::report::Report;
use crate::sql::Sql;
use crate::system::{Stage, System};
use crate::writer::Writer;

const TABLES: [&str; 2] = ["items", "events"];
const PREPARE: &str = include_str!("../sql/both_ways.sql");
const SCRIPT: &str = include_str!("../sql/both_ways.pgbench");

/// Which rows the sides update: each its own, or both the same few.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    Disjoint,
    Shared,
}

impl Rows {
    fn name(self) -> &'static str {
        match self {
            Self::Disjoint => "rows of its own each",
            Self::Shared => "1,000 rows shared",
        }
    }

    /// The script's variables for a side, 0 or 1.
    fn variables(self, side: usize) -> [String; 3] {
        match self {
            Self::Disjoint => ["rows=10000".to_owned(), "step=2".to_owned(), format!("first={}", side + 1)],
            Self::Shared => ["rows=1000".to_owned(), "step=1".to_owned(), "first=1".to_owned()],
        }
    }
}

#[derive(Default)]
struct Results {
    rate: Compared,
    converged: Compared,
    conflicts: Series,
}

pub fn run(pair: &Pair, report: &mut Report, repeats: usize, seconds: u32) {
    let can_native = pair.source.bin().version().major >= BOTH_WAYS_SINCE;
    for rows in [Rows::Disjoint, Rows::Shared] {
        println!("\nboth sides write, {}, {seconds} s each", rows.name());
        if rows == Rows::Disjoint && !can_native {
            println!(
                "  native replicates both ways from PostgreSQL {BOTH_WAYS_SINCE} on only: nothing to compare with"
            );
        }
        let mut results = Results::default();
        for _ in 0..repeats {
            if rows == Rows::Disjoint && can_native {
                once(pair, System::Native, rows, seconds, &mut results);
            }
            once(pair, System::Tandem, rows, seconds, &mut results);
        }
        let name = rows.name();
        report.compare(&format!("both sides write, {name}: transactions/s together"), 0, &results.rate, None);
        report.compare(&format!("both sides write, {name}: equal after the last, ms"), 0, &results.converged, None);
        report.alone(&format!("both sides write, {name}: conflicts decided"), 0, &results.conflicts, None);
    }
}

fn once(pair: &Pair, system: System, rows: Rows, seconds: u32, results: &mut Results) {
    let mut stage = Stage::fresh(pair, system, Content::Nothing, PREPARE, &TABLES);
    if system == System::Native {
        interleave_ids(&stage);
    }
    stage.link_both_ways();
    stage.start();
    stage.wait_until_streaming(&pair.target);
    let script = pair.write_file("both_ways.pgbench", SCRIPT).display().to_string();
    let seconds = seconds.to_string();
    let writers = [0, 1].map(|side| {
        let mut args = vec!["-n", "-c", "2", "-T", &seconds, "-f", &script];
        let variables = rows.variables(side);
        args.extend(variables.iter().flat_map(|variable| ["-D", variable]));
        Writer::start(pair, pair.clusters()[side], stage.database(), &args)
    });
    let tps: f64 = writers.map(Writer::finish).iter().sum();
    let stopped = Instant::now();
    let (source, target) = (stage.source(), stage.target());
    stage.mark(&pair.source, 1);
    stage.mark(&pair.target, 2);
    stage.wait_for_mark(&target, 1);
    stage.wait_for_mark(&source, 2);
    let converged_ms = stage.wait_until_equal().duration_since(stopped).as_secs_f64() * 1000.0;
    results.rate.of(system).push(tps);
    results.converged.of(system).push(converged_ms);
    let mut said = String::new();
    if system == System::Tandem {
        let decided = conflicts(pair.clusters(), stage.database());
        results.conflicts.push(f64::from(u32::try_from(decided).unwrap_or(u32::MAX)));
        said = format!(", {decided} conflicts decided");
    }
    println!("  {system}: {tps:.0}/s together, equal {converged_ms:.0} ms after the last{said}");
    stage.tear_down();
}

/// As `up` does it: even ids for one side, odd ones for the other.
fn interleave_ids(stage: &Stage<'_>) {
    for (sql, first) in [(stage.source(), 1), (stage.target(), 2)] {
        sql.run(&format!("ALTER SEQUENCE events_id_seq INCREMENT BY 2 RESTART WITH {first}"));
    }
}

/// A decision is recorded on every node that was delivered what it led to.
fn conflicts(clusters: [&Cluster; 2], database: &str) -> usize {
    let text = "SELECT concat_ws(' ', table_id, key_bytes, winner_node, winner_position, loser_node, loser_position) \
                FROM pgtandem.decision";
    let of_node = |cluster| {
        let sql = Sql::connect(cluster, database);
        sql.query(&sql.prepare(text), &[]).into_iter().map(|row| row.get::<_, String>(0))
    };
    clusters.into_iter().flat_map(of_node).collect::<HashSet<_>>().len()
}
