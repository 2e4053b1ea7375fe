//! For every rule a proof that an oracle notices when it is missing: none is optional.

use super::run::{Policy, Shape, Simulation};
use crate::hub::Broken;

const CALM: Shape = Shape {
    nodes: 3,
    keys: 1,
    steps: 300,
    crash: false,
    jump_back: false,
    truncates: false,
    moves: false,
    holds: false,
    outages: true,
    policy: Policy::Newest,
};
const CRASH: Shape = Shape { crash: true, ..CALM };
const COIN: Shape = Shape { policy: Policy::Coin, ..CRASH };

const SCHEDULES: u64 = 60_000;

/// Some schedule of this shape must fail without the rule, and by an oracle's word.
fn notices(broken: Broken, shape: Shape) {
    for seed in 0..SCHEDULES {
        if let Err(error) = Simulation::new(seed, shape, Some(broken), false).run() {
            println!("without {broken:?}: seed {seed}: {error}");
            return;
        }
    }
    panic!("{SCHEDULES} schedules hold without {broken:?}: {shape:?}");
}

/// Acknowledging what was judged, before its key has retired, loses causality in a crash.
#[test]
fn acknowledged_only_below_unretired_keys() {
    notices(Broken::Ack, CRASH);
}

/// A key may not retire while a change before its last landing can still be judged.
#[test]
fn retired_only_when_landings_are_passed() {
    notices(Broken::Passed, CALM);
}

/// Landings tell what was seen.
#[test]
fn seen_by_landings() {
    notices(Broken::Seen, CALM);
}

/// Nothing of a node is judged while a delivery to it is in flight.
#[test]
fn not_judged_in_flight() {
    notices(Broken::Landing, CALM);
}

/// Recovery owes nothing that every node covers.
#[test]
fn covered_is_not_owed_again() {
    notices(Broken::Covered, CRASH);
}

/// A winner that a delivery overwrote on its own node is put back there.
#[test]
fn overwritten_is_put_back() {
    notices(Broken::Overwritten, CALM);
}

/// A decision is made once: after a restart it is looked up.
#[test]
fn decisions_are_kept() {
    notices(Broken::Decisions, COIN);
}

/// Both halves of a key change have one fate.
#[test]
fn key_changes_are_paired() {
    let shape = Shape { moves: true, keys: 3, ..CALM };
    notices(Broken::Pairing, shape);
}

/// A key that comes into the window is judged against an unretired TRUNCATE.
#[test]
fn keys_begin_from_truncates() {
    let shape = Shape { truncates: true, ..CALM };
    notices(Broken::Truncate, shape);
}

/// What a TRUNCATE sweeps away on its target is written again.
#[test]
fn truncated_rows_are_written_again() {
    let shape = Shape { truncates: true, keys: 2, ..CALM };
    notices(Broken::TruncatedRows, shape);
}

/// A change written while the key was held had not seen what is held.
#[test]
fn held_is_not_seen() {
    let shape = Shape { holds: true, ..CALM };
    notices(Broken::HeldException, shape);
}

/// A change written over a delivery, not over its predecessor, overrides it unknowingly.
#[test]
fn overrides_are_recorded() {
    notices(Broken::OverrideRecord, CALM);
}

/// A held record stands until the landing that wrote the key is passed.
#[test]
fn held_records_outlive_their_release() {
    let shape = Shape { nodes: 2, holds: true, outages: false, ..CRASH };
    notices(Broken::Released, shape);
}
