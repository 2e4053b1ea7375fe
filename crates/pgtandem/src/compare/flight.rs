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

/// What a node tells of the changes that come from it and to it.
struct News {
    /// Its number in the link; none where we may not read that.
    number: Option<i16>,
    /// Up to where its slot has been acknowledged; none: no hub reads it.
    acknowledged: Option<PgLsn>,
    /// Up to which position of each node what landed here reflects it; by number.
    covers: Vec<PgLsn>,
}

/// Waits until every change that was committed on any node before this call has reached all others.
pub(super) async fn wait_for_landings(sides: &[Side<'_>]) -> Result<Landed, CompareError> {
    let positions = try_join_all(sides.iter().map(position)).await?;
    let began = Instant::now();
    loop {
        let news = try_join_all(sides.iter().map(news)).await?;
        if (0..sides.len()).all(|node| has_landed(node, positions[node], &news)) {
            return Ok(Landed::All);
        }
        if began.elapsed() > PATIENCE {
            return Ok(Landed::NotYet);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A node that is at rest is acknowledged up to its end, though no landing tells of it. One that is busy may not be
/// acknowledged for long, as its changes are remembered while their keys are written again and again; landings go on.
fn has_landed(node: usize, position: PgLsn, news: &[News]) -> bool {
    let Some(acknowledged) = news[node].acknowledged else { return true };
    let Some(number) = news[node].number.and_then(|number| usize::try_from(number).ok()) else {
        return acknowledged >= position;
    };
    let mut others = news.iter().enumerate().filter(|(other, _)| *other != node);
    acknowledged >= position || others.all(|(_, other)| other.covers.get(number).is_some_and(|at| *at >= position))
}

async fn position(side: &Side<'_>) -> Result<PgLsn, CompareError> {
    const QUERY: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN '0/0'::pg_lsn
                                     ELSE pg_catalog.pg_current_wal_insert_lsn() END";
    Ok(side.client.query_one(QUERY, &[]).await.on(side.name, doing)?.get(0))
}

async fn news(side: &Side<'_>) -> Result<News, CompareError> {
    // Any role may read the slots; our own tables only who may.
    const QUERY: &str = "
        SELECT (SELECT pg_catalog.min(confirmed_flush_lsn) FROM pg_catalog.pg_replication_slots
                WHERE slot_name LIKE 'pgtandem\\_%' AND plugin = 'pgoutput' AND active AND NOT temporary
                  AND database = pg_catalog.current_database()),
               (SELECT pg_catalog.count(*) = 2
                FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'pgtandem' AND c.relname IN ('node', 'landing')
                  AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                  AND pg_catalog.has_table_privilege(c.oid, 'SELECT'))";
    const LINK: &str = "
        SELECT (SELECT number FROM pgtandem.node),
               coalesce((SELECT cover FROM pgtandem.landing ORDER BY id DESC LIMIT 1), '{}')";
    let row = side.client.query_one(QUERY, &[]).await.on(side.name, doing)?;
    let (mut number, mut covers) = (None, Vec::new());
    if row.get(1) {
        let row = side.client.query_one(LINK, &[]).await.on(side.name, doing)?;
        (number, covers) = (row.get(0), row.get(1));
    }
    Ok(News { number, acknowledged: row.get(0), covers })
}

fn doing() -> String {
    "waiting for changes that are on their way".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(number: Option<i16>, acknowledged: Option<u64>, covers: [u64; 2]) -> News {
        News { number, acknowledged: acknowledged.map(PgLsn::from), covers: covers.map(PgLsn::from).to_vec() }
    }

    #[test]
    fn a_change_has_landed_once_it_is_acknowledged_or_covered_everywhere_else() {
        let at = PgLsn::from(100);
        let legacy = |cover| news(Some(1), Some(0), [cover, 900]);
        assert!(has_landed(0, at, &[news(Some(0), Some(100), [900, 0]), legacy(0)]));
        assert!(has_landed(0, at, &[news(Some(0), Some(99), [0, 0]), legacy(100)]));
        assert!(!has_landed(0, at, &[news(Some(0), Some(99), [900, 0]), legacy(99)]));
        // Without a hub nothing is on its way; without the right to read landings only the slot tells.
        assert!(has_landed(0, at, &[news(Some(0), None, [0, 0]), legacy(0)]));
        assert!(!has_landed(0, at, &[news(None, Some(99), [0, 0]), legacy(100)]));
    }
}
