//! Receipts: what a node was sent and has written, kept until its sender's transaction is known to have committed.
//!
//! A receipt whose sender has no row in `sent` for it, and whose transaction is over, belongs to one that failed after its
//! peer had committed: a row was written there alone. It is put back, unless somebody has written over it, or a change of
//! its key waits, which then decides.

use std::collections::{HashMap, HashSet};

use tokio_postgres::{Client, Error};
use uuid::Uuid;

use crate::connect::in_words;

/// What came of looking through the receipts of one node.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Forgotten: both sides have committed.
    pub forgotten: u64,
    /// Rows put back as they were.
    pub reverted: u64,
    /// Rows that were left: somebody has written over them.
    pub left: u64,
}

/// So many receipts at a time.
const AT_ONCE: i64 = 1000;

/// A change that was written by a transaction that failed at its sender.
struct Stray {
    table: i32,
    op: String,
    old: Option<String>,
    new: Option<String>,
    before: Option<String>,
}

/// Looks through what `receiver` keeps of `sender`'s transactions. Both sessions are used for nothing else meanwhile.
///
/// # Errors
/// When a node is lost, or refuses; what was done until then stays.
pub async fn settle_receipts(sender: &Client, receiver: &mut Client) -> Result<Settled, Error> {
    const RECEIPTS: &str = "SELECT r.token, r.sender_xid::xid::text FROM pgtandem.receipt r WHERE NOT r.refused \
        ORDER BY r.landed_at LIMIT $1";
    // Whoever has a transaction number holds a lock on it, a prepared transaction as well; and lets go of it when what it
    // did can be seen.
    const AT_WORK: &str = "SELECT l.transactionid::text FROM pg_catalog.pg_locks l WHERE l.locktype = 'transactionid' \
        AND l.granted";
    const SENT: &str = "SELECT s.token, s.outcome::text FROM pgtandem.sent s WHERE s.token = ANY ($1)";
    let mut settled = Settled::default();
    let receipts = receiver.query(RECEIPTS, &[&AT_ONCE]).await?;
    let tokens: Vec<Uuid> = receipts.iter().map(|row| row.get(0)).collect();
    if !tokens.is_empty() {
        let at_work = sender.query(AT_WORK, &[]).await?;
        let at_work: HashSet<String> = at_work.iter().map(|row| row.get(0)).collect();
        let sent = sender.query(SENT, &[&tokens]).await?;
        let sent: HashMap<Uuid, String> = sent.iter().map(|row| (row.get(0), row.get(1))).collect();
        let committed = |token: &&Uuid| sent.get(*token).is_some_and(|outcome| outcome != "?");
        let committed: Vec<Uuid> = tokens.iter().filter(committed).copied().collect();
        settled.forgotten = forget(sender, receiver, &committed).await?;
        for row in &receipts {
            let (token, xid): (Uuid, String) = (row.get(0), row.get(1));
            if !sent.contains_key(&token) && !at_work.contains(&xid) {
                match revert(sender, receiver, token, &mut settled).await {
                    // A row is locked, say: another time.
                    Err(error) if error.as_db_error().is_some() => {
                        tracing::warn!(%token, "a row that was written on one side alone cannot be put back yet: {}", in_words(&error));
                    }
                    done => done?,
                }
            }
        }
    }
    if settled.reverted > 0 {
        copy_records(sender, receiver).await?;
    }
    forget_sent(sender, receiver).await?;
    forget_refused(receiver).await?;
    Ok(settled)
}

/// The receiver first, and on disk: a receipt without its sender's row would be taken for a stray.
async fn forget(sender: &Client, receiver: &Client, tokens: &[Uuid]) -> Result<u64, Error> {
    const RECEIPTS: &str = "DELETE FROM pgtandem.receipt WHERE token = ANY ($1) AND NOT refused";
    const SENT: &str = "WITH gone AS (DELETE FROM pgtandem.sent WHERE token = ANY ($1) AND outcome = 'l') \
        UPDATE pgtandem.sent SET outcome = 'd' WHERE token = ANY ($1) AND outcome = 'L'";
    if tokens.is_empty() {
        return Ok(0);
    }
    let forgotten = receiver.execute(RECEIPTS, &[&tokens]).await?;
    sender.execute(SENT, &[&tokens]).await?;
    Ok(forgotten)
}

/// Those whose receipt is gone already: the session's next transaction told the receiver, and then failed here.
async fn forget_sent(sender: &Client, receiver: &Client) -> Result<(), Error> {
    const LANDED: &str = "SELECT s.token FROM pgtandem.sent s WHERE s.outcome IN ('l', 'L') LIMIT $1";
    const KEPT: &str = "SELECT r.token FROM pgtandem.receipt r WHERE r.token = ANY ($1)";
    let landed = sender.query(LANDED, &[&AT_ONCE]).await?;
    let landed: Vec<Uuid> = landed.iter().map(|row| row.get(0)).collect();
    if landed.is_empty() {
        return Ok(());
    }
    let kept: HashSet<Uuid> = receiver.query(KEPT, &[&landed]).await?.iter().map(|row| row.get(0)).collect();
    let gone: Vec<Uuid> = landed.into_iter().filter(|token| !kept.contains(token)).collect();
    forget(sender, receiver, &gone).await.map(drop)
}

/// A refusal stands as long as a session is there that could still be about to bring what is refused.
async fn forget_refused(receiver: &Client) -> Result<(), Error> {
    const REFUSED: &str = "DELETE FROM pgtandem.receipt r WHERE r.refused AND r.landed_at < now() - interval '1 day' \
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.application_name = 'pgtandem direct' \
                        AND coalesce(a.backend_start <= r.landed_at, true))";
    receiver.execute(REFUSED, &[]).await.map(drop)
}

/// From the last change to the first.
async fn revert(sender: &Client, receiver: &mut Client, token: Uuid, settled: &mut Settled) -> Result<(), Error> {
    const SIGN: &str = "SELECT pg_catalog.set_config('pgtandem.delivery', n.secret::text, true) FROM pgtandem.node n";
    const CHANGES: &str = "
        SELECT c.of_table, c.op, c.old_row, c.new_row, c.before FROM pgtandem.receipt r
        CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(r.tables), pg_catalog.regexp_split_to_table(r.ops, ''),
            pg_catalog.unnest(r.olds), pg_catalog.unnest(r.news), pg_catalog.unnest(r.befores))
            WITH ORDINALITY AS c (of_table, op, old_row, new_row, before, at)
        WHERE r.token = $1 AND NOT r.refused ORDER BY c.at";
    let transaction = receiver.transaction().await?;
    transaction.query(SIGN, &[]).await?;
    let lock = "SELECT FROM pgtandem.receipt r WHERE r.token = $1 FOR UPDATE";
    transaction.query(lock, &[&token]).await?;
    let changes: Vec<Stray> = transaction.query(CHANGES, &[&token]).await?.iter().map(stray).collect();
    for (at, change) in changes.iter().enumerate().rev() {
        let step = format!("SELECT pgtandem.revert_{}($1, $2, $3, $4)", change.table);
        transaction.batch_execute("SAVEPOINT step").await?;
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&change.op, &change.old, &change.new, &change.before];
        let done = transaction.query_one(&step, &parameters).await?.get::<_, bool>(0);
        // Asked while its row is locked here: whatever the sender has of the key since, has not come here in between.
        let own = changes[..at].iter().any(|earlier| earlier.table == change.table && earlier.new == change.before);
        let is_own = own && change.before.is_some();
        if done && (is_own || stands(sender, change).await?) {
            settled.reverted += 1;
            transaction.batch_execute("RELEASE step").await?;
        } else {
            settled.left += 1;
            transaction.batch_execute("ROLLBACK TO step; RELEASE step").await?;
        }
    }
    transaction.execute("DELETE FROM pgtandem.receipt WHERE token = $1", &[&token]).await?;
    transaction.commit().await
}

/// What was put back is on record on both nodes, as all decisions are.
async fn copy_records(sender: &Client, receiver: &Client) -> Result<(), Error> {
    const COLUMNS: &str = "table_id, key, key_bytes, winner_node, winner_position, loser_node, loser_position, \
        winner_stamp, loser_stamp, kind, winner_row, loser_row, policy, why, decided_at";
    let read = format!(
        "SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(d)) FROM (SELECT {COLUMNS} FROM pgtandem.decision \
         WHERE kind = 'written here alone') AS d"
    );
    let write = format!(
        "INSERT INTO pgtandem.decision ({COLUMNS}) SELECT {COLUMNS} \
         FROM pg_catalog.jsonb_populate_recordset(NULL::pgtandem.decision, $1) ON CONFLICT DO NOTHING"
    );
    let rows: Option<serde_json::Value> = receiver.query_one(&read, &[]).await?.get(0);
    sender.execute(&write, &[&rows]).await.map(drop)
}

fn stray(row: &tokio_postgres::Row) -> Stray {
    Stray { table: row.get(0), op: row.get(1), old: row.get(2), new: row.get(3), before: row.get(4) }
}

/// Whether the sender's row is still what the receiver's was before: as if nothing had been sent.
async fn stands(sender: &Client, change: &Stray) -> Result<bool, Error> {
    let query = format!("SELECT pgtandem.stands_{}($1, $2)", change.table);
    let ask = async |keyed: &Option<String>, expected: &Option<String>| {
        sender.query_one(&query, &[keyed, expected]).await.map(|row| row.get::<_, bool>(0))
    };
    match change.op.as_str() {
        "K" => Ok(ask(&change.old, &change.before).await? && ask(&change.new, &None).await?),
        "D" => ask(&change.old, &change.before).await,
        _ => ask(&change.new, &change.before).await,
    }
}
