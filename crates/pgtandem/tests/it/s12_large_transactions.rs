//! S12: a transaction of a million rows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{Pair, Setup, wait_until};

const ROWS: usize = 1_000_000;
const MEMORY: u64 = 256 << 20;
const LIMIT: Duration = Duration::from_secs(600);

/// Not on shared servers: everybody would have to decode it.
#[test]
fn s12_a_million_rows_at_once() {
    let pair = Pair::with(
        Setup::default()
            .setting("max_wal_size", "4GB")
            .table("facts", "CREATE TABLE facts (id int PRIMARY KEY, n int NOT NULL, what text)")
            .table("notes", "CREATE TABLE notes (id int PRIMARY KEY, what text)"),
    );
    let hub = pair.linked();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let small = [(new, 0), (legacy, 1)].map(|(node, number)| {
            let (session, done) = (node.session(), &done);
            scope.spawn(move || {
                let mut id = number;
                while !done.load(Ordering::Relaxed) {
                    let sql = format!("INSERT INTO notes VALUES ({id}, 'small'); SELECT pg_sleep(0.02)");
                    session.run(sql).unwrap();
                    id += 2;
                }
            })
        });
        new.sql(&format!("INSERT INTO facts SELECT i, 1, 'fact ' || i FROM generate_series(1, {ROWS}) i"));
        let arrives = |query: &str, before: &str, after: &str| {
            wait_until(&format!("{query}: {after}"), LIMIT, || {
                let found = legacy.sql(query);
                assert!(found == before || found == after, "half visible: {found}");
                found == after
            });
        };
        arrives("SELECT count(*) FROM facts", "0", &ROWS.to_string());
        new.sql("UPDATE facts SET n = 2 WHERE id <= 200000");
        arrives("SELECT sum(n) FROM facts", &ROWS.to_string(), &(ROWS + 200_000).to_string());
        done.store(true, Ordering::Relaxed);
        small.into_iter().for_each(|writer| writer.join().unwrap());
    });
    wait_until("the small changes are everywhere", LIMIT, || pair.differs_in("SELECT * FROM notes").is_none());
    assert!(
        pair.differs_in("SELECT count(*), sum(id), sum(n), md5(string_agg(what, ',' ORDER BY id)) FROM facts")
            .is_none()
    );
    let peak = hub.peak_memory();
    assert!(peak < MEMORY, "{} MiB", peak >> 20);
    eprintln!("at most {} MiB", peak >> 20);
}
