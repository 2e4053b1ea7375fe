//! The servers the other tests run on do what they say.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgtandem::cluster::{Cluster, ClusterOptions, Session, Stop};

use crate::support::{PATIENCE, wait_until};

fn start(name: &str) -> Cluster {
    let options = ClusterOptions::new(name).unwrap().without_fsync();
    Cluster::start(options).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_server_is_ready_for_logical_decoding_when_start_returns() {
    let began = Instant::now();
    let server = start("new");
    println!("PostgreSQL {}: {:?}", server.bin().version(), began.elapsed());
    server.create_database("shop \"1\"").unwrap();
    let answer = server
        .psql(
            "shop \"1\"",
            "SELECT current_setting('wal_level'), current_setting('cluster_name'), NULL, 'é';
             SELECT current_setting('max_replication_slots')",
        )
        .unwrap();
    assert_eq!(answer, "logical|new||é\n20");
    let slot = "SELECT 1 FROM pg_create_logical_replication_slot('s', 'pgoutput')";
    assert_eq!(server.psql("shop \"1\"", slot).unwrap(), "1");
    let encoding = "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname='postgres'";
    assert_eq!(server.psql("postgres", encoding).unwrap(), "UTF8");
}

#[test]
fn over_tcp_a_password_is_needed() {
    let server = start("new");
    let connect = |url: String| {
        let config = url.parse().unwrap();
        Session::with_config("new", config)
    };
    let session = connect(server.url("postgres")).unwrap();
    assert_eq!(session.run("SELECT current_user").unwrap(), "postgres");
    let wrong = connect(server.url_as("postgres", "wrong", "postgres"));
    let message = wrong.err().expect("refused").to_string();
    assert!(message.contains("password authentication failed"), "{message}");
    let socket = connect(server.socket_url("postgres")).unwrap();
    assert_eq!(socket.run("SELECT 1").unwrap(), "1");
}

#[test]
fn settings_and_hba_lines_given_beat_ours() {
    let options = ClusterOptions::new("legacy")
        .unwrap()
        .without_fsync()
        .setting("wal_level", "replica")
        .setting("application_name", "it's")
        .hba_line("local all nobody reject");
    let server = Cluster::start(options).unwrap();
    let show = "SELECT current_setting('wal_level')";
    assert_eq!(server.psql("postgres", show).unwrap(), "replica");
    let create = "CREATE ROLE nobody LOGIN";
    server.psql("postgres", create).unwrap();
    let refused = server.session_as("nobody", "postgres").err().unwrap();
    assert!(refused.to_string().contains("rejects"), "{refused}");
}

#[test]
fn an_error_names_server_database_statement_and_sqlstate() {
    let server = start("legacy");
    let error = server.psql("postgres", "SELECT 1/0").unwrap_err();
    assert_eq!(error.sqlstate.as_deref(), Some("22012"));
    let message = error.to_string();
    for part in ["legacy", "postgres", "division by zero", "SELECT 1/0"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn data_survives_every_way_to_stop() {
    let server = start("new");
    let run = |sql: &str| server.psql("postgres", sql).unwrap();
    run("CREATE TABLE kept (way text)");
    run("INSERT INTO kept VALUES ('fast')");
    server.stop(Stop::Fast).unwrap();
    assert!(!server.is_running());
    assert!(server.psql("postgres", "SELECT 1").is_err());
    assert!(server.stop(Stop::Fast).unwrap_err().to_string().contains("does not run"));
    server.start_again().unwrap();
    assert!(server.start_again().unwrap_err().to_string().contains("runs already"));

    run("INSERT INTO kept VALUES ('immediate')");
    server.stop(Stop::Immediate).unwrap();
    server.start_again().unwrap();

    // With a session open: its backend must be gone before the server can start again.
    let session = server.session("postgres").unwrap();
    session.run("INSERT INTO kept VALUES ('kill9')").unwrap();
    server.kill9().unwrap();
    assert!(session.run("SELECT 1").is_err());
    server.start_again().unwrap();

    server.restart().unwrap();
    assert_eq!(run("SELECT way FROM kept"), "fast\nimmediate\nkill9");
    assert!(server.log().contains("automatic recovery") || server.log().contains("was interrupted"));
}

#[test]
fn kill9_under_load_loses_no_commit_that_was_answered() {
    let server = start("new");
    server.psql("postgres", "CREATE TABLE kept (writer int, n int)").unwrap();
    // Each writer counts its commits that were answered, until it is cut off.
    let write = |writer: u32, from: u32| {
        let Ok(session) = server.session("postgres") else {
            return from;
        };
        let insert = |n: &u32| session.run(format!("INSERT INTO kept VALUES ({writer}, {n})"));
        (from..).find(|n| insert(n).is_err()).expect("it is cut off before four billion")
    };
    let mut written = [0; 4];
    for round in 1..=4 {
        std::thread::scope(|scope| {
            let write = &write;
            let threads = [0, 1, 2, 3].map(|w| scope.spawn(move || write(w, written[w as usize])));
            let enough = format!("SELECT count(*) > {} FROM kept", round * 100);
            wait_until("some rows are written", PATIENCE, || server.psql("postgres", &enough).unwrap() == "t");
            server.kill9().unwrap();
            written = threads.map(|thread| thread.join().unwrap());
        });
        server.start_again().unwrap();
        for (writer, answered) in written.iter_mut().enumerate() {
            let count = format!("SELECT count(DISTINCT n) FROM kept WHERE writer = {writer}");
            let kept: u32 = server.psql("postgres", &count).unwrap().parse().unwrap();
            // The last one may have been committed without an answer.
            assert!(kept == *answered || kept == *answered + 1, "{kept} of {answered}");
            *answered = kept;
        }
    }
}

#[test]
fn a_frozen_server_answers_nobody_until_it_thaws() {
    let server = start("new");
    let session = server.session("postgres").unwrap();
    session.run("SELECT 1").unwrap();
    server.freeze().unwrap();
    let mut pending = session.send("SELECT 2");
    let mut impatient: tokio_postgres::Config = server.socket_url("postgres").parse().unwrap();
    impatient.connect_timeout(Duration::from_millis(200));
    let refused = Session::with_config("new", impatient).err().unwrap();
    assert!(refused.to_string().contains("timed out"), "{refused}");
    assert!(!pending.is_done());
    server.thaw().unwrap();
    assert_eq!(pending.wait().unwrap(), "2");
    // A frozen server can be ended, too.
    server.freeze().unwrap();
    let dir = server.dir().to_owned();
    drop(server);
    assert!(!dir.exists());
}

#[test]
fn servers_started_together_differ_in_all_that_identifies_them() {
    let options = ["a", "b", "c"].map(|n| ClusterOptions::new(n).unwrap().without_fsync());
    let began = Instant::now();
    let servers = Cluster::start_all(options).unwrap();
    println!("three servers: {:?}", began.elapsed());
    let identifier = "SELECT system_identifier FROM pg_control_system()";
    let mut seen: Vec<(String, u16)> =
        servers.iter().map(|s| (s.psql("postgres", identifier).unwrap(), s.port())).collect();
    assert_eq!(servers[1].name(), "b");
    seen.sort();
    seen.dedup_by(|a, b| a.0 == b.0 || a.1 == b.1);
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[test]
fn dropping_leaves_nothing_also_in_a_panic() {
    let panicked = std::thread::spawn(|| {
        let server = start("new");
        let thrown = (server.dir().to_owned(), postmaster(&server));
        // Like panic!, without a message that looks like a failure.
        std::panic::resume_unwind(Box::new(thrown));
    });
    let thrown = panicked.join().unwrap_err();
    let (dir, pid) = thrown.downcast_ref::<(std::path::PathBuf, i32)>().unwrap();
    assert!(!dir.exists());
    assert!(!runs(*pid));
}

#[test]
fn a_server_that_is_kept_goes_on_without_us() {
    let server = start("kept");
    let (pid, port, name) = (postmaster(&server), server.port(), server.superuser().to_owned());
    let dir = server.keep().unwrap();
    let session = Session::connect("kept", &dir, port, &name, "postgres").unwrap();
    assert_eq!(session.run("SELECT 1").unwrap(), "1");
    drop(session);
    let pid = Pid::from_raw(pid);
    kill(pid, Signal::SIGQUIT).unwrap();
    // It is still a child of this process, and the standard library has forgotten it.
    nix::sys::wait::waitpid(pid, None).unwrap();
    fs::remove_dir_all(dir).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn a_killed_server_that_is_dropped_leaves_no_shared_memory() {
    let server = start("new");
    let pid_file = fs::read_to_string(server.data_dir().join("postmaster.pid")).unwrap();
    let key = pid_file.lines().nth(6).unwrap().split_whitespace().next().unwrap();
    let is_there = || {
        let segments = fs::read_to_string("/proc/sysvipc/shm").unwrap();
        segments.lines().any(|line| line.split_whitespace().next() == Some(key))
    };
    server.kill9().unwrap();
    assert!(is_there());
    drop(server);
    assert!(!is_there());
}

/// Run by the test below in a process of its own, which is then killed.
#[test]
#[ignore = "only a part of the test below"]
fn starts_a_server_and_waits_to_be_killed() {
    let server = start("orphan");
    println!("\nSERVER {} {}", server.dir().display(), postmaster(&server));
    server.psql("postgres", "SELECT pg_sleep(600)").unwrap();
}

#[test]
fn a_killed_process_leaves_no_server() {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cluster::starts_a_server_and_waits_to_be_killed"])
        .args(["--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(victim.stdout.take().unwrap()));
    let line = lines.map(Result::unwrap).find(|line| line.starts_with("SERVER ")).expect("the server started");
    let parts: Vec<&str> = line.split(' ').collect();
    let (dir, pid) = (parts[1].to_owned(), parts[2].parse().unwrap());
    assert!(runs(pid) && fs::exists(&dir).unwrap());
    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_until("the watchdog has cleaned up", PATIENCE, || !runs(pid) && !fs::exists(&dir).unwrap());
}

fn postmaster(server: &Cluster) -> i32 {
    let text = fs::read_to_string(server.data_dir().join("postmaster.pid")).unwrap();
    text.lines().next().unwrap().parse().unwrap()
}

fn runs(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}
