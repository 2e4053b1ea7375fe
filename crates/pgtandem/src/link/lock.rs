//! One pgtandem at a time works on a node: a session's advisory lock, and how its holder is asked for it.

use std::time::{Duration, Instant};
use tokio_postgres::{Error, GenericClient};

/// NOTIFY channel on every node.
pub const CHANNEL: &str = "pgtandem";
/// Payload: tables or held rows were changed by a command, the hub reads them again.
pub const CHANGED: &str = "changed";
/// Payload: the hub ends its deliveries and gives the lock away for a while.
pub const YIELD: &str = "yield";

/// How long a hub at work has to end its deliveries and give the lock away.
const HUB_PATIENCE: Duration = Duration::from_secs(30);
/// Between two times that a hub is asked for it.
const ASK: Duration = Duration::from_secs(1);
/// Between two attempts to get it.
const LOOK: Duration = Duration::from_millis(50);

/// SQL for the lock's key.
pub const LOCK_KEY: &str = "pg_catalog.hashtextextended('pgtandem', 0)";

/// Waits as long as another session holds it.
pub async fn lock(client: &impl GenericClient) -> Result<(), Error> {
    client.batch_execute(&format!("SELECT pg_catalog.pg_advisory_lock({LOCK_KEY})")).await
}

pub async fn try_lock(client: &impl GenericClient) -> Result<bool, Error> {
    let query = format!("SELECT pg_catalog.pg_try_advisory_lock({LOCK_KEY})");
    Ok(client.query_one(&query, &[]).await?.get(0))
}

/// As [`try_lock`], for so long.
pub async fn try_lock_for(client: &impl GenericClient, patience: Duration) -> Result<bool, Error> {
    let since = Instant::now();
    loop {
        if try_lock(client).await? {
            return Ok(true);
        }
        if since.elapsed() > patience {
            return Ok(false);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Takes the lock, and asks whoever has it to give it away. False: it was not to be had in time.
pub async fn take_lock(client: &impl GenericClient) -> Result<bool, Error> {
    let since = Instant::now();
    let mut asked: Option<Instant> = None;
    while !try_lock(client).await? {
        if since.elapsed() > HUB_PATIENCE {
            return Ok(false);
        }
        if asked.is_none_or(|asked| asked.elapsed() > ASK) {
            ask_to_yield(client).await?;
            asked = Some(Instant::now());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(true)
}

pub async fn unlock(client: &impl GenericClient) -> Result<(), Error> {
    client.batch_execute(&format!("SELECT pg_catalog.pg_advisory_unlock({LOCK_KEY})")).await
}

async fn ask_to_yield(client: &impl GenericClient) -> Result<(), Error> {
    notify(client, YIELD).await
}

pub async fn notify_changed(client: &impl GenericClient) -> Result<(), Error> {
    notify(client, CHANGED).await
}

async fn notify(client: &impl GenericClient, payload: &str) -> Result<(), Error> {
    client.execute("SELECT pg_catalog.pg_notify($1, $2)", &[&CHANNEL, &payload]).await?;
    Ok(())
}
