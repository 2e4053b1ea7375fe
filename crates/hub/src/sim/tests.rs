//! Ten thousand schedules, each from its seed.

use super::run::{Policy, Shape, Simulation};
use crate::hub::Broken;

/// Every combination of what may happen, by number.
fn shape(number: u64) -> Shape {
    let bit = |n: u64| number >> n & 1 == 1;
    let inline = bit(8) && bit(9);
    Shape {
        nodes: if inline { 2 } else { 2 + (number % 3) as u8 },
        keys: 1 + (number / 3 % 3) as u8,
        steps: if number.is_multiple_of(5) { 400 } else { 300 },
        crash: bit(1) || bit(4),
        jump_back: bit(4),
        truncates: bit(2),
        moves: bit(3),
        holds: bit(5),
        outages: bit(6),
        triggers: if inline {
            0b11
        } else if bit(7) {
            (number / 256 % 16) as u8
        } else {
            0
        },
        inline,
        policy: [Policy::Newest, Policy::Prefer, Policy::Coin][(number / 7 % 3) as usize],
    }
}

fn one(seed: u64, shape: Shape, broken: Option<Broken>, trace: bool) -> Result<(), String> {
    Simulation::new(seed, shape, broken, trace).run()
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|v| v.parse().unwrap_or_else(|_| panic!("{name}={v} is not a number")))
}

#[test]
fn schedules() {
    if let Some(seed) = env("SEED") {
        println!("{:?}", shape(seed));
        return one(seed, shape(seed), None, true).unwrap_or_else(|e| panic!("SEED={seed}: {e}"));
    }
    let count = env("SCHEDULES").unwrap_or(12_000);
    let fresh = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
    let first = env("FIRST").unwrap_or(fresh % 1_000_000_000_000);
    println!("schedules {first} to {}", first + count - 1);
    let mask = env("MASK").unwrap_or(0);
    let mut failures = 0;
    for seed in first..first + count {
        if shape(seed).tag() & mask != 0 {
            continue;
        }
        if let Err(error) = one(seed, shape(seed), None, false) {
            println!("SEED={seed} cargo test -p hub schedules: {error} {:?}", shape(seed));
            failures += 1;
        }
    }
    assert_eq!(failures, 0, "of {count} schedules from {first}");
}
