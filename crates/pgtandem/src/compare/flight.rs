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
    /// Up to where its slot or its outbox has been acknowledged; none: no hub reads it.
    acknowledged: Option<PgLsn>,
    /// Up to which position of each node what landed here reflects it; by number.
    covers: Vec<PgLsn>,
}

/// Waits until every change that was committed on any node before this call has reached all others.
pub(super) async fn wait_for_landings(sides: &[Side<'_>]) -> Result<Landed, CompareError> {
    let mut marks = try_join_all(sides.iter().map(mark)).await?;
    let began = Instant::now();
    loop {
        for (side, mark) in sides.iter().zip(&mut marks) {
            if let Mark::Unread(drawn) = *mark {
                *mark = read_up_to(side, drawn).await?.map_or(Mark::Unread(drawn), Mark::At);
            }
        }
        let news = try_join_all(sides.iter().map(news)).await?;
        let landed = |(node, mark): (usize, &Mark)| match mark {
            Mark::At(position) => has_landed(node, *position, &news),
            Mark::Unread(_) => news[node].acknowledged.is_none(),
        };
        if marks.iter().enumerate().all(landed) {
            return Ok(Landed::All);
        }
        if began.elapsed() > PATIENCE {
            return Ok(Landed::NotYet);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Up to where a node's changes are waited for.
enum Mark {
    At(PgLsn),
    /// Of an outbox: what had been drawn of its numbers. Its position is known once it has been read.
    Unread(i64),
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

/// Whether the node's changes are read from an outbox that we may look at.
const HAS_OUTBOX: &str =
    "EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'pgtandem' AND c.relname = 'outbox_read'
              AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT'))";

async fn mark(side: &Side<'_>) -> Result<Mark, CompareError> {
    let query = format!(
        "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN '0/0'::pg_lsn
                     ELSE pg_catalog.pg_current_wal_insert_lsn() END, {HAS_OUTBOX}"
    );
    let row = side.client.query_one(&query, &[]).await.on(side.name, doing)?;
    if !row.get::<_, bool>(1) {
        return Ok(Mark::At(row.get(0)));
    }
    const DRAWN: &str = "SELECT last_value FROM pgtandem.outbox_id";
    Ok(Mark::Unread(side.client.query_one(DRAWN, &[]).await.on(side.name, doing)?.get(0)))
}

/// The position of a read that saw all that is there of the numbers up to `drawn`; none yet: some of it is unread.
async fn read_up_to(side: &Side<'_>, drawn: i64) -> Result<Option<PgLsn>, CompareError> {
    const QUERY: &str = "
        SELECT coalesce(pg_catalog.max(r.position), '0/0'),
               EXISTS (SELECT FROM pgtandem.outbox o
                       WHERE o.id OPERATOR(pg_catalog.<=) $1
                         AND NOT coalesce((SELECT pg_catalog.pg_visible_in_snapshot(o.xid, l.snapshot) AND o.id <= l.drawn
                                           FROM pgtandem.outbox_read l ORDER BY l.position DESC LIMIT 1), false))
        FROM pgtandem.outbox_read r";
    let row = side.client.query_one(QUERY, &[&drawn]).await.on(side.name, doing)?;
    Ok(if row.get(1) { None } else { Some(row.get(0)) })
}

const SLOTS: &str = "FROM pg_catalog.pg_replication_slots AS s
    WHERE s.slot_name LIKE 'pgtandem\\_%' AND s.plugin = 'pgoutput' AND NOT s.temporary
      AND s.database = pg_catalog.current_database()";

async fn news(side: &Side<'_>) -> Result<News, CompareError> {
    // Any role may read the slots; our own tables only who may. A hub that reads what was missed reads
    // from a copy of its slot.
    let query = format!(
        "
        SELECT coalesce((SELECT pg_catalog.min(s.confirmed_flush_lsn) {SLOTS} AND s.active),
                        (SELECT pg_catalog.min(s.confirmed_flush_lsn) {SLOTS}
                           AND EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a
                                       WHERE a.datname = s.database AND a.application_name = 'pgtandem capture'
                                         AND a.backend_type = 'walsender'))),
               (SELECT pg_catalog.count(*) = 2
                FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'pgtandem' AND c.relname IN ('node', 'landing')
                  AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                  AND pg_catalog.has_table_privilege(c.oid, 'SELECT')), {HAS_OUTBOX}"
    );
    const LINK: &str = "
        SELECT (SELECT number FROM pgtandem.node),
               coalesce((SELECT cover FROM pgtandem.landing ORDER BY id DESC LIMIT 1), '{}')";
    // A hub that reads an outbox says every ten seconds at least that it is there.
    const OUTBOX: &str = "
        SELECT CASE WHEN EXISTS (SELECT FROM pgtandem.hub_status
                                 WHERE seen_at > pg_catalog.clock_timestamp() - interval '15 seconds')
                    THEN (SELECT position FROM pgtandem.outbox_acknowledged) END";
    let row = side.client.query_one(&query, &[]).await.on(side.name, doing)?;
    let (mut number, mut covers, mut acknowledged) = (None, Vec::new(), row.get(0));
    if row.get(1) {
        let row = side.client.query_one(LINK, &[]).await.on(side.name, doing)?;
        (number, covers) = (row.get(0), row.get(1));
    }
    if row.get(2) {
        acknowledged = side.client.query_one(OUTBOX, &[]).await.on(side.name, doing)?.get(0);
    }
    Ok(News { number, acknowledged, covers })
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
