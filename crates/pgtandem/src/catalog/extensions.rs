//! The extensions that direct mode needs.

use tokio_postgres::{Error, GenericClient};

#[derive(Debug, Clone, Default)]
pub struct Extensions {
    /// The schema it is installed in.
    pub dblink: Option<String>,
    pub postgres_fdw: bool,
    /// The server has the files.
    pub dblink_available: bool,
    pub postgres_fdw_available: bool,
    /// May make foreign servers; true if the extension is yet to be made by us.
    pub may_use_wrapper: bool,
}

pub async fn read_extensions(client: &impl GenericClient) -> Result<Extensions, Error> {
    const QUERY: &str = "
        SELECT (SELECT n.nspname::text FROM pg_catalog.pg_extension e
                JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'dblink'),
               EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE e.extname = 'postgres_fdw'),
               EXISTS (SELECT FROM pg_catalog.pg_available_extensions a WHERE a.name = 'dblink'),
               EXISTS (SELECT FROM pg_catalog.pg_available_extensions a WHERE a.name = 'postgres_fdw'),
               coalesce((SELECT pg_catalog.has_foreign_data_wrapper_privilege(w.oid, 'USAGE')
                         FROM pg_catalog.pg_foreign_data_wrapper w WHERE w.fdwname = 'postgres_fdw'), true)";
    let row = client.query_one(QUERY, &[]).await?;
    Ok(Extensions {
        dblink: row.get(0),
        postgres_fdw: row.get(1),
        dblink_available: row.get(2),
        postgres_fdw_available: row.get(3),
        may_use_wrapper: row.get(4),
    })
}
