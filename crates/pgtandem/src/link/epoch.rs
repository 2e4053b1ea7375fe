//! `pgtandem.epoch`: which hub may deliver.

use tokio_postgres::{Error, GenericClient};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    pub epoch: i64,
    pub holder: Option<String>,
}

pub async fn read_epoch(client: &impl GenericClient) -> Result<Epoch, Error> {
    let row = client.query_one("SELECT epoch, holder FROM pgtandem.epoch", &[]).await?;
    Ok(Epoch { epoch: row.get(0), holder: row.get(1) })
}

/// Waits for the deliveries that have begun under the epoch before, and lets none of it come after.
pub async fn take_epoch(client: &impl GenericClient, epoch: i64, holder: &str) -> Result<(), Error> {
    const QUERY: &str = "UPDATE pgtandem.epoch SET epoch = $1, holder = $2, taken_at = pg_catalog.clock_timestamp()";
    client.execute(QUERY, &[&epoch, &holder]).await?;
    Ok(())
}
