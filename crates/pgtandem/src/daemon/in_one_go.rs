//! Whether what a node has kept for long is read in one go: see [`wire::Backlog`]. Where anything speaks against it,
//! streaming does as well.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hub::Position;
use tokio_postgres::Client;

use super::error::ReachError;
use super::reach::{NodeContext, Slot};

/// So many bytes of WAL are worth it; fewer are soon streamed.
const MUCH: u64 = 8 << 20;

/// Slots with which it has failed, for as long as this process lives: whatever it was, it may be so again, and a hub that
/// starts over must not meet it for ever.
static FAILED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// This slot is streamed from now on.
pub fn has_failed(slot: &str) {
    failed().insert(slot.to_owned());
}

fn failed() -> MutexGuard<'static, BTreeSet<String>> {
    FAILED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `from`: what is behind it is known; a copy of the slot would give it again. `flushed`: how far the node's WAL goes.
pub async fn is_worth_it(
    context: &NodeContext,
    session: &Client,
    slot: &Slot,
    from: Position,
    flushed: Position,
) -> Result<bool, ReachError> {
    let known = from.0.saturating_sub(slot.confirmed.0);
    let missed = flushed.0.saturating_sub(from.max(slot.confirmed).0);
    if !context.in_one_go || missed < MUCH || known >= MUCH || failed().contains(&context.slot) {
        return Ok(false);
    }
    // Nothing is active on the slot itself meanwhile, which 18 may count against it; and its copy does not wait for standbys,
    // as a slot does that moves with a failover (17).
    const FACTS: &str = "
        SELECT pg_catalog.current_setting('server_version_num')::int,
               coalesce(pg_catalog.current_setting('idle_replication_slot_timeout', true), '0') = '0'
               AND NOT coalesce((pg_catalog.to_jsonb(s) ->> 'failover')::bool, false)
        FROM pg_catalog.pg_replication_slots AS s WHERE s.slot_name = $1";
    let Some(row) = session.query_opt(FACTS, &[&context.slot]).await? else { return Ok(false) };
    Ok(row.get::<_, bool>(1) && decodes_well(row.get(0)))
}

/// Versions in which a slot may be moved by SQL without losing catalog rows that it still needs, and in which a session may
/// call pgoutput more than a few times: both were mended by these.
fn decodes_well(version: i32) -> bool {
    let least = match version / 10_000 {
        14 => 14_0018,
        15 => 15_0013,
        16 => 16_0009,
        17 => 17_0005,
        _ => 18_0000,
    };
    version >= least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_that_were_mended_are_trusted() {
        for (version, well) in [
            (140_017, false),
            (140_018, true),
            (150_012, false),
            (150_018, true),
            (170_005, true),
            (180_000, true),
            (130_023, false),
        ] {
            assert_eq!(decodes_well(version), well, "{version}");
        }
    }

    #[test]
    fn a_slot_that_failed_is_streamed_from_then_on() {
        assert!(!failed().contains("pgtandem_a"));
        has_failed("pgtandem_a");
        assert!(failed().contains("pgtandem_a") && !failed().contains("pgtandem_b"));
    }
}
