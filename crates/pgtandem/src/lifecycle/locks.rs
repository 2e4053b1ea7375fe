//! Locks: the one that keeps other pgtandems away, and short ones on the application's tables.

use super::error::On;
use super::{LifecycleError, OpenNode};
use crate::link;
use std::time::{Duration, Instant};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// How long the application may have to wait for us, each time we try.
const APPLICATION_PATIENCE: Duration = Duration::from_millis(200);
/// How often and how long we try to get in between the application's transactions.
const OUR_PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Takes the lock on all nodes, in their order, so that two that want it cannot stop each other. It is held until
/// the sessions end.
pub(super) async fn keep_others_away(nodes: &[OpenNode]) -> Result<(), LifecycleError> {
    for node in nodes {
        keep_others_away_from(node).await?;
    }
    Ok(())
}

pub(super) async fn keep_others_away_from(node: &OpenNode) -> Result<(), LifecycleError> {
    let client = node.client();
    let doing = "waiting for the running pgtandem to give way";
    if !link::take_lock(client).await.on(&node.name, doing)? {
        let holder = lock_holder(client).await.on(&node.name, doing)?;
        return Err(LifecycleError::refused(
            format!("node {}: another pgtandem is at work and does not give way: {holder}", node.name),
            "stop it, or wait until it has finished",
        ));
    }
    // A process that was killed may have left a transaction behind that the server has not noticed yet.
    if link::is_installed(client).await.on(&node.name, doing)? == link::Installed::Yes {
        client.batch_execute("SELECT FROM pgtandem.epoch FOR UPDATE").await.on(&node.name, doing)?;
    }
    Ok(())
}

async fn lock_holder(client: &Client) -> Result<String, tokio_postgres::Error> {
    let query = "
        SELECT pg_catalog.format('process %s of %s from %s', a.pid, a.application_name, coalesce(a.client_addr::text, 'this machine'))
        FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
        WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_catalog.pg_database
                                                                      WHERE datname = pg_catalog.current_database())
          AND l.objsubid = 1 AND (l.classid::bigint << 32 | l.objid::bigint) = pg_catalog.hashtextextended('pgtandem', 0)
        LIMIT 1";
    Ok(client.query_opt(query, &[]).await?.map_or_else(|| "an unknown process".to_owned(), |row| row.get(0)))
}

/// Whether a lock was not to be had in time; trying again may help.
pub(super) fn is_lock_timeout(error: &LifecycleError) -> bool {
    let states = [SqlState::LOCK_NOT_AVAILABLE.code(), SqlState::T_R_DEADLOCK_DETECTED.code()];
    error.sqlstate().is_some_and(|state| states.contains(&state))
}

/// Pauses between attempts to get a lock, until patience ends.
pub(super) struct Attempts {
    since: Instant,
    pause: Duration,
}

impl Attempts {
    pub fn new() -> Self {
        Self { since: Instant::now(), pause: FIRST_PAUSE }
    }

    /// False: enough.
    pub async fn again(&mut self) -> bool {
        if self.since.elapsed() > OUR_PATIENCE {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

/// First statement of a transaction that locks something of the application's: whoever queues up behind us waits
/// no longer than this.
pub(super) fn set_lock_timeout() -> String {
    format!("SET LOCAL lock_timeout = {}", APPLICATION_PATIENCE.as_millis())
}

/// Runs statements in one transaction, as often as it takes to get the locks they need on `object`.
pub(super) async fn in_short_transaction(
    node: &OpenNode,
    doing: &str,
    object: &crate::sql::QualifiedName,
    statements: &[String],
) -> Result<(), LifecycleError> {
    let script = format!("BEGIN; {}; {}; COMMIT", set_lock_timeout(), statements.join("; "));
    let mut attempts = Attempts::new();
    loop {
        let error = match node.client().batch_execute(&script).await.on(&node.name, doing) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        node.client().batch_execute("ROLLBACK").await.on(&node.name, doing)?;
        if !is_lock_timeout(&error) {
            return Err(error);
        }
        if !attempts.again().await {
            return Err(busy(node, doing, object).await);
        }
    }
}

/// Says who keeps us from locking `object`.
pub(super) async fn busy(node: &OpenNode, doing: &str, object: &crate::sql::QualifiedName) -> LifecycleError {
    const QUERY: &str = "
        SELECT pg_catalog.format('process %s (%s, transaction open since %s)', a.pid, a.application_name,
                                 pg_catalog.date_trunc('second', a.xact_start)), a.pid
        FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
        WHERE l.relation = pg_catalog.to_regclass($1) AND l.granted AND a.pid <> pg_catalog.pg_backend_pid()
        ORDER BY a.xact_start LIMIT 1";
    let holder = node.client().query_opt(QUERY, &[&object.to_string()]).await.ok().flatten();
    let (who, remedy) = match holder {
        Some(row) => (
            row.get::<_, String>(0),
            format!(
                "let it end, or end it (SELECT pg_terminate_backend({})), and run the command again",
                row.get::<_, i32>(1)
            ),
        ),
        None => {
            ("transactions of the application".to_owned(), "run the command again when there is less to do".to_owned())
        }
    };
    LifecycleError::refused(
        format!(
            "node {}: {doing}: no lock on {} for {} s: {who} holds it",
            node.name,
            object.plain(),
            OUR_PATIENCE.as_secs()
        ),
        remedy,
    )
}
