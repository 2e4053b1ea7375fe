//! Receipts: what a node was sent and has written, kept until its sender's transaction is known to have committed.
//!
//! A receipt whose sender has no row in `sent` for it, and whose transaction is over, belongs to one that failed after its
//! peer had committed: a row was written there alone. It is put back, unless somebody has written over it, or a change of
//! its key waits, which then decides.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Transaction};
use uuid::Uuid;

use crate::connect::{FaultClass, in_words};
use crate::link;

/// What came of looking through the receipts of one node.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Forgotten: both sides have committed.
    pub forgotten: u64,
    /// Rows put back as they were.
    pub reverted: u64,
    /// Rows that were left: somebody has written over them, say.
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
    /// As the receiver has kept it.
    before: Option<String>,
}

/// A receipt whose sender's transaction is over.
enum Open {
    /// It was put back, and its sender has not got the record yet.
    Noted(Uuid),
    /// It is to be put back.
    Stray(Uuid),
}

/// Looks through what `receiver` keeps of `sender`'s transactions. Both sessions are used for nothing else meanwhile.
///
/// # Errors
/// When a node is lost, or refuses; what was done until then stays.
pub async fn settle_receipts(sender: &Client, receiver: &mut Client) -> Result<Settled, Error> {
    let mut settled = Settled::default();
    let open = look_through(sender, receiver, &mut settled).await?;
    let is_stray = |open: &Open| matches!(open, Open::Stray(_));
    let strays: Vec<Uuid> = open.iter().filter(|open| is_stray(open)).map(Open::token).collect();
    // Of two that wrote the same row the later one goes first.
    for open in open.iter().rev() {
        let token = open.token();
        let done = async {
            if is_stray(open) {
                revert(sender, receiver, token, &strays, &mut settled).await?;
            }
            pass_on(sender, receiver, token).await
        };
        match done.await {
            // A row is locked, say: another time.
            Err(error) if error.as_db_error().is_some() => {
                tracing::warn!(%token, "a row that was written on one side alone cannot be put back yet: {}", in_words(&error));
            }
            done => done?,
        }
    }
    forget_sent(sender, receiver).await?;
    forget_refused(receiver).await?;
    Ok(settled)
}

/// From the oldest receipt to the newest; those that both sides have committed are forgotten on the way.
async fn look_through(sender: &Client, receiver: &Client, settled: &mut Settled) -> Result<Vec<Open>, Error> {
    const RECEIPTS: &str = "SELECT r.token, r.sender_xid::xid::text, r.noted IS NOT NULL, r.landed_at \
        FROM pgtandem.receipt r WHERE NOT r.refused AND ($2::timestamptz IS NULL OR (r.landed_at, r.token) > ($2, $3)) \
        ORDER BY r.landed_at, r.token LIMIT $1";
    // Whoever has a transaction number holds a lock on it, a prepared transaction as well; and lets go of it when what it
    // did can be seen.
    const AT_WORK: &str = "SELECT l.transactionid::text FROM pg_catalog.pg_locks l WHERE l.locktype = 'transactionid' \
        AND l.granted";
    const SENT: &str = "SELECT s.token, s.outcome::text FROM pgtandem.sent s WHERE s.token = ANY ($1) \
        UNION ALL SELECT s.token, 'l' FROM pgtandem.single s WHERE s.token = ANY ($1)";
    let mut open = Vec::new();
    let mut behind: (Option<SystemTime>, Uuid) = (None, Uuid::nil());
    loop {
        let receipts = receiver.query(RECEIPTS, &[&AT_ONCE, &behind.0, &behind.1]).await?;
        let Some(last) = receipts.last() else { return Ok(open) };
        behind = (Some(last.get(3)), last.get(0));
        let tokens: Vec<Uuid> = receipts.iter().map(|row| row.get(0)).collect();
        let at_work = sender.query(AT_WORK, &[]).await?;
        let at_work: HashSet<String> = at_work.iter().map(|row| row.get(0)).collect();
        let sent = sender.query(SENT, &[&tokens]).await?;
        let sent: HashMap<Uuid, String> = sent.iter().map(|row| (row.get(0), row.get(1))).collect();
        // What waits may have come with a transaction that failed; its own has not.
        let is_open = |outcome: &String| ["?", "q", "w", "r"].contains(&outcome.as_str());
        let committed = |token: &&Uuid| sent.get(*token).is_some_and(|outcome| !is_open(outcome));
        let committed: Vec<Uuid> = tokens.iter().filter(committed).copied().collect();
        settled.forgotten += forget(sender, receiver, &committed).await?;
        for row in &receipts {
            let (token, xid): (Uuid, String) = (row.get(0), row.get(1));
            if row.get(2) {
                open.push(Open::Noted(token));
            } else if !sent.contains_key(&token) && !at_work.contains(&xid) {
                open.push(Open::Stray(token));
            }
        }
    }
}

/// The receiver first, and on disk: a receipt without its sender's row would be taken for a stray.
async fn forget(sender: &Client, receiver: &Client, tokens: &[Uuid]) -> Result<u64, Error> {
    const RECEIPTS: &str = "DELETE FROM pgtandem.receipt WHERE token = ANY ($1) AND NOT refused";
    const SENT: &str = "WITH gone AS (DELETE FROM pgtandem.sent WHERE token = ANY ($1) AND outcome = 'l'), \
        single AS (DELETE FROM pgtandem.single WHERE token = ANY ($1)) \
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
    const LANDED: &str = "SELECT s.token FROM pgtandem.sent s WHERE s.outcome IN ('l', 'L') AND s.token > $2 \
        UNION ALL SELECT s.token FROM pgtandem.single s WHERE s.token > $2 ORDER BY token LIMIT $1";
    const KEPT: &str = "SELECT r.token FROM pgtandem.receipt r WHERE r.token = ANY ($1)";
    let mut behind = Uuid::nil();
    loop {
        let landed = sender.query(LANDED, &[&AT_ONCE, &behind]).await?;
        let landed: Vec<Uuid> = landed.iter().map(|row| row.get(0)).collect();
        let Some(last) = landed.last() else { return Ok(()) };
        behind = *last;
        let kept: HashSet<Uuid> = receiver.query(KEPT, &[&landed]).await?.iter().map(|row| row.get(0)).collect();
        let gone: Vec<Uuid> = landed.into_iter().filter(|token| !kept.contains(token)).collect();
        forget(sender, receiver, &gone).await?;
    }
}

/// A refusal stands as long as a session is there that could still be about to bring what is refused.
async fn forget_refused(receiver: &Client) -> Result<(), Error> {
    const REFUSED: &str = "DELETE FROM pgtandem.receipt r WHERE r.refused AND r.landed_at < now() - interval '1 day' \
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.application_name = 'pgtandem direct' \
                        AND coalesce(a.backend_start <= r.landed_at, true))";
    receiver.execute(REFUSED, &[]).await.map(drop)
}

/// From the last change to the first. The receipt stays, with which records its sender is to get.
async fn revert(
    sender: &Client,
    receiver: &mut Client,
    token: Uuid,
    strays: &[Uuid],
    settled: &mut Settled,
) -> Result<(), Error> {
    const SIGN: &str = "SELECT pg_catalog.set_config('pgtandem.delivery', n.secret::text, true) FROM pgtandem.node n";
    // Another pass may be at it, of a hub that is being followed.
    const LOCK: &str = "SELECT FROM pgtandem.receipt r WHERE r.token = $1 AND r.noted IS NULL FOR UPDATE";
    const NUMBER: &str = "SELECT pg_catalog.nextval('pgtandem.alone_number')";
    const NOTED: &str = "UPDATE pgtandem.receipt SET noted = pg_catalog.int8range($2, $3) WHERE token = $1";
    let transaction = receiver.transaction().await?;
    transaction.query(SIGN, &[]).await?;
    if transaction.query_opt(LOCK, &[&token]).await?.is_none() {
        return Ok(());
    }
    let from: i64 = transaction.query_one(NUMBER, &[]).await?.get(0);
    let changes = read_changes(&transaction, token).await?;
    let mut done = Settled::default();
    for (at, change) in changes.iter().enumerate().rev() {
        transaction.batch_execute("SAVEPOINT step").await?;
        let context = Context { sender, transaction: &transaction, token, strays, earlier: &changes[..at] };
        match about_the_row(context.revert(change).await)?.unwrap_or_else(Some) {
            None => {
                done.reverted += 1;
                transaction.batch_execute("RELEASE step").await?;
            }
            Some(why) => {
                done.left += 1;
                transaction.batch_execute("ROLLBACK TO step").await?;
                leave(&transaction, change, &why).await?;
                transaction.batch_execute("RELEASE step").await?;
            }
        }
    }
    let upto: i64 = transaction.query_one(NUMBER, &[]).await?.get(0);
    transaction.execute(NOTED, &[&token, &from, &upto]).await?;
    transaction.commit().await?;
    settled.reverted += done.reverted;
    settled.left += done.left;
    Ok(())
}

async fn read_changes(transaction: &Transaction<'_>, token: Uuid) -> Result<Vec<Stray>, Error> {
    const CHANGES: &str = "
        SELECT c.of_table, c.op, c.old_row, c.new_row, c.before FROM pgtandem.receipt r
        CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(r.tables), pg_catalog.regexp_split_to_table(r.ops, ''),
            pg_catalog.unnest(r.olds), pg_catalog.unnest(r.news), pg_catalog.unnest(r.befores))
            WITH ORDINALITY AS c (of_table, op, old_row, new_row, before, at)
        WHERE r.token = $1 ORDER BY c.at";
    let stray = |row: &tokio_postgres::Row| Stray {
        table: row.get(0),
        op: row.get(1),
        old: row.get(2),
        new: row.get(3),
        before: row.get(4),
    };
    Ok(transaction.query(CHANGES, &[&token]).await?.iter().map(stray).collect())
}

/// What is needed to tell whether a change can be put back.
struct Context<'a> {
    sender: &'a Client,
    transaction: &'a Transaction<'a>,
    token: Uuid,
    /// Receipts that are to be put back.
    strays: &'a [Uuid],
    /// Changes of the same transaction before this one.
    earlier: &'a [Stray],
}

impl Context<'_> {
    /// None: the row is as it was. Otherwise why not.
    async fn revert(&self, change: &Stray) -> Result<Option<String>, Error> {
        let step = format!("SELECT r.why, r.before FROM pgtandem.revert_{}($1, $2, $3, $4) r", change.table);
        let parameters: [&(dyn ToSql + Sync); 4] = [&change.op, &change.old, &change.new, &change.before];
        let row = self.transaction.query_one(&step, &parameters).await?;
        let (why, before): (Option<String>, Option<String>) = (row.get(0), row.get(1));
        if why.is_some() {
            return Ok(why);
        }
        let own = self.earlier.iter().any(|earlier| earlier.table == change.table && earlier.new == before);
        if own && before.is_some() {
            return Ok(None);
        }
        // Asked while its row is locked here: whatever the sender has of the key since, has not come here in between.
        if stands(self.sender, change, &before).await? || self.is_of_a_stray(change, before.as_deref()).await? {
            return Ok(None);
        }
        Ok(Some("its sender has written it since".to_owned()))
    }

    /// What was there before is of a transaction that failed as well, and is put back next.
    async fn is_of_a_stray(&self, change: &Stray, before: Option<&str>) -> Result<bool, Error> {
        const QUERY: &str = "SELECT EXISTS (
            SELECT FROM pgtandem.receipt r,
                ROWS FROM (pg_catalog.unnest(r.tables), pg_catalog.unnest(r.news)) AS c (of_table, new_row)
            WHERE r.token = ANY ($1) AND r.token <> $2 AND r.noted IS NULL AND c.of_table = $3 AND c.new_row = $4)";
        let Some(before) = before else { return Ok(false) };
        let parameters: [&(dyn ToSql + Sync); 4] = [&self.strays, &self.token, &change.table, &before];
        Ok(self.transaction.query_one(QUERY, &parameters).await?.get(0))
    }
}

/// An error that is about the row, in words; one that may pass, or that a person may mend, stays one.
fn about_the_row<T>(done: Result<T, Error>) -> Result<Result<T, String>, Error> {
    match done {
        Ok(done) => Ok(Ok(done)),
        Err(error) if error.as_db_error().is_none() => Err(error),
        Err(error) => match FaultClass::of(&error) {
            FaultClass::Retry | FaultClass::NotAllowed | FaultClass::Deposed => Err(error),
            FaultClass::RowRejected | FaultClass::ShapeChanged | FaultClass::Unknown(_) => Ok(Err(in_words(&error))),
        },
    }
}

/// Keeps note of a change that is not put back. At a savepoint `step`, and back at it afterwards.
async fn leave(transaction: &Transaction<'_>, change: &Stray, why: &str) -> Result<(), Error> {
    const WHOLE: &str =
        "SELECT pgtandem.note_alone($1, '{}', NULL, $2, pg_catalog.concat('left as it is: ', $3::text))";
    let mut rows = None;
    if change.op != "T" {
        let note = format!("SELECT pgtandem.leave_{}($1, $2, $3, $4, $5)", change.table);
        let parameters: [&(dyn ToSql + Sync); 5] = [&change.op, &change.old, &change.new, &change.before, &why];
        if about_the_row(transaction.query(&note, &parameters).await)?.is_ok() {
            return Ok(());
        }
        // The table has other columns now, say.
        transaction.batch_execute("ROLLBACK TO step").await?;
        rows = Some(serde_json::json!({ "before": change.before, "written": change.new }));
    }
    transaction.query(WHOLE, &[&change.table, &rows, &why]).await.map(drop)
}

/// What became of a receipt's rows is on record on both nodes, as all decisions are. Only then is it forgotten: whoever is
/// killed before that leaves it to the next.
async fn pass_on(sender: &Client, receiver: &Client, token: Uuid) -> Result<(), Error> {
    const NOTED: &str = "kind = 'written here alone' AND winner_node = (SELECT n.number FROM pgtandem.node n) \
        AND (SELECT r.noted FROM pgtandem.receipt r WHERE r.token = $1) @> (loser_position - '0/0')::int8";
    link::copy_decisions(receiver, sender, NOTED, &token).await?;
    receiver.execute("DELETE FROM pgtandem.receipt WHERE token = $1 AND noted IS NOT NULL", &[&token]).await.map(drop)
}

/// Whether the sender's row is still what the receiver's was before: as if nothing had been sent.
async fn stands(sender: &Client, change: &Stray, before: &Option<String>) -> Result<bool, Error> {
    let query = format!("SELECT pgtandem.stands_{}($1, $2)", change.table);
    let ask = async |keyed: &Option<String>, expected: &Option<String>| {
        sender.query_one(&query, &[keyed, expected]).await.map(|row| row.get::<_, bool>(0))
    };
    match change.op.as_str() {
        "K" => Ok(ask(&change.old, before).await? && ask(&change.new, &None).await?),
        "D" => ask(&change.old, before).await,
        _ => ask(&change.new, before).await,
    }
}

impl Open {
    fn token(&self) -> Uuid {
        match self {
            Self::Noted(token) | Self::Stray(token) => *token,
        }
    }
}
