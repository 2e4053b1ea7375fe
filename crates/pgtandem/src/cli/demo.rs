//! `pgtandem demo`

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::conflicts::render;
use super::layout::{Cell, Grid, Tone, count, milliseconds};
use super::{Failure, Outcome, Style, say};
use crate::demo::{Demo, DemoError, Kept, LEGACY_PRODUCTS, Lags, NODES, Written};
use crate::observe::Status;

/// Shows it all on this machine: two servers of its own, writes on both, an outage, a conflict.
///
/// Needs PostgreSQL's programs (14 or newer), but no server: it starts two in temporary directories, touches no other,
/// and removes them at the end. Takes about half a minute. Exit code 0 only if both sides really hold the same rows.
#[derive(Args)]
pub struct DemoCommand {
    /// Leave the servers and the hub running at the end, and say how to connect
    #[arg(long)]
    keep: bool,
}

const BOTH_WRITE: Duration = Duration::from_secs(6);
const ONE_WRITES: Duration = Duration::from_secs(3);
const LAG_SAMPLES: u32 = 200;
const WIDTH: usize = 80;

impl DemoCommand {
    pub fn run(self) -> Result<Outcome, Failure> {
        match Story::tell(self.keep) {
            Ok(()) => Ok(Outcome::Fine),
            Err(DemoError::Differ { rows, examples }) => {
                say(format!("{}: in {rows} rows\n{examples}", Style::of_stdout().bad("the two sides differ")));
                Ok(Outcome::Differs)
            }
            Err(error) => Err(Failure::at_run_time(error.to_string())),
        }
    }
}

/// The demo as it is told.
struct Story {
    demo: Demo,
    style: Style,
    /// Where something changes while a person looks.
    live: bool,
    began: Instant,
    written: [Written; 2],
}

impl Story {
    fn tell(keep: bool) -> Result<(), DemoError> {
        let style = Style::of_stdout();
        let began = Instant::now();
        say(style.bold("pgtandem demo: two applications, two PostgreSQL servers, one products table"));
        say("");
        say(format!("{} {}", style.dim("  0.0 s"), style.bold("two servers of our own, in temporary directories")));
        let demo = Demo::start()?;
        remove_when_interrupted(demo.dir().to_owned())?;
        start_log(&demo)?;
        let live = std::io::stdout().is_terminal();
        let mut story = Self { demo, style, live, began, written: [Written::default(); 2] };
        story.link()?;
        story.both_write()?;
        story.outage()?;
        story.conflict()?;
        story.lag()?;
        story.end()?;
        if keep {
            let kept = story.demo.keep()?;
            print_kept(&kept, style);
        }
        Ok(())
    }

    /// A line of the story, with the time that passed.
    fn scene(&self, text: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        say(format!("{} {}", self.style.dim(format!("{seconds:5.1} s")), self.style.bold(text)));
    }

    fn detail(&self, text: &str) {
        say(format!("        {text}"));
    }

    fn link(&mut self) -> Result<(), DemoError> {
        self.detail(&format!("PostgreSQL {}, no other server is touched", self.demo.server_version()));
        self.detail("new     has no products yet");
        self.detail(&format!("legacy  has {} products", count(LEGACY_PRODUCTS)));
        self.scene("pgtandem up");
        self.demo.link()?;
        self.detail("products are copied to new; from now on each side makes ids of its own");
        self.scene("pgtandem run");
        self.demo.start_hub()?;
        let rows = self.demo.compare()?.rows;
        self.detail(&format!("the hub works; both sides hold the same {} products", count_of(rows)));
        Ok(())
    }

    fn both_write(&mut self) -> Result<(), DemoError> {
        self.scene(&format!("both applications write at once, for {} s", BOTH_WRITE.as_secs()));
        let apps = [self.demo.app(0, 0x5eed_0001), self.demo.app(1, 0x5eed_0002)];
        let until = Instant::now() + BOTH_WRITE;
        while Instant::now() < until {
            let [new, legacy] = [&apps[0], &apps[1]].map(|app| app.written().total());
            self.progress(&format!("new {} writes, legacy {} writes", count(new), count(legacy)));
            std::thread::sleep(Duration::from_millis(100));
        }
        let written = apps.map(|app| app.stop());
        let stopped = Instant::now();
        self.progress("");
        let rows = self.demo.wait_until_equal()?.rows;
        let took = stopped.elapsed();
        for ((name, _), written) in NODES.iter().zip(written) {
            self.detail(&writes(name, written));
        }
        self.took(written);
        self.detail(&format!(
            "{}: {} products on both sides, {} after the last write",
            self.style.good("equal"),
            count_of(rows),
            short(took)
        ));
        Ok(())
    }

    fn outage(&mut self) -> Result<(), DemoError> {
        self.scene(&format!(
            "the server of legacy stops for {} s; both applications try to go on",
            ONE_WRITES.as_secs()
        ));
        let apps = [self.demo.app(0, 0x5eed_0003), self.demo.app(1, 0x5eed_0004)];
        self.demo.stop_server(1)?;
        let until = Instant::now() + ONE_WRITES;
        while Instant::now() < until {
            self.progress(&format!("new {} writes, legacy is down", count(apps[0].written().total())));
            std::thread::sleep(Duration::from_millis(100));
        }
        let waiting = apps[0].written().total();
        let status = self.demo.status();
        self.progress("");
        let away = status.nodes.iter().find(|node| node.name == NODES[1].0);
        let away = away.and_then(|node| node.reason.clone()).unwrap_or_default();
        self.demo.start_server(1)?;
        let back = Instant::now();
        std::thread::sleep(Duration::from_millis(500));
        let written = apps.map(|app| app.stop());
        let rows = self.demo.wait_until_equal()?.rows;
        let took = back.elapsed();
        self.detail(&format!("legacy is {}: {away}", self.style.warn("away")));
        self.detail(&format!("new wrote {} times meanwhile, without waiting for anyone", count(waiting)));
        self.detail(&format!(
            "legacy is back, {}: {} products on both sides, after {}",
            self.style.good("equal"),
            count_of(rows),
            short(took)
        ));
        self.took(written);
        Ok(())
    }

    fn conflict(&mut self) -> Result<(), DemoError> {
        self.scene("a conflict on purpose: the hub is stopped, both change the same price");
        self.demo.stop_hub()?;
        self.demo.dispute()?;
        self.demo.start_hub()?;
        let conflict = self.demo.decision()?;
        self.demo.wait_until_equal()?;
        self.detail("the hub is back and has decided it, as `pgtandem conflicts` shows:");
        for line in render(&conflict, WIDTH - 8, self.style).lines() {
            self.detail(line);
        }
        Ok(())
    }

    fn lag(&mut self) -> Result<(), DemoError> {
        self.scene(&format!("how long a change takes, COMMIT to visible there, {LAG_SAMPLES} times each way"));
        for from in [0, 1] {
            let lags = self.demo.measure_lag(from, LAG_SAMPLES)?;
            self.detail(&format!("{:>6} → {:<6}  {}", NODES[from].0, NODES[1 - from].0, quantiles(&lags)));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), DemoError> {
        self.scene("the end: every row of both sides is read and compared");
        self.demo.wait_until_equal()?;
        let status = self.demo.status();
        // At rest, with nobody left who could still deliver.
        self.demo.stop_hub()?;
        let equal = self.demo.compare()?;
        let mut grid = Grid::indented(8);
        let head = |text: &str| Cell::new(text).tone(Tone::Dim).right();
        let heads = ["inserted", "updated", "deleted", "products now"];
        grid.row(std::iter::once(Cell::new("")).chain(heads.map(head)));
        for ((name, _), written) in NODES.iter().zip(self.written) {
            let numbers = [written.inserted, written.updated, written.deleted, equal.rows as u64];
            let cells = numbers.map(|number| Cell::new(count(number)).right());
            grid.row(std::iter::once(Cell::new(format!("{name}'s application"))).chain(cells));
        }
        for line in grid.render(self.style).lines() {
            say(line);
        }
        let others = status.conflicts.decided - 1;
        let others = if others > 0 { format!(", {} more by chance", count(others)) } else { String::new() };
        self.detail(&format!("conflicts: 1 decided on purpose{others}"));
        self.detail(&held(&status));
        say("");
        let seconds = self.began.elapsed().as_secs();
        let verdict = format!("equal: all {} products, every column ({seconds} s)", count_of(equal.rows));
        say(self.style.good(verdict));
        Ok(())
    }

    fn took(&mut self, written: [Written; 2]) {
        for (all, more) in self.written.iter_mut().zip(written) {
            *all = *all + more;
        }
    }

    /// A line that is overwritten, on a terminal.
    fn progress(&self, text: &str) {
        if self.live {
            let mut stdout = std::io::stdout().lock();
            // What cannot be shown need not be.
            let _ = write!(stdout, "\r\x1b[K{}{text}\r", if text.is_empty() { "" } else { "        " });
            let _ = stdout.flush();
        }
    }
}

/// Nothing should be.
fn held(status: &Status) -> String {
    match status.held.iter().map(|held| held.count).sum::<i64>() {
        0 => "held keys: none".to_owned(),
        keys => format!("held keys: {}", count(keys)),
    }
}

fn writes(name: &str, written: Written) -> String {
    let Written { inserted, updated, deleted, .. } = written;
    format!("{name:<6}  {} inserted, {} updated, {} deleted", count(inserted), count(updated), count(deleted))
}

fn count_of(rows: usize) -> String {
    count(rows as u64)
}

fn short(duration: Duration) -> String {
    milliseconds(duration.as_secs_f64() * 1_000.0)
}

fn quantiles(lags: &Lags) -> String {
    format!("median {:>7}   99 %: {:>7}", short(lags.at(50)), short(lags.at(99)))
}

fn print_kept(kept: &Kept, style: Style) {
    say("");
    say(style.bold("left running; write on either side and look at the other:"));
    for (name, url) in &kept.nodes {
        say(format!("  {}", style.dim(format!("# {name}"))));
        say(format!("  psql '{url}'"));
    }
    let program = std::env::args().next().unwrap_or_else(|| "pgtandem".to_owned());
    let config = kept.config.display();
    say(style.dim("  # what it does"));
    say(format!("  {program} -c {config} status --watch"));
    say(format!("  {program} -c {config} conflicts"));
    say(format!("  tail -f {}", kept.log.display()));
    say(style.dim("  # ends and removes it all"));
    say(format!("  {}", kept.stop.display()));
}

/// The hub's log, for who wants to know more.
fn start_log(demo: &Demo) -> Result<(), DemoError> {
    let file = File::options().append(true).create(true).open(demo.log_file())?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("warn,pgtandem=info"))
        .with_writer(Mutex::new(file))
        .with_target(false)
        .with_ansi(false);
    log.init();
    Ok(())
}

/// Interrupted, it leaves nothing either: the servers end with us, by their watchdogs.
fn remove_when_interrupted(dir: PathBuf) -> Result<(), DemoError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    drop(entered);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let number = runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => SignalKind::terminate(),
                _ = interrupt.recv() => SignalKind::interrupt(),
            }
        });
        // What cannot be removed stays in the directory for temporary files.
        let _ = std::fs::remove_dir_all(&dir);
        std::process::exit(128 + number.as_raw_value());
    })?;
    Ok(())
}
