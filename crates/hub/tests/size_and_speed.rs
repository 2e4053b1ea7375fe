//! What the window costs: memory per key, and time per change. Prints both; fails only when far off, since machines
//! differ and may be busy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hub::{Change, Hub, Key, Landed, Micros, Newest, NodeId, Op, Position, State, TableId};

const KEYS: u64 = 1_000_000;

/// Resident memory of this process, where the system tells it.
fn resident() -> Option<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// One million transactions of one row each, from node 0 to node 1, as one window.
#[test]
fn a_million_keys() {
    // All keys share one image, so that only the hub's own memory is counted.
    let image: Arc<[u8]> = Arc::from([0u8; 64].as_slice());
    let mut hub: Hub<Arc<[u8]>> = Hub::new(2, Box::new(Newest));
    let before = resident();
    let started = Instant::now();
    for number in 1..=KEYS {
        let key = Key::new(TableId(1), number.to_be_bytes().as_slice());
        let state = State::Present(image.clone());
        let change = Change::Row { key, op: Op::Update, state };
        hub.judge(NodeId(0), Position(number), Micros(number as i64), [change]);
    }
    let judged = started.elapsed();
    if let (Some(before), Some(after)) = (before, resident()) {
        let per_key = (after - before) as f64 / KEYS as f64;
        println!("memory: {per_key:.0} bytes a key, all in, the image excluded");
        assert!(per_key < 200.0, "{per_key:.0} bytes a key");
    }
    let started = Instant::now();
    let delivery = hub.cut(NodeId(1)).expect("all of it is owed");
    let cut = started.elapsed();
    assert_eq!(delivery.rows.len() as u64, KEYS);
    let started = Instant::now();
    let landed = Landed {
        position: Position(1),
        durable: Position(1),
        held: Vec::new(),
        missed: Vec::new(),
        before: Position(1),
    };
    drop(delivery);
    hub.landed(NodeId(1), landed);
    hub.advance(NodeId(1), Position(2));
    hub.retire();
    let retired = started.elapsed();
    assert_eq!(hub.window_len(), 0);
    assert_eq!(hub.acknowledged(NodeId(0)), Position(KEYS));
    println!("{KEYS} changes: judged in {judged:?}, cut in {cut:?}, landed and retired in {retired:?}");
    assert!(judged < Duration::from_secs(20), "judging took {judged:?}");
}

/// A hot window: the same thousand keys over and over, a delivery every hundred transactions.
#[test]
fn a_million_changes_of_few_keys() {
    let mut hub: Hub<u64> = Hub::new(2, Box::new(Newest));
    let keys: Vec<Key> = (0..1000u64).map(|n| Key::new(TableId(1), n.to_be_bytes().as_slice())).collect();
    let started = Instant::now();
    for number in 1..=KEYS {
        let key = keys[(number * 7919 % 1000) as usize].clone();
        let change = Change::Row { key, op: Op::Update, state: State::Present(number) };
        hub.judge(NodeId(0), Position(number), Micros(number as i64), [change]);
        if number % 100 == 0 {
            hub.cut(NodeId(1));
            let position = Position(number / 100);
            hub.landed(
                NodeId(1),
                Landed { position, durable: position, held: Vec::new(), missed: Vec::new(), before: position },
            );
            hub.advance(NodeId(1), position);
            hub.retire();
        }
    }
    println!("{KEYS} changes of 1,000 keys with 10,000 deliveries: {:?}", started.elapsed());
    assert!(hub.window_len() <= 100, "{} keys left", hub.window_len());
}
