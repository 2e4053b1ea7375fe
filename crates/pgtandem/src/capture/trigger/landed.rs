//! Direct mode: what has landed on the peer although nobody was told.
//!
//! A transaction that was sent to the peer and not answered is in the outbox, and may be on the peer as well. Before the
//! hub sees it, it is found out: if it landed it is left out, as if the answer had come, for by then both sides have it,
//! and whoever has written over it has seen it. Otherwise the peer will not take it any more, and the hub delivers it.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::read::OutboxRow;
use super::{BACKLOG, CaptureError, answered};

/// Between two questions while the peer does not answer.
const PAUSE: Duration = Duration::from_millis(200);

/// So many are asked about at once.
const PART: i64 = 5000;

/// Opens a session of ours on the peer, if that can be reached.
pub type ReachPeer = Box<dyn Fn() -> BoxFuture<'static, Option<Client>> + Send + Sync>;

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

/// Finds out what became of everything in doubt; waits until the peer answers, the node's server or us. None: nobody listens any more. What was
/// found out is on disk when this returns: the peer may forget it, and a later read must find the same.
pub async fn find_out(
    client: &Client,
    reach_peer: &ReachPeer,
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
        // The way between the servers may be broken where ours is not.
        if let Some(peer) = reach_peer().await
            && ask_ourselves(client, &peer, silence).await?
        {
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

/// As `settle_doubts` does, by our own two sessions. False: the peer does not answer now.
async fn ask_ourselves(client: &Client, peer: &Client, silence: Duration) -> Result<bool, CaptureError> {
    // What the peer says is on its disk before anything here rests on it.
    const ON_DISK: &str = "SET synchronous_commit = local";
    const READ: &str = "SELECT s.token FROM pgtandem.sent s WHERE s.outcome = 'r' ORDER BY s.last_id LIMIT $1";
    const END: &str = "SELECT pgtandem.end_taking($1, $2)::uuid[]";
    const ENDED: &str = "SELECT pgtandem.taking_ended($1, $2, $3)";
    const DOUBTS: &str = "SELECT s.token, s.xid::text FROM pgtandem.sent s WHERE s.outcome = '?'";
    const SETTLE: &str = "SELECT pgtandem.settle_receipt($1, $2::text::xid8)";
    const SETTLED: &str = "UPDATE pgtandem.sent SET outcome = CASE $2::text WHEN 'landed' THEN 'L'::\"char\" ELSE 'n' END \
        WHERE token = $1 AND outcome = '?'";
    if of_the_peer(silence, peer.batch_execute(ON_DISK)).await.is_none() {
        return Ok(false);
    }
    loop {
        let rows = answered(silence, async { Ok(client.query(READ, &[&PART]).await?) }).await?;
        let part: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
        if part.is_empty() {
            break;
        }
        let epoch = Uuid::new_v4();
        let Some(row) = of_the_peer(silence, peer.query_one(END, &[&epoch, &part])).await else { return Ok(false) };
        let there: Vec<Uuid> = row.get(0);
        answered(silence, async { Ok(client.execute(ENDED, &[&epoch, &part, &there]).await?) }).await?;
    }
    for doubt in answered(silence, async { Ok(client.query(DOUBTS, &[]).await?) }).await? {
        let (token, xid): (Uuid, String) = (doubt.get(0), doubt.get(1));
        let Some(row) = of_the_peer(silence, peer.query_one(SETTLE, &[&token, &xid])).await else { return Ok(false) };
        let outcome: String = row.get(0);
        answered(silence, async { Ok(client.execute(SETTLED, &[&token, &outcome]).await?) }).await?;
    }
    Ok(true)
}

/// None: it does not answer, or not now; that is no fault of the node that is read.
async fn of_the_peer<T>(silence: Duration, asked: impl Future<Output = Result<T, Error>>) -> Option<T> {
    match tokio::time::timeout(silence, asked).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            tracing::debug!("asking the peer: {}", crate::connect::in_words(&error));
            None
        }
        Err(_) => None,
    }
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
