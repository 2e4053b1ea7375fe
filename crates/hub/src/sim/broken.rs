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
    triggers: 0,
    inline: false,
    policy: Policy::Newest,
};
const CRASH: Shape = Shape { crash: true, ..CALM };
const COIN: Shape = Shape { policy: Policy::Coin, ..CRASH };

/// Every node has an outbox.
const OUTBOXES: Shape = Shape { triggers: 0b1111, ..CALM };
const OUTBOXES_CRASH: Shape = Shape { crash: true, ..OUTBOXES };

/// And what can goes directly.
const DIRECT: Shape = Shape { nodes: 2, keys: 2, triggers: 0b11, inline: true, ..CALM };

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

/// An outbox is read by what a snapshot sees, not by numbers: those become visible out of order.
#[test]
fn outboxes_are_read_by_snapshots() {
    notices(Broken::Visible, OUTBOXES);
}

/// What one read sees lies on both sides of the landings before it.
#[test]
fn landings_part_what_a_read_sees() {
    notices(Broken::Parted, OUTBOXES);
}

/// What was read from an outbox is on disk before it is judged.
#[test]
fn outboxes_are_judged_when_on_disk() {
    notices(Broken::Flushed, OUTBOXES_CRASH);
}

/// A transaction number that a crash gave back is not taken for the one that a snapshot saw.
#[test]
fn numbers_given_again_are_told_by_what_was_drawn() {
    notices(Broken::Drawn, OUTBOXES_CRASH);
}

/// Reads are kept as long as what they bound.
#[test]
fn reads_are_kept() {
    notices(Broken::Recorded, OUTBOXES_CRASH);
}

/// After a crash of its server a node's positions go on above what other nodes know of it.
#[test]
fn positions_go_on_above_what_is_known() {
    notices(Broken::Onward, OUTBOXES_CRASH);
}

/// Nothing goes directly past a change of its key that waits.
#[test]
fn only_quiet_keys_go_directly() {
    notices(Broken::Quiet, DIRECT);
}

/// What landed without an answer is not judged once more.
#[test]
fn what_landed_unanswered_is_left_out() {
    notices(Broken::Unanswered, DIRECT);
}
