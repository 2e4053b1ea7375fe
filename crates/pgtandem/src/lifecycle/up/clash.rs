//! Rows that could not be copied because the target has them already.

use super::copy::Copy;
use crate::capture::key::{self, Spelling};
use crate::lifecycle::LifecycleError;
use crate::lifecycle::error::On;
use crate::link::{self, Held};
use crate::sql;
use std::time::SystemTime;
use tokio_postgres::types::PgLsn;

const DOING: &str = "holding rows that clash";

impl Copy<'_> {
    /// What is still in the temporary table. The target's own row was written without sight of these, so for the hub it
    /// is an ordinary conflict: the copied row is as old as the snapshot at most.
    pub(super) async fn hold_the_rest(&self) -> Result<(), LifecycleError> {
        let (client, node) = (self.target.client(), self.target.name.as_str());
        let names: Vec<String> = self.from.primary_key.iter().map(|name| name.as_str().to_owned()).collect();
        let query = sql::rest_of_copy_table(&self.from.primary_key, self.columns);
        for row in client.query(&query, &[]).await.on(node, DOING)? {
            let texts: Vec<String> = row.get(0);
            let key_bytes = self.key_bytes(&texts);
            let held = Held {
                table_id: self.id,
                key: key::to_json(&names, &key_bytes),
                key_bytes,
                source_node: self.source_identity.number,
                // Just below the first change of the source that is judged.
                source_position: PgLsn::from(u64::from(self.source_start).saturating_sub(1)),
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

    /// As capture writes it, so that the hub knows the key again.
    fn key_bytes(&self, texts: &[String]) -> Vec<u8> {
        let spellings = self.from.primary_key.iter().map(|name| {
            let column = self.from.column(name);
            column.map_or(Spelling::Exact, |column| Spelling::of_type(&column.cast_type))
        });
        let mut bytes = Vec::new();
        key::encode(spellings.zip(texts.iter().map(String::as_bytes)), &mut bytes);
        bytes
    }
}
