//! What processes took, from /proc.

use std::fs;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use pgtandem::cluster::Cluster;

use crate::system::Stage;

/// CPU time so far of everything that takes part.
#[derive(Clone, Copy, Default, Debug)]
pub struct Cpu {
    pub source: Duration,
    pub target: Duration,
    pub hub: Duration,
}

impl Cpu {
    pub fn of(stage: &Stage<'_>) -> Cpu {
        Cpu {
            source: of_server(&stage.pair.source),
            target: of_server(&stage.pair.target),
            hub: stage.hub_pid().and_then(Times::read).map_or(Duration::ZERO, |times| times.own),
        }
    }

    pub fn since(self, earlier: Cpu) -> Cpu {
        Cpu {
            source: self.source.saturating_sub(earlier.source),
            target: self.target.saturating_sub(earlier.target),
            // A hub that was started in between had none before.
            hub: self.hub.saturating_sub(earlier.hub),
        }
    }

    pub fn all(self) -> Duration {
        self.source + self.target + self.hub
    }
}

/// The postmaster, its children, and its children that have ended.
fn of_server(cluster: &Cluster) -> Duration {
    let file = fs::read_to_string(cluster.data_dir().join("postmaster.pid")).unwrap_or_default();
    let Some(postmaster) = file.lines().next().and_then(|line| line.trim().parse().ok()) else {
        return Duration::ZERO;
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let children = pids.filter_map(Times::read).filter(|times| times.parent == postmaster);
    let running: Duration = children.map(|times| times.own).sum();
    let own = Times::read(postmaster).map_or(Duration::ZERO, |times| times.own + times.ended_children);
    running + own
}

struct Times {
    parent: u32,
    own: Duration,
    ended_children: Duration,
}

impl Times {
    fn read(pid: u32) -> Option<Times> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name may hold anything but ends at the last parenthesis.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        let time = |ticks: u64| Duration::from_millis(ticks * 10); // USER_HZ is 100 on every Linux
        Some(Times {
            parent: fields.get(1)?.parse().ok()?,
            own: time(ticks(11) + ticks(12)),
            ended_children: time(ticks(13) + ticks(14)),
        })
    }
}

/// A process's resident memory at its highest, in MiB.
pub fn peak_memory_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap_or(f64::NAN) / 1024.0
}

/// Waits for it, and says what it took at most: read a thousand times a second, so that the last moments are missed.
pub fn peak_memory_of_child(child: &mut Child) -> (ExitStatus, f64) {
    let mut peak = 0.0_f64;
    loop {
        // NaN once it has ended.
        peak = peak.max(peak_memory_mib(child.id()));
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return (status, peak);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
