//! `pgtandem.renumbered`: which rows of this node got other ids.

use std::time::SystemTime;
use tokio_postgres::{Error, GenericClient};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renumbered {
    pub id: i64,
    pub table_id: i32,
    pub old_id: String,
    pub new_id: String,
    pub why: Why,
    pub at: SystemTime,
}

/// Why a row got another id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A row of another node has the old one, and is another thing.
    Collision,
    /// The same thing has the new one on another node.
    Joined,
}

impl Why {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Collision => "collision",
            Self::Joined => "joined",
        }
    }
}

/// Of each the old id, the new one and why; written in the order given.
pub async fn insert_renumbered(
    client: &impl GenericClient,
    table_id: i32,
    moved: &[(&str, &str, Why)],
) -> Result<(), Error> {
    const QUERY: &str = "INSERT INTO pgtandem.renumbered (table_id, old_id, new_id, why)
                         SELECT $1, m.old_id, m.new_id, m.why
                         FROM unnest($2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS m(old_id, new_id, why, place)
                         ORDER BY m.place";
    let old: Vec<&str> = moved.iter().map(|(old, _, _)| *old).collect();
    let new: Vec<&str> = moved.iter().map(|(_, new, _)| *new).collect();
    let why: Vec<&str> = moved.iter().map(|(_, _, why)| why.as_str()).collect();
    client.execute(QUERY, &[&table_id, &old, &new, &why]).await?;
    Ok(())
}

/// In the order in which they were renumbered. None: of all tables.
pub async fn list_renumbered(client: &impl GenericClient, table_id: Option<i32>) -> Result<Vec<Renumbered>, Error> {
    const QUERY: &str = "SELECT id, table_id, old_id, new_id, why, renumbered_at FROM pgtandem.renumbered
                         WHERE $1::int IS NULL OR table_id = $1 ORDER BY id";
    let rows = client.query(QUERY, &[&table_id]).await?;
    let all = rows.iter().map(|row| Renumbered {
        id: row.get(0),
        table_id: row.get(1),
        old_id: row.get(2),
        new_id: row.get(3),
        why: match row.get(4) {
            "joined" => Why::Joined,
            _ => Why::Collision,
        },
        at: row.get(5),
    });
    Ok(all.collect())
}

pub async fn delete_renumbered(client: &impl GenericClient, ids: &[i64]) -> Result<(), Error> {
    client.execute("DELETE FROM pgtandem.renumbered WHERE id = ANY ($1)", &[&ids]).await?;
    Ok(())
}
