//! Comparing a table of a million rows: `pgtandem diff` against reading both sides out, in the order of the key, through a
//! checksum. The latter says only whether they are the same.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pgtandem::cluster::Cluster;

use crate::figures::{Bound, Compared, Series};
use crate::pair::{Content, Pair};
use crate::processes::peak_memory_of_child;
use crate::report::Report;
use crate::sql::Sql;
use crate::system::System;
use crate::tandem::{binary, config};

const DATABASE: &str = "compared";
const TABLE: &str = "pgbench_accounts";
/// Spread over the table.
const DIFFERING: u32 = 1000;

pub fn run(pair: &Pair, report: &mut Report, repeats: usize) {
    println!("\ncomparison of 1,000,000 rows");
    pair.create_databases(DATABASE, Content::Tpcb);
    let mut memory = Series::default();
    let equal = measure(pair, repeats, 0, &mut memory);
    report.compare("diff of 1,000,000 equal accounts, s", 2, &equal, Some(Bound::at_most(0.5, 0.33)));
    let target = Sql::connect(&pair.target, DATABASE);
    target.run(&format!("UPDATE {TABLE} SET abalance = abalance + 1 WHERE aid % 1000 = 0"));
    target.run(&format!("VACUUM {TABLE}"));
    let different = measure(pair, repeats, DIFFERING, &mut memory);
    report.compare("the same with 1,000 that differ, s", 2, &different, Some(Bound::at_most(0.667, 0.5)));
    report.alone("diff, peak memory, MiB", 0, &memory, Some(Bound::at_most(128.0, 64.0)));
    drop(target);
    pair.drop_databases(DATABASE);
}

fn measure(pair: &Pair, repeats: usize, differing: u32, memory: &mut Series) -> Compared {
    let mut compared = Compared::default();
    for _ in 0..repeats {
        for system in System::BOTH {
            let took = match system {
                System::Native => copy_both(pair, differing == 0),
                System::Tandem => diff(pair, differing, memory),
            };
            println!("  {system}: {took:.2?}");
            compared.of(system).push(took.as_secs_f64());
        }
    }
    compared
}

/// One after the other.
fn copy_both(pair: &Pair, equal: bool) -> Duration {
    let began = Instant::now();
    let [source, target] = pair.clusters().map(|cluster| checksum(pair, cluster));
    let took = began.elapsed();
    assert_eq!(source == target, equal, "WRONG RESULT: {source} and {target}");
    took
}

fn checksum(pair: &Pair, cluster: &Cluster) -> String {
    let copy = format!("COPY (SELECT * FROM {TABLE} ORDER BY aid) TO STDOUT");
    let script = r#"set -e; "$1" -X -q -d "$2" -c "$3" | sha256sum"#;
    let url = pair.url(cluster, DATABASE);
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, "checksum"]).arg(pair.psql()).args([&url, &copy]).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn diff(pair: &Pair, differing: u32, memory: &mut Series) -> Duration {
    let file = pair.write_file("diff.toml", &config(pair, DATABASE, &[TABLE]));
    let said = pair.path("diff.txt");
    let mut command = Command::new(binary());
    command.arg("-c").arg(file).arg("diff").stdin(Stdio::null());
    command.stdout(fs::File::create(&said).expect("the file can be written"));
    let began = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (status, peak) = peak_memory_of_child(&mut child);
    let took = began.elapsed();
    memory.push(peak);
    let said = fs::read_to_string(&said).unwrap_or_default();
    let expected = match differing {
        0 => format!("{TABLE}  1,000,000 equal\n"),
        _ => format!("{TABLE}  999,000 equal, 1,000 different\n"),
    };
    assert!(status.code() == Some(i32::from(differing > 0)) && said.starts_with(&expected), "WRONG RESULT: {said}");
    took
}
