//! Rows that could not be copied because the target has them already.

use super::copy::Copy;
use crate::lifecycle::LifecycleError;
use crate::lifecycle::error::On;
use crate::link::{self, Held};
use crate::sql;
use serde_json::{Map, Value};
use std::time::SystemTime;
use tokio_postgres::types::PgLsn;

const DOING: &str = "holding rows that clash";

impl Copy<'_> {
    /// What is still in the temporary table. The target's own row was written without sight of these, so for the hub it
    /// is an ordinary conflict: the copied row is as old as the snapshot at most.
    pub(super) async fn hold_the_rest(&self) -> Result<(), LifecycleError> {
        let (client, node) = (self.target.client(), self.target.name.as_str());
        let query = sql::rest_of_copy_table(&self.from.primary_key, self.columns);
        for row in client.query(&query, &[]).await.on(node, DOING)? {
            let texts: Vec<String> = row.get(0);
            let held = Held {
                table_id: self.id,
                key_bytes: self.key_bytes(&texts),
                key: self.key_json(&texts),
                source_node: self.source_identity.number,
                source_position: self.source_start,
                stamp: self.source.taken_at,
                stamp_node: self.source_identity.number,
                row: Some(row.get(1)),
                cover: vec![PgLsn::from(0); usize::from(self.numbers.unsigned_abs())],
                partner_key: None,
                reason: "the row was there already, or a unique value of it was taken, when the table was copied"
                    .to_owned(),
                sqlstate: Some("23505".to_owned()),
                held_since: SystemTime::now(),
                last_tried: None,
            };
            link::insert_held(client, &held).await.on(node, DOING)?;
        }
        Ok(())
    }

    fn key_bytes(&self, texts: &[String]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for text in texts {
            bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }

    fn key_json(&self, texts: &[String]) -> Value {
        let names = self.from.primary_key.iter().map(|name| name.as_str().to_owned());
        Value::Object(names.zip(texts.iter().cloned().map(Value::String)).collect::<Map<_, _>>())
    }
}
