//! What the role we connect as may do.

use std::collections::HashMap;
use tokio_postgres::{Error, GenericClient};

#[derive(Debug, Clone)]
pub struct RoleFacts {
    pub name: String,
    pub superuser: bool,
    /// May open replication connections.
    pub replication: bool,
    pub bypass_row_security: bool,
    /// May set `session_replication_role`, so that the application's triggers stay quiet for our rows.
    pub may_set_replication_role: bool,
    /// CREATE on the database: for the schema and the publication.
    pub may_create_in_database: bool,
    pub tables: HashMap<u32, TableRights>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct TableRights {
    /// Owner, or member of the owning role: what publications and REPLICA IDENTITY ask for.
    pub owner: bool,
    pub read: bool,
    pub write: bool,
    pub truncate: bool,
    /// CREATE on the table's schema is not needed, USAGE is.
    pub schema_usage: bool,
}

pub async fn read_role(client: &impl GenericClient, relids: &[u32]) -> Result<RoleFacts, Error> {
    const ROLE: &str = "
        SELECT r.rolname::text, r.rolsuper, r.rolbypassrls,
               r.rolsuper OR r.rolreplication
               OR coalesce((SELECT pg_catalog.pg_has_role(managed.oid, 'MEMBER')   -- Amazon RDS
                            FROM pg_catalog.pg_roles managed WHERE managed.rolname = 'rds_replication'), false),
               pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
               pg_catalog.current_setting('server_version_num')::int
        FROM pg_catalog.pg_roles r WHERE r.rolname = current_user";
    const TABLES: &str = "
        SELECT c.oid, pg_catalog.pg_has_role(c.relowner, 'USAGE'),
               pg_catalog.has_table_privilege(c.oid, 'SELECT'),
               pg_catalog.has_table_privilege(c.oid, 'INSERT') AND pg_catalog.has_table_privilege(c.oid, 'UPDATE')
                   AND pg_catalog.has_table_privilege(c.oid, 'DELETE'),
               pg_catalog.has_table_privilege(c.oid, 'TRUNCATE'),
               pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE')
        FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1)";
    let role = client.query_one(ROLE, &[]).await?;
    let superuser: bool = role.get(1);
    // Before PostgreSQL 15 the right to set a parameter could not be granted.
    let may_set_replication_role = superuser
        || (role.get::<_, i32>(5) >= 150_000
            && client
                .query_one("SELECT pg_catalog.has_parameter_privilege('session_replication_role', 'SET')", &[])
                .await?
                .get(0));
    let mut tables = HashMap::new();
    for row in client.query(TABLES, &[&relids]).await? {
        let rights = TableRights {
            owner: row.get(1),
            read: row.get(2),
            write: row.get(3),
            truncate: row.get(4),
            schema_usage: row.get(5),
        };
        tables.insert(row.get(0), rights);
    }
    Ok(RoleFacts {
        name: role.get(0),
        superuser,
        bypass_row_security: superuser || role.get::<_, bool>(2),
        replication: role.get(3),
        may_create_in_database: role.get(4),
        may_set_replication_role,
        tables,
    })
}
