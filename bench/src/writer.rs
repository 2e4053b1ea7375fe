//! pgbench at work while something else is measured.

use std::io::Read;
use std::process::{Child, Stdio};

use pgtandem::cluster::Cluster;

use crate::pair::Pair;

/// Dropped before its end, it is ended.
pub struct Writer {
    child: Child,
}

impl Writer {
    pub fn start(pair: &Pair, cluster: &Cluster, database: &str, args: &[&str]) -> Writer {
        let mut command = pair.pgbench_command(cluster, database, args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Writer { child: command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")) }
    }

    /// Waits for its end; transactions per second, connecting left out.
    pub fn finish(mut self) -> f64 {
        // It says little, so neither pipe fills up while the other is read.
        let (mut said, mut complained) = (String::new(), String::new());
        let Child { stdout: Some(stdout), stderr: Some(stderr), .. } = &mut self.child else {
            unreachable!("both are pipes")
        };
        stdout.read_to_string(&mut said).expect("pgbench prints text");
        stderr.read_to_string(&mut complained).expect("pgbench prints text");
        let status = self.child.wait().expect("pgbench is our child");
        assert!(status.success(), "pgbench ended with {status}: {complained}");
        tps(&said).unwrap_or_else(|| panic!("pgbench does not say how fast it was:\n{said}"))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// From `tps = 1234.567 (without initial connection time)`.
fn tps(said: &str) -> Option<f64> {
    let value = said.lines().find_map(|line| line.strip_prefix("tps = "))?;
    value.split_whitespace().next()?.parse().ok()
}
