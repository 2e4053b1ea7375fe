//! Merging a million rows of which each side has one half: `pgtandem up` with `merge = "only-missing"` against reading each
//! half out of its side and into the other, one after the other. The latter compares nothing, keeps no record of what it
//! wrote, and knows no application that goes on writing.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pgtandem::cluster::Cluster;

use crate::figures::{Bound, Compared, Series};
use crate::native::drop_slots;
use crate::pair::{Content, Pair};
use crate::processes::peak_memory_of_child;
use crate::report::Report;
use crate::sql::Sql;
use crate::system::System;
use crate::tandem::{binary, config};

/// Where the halves are kept from round to round.
const HALVES: &str = "halves";
const DATABASE: &str = "merged";
const TABLE: &str = "pgbench_accounts";

pub fn run(pair: &Pair, report: &mut Report, repeats: usize) {
    println!("\nmerge of 1,000,000 rows, half of them on each side");
    pair.create_databases(HALVES, Content::Tpcb);
    for (cluster, others) in [(&pair.source, 1), (&pair.target, 0)] {
        let half = Sql::connect(cluster, HALVES);
        half.run(&format!("DELETE FROM {TABLE} WHERE aid % 2 = {others}"));
        half.run(&format!("VACUUM (FULL, ANALYZE) {TABLE}"));
    }
    let (mut took, mut memory) = (Compared::default(), Series::default());
    for _ in 0..repeats {
        for system in System::BOTH {
            pair.create_databases(DATABASE, Content::Like(HALVES));
            let time = match system {
                System::Native => copy_both(pair),
                System::Tandem => up(pair, &mut memory),
            };
            println!("  {system}: {time:.2?}");
            took.of(system).push(time.as_secs_f64());
            if let Some(difference) = pair.difference(DATABASE, &[TABLE]) {
                panic!("WRONG RESULT: {system}: {difference}");
            }
            drop_slots(pair, DATABASE);
            pair.drop_databases(DATABASE);
        }
    }
    report.compare("merge of 1,000,000 accounts, s", 2, &took, Some(Bound::at_most(1.0, 0.7)));
    report.alone("merge, peak memory, MiB", 0, &memory, Some(Bound::at_most(128.0, 64.0)));
    pair.drop_databases(HALVES);
}

/// One after the other.
fn copy_both(pair: &Pair) -> Duration {
    let began = Instant::now();
    copy(pair, [&pair.source, &pair.target], 0);
    copy(pair, [&pair.target, &pair.source], 1);
    began.elapsed()
}

fn copy(pair: &Pair, [from, to]: [&Cluster; 2], half: u8) {
    let script = r#"set -e; "$1" -X -q -d "$2" -c "$3" | "$1" -X -q -d "$4" -c "$5""#;
    let read = format!("COPY (SELECT * FROM {TABLE} WHERE aid % 2 = {half}) TO STDOUT");
    let write = format!("COPY {TABLE} FROM STDIN");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, "copy"]).arg(pair.psql()).args([&pair.url(from, DATABASE), &read]);
    command.args([&pair.url(to, DATABASE), &write]).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn up(pair: &Pair, memory: &mut Series) -> Duration {
    let file = pair.write_file("merge.toml", &(config(pair, DATABASE, &[TABLE]) + "merge = \"only-missing\"\n"));
    let mut command = Command::new(binary());
    let said = pair.path("merge.txt");
    let log = File::create(&said).expect("the file can be written");
    command.arg("-c").arg(file).args(["up", "--yes"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let began = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (status, peak) = peak_memory_of_child(&mut child);
    let took = began.elapsed();
    assert!(status.success(), "{command:?}: {status}: {}", fs::read_to_string(&said).unwrap_or_default());
    memory.push(peak);
    took
}
