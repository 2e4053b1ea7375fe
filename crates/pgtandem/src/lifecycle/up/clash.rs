//! Rows that could not be written because the node has something of its own there.

use super::copy::Copy;
use crate::catalog::TableShape;
use crate::lifecycle::LifecycleError;
use crate::lifecycle::error::On;
use crate::lifecycle::settle::{key_bytes, key_json};
use crate::link::{self, Held};
use crate::sql::{self, Ident};
use serde_json::Value as Json;
use std::time::SystemTime;
use tokio_postgres::types::PgLsn;

const DOING: &str = "holding rows that clash";
/// Where a row comes from that another node could not take.
pub(super) struct Origin<'a> {
    pub id: i32,
    pub shape: &'a TableShape,
    pub number: i16,
    /// Changes of the node from here on will be judged.
    pub start: PgLsn,
    /// When its rows were read.
    pub taken_at: SystemTime,
    /// How many node numbers there are.
    pub numbers: i16,
}

impl Origin<'_> {
    /// Just below the first change of the node that is judged: what tells one merge of a key from another.
    pub fn position(&self) -> PgLsn {
        PgLsn::from(u64::from(self.start).saturating_sub(1))
    }

    /// The target's own row was written without sight of this one, so for the hub it is an ordinary conflict: this one
    /// is as old as the snapshot at most.
    pub fn held(&self, key: &[&str], row: Json, reason: String, sqlstate: Option<String>) -> Held {
        let key_bytes = self.key_bytes(key);
        Held {
            table_id: self.id,
            key: self.key_json(&key_bytes),
            key_bytes,
            source_node: self.number,
            source_position: PgLsn::from(link::BEFORE_ALL),
            stamp: self.taken_at,
            stamp_node: self.number,
            row: Some(row),
            cover: vec![PgLsn::from(0); usize::from(self.numbers.unsigned_abs())],
            partner_key: None,
            reason,
            sqlstate,
            held_since: SystemTime::now(),
            last_tried: None,
        }
    }

    pub fn key_json(&self, bytes: &[u8]) -> Json {
        key_json(self.shape, bytes)
    }

    pub fn key_bytes(&self, texts: &[&str]) -> Vec<u8> {
        key_bytes(self.shape, texts)
    }
}

impl Copy<'_> {
    /// What is still in the temporary table.
    pub(super) async fn hold_the_rest(&self) -> Result<(), LifecycleError> {
        const REASON: &str = "the row was there already, or a unique value of it was taken, when the table was copied";
        let (client, node) = (self.target.client(), self.target.name.as_str());
        let origin = Origin {
            id: self.id,
            shape: self.from,
            number: self.source_identity.number,
            start: self.source_start,
            taken_at: self.source.taken_at,
            numbers: self.numbers,
        };
        let as_written = |name: &Ident| self.written.iter().find(|column| *column == name).cloned();
        let key: Vec<Ident> = self.from.primary_key.iter().filter_map(as_written).collect();
        let query = sql::rest_of_copy_table(&key, &self.written);
        for row in client.query(&query, &[]).await.on(node, DOING)? {
            let key: Vec<&str> = row.get(0);
            let held = origin.held(&key, row.get(1), REASON.to_owned(), Some("23505".to_owned()));
            link::insert_held(client, &held).await.on(node, DOING)?;
        }
        Ok(())
    }
}
