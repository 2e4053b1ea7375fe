//! `pgtandem.restore`: what was before `up`, for `down`.

use serde_json::Value;
use tokio_postgres::{Error, GenericClient, Row};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreKind {
    /// A sequence's options; object: its qualified name as SQL writes it.
    Sequence,
    /// A table's replica identity; object: its qualified name as SQL writes it.
    ReplicaIdentity,
    /// The fingerprint of the catalog before anything was changed; object: `database`.
    Catalog,
    /// How far the copying of a table is; object: the linked table's id.
    Copy,
    /// Which sessions a trigger fires in; object: the trigger and its table, as SQL writes them.
    Trigger,
    /// The node is being brought back into the link, and no hub may work before that is done; object: `node`.
    Rejoin,
    /// From here on an id of the table means the same on all nodes; object: the linked table's id.
    Renumber,
}

impl RestoreKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sequence => "sequence",
            Self::ReplicaIdentity => "replica identity",
            Self::Catalog => "catalog",
            Self::Copy => "copy",
            Self::Trigger => "trigger",
            Self::Rejoin => "rejoin",
            Self::Renumber => "renumber",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Restore {
    pub object: String,
    pub before: Value,
    pub after: Option<Value>,
}

/// Keeps what is already saved: a repeated `up` must not save its own change as what was before.
pub async fn save_restore(
    client: &impl GenericClient,
    kind: RestoreKind,
    object: &str,
    before: &Value,
    after: Option<&Value>,
) -> Result<(), Error> {
    const QUERY: &str = "INSERT INTO pgtandem.restore (kind, object, before, after) VALUES ($1, $2, $3, $4)
                         ON CONFLICT (kind, object) DO UPDATE SET after = excluded.after";
    client.execute(QUERY, &[&kind.as_str(), &object, before, &after]).await?;
    Ok(())
}

/// Whatever was saved is no longer so.
pub async fn replace_restore(
    client: &impl GenericClient,
    kind: RestoreKind,
    object: &str,
    before: &Value,
) -> Result<(), Error> {
    const QUERY: &str = "INSERT INTO pgtandem.restore (kind, object, before) VALUES ($1, $2, $3)
                         ON CONFLICT (kind, object) DO UPDATE SET before = excluded.before, after = NULL";
    client.execute(QUERY, &[&kind.as_str(), &object, before]).await?;
    Ok(())
}

pub async fn set_restore_after(
    client: &impl GenericClient,
    kind: RestoreKind,
    object: &str,
    after: &Value,
) -> Result<(), Error> {
    const QUERY: &str = "UPDATE pgtandem.restore SET after = $3 WHERE kind = $1 AND object = $2";
    client.execute(QUERY, &[&kind.as_str(), &object, after]).await?;
    Ok(())
}

pub async fn read_restore(
    client: &impl GenericClient,
    kind: RestoreKind,
    object: &str,
) -> Result<Option<Restore>, Error> {
    const QUERY: &str = "SELECT object, before, after FROM pgtandem.restore WHERE kind = $1 AND object = $2";
    Ok(client.query_opt(QUERY, &[&kind.as_str(), &object]).await?.as_ref().map(restore))
}

pub async fn list_restore(client: &impl GenericClient, kind: RestoreKind) -> Result<Vec<Restore>, Error> {
    const QUERY: &str = "SELECT object, before, after FROM pgtandem.restore WHERE kind = $1 ORDER BY object";
    Ok(client.query(QUERY, &[&kind.as_str()]).await?.iter().map(restore).collect())
}

pub async fn delete_restore(client: &impl GenericClient, kind: RestoreKind, object: &str) -> Result<(), Error> {
    const QUERY: &str = "DELETE FROM pgtandem.restore WHERE kind = $1 AND object = $2";
    client.execute(QUERY, &[&kind.as_str(), &object]).await?;
    Ok(())
}

fn restore(row: &Row) -> Restore {
    Restore { object: row.get(0), before: row.get(1), after: row.get(2) }
}
