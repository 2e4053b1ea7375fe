//! Direct mode: what has landed on the peer although nobody was told.
//!
//! A transaction that was sent to the peer and not answered is in the outbox, and may be on the peer as well. Before the
//! hub sees it, it is found out: if it landed it is left out, as if the answer had come, for by then both sides have it,
//! and whoever has written over it has seen it. Otherwise the peer will not take it any more, and the hub delivers it.

use std::collections::HashMap;
use std::time::Duration;

use tokio_postgres::Client;

use super::read::OutboxRow;
use super::{BACKLOG, CaptureError, answered};

/// Between two questions while the peer does not answer.
const PAUSE: Duration = Duration::from_millis(200);

/// By transaction: the number of its last row that the peer has. What it wrote behind that, it has not.
#[derive(Debug, Default)]
pub struct Landed(HashMap<u64, i64>);

impl Landed {
    #[must_use]
    pub fn has(&self, row: &OutboxRow) -> bool {
        self.0.get(&row.xid).is_some_and(|last| row.id <= *last)
    }
}

/// The node delivers directly.
pub async fn is_direct(client: &Client) -> Result<bool, CaptureError> {
    const THERE: &str = "SELECT pg_catalog.to_regclass('pgtandem.direct') IS NOT NULL";
    Ok(client.query_one(THERE, &[]).await?.get(0))
}

/// Finds out what became of everything in doubt; waits until the peer answers. None: nobody listens any more. What was
/// found out is on disk when this returns: the peer may forget it, and a later read must find the same.
pub async fn find_out(
    client: &Client,
    silence: Duration,
    is_over: impl Fn() -> bool,
) -> Result<Option<Landed>, CaptureError> {
    const ANY: &str = "SELECT EXISTS (SELECT FROM pgtandem.sent s WHERE s.outcome IN ('?', 'r'))";
    const SETTLE: &str = "SELECT pgtandem.settle_doubts()";
    const LANDED: &str = "SELECT s.xid::text, s.last_id FROM pgtandem.sent s WHERE s.outcome IN ('L', 'd')";
    let ask = async |query: &'static str, patience: u32| {
        let asked = async { Ok(client.query_one(query, &[]).await?.get::<_, bool>(0)) };
        answered(silence * patience, asked).await
    };
    let mut said = false;
    while ask(ANY, 1).await? {
        if ask(SETTLE, BACKLOG).await? {
            continue;
        }
        if !said {
            tracing::info!("waiting for the peer: it must tell what became of a transaction it was sent");
            said = true;
        }
        if is_over() {
            return Ok(None);
        }
        tokio::time::sleep(PAUSE).await;
    }
    let rows = answered(silence, async { Ok(client.query(LANDED, &[]).await?) }).await?;
    let mut landed = Landed::default();
    for row in &rows {
        let last: i64 = row.get(1);
        let known = landed.0.entry(super::read::xid(row.get(0))?).or_default();
        *known = last.max(*known);
    }
    Ok(Some(landed))
}

/// Keys of which nothing is needed any more may go directly again.
pub async fn forget(client: &Client, snapshot: &str, drawn: i64) -> Result<(), CaptureError> {
    // A transaction number that a crash gave back may be another's now, whose rows have larger numbers.
    const DONE: &str = "pg_catalog.pg_visible_in_snapshot(t.xid, $1::text::pg_snapshot) \
        AND NOT EXISTS (SELECT FROM pgtandem.outbox o WHERE o.xid = t.xid AND o.id > $2)";
    let queued = format!("DELETE FROM pgtandem.queued t WHERE {DONE}");
    client.execute(&queued, &[&snapshot, &drawn]).await?;
    // Those that landed wait until the peer has forgotten them.
    let sent = format!("DELETE FROM pgtandem.sent t WHERE t.outcome IN ('n', 'd') AND {DONE}");
    client.execute(&sent, &[&snapshot, &drawn]).await?;
    Ok(())
}
