//! S23: one server's clock is an hour slow.
//!
//! That equal commit times break the same way everywhere is shown by the hub's own tests and its simulation, whose
//! clocks tick seldom: two servers cannot be made to commit in the same microsecond.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use pgtandem::cluster::PgBin;

use crate::support::{Pair, Setup};

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, name text)";

/// PostgreSQL whose clock is an hour slow; None where libfaketime is not installed.
fn slow_programs(dir: &Path) -> Option<PgBin> {
    let found = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path().join("faketime/libfaketime.so.1"));
    let library: PathBuf =
        found.chain([PathBuf::from("/usr/lib/faketime/libfaketime.so.1")]).find(|path| path.exists())?;
    let real = PgBin::find().unwrap();
    for program in fs::read_dir(real.dir()).unwrap().flatten() {
        if program.file_name() != "postgres" {
            symlink(program.path(), dir.join(program.file_name())).unwrap();
        }
    }
    let script = format!(
        "#!/bin/sh\nFAKETIME=-1h FAKETIME_DONT_FAKE_MONOTONIC=1 LD_PRELOAD={} exec {} \"$@\"\n",
        library.display(),
        real.dir().join("postgres").display()
    );
    fs::write(dir.join("postgres"), script).unwrap();
    fs::set_permissions(dir.join("postgres"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    Some(PgBin::in_dir(dir).unwrap())
}

#[test]
fn s23_a_slow_clock_does_not_let_an_older_write_win_over_one_that_had_seen_it() {
    let dir = tempfile::tempdir().unwrap();
    let Some(slow) = slow_programs(dir.path()) else {
        eprintln!("not run: libfaketime is not installed (apt-get install faketime)");
        return;
    };
    let setup = Setup::default().config("[hub]\nstatus_interval_ms = 100").programs("legacy", slow);
    let pair = Pair::with(setup.table("items", ITEMS));
    let now = "SELECT extract(epoch FROM clock_timestamp())::bigint";
    let seconds = |node: &str| pair[node].sql(now).parse::<i64>().unwrap();
    assert!(seconds("new") - seconds("legacy") > 3000, "the clock is not slow");
    let hub = pair.linked();
    pair["new"].sql("INSERT INTO items VALUES (1, 'old'), (2, 'old'), (3, 'old')");
    pair.settle();
    // Legacy's write has seen new's, so it wins although its clock says that it is older.
    pair["legacy"].sql("UPDATE items SET name = 'seen and written over' WHERE id = 1");
    pair.settle();
    assert_eq!(pair["new"].sql("SELECT name FROM items WHERE id = 1"), "seen and written over");
    assert_eq!(pair["new"].sql("SELECT count(*) FROM pgtandem.decision"), "0");
    // Its stamp was raised above what it had seen, though not to a time that its clock never had.
    hub.freeze();
    pair["new"].sql("UPDATE items SET name = 'by new' WHERE id = 2");
    pair["legacy"].sql("UPDATE items SET name = 'by legacy, later' WHERE id = 2");
    hub.thaw();
    pair.settle();
    // Between writes that have not seen each other only clocks can tell, and everybody is told the same.
    assert_eq!(pair["legacy"].sql("SELECT name FROM items WHERE id = 2"), "by new");
    let decided = "SELECT winner_row->>'name', loser_row->>'name', policy FROM pgtandem.decision";
    assert_eq!(pair.differs_in(decided), None);
    assert_eq!(pair["legacy"].sql(decided), "by new|by legacy, later|newest");
    assert!(hub.is_running());
}
