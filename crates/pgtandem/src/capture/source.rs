//! What the stream leaves out, asked of the node itself: large values of a table whose REPLICA IDENTITY is not FULL any
//! more, and how the node folds the case of a key.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error};

use super::error::CaptureError;
use crate::connect::{Endpoint, FaultClass, in_words};
use crate::sql::{self, Ident, QualifiedName, WrittenColumn};

/// Foldings beyond are forgotten and asked for again.
const FOLDINGS: usize = 100_000;
const CAPITALS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// A second session on the node that is read, opened when it is needed first.
#[derive(Debug)]
pub struct Source {
    endpoint: Endpoint,
    settings: &'static [(&'static str, &'static str)],
    client: Option<Client>,
    /// Whether the node folds plain ASCII letters as everybody but a Turk does.
    ascii_is_plain: Option<bool>,
    foldings: HashMap<Box<[u8]>, Box<[u8]>>,
    warned: HashSet<QualifiedName>,
}

impl Source {
    #[must_use]
    pub fn new(endpoint: Endpoint, settings: &'static [(&'static str, &'static str)]) -> Self {
        let (foldings, warned) = (HashMap::new(), HashSet::new());
        Self { endpoint, settings, client: None, ascii_is_plain: None, foldings, warned }
    }

    async fn client(&mut self) -> Result<&Client, CaptureError> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            let session = self.endpoint.connect("pgtandem capture", self.settings).await;
            let session = session.map_err(|error| CaptureError::Source(error.to_string()))?;
            self.client = Some(session.client);
        }
        Ok(self.client.as_ref().expect("just opened"))
    }

    /// Values of a row as it is now; `None` when it is gone. What it is now may be newer than the change that is read;
    /// then a later change brings the same.
    ///
    /// `xid` made the change. It is in the WAL before others can see it; how long, is for the server (a synchronous
    /// standby may be waited for). A row that seems to be gone is looked for again once it can be seen.
    pub(super) async fn values(
        &mut self,
        table: &QualifiedName,
        key: &[(WrittenColumn, String)],
        columns: &[Ident],
        xid: u32,
    ) -> Result<Option<Vec<Option<String>>>, CaptureError> {
        if self.warned.insert(table.clone()) {
            tracing::warn!(
                table = %table.plain(),
                "large values are missing in the stream, so they are read from the table, which is slow; \
                 see what `pgtandem check` says of the table"
            );
        }
        let (key, texts): (Vec<_>, Vec<_>) = key.iter().cloned().unzip();
        let parameters: Vec<&(dyn ToSql + Sync)> = texts.iter().map(|text| text as _).collect();
        let query = sql::select_values(table, &key, columns);
        let client = self.client().await?;
        let mut row = client.query_opt(&query, &parameters).await;
        if matches!(row, Ok(None)) {
            wait_until_visible(client, xid).await.map_err(lost)?;
            row = client.query_opt(&query, &parameters).await;
        }
        let row = match row {
            // The table or a column is gone by now.
            Err(error) if FaultClass::of(&error) == FaultClass::ShapeChanged => return Ok(None),
            row => row.map_err(lost)?,
        };
        row.map(|row| (0..columns.len()).map(|at| row.try_get(at)).collect::<Result<_, _>>().map_err(lost)).transpose()
    }

    /// Finds out how a text is folded, so that [`Source::folded`] knows it.
    pub(super) async fn learn(&mut self, text: &[u8]) -> Result<(), CaptureError> {
        const FOLD: &str = "SELECT pg_catalog.lower($1)";
        if self.ascii_is_plain.is_none() {
            let folded: String = self.client().await?.query_one(FOLD, &[&CAPITALS]).await.map_err(lost)?.get(0);
            self.ascii_is_plain = Some(folded == CAPITALS.to_ascii_lowercase());
        }
        if self.is_plain(text) || self.foldings.contains_key(text) {
            return Ok(());
        }
        let whole = String::from_utf8_lossy(text);
        let folded: String = self.client().await?.query_one(FOLD, &[&whole]).await.map_err(lost)?.get(0);
        if self.foldings.len() >= FOLDINGS {
            self.foldings.clear();
        }
        self.foldings.insert(text.into(), folded.into_bytes().into());
        Ok(())
    }

    fn is_plain(&self, text: &[u8]) -> bool {
        text.is_ascii() && self.ascii_is_plain == Some(true)
    }

    /// The spelling that stands for all that the node calls equal; see [`Source::learn`].
    pub(super) fn folded<'t>(&'t self, text: &'t [u8]) -> Cow<'t, [u8]> {
        match self.foldings.get(text) {
            Some(folded) => Cow::Borrowed(folded),
            None => Cow::Owned(text.to_ascii_lowercase()),
        }
    }
}

/// A transaction lets go of the lock on its own number only after others can see it.
async fn wait_until_visible(client: &Client, xid: u32) -> Result<(), Error> {
    const UNSEEN: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'transactionid' AND granted
        AND mode = 'ExclusiveLock' AND transactionid = $1::text::xid)";
    while client.query_one(UNSEEN, &[&xid.to_string()]).await?.get(0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// A lost session is opened again with the stream.
fn lost(error: Error) -> CaptureError {
    CaptureError::Source(in_words(&error))
}
