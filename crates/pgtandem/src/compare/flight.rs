//! Changes that are on their way from one node to another.

use super::CompareError;
use super::error::On;
use super::subject::Side;
use futures::future::try_join_all;
use std::time::{Duration, Instant};
use tokio_postgres::types::PgLsn;

/// A hub that has not delivered by then has much to do, or something keeps it.
const PATIENCE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

/// Whether what had been written before has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Landed {
    /// Everything has, or nothing is on its way: no hub is at work.
    All,
    NotYet,
}

/// Waits until every change that was committed on any node before this call has reached all others. A slot of ours
/// passes a change only when every node has it; any role may read that.
pub(super) async fn wait_for_landings(sides: &[Side<'_>]) -> Result<Landed, CompareError> {
    let positions = try_join_all(sides.iter().map(position)).await?;
    let began = Instant::now();
    loop {
        let passed = try_join_all(sides.iter().zip(&positions).map(|(side, position)| has_passed(side, *position)));
        if passed.await?.into_iter().all(|passed| passed) {
            return Ok(Landed::All);
        }
        if began.elapsed() > PATIENCE {
            return Ok(Landed::NotYet);
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn position(side: &Side<'_>) -> Result<PgLsn, CompareError> {
    const QUERY: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN '0/0'::pg_lsn
                                     ELSE pg_catalog.pg_current_wal_insert_lsn() END";
    Ok(side.client.query_one(QUERY, &[]).await.on(side.name, doing)?.get(0))
}

async fn has_passed(side: &Side<'_>, position: PgLsn) -> Result<bool, CompareError> {
    const QUERY: &str = "SELECT coalesce(pg_catalog.bool_and(confirmed_flush_lsn >= $1), true)
                         FROM pg_catalog.pg_replication_slots
                         WHERE slot_name LIKE 'pgtandem\\_%' AND plugin = 'pgoutput' AND active AND NOT temporary
                           AND database = pg_catalog.current_database()";
    Ok(side.client.query_one(QUERY, &[&position]).await.on(side.name, doing)?.get(0))
}

fn doing() -> String {
    "waiting for changes that are on their way".to_owned()
}
