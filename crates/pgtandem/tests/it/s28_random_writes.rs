//! S28: many clients write to all nodes while hubs, servers and connections die.
//!
//! Each write says which write it has overwritten, and a journal beside the table, kept in the same transaction and
//! not linked, says what every node committed. So what survives can be judged afterwards: nothing that was read and
//! written over comes back, and what is gone was written over knowingly or lost a decision that is recorded.
//!
//! `SEED` repeats the choices of a run (not its timing), `TORTURE_SECONDS` makes it longer.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use pgtandem::cluster::Stop;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::support::{Fleet, Hub, Node, Setup, wait_until};

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, write text NOT NULL, over text, filler text);
    CREATE TABLE journal (write text PRIMARY KEY, key int, over text, op text);
    CREATE FUNCTION write_item(k int, w text, wanted text) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE old text;
    BEGIN
        SELECT write INTO old FROM items WHERE id = k FOR UPDATE;
        IF FOUND AND wanted = 'delete' THEN
            DELETE FROM items WHERE id = k;
            INSERT INTO journal VALUES (w, k, old, 'delete');
        ELSIF FOUND THEN
            UPDATE items SET write = w, over = old, filler = repeat(w, (random() * 300)::int) WHERE id = k;
            INSERT INTO journal VALUES (w, k, old, 'update');
        ELSIF wanted <> 'delete' THEN
            INSERT INTO items VALUES (k, w, NULL, '');
            INSERT INTO journal VALUES (w, k, NULL, 'insert');
        END IF;
    END $$";
const KEYS: u32 = 40;
const CLIENTS_PER_NODE: u64 = 3;
/// Between two transactions of a client.
const PACE: Duration = Duration::from_millis(10);

struct Shared {
    stop: AtomicBool,
    writes: AtomicU64,
    /// An application must never be the victim of a deadlock with a delivery; among themselves the clients have none.
    deadlocks: AtomicU64,
}

/// One application: writes until it is told to stop, and connects again when its server dies.
fn write_on(node: &Node, client: u64, seed: u64, shared: &Shared) {
    let mut rng = SmallRng::seed_from_u64(seed ^ (client << 32));
    let mut session = None;
    let mut number = 0;
    let mut last = Instant::now();
    while !shared.stop.load(Relaxed) {
        let Some(open) = &session else {
            session = node.cluster.session(node.database()).ok();
            if session.is_none() {
                std::thread::yield_now();
            }
            continue;
        };
        // In order of their keys, as deliveries do.
        let mut keys: Vec<u32> = (0..rng.random_range(1..4)).map(|_| rng.random_range(0..KEYS)).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut sql = String::new();
        for key in keys {
            number += 1;
            let op = if rng.random_ratio(1, 6) { "delete" } else { "upsert" };
            write!(sql, "SELECT write_item({key}, '{}-{client}-{number}', '{op}');", node.name()).unwrap();
        }
        // A machine that builds and tests other things meanwhile must be able to keep up.
        wait_until("the next write is due", Duration::from_secs(60), || last.elapsed() >= PACE);
        last = Instant::now();
        match open.run(sql) {
            Ok(_) => drop(shared.writes.fetch_add(1, Relaxed)),
            Err(error) => match error.sqlstate.as_deref() {
                // Somebody else inserted the key meanwhile.
                Some("23505") => {}
                Some("40P01") => drop(shared.deadlocks.fetch_add(1, Relaxed)),
                _ => session = None,
            },
        }
    }
}

/// Breaks something, lets the clients write on, and mends it.
fn break_something<const N: usize>(fleet: &Fleet<N>, hub: Hub, rng: &mut SmallRng, go_on: &dyn Fn(u64)) -> Hub {
    let node = &fleet[rng.random_range(0..N)];
    let proxy = node.proxy.as_ref().unwrap();
    let what = rng.random_range(0..8);
    let meanwhile = rng.random_range(1..400);
    match what {
        0 | 1 => {
            hub.kill9();
            go_on(meanwhile);
            let hub = fleet.hub();
            // Mostly it comes to work before the next fault, sometimes it does not.
            if rng.random_ratio(3, 4) {
                hub.wait_for_log("working");
            }
            return hub;
        }
        2 => {
            node.cluster.kill9().unwrap();
            go_on(meanwhile);
            node.cluster.start_again().unwrap();
        }
        3 => {
            let how = if rng.random() { Stop::Fast } else { Stop::Immediate };
            node.cluster.stop(how).unwrap();
            go_on(meanwhile);
            node.cluster.start_again().unwrap();
        }
        4 => proxy.cut(),
        5 => {
            proxy.refuse();
            go_on(meanwhile);
            proxy.clear();
        }
        6 => {
            proxy.stall();
            go_on(meanwhile);
            if rng.random() {
                proxy.cut();
            }
            proxy.clear();
        }
        _ => {
            proxy.hold_answers();
            go_on(meanwhile);
            proxy.cut();
            proxy.clear();
        }
    }
    hub
}

fn lines(text: String) -> Vec<Vec<String>> {
    text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

/// What is wrong with what is left, given all that was ever written.
fn judge<const N: usize>(fleet: &Fleet<N>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut journal = Vec::new();
    for node in fleet.nodes() {
        journal.extend(lines(node.sql("SELECT write, key, coalesce(over, ''), op FROM journal")));
    }
    let knowingly_over: HashMap<&str, &str> =
        journal.iter().filter(|w| !w[2].is_empty()).map(|w| (w[2].as_str(), w[0].as_str())).collect();
    let rows = lines(fleet[0].sql("SELECT write FROM items"));
    let surviving: HashSet<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    for write in &surviving {
        if let Some(newer) = knowingly_over.get(write) {
            wrong.push(format!("{write} is there although {newer} had seen it and was written over it"));
        }
    }
    let lost = "SELECT DISTINCT loser_row->>'write' FROM pgtandem.decision WHERE loser_row IS NOT NULL";
    let recorded: HashSet<String> = lines(fleet[0].sql(lost)).into_iter().map(|row| row[0].clone()).collect();
    for write in journal.iter().filter(|write| write[3] != "delete") {
        let id = write[0].as_str();
        if !surviving.contains(id) && !knowingly_over.contains_key(id) && !recorded.contains(id) {
            wrong.push(format!("{id} (key {}) is gone, and nothing says why", write[1]));
        }
    }
    let decisions = "SELECT key, winner_node, winner_position, loser_node, loser_position, kind,
                            winner_row->>'write', loser_row->>'write' FROM pgtandem.decision";
    wrong.extend(fleet.differs_in(decisions).map(|report| format!("decisions differ: {report}")));
    wrong
}

fn torture<const N: usize>(default_seconds: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("SEED").unwrap_or_else(|| u64::from(uuid::Uuid::new_v4().as_fields().0));
    let seconds = number("TORTURE_SECONDS").unwrap_or(default_seconds);
    eprintln!("SEED={seed} TORTURE_SECONDS={seconds}");
    let config = "[hub]\nstatus_interval_ms = 100\nsilence_timeout_s = 2";
    let fleet: Fleet<N> = Fleet::with(Setup::default().proxied().config(config).table("items", ITEMS));
    let hub = fleet.linked();
    let mut rng = SmallRng::seed_from_u64(seed);
    let shared = Shared { stop: AtomicBool::new(false), writes: AtomicU64::new(0), deadlocks: AtomicU64::new(0) };
    let hub = std::thread::scope(|scope| {
        for node in
            fleet.nodes().iter().zip(0..).flat_map(|(node, n)| (0..CLIENTS_PER_NODE).map(move |c| (node, n * 10 + c)))
        {
            let shared = &shared;
            // Not the fleet itself: only its parts may be used by several threads.
            let (node, client) = node;
            scope.spawn(move || write_on(node, client, seed, shared));
        }
        let end = Instant::now() + Duration::from_secs(seconds);
        let go_on = |writes: u64| {
            let goal = shared.writes.load(Relaxed) + writes;
            let limit = Instant::now() + Duration::from_secs(4);
            wait_until("the clients write on", Duration::from_secs(60), || {
                shared.writes.load(Relaxed) >= goal || Instant::now() > limit
            });
        };
        // A panic here must not leave the clients at work, or the scope never ends.
        let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut hub = hub;
            while Instant::now() < end {
                hub = break_something(&fleet, hub, &mut rng, &go_on);
                assert!(hub.is_running(), "the hub has ended:\n{}", hub.log());
                go_on(rng.random_range(1..800));
            }
            hub
        }));
        shared.stop.store(true, Relaxed);
        match broken {
            Ok(hub) => hub,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    fleet.settle();
    assert!(hub.is_running(), "the hub has ended:\n{}", hub.log());
    let decided = fleet[0].sql("SELECT kind, count(*) FROM pgtandem.decision GROUP BY 1 ORDER BY 1");
    eprintln!("{} transactions; {}", shared.writes.load(Relaxed), decided.replace('\n', ", "));
    let wrong = judge(&fleet);
    assert!(wrong.is_empty(), "SEED={seed}: {} faults\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    assert_eq!(shared.deadlocks.load(Relaxed), 0, "an application was a deadlock's victim");
    assert_eq!(fleet[0].sql("SELECT count(*) FROM pgtandem.held"), "0");
}

#[test]
fn s28_random_writes_and_faults_on_two_nodes() {
    torture::<2>(30);
}

#[test]
#[ignore = "takes long; CI and `make test` run it with two nodes"]
fn s28_random_writes_and_faults_on_three_nodes() {
    torture::<3>(60);
}
