//! What was compared before anything was changed holds until somebody writes to the table: then, and only then, the rows
//! are compared again at the snapshots.

use super::Work;
use super::equal::Compared;
use crate::lifecycle::error::On;
use crate::lifecycle::{LifecycleError, OpenNode};
use crate::sql::{self, QualifiedName};

const DOING: &str = "looking whether rows were written since they were compared";
/// So many comparisons are kept, each with a few files, while an `up` with many tables comes to them.
const MOST_KEPT: usize = 64;

/// A comparison, and when it was made.
pub(super) struct Earlier<'a> {
    id: i32,
    /// The nodes that were compared, in that order.
    nodes: Vec<Horizon>,
    compared: Compared<'a>,
}

/// What a session saw of a node.
struct Horizon {
    node: usize,
    /// Transactions with smaller numbers had ended.
    transaction: u32,
    /// OIDs of the table and its partitions: another one may have its name by now, or rows that are as old.
    tables: Vec<u32>,
}

impl<'w> Work<'w> {
    /// `sessions`: as they were compared.
    pub(super) async fn keep_comparison(
        &self,
        kept: &mut Vec<Earlier<'w>>,
        (id, table): (i32, &QualifiedName),
        sessions: &[(usize, OpenNode)],
        compared: Compared<'w>,
    ) -> Result<(), LifecycleError> {
        const QUERY: &str = "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::pg_catalog.text";
        if kept.len() == MOST_KEPT {
            return Ok(());
        }
        let mut nodes = Vec::new();
        for (node, session) in sessions {
            let oldest: String = session.client().query_one(QUERY, &[]).await.on(&session.name, DOING)?.get(0);
            // It counts on where a row's number begins again.
            let Ok(oldest) = oldest.parse::<u64>() else { return Ok(()) };
            let transaction = u32::try_from(oldest & u64::from(u32::MAX)).unwrap_or_default();
            let Some(tables) = self.tables_behind(*node, table, session).await? else { return Ok(()) };
            nodes.push(Horizon { node: *node, transaction, tables });
        }
        kept.push(Earlier { id, nodes, compared });
        Ok(())
    }

    /// As this session sees them, which has read the table before: so that they stay. None: the table is gone.
    async fn tables_behind(
        &self,
        node: usize,
        table: &QualifiedName,
        session: &OpenNode,
    ) -> Result<Option<Vec<u32>>, LifecycleError> {
        let Some(shape) = self.shape(node, table) else { return Ok(None) };
        let found = session.client().query_one(&sql::tables_behind(&shape.name), &[]).await.on(&session.name, DOING)?;
        Ok(Some(found.get(0)))
    }

    pub(super) fn take_comparison(&mut self, id: i32) -> Option<Earlier<'w>> {
        let at = self.earlier.iter().position(|earlier| earlier.id == id)?;
        Some(self.earlier.swap_remove(at))
    }

    /// The comparison, if it holds for what these sessions see. All of a row's versions that are there then and now were
    /// there then; and if they are as many, they are all that were there: nothing was deleted either. So it is as long as
    /// they are rows of the same tables.
    pub(super) async fn still_holds(
        &self,
        earlier: Earlier<'w>,
        table: &QualifiedName,
        sessions: &[(usize, OpenNode)],
    ) -> Result<Option<Compared<'w>>, LifecycleError> {
        let same_nodes = earlier.nodes.iter().map(|horizon| horizon.node).eq(sessions.iter().map(|(node, _)| *node));
        if !same_nodes {
            return Ok(None);
        }
        let looks = earlier.nodes.iter().zip(sessions).zip(&earlier.compared.tally.rows);
        let looks = looks.map(|((horizon, (node, session)), rows)| async move {
            let Some(shape) = self.shape(*node, table) else { return Ok(false) };
            let (query, transaction) = (sql::rows_since(&shape.name), horizon.transaction.to_string());
            let found = session.client().query_one(&query, &[&transaction]).await.on(&session.name, DOING)?;
            let (all, young): (i64, i64) = (found.get(0), found.get(1));
            let same_tables = self.tables_behind(*node, table, session).await?.as_ref() == Some(&horizon.tables);
            Ok::<_, LifecycleError>(young == 0 && all.unsigned_abs() == *rows && same_tables)
        });
        let same = futures::future::try_join_all(looks).await?;
        // There are as many answers as sessions only if the comparison counted on all of them.
        Ok((same.len() == sessions.len() && same.iter().all(|same| *same)).then_some(earlier.compared))
    }
}
