//! Copying one table from one node to another that has no rows of it.

use super::Progress;
use super::own;
use super::resume::Copied;
use super::snapshot::Snapshot;
use crate::catalog::{Column, TableKind, TableShape};
use crate::lifecycle::error::On;
use crate::lifecycle::identity::Identity;
use crate::lifecycle::{LifecycleError, OpenNode};
use crate::link::{self, RestoreKind};
use crate::sql::{self, Ident};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use std::pin::pin;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::PgLsn;

/// Rows travel in pieces of this size: a message for each row would cost more than the row.
const PIECE: usize = 64 * 1024;
const DOING: &str = "copying rows";

pub(super) struct Copy<'a> {
    pub id: i32,
    pub from: &'a TableShape,
    pub to: &'a TableShape,
    /// Those that are copied, as each of the two calls them.
    pub read: Vec<Ident>,
    pub written: Vec<Ident>,
    pub source: &'a Snapshot,
    pub source_identity: &'a Identity,
    /// Changes of the source from here on will be judged.
    pub source_start: PgLsn,
    /// A session of its own: the copying is one transaction.
    pub target: OpenNode,
    pub target_position: PgLsn,
    pub replica_role: bool,
    /// The table is live elsewhere: it is here, too, as soon as the rows are.
    pub live: bool,
    /// How many node numbers there are.
    pub numbers: i16,
}

impl Copy<'_> {
    /// All in one transaction that is marked as ours, so that nothing of it travels back, and killed it leaves no trace.
    pub async fn run(&self, progress: &dyn Progress) -> Result<u64, LifecycleError> {
        match self.copy_straight(progress).await {
            // Somebody writes to the target, too.
            Err(error) if error.sqlstate() == Some(SqlState::UNIQUE_VIOLATION.code()) => {
                self.target.client().batch_execute("ROLLBACK").await.on(&self.target.name, DOING)?;
                self.copy_around(progress).await
            }
            outcome => outcome,
        }
    }

    async fn copy_straight(&self, progress: &dyn Progress) -> Result<u64, LifecycleError> {
        self.begin().await?;
        let sink = sql::copy_in(&self.to.name, &self.written, self.binary());
        let rows = self.pump(&sink, progress).await?;
        self.commit(rows).await?;
        Ok(rows)
    }

    /// Through a temporary table: rows whose key (or unique value) the target has taken meanwhile are held there, and
    /// the hub judges them against the target's own as it does every conflict.
    async fn copy_around(&self, progress: &dyn Progress) -> Result<u64, LifecycleError> {
        let (client, node) = (self.target.client(), self.target.name.as_str());
        self.begin().await?;
        client.batch_execute(&sql::create_copy_table(&self.to.name, &self.written)).await.on(node, DOING)?;
        let sink = sql::copy_in(&sql::copy_table(), &self.written, self.binary());
        let rows = self.pump(&sink, progress).await?;
        let key = &self.to.primary_key;
        client.batch_execute(&sql::insert_from_copy_table(&self.to.name, &self.written, key)).await.on(node, DOING)?;
        self.hold_the_rest().await?;
        self.commit(rows).await?;
        Ok(rows)
    }

    async fn begin(&self) -> Result<(), LifecycleError> {
        own::begin(&self.target, self.replica_role, &[], DOING).await
    }

    async fn commit(&self, rows: u64) -> Result<(), LifecycleError> {
        let client = self.target.client();
        let copied = Copied { source: self.source_identity.incarnation, rows };
        let copied = serde_json::to_value(copied).unwrap_or_default();
        let work = async {
            link::set_start_position(client, self.id, self.target_position).await?;
            if self.live {
                link::set_live(client, self.id).await?;
            } else {
                link::save_restore(client, RestoreKind::Copy, &self.id.to_string(), &copied, None).await?;
            }
            client.batch_execute("COMMIT").await
        };
        work.await.on(&self.target.name, DOING)
    }

    async fn pump(&self, into: &str, progress: &dyn Progress) -> Result<u64, LifecycleError> {
        let reader = self.source.session().await?;
        let whole = self.from.kind == TableKind::Ordinary;
        let query = sql::copy_out(&self.from.name, &self.read, whole, self.binary());
        let total = u64::try_from(self.from.estimated_rows).unwrap_or(0);
        let watch = |done: u64| progress.rows(&self.from.name, done, total.max(done));
        pump((&reader, &query), (&self.target, into), DOING, watch).await
    }

    fn binary(&self) -> bool {
        goes_binary((self.from, &self.read), (self.to, &self.written))
    }
}

/// From one server's COPY straight into the other's. Answers with how many rows that wrote. `watch`: told how many have
/// come.
pub(super) async fn pump(
    (source, query): (&OpenNode, &str),
    (target, into): (&OpenNode, &str),
    doing: &str,
    watch: impl Fn(u64),
) -> Result<u64, LifecycleError> {
    let rows = source.client().copy_out(query).await.on(&source.name, doing)?;
    let mut rows = pin!(rows);
    let sink = target.client().copy_in::<_, Bytes>(into).await.on(&target.name, doing)?;
    let mut sink = pin!(sink);
    let mut piece = BytesMut::with_capacity(PIECE * 2);
    let mut done = 0;
    while let Some(row) = rows.next().await {
        piece.extend_from_slice(&row.on(&source.name, doing)?);
        done += 1;
        if piece.len() >= PIECE {
            watch(done);
            sink.send(piece.split().freeze()).await.on(&target.name, doing)?;
            piece.reserve(PIECE * 2);
        }
    }
    if !piece.is_empty() {
        sink.send(piece.freeze()).await.on(&target.name, doing)?;
    }
    sink.finish().await.on(&target.name, doing)
}

/// Whether the columns of one table come into those of another as binary values. Those of built-in types mean the same on
/// every server and version, except for intervals, the largest and smallest of which are infinite from PostgreSQL 17 on; of
/// others not.
pub(super) fn goes_binary((from, read): (&TableShape, &[Ident]), (to, written): (&TableShape, &[Ident])) -> bool {
    read.iter().zip(written).all(|(read, written)| match (from.column(read), to.column(written)) {
        (Some(from), Some(to)) => {
            let mean_the_same = from.is_builtin() && to.is_builtin() && !names_an_object(from) && !is_interval(from);
            from.type_text == to.type_text && mean_the_same
        }
        _ => false,
    })
}

/// regclass and its like travel as names: the objects have other numbers elsewhere.
fn names_an_object(column: &Column) -> bool {
    column.cast_type.starts_with("reg") || column.cast_type.starts_with("oid")
}

/// Or an array of them.
fn is_interval(column: &Column) -> bool {
    column.cast_type.starts_with("interval")
}
