//! Making a table's rows the same on all nodes, and the table live.

use super::copy::Copy;
use super::equal::Purpose;
use super::resume::Copied;
use super::snapshot::Snapshot;
use super::unchanged::Earlier;
use super::{Until, Work};
use crate::catalog::TableShape;
use crate::config::Merge;
use crate::lifecycle::error::On;
use crate::lifecycle::plan::Rows;
use crate::lifecycle::{LifecycleError, OpenNode};
use crate::link::{self, RestoreKind, TableState};
use crate::sql::{self, Ident, QualifiedName};
use futures::future::try_join_all;
use tokio_postgres::types::PgLsn;

impl<'w> Work<'w> {
    /// Durable, in this order: where the rows were taken from (`start_position` of the source), the rows themselves
    /// together with the target's own `start_position` and a note that they are there, then `live` on each node.
    /// A hub that runs before the last of these keeps everything from these positions on.
    ///
    /// Where filled tables are merged, every node's `start_position` comes before the first row. A merge that is
    /// interrupted is not gone on with: the next `up` takes new snapshots, in which everything is that was written
    /// since, and compares anew.
    pub(super) async fn fill(&mut self, id: i32, table: &QualifiedName, rows: &Rows) -> Result<(), LifecycleError> {
        self.take_snapshots().await?;
        let earlier = self.take_comparison(id);
        let filled = self.fill_rows(id, table, rows, earlier).await;
        if filled.is_err() {
            // Best done, but not needed: without it the hub waits for the `up` that goes on from here.
            let _ = self.forget_start(id, table).await;
        }
        filled
    }

    async fn fill_rows(
        &mut self,
        id: i32,
        table: &QualifiedName,
        rows: &Rows,
        earlier: Option<Earlier<'w>>,
    ) -> Result<(), LifecycleError> {
        let columns = self.common_columns(table);
        let resumed = self.resume(id).await?;
        let looks =
            self.snapshots().iter().enumerate().map(|(node, snapshot)| holds_rows(snapshot, self.shape(node, table)));
        let has_rows = try_join_all(looks).await?;
        let mut filled = Vec::new();
        let mut empty = Vec::new();
        // Those that are linked with each other already are one: the first speaks for all.
        let first_live = self.surveys.iter().position(|survey| survey.is_live(table));
        for (node, has_rows) in has_rows.into_iter().enumerate() {
            let live = self.surveys[node].is_live(table);
            if resumed.targets.contains(&node) || (live && first_live != Some(node)) {
                continue;
            }
            let is_filled = live || resumed.source == Some(node) || has_rows;
            if is_filled { &mut filled } else { &mut empty }.push(node);
        }
        if resumed.source.is_none() && self.unite((id, table), rows, (&filled, &empty), earlier).await? {
            empty.clear();
        }
        match resumed.source.or(filled.first().copied()) {
            Some(source) => {
                for target in empty {
                    self.copy(id, table, &columns, source, target).await?;
                }
            }
            None => {
                for node in empty {
                    self.start_from_snapshot(id, table, node).await?;
                }
            }
        }
        self.note_that_all_have_it(id, table).await?;
        if self.until == Until::Merged {
            return Ok(());
        }
        self.make_live(id, table).await
    }

    /// Nodes become live one after the other, and the applications go on writing: an `up` that is killed in between must
    /// not be followed by one that compares them.
    async fn note_that_all_have_it(&self, id: i32, table: &QualifiedName) -> Result<(), LifecycleError> {
        // A node that joins others comes last: there is nothing in between.
        if self.surveys.iter().any(|survey| survey.is_live(table)) {
            return Ok(());
        }
        let copied = Copied { source: self.plan.identities[0].incarnation, rows: 0 };
        let copied = serde_json::to_value(copied).unwrap_or_default();
        for node in &self.nodes[1..] {
            let noted = link::save_restore(node.client(), RestoreKind::Copy, &id.to_string(), &copied, None).await;
            noted.on(&node.name, "noting that the rows are there")?;
        }
        Ok(())
    }

    /// Makes the rows of those that have any the same, or refuses. True: those that have none have got them, too.
    async fn unite(
        &self,
        (id, table): (i32, &QualifiedName),
        rows: &Rows,
        (filled, empty): (&[usize], &[usize]),
        earlier: Option<Earlier<'w>>,
    ) -> Result<bool, LifecycleError> {
        let nothing = (Merge::Refuse, Ident::new(""));
        let (merge, by) = match rows {
            Rows::Compare { merge, by, .. } => (merge, by),
            Rows::NoneYet | Rows::Copy { .. } => (&nothing.0, &nothing.1),
        };
        let mut sessions = self.enter_snapshots(filled).await?;
        let all_are_here = *merge != Merge::Refuse && empty.is_empty();
        let purpose = if all_are_here { Purpose::Merging(merge) } else { Purpose::Looking };
        let holds = match earlier.filter(|_| empty.is_empty()) {
            Some(earlier) => self.still_holds(earlier, table, &sessions).await?,
            None => None,
        };
        let mut compared = match holds {
            Some(compared) => compared,
            None => self.compare(table, &sessions, purpose).await?,
        };
        self.require_mergeable(table, &sessions, &compared, merge)?;
        let differ = !compared.tally.is_equal();
        let mut nodes = filled.to_vec();
        if differ {
            nodes.extend(empty);
            nodes.sort_unstable();
        }
        if differ && !empty.is_empty() {
            sessions = self.enter_snapshots(&nodes).await?;
            compared = self.compare(table, &sessions, Purpose::Merging(merge)).await?;
        }
        try_join_all(nodes.iter().map(|node| self.start_from_snapshot(id, table, *node))).await?;
        if let (true, Some(subject)) = (differ, &compared.subject) {
            self.merge((id, table), sessions, subject, compared.differences, (merge, by)).await?;
        }
        Ok(differ)
    }

    async fn enter_snapshots(&self, nodes: &[usize]) -> Result<Vec<(usize, OpenNode)>, LifecycleError> {
        let enter = |node: &usize| {
            let node = *node;
            async move { Ok((node, self.snapshots()[node].session().await?)) }
        };
        try_join_all(nodes.iter().map(enter)).await
    }

    async fn take_snapshots(&mut self) -> Result<(), LifecycleError> {
        if self.snapshots.is_some() {
            return Ok(());
        }
        self.progress.step("waiting for the transactions that are open now");
        let nodes = self.nodes.iter().zip(&self.plan.captures);
        let snapshots = nodes.map(|(node, capture)| Snapshot::take(node, *capture));
        self.snapshots = Some(try_join_all(snapshots).await?);
        Ok(())
    }

    pub(super) fn snapshots(&self) -> &[Snapshot] {
        self.snapshots.as_deref().unwrap_or_default()
    }

    pub(super) fn shape(&self, node: usize, table: &QualifiedName) -> Option<&TableShape> {
        self.surveys[node].table(table)
    }

    /// Columns that all nodes have and write, in the first node's order. The others stay as their node has them.
    pub(super) fn common_columns(&self, table: &QualifiedName) -> Vec<Ident> {
        let everywhere = |column: &Ident| {
            (0..self.nodes.len()).all(|node| {
                let shape = self.shape(node, table);
                shape.is_some_and(|shape| shape.written_columns().any(|written| written.name == *column))
            })
        };
        let first = self.shape(0, table).into_iter().flat_map(TableShape::written_columns);
        first.map(|column| column.name.clone()).filter(everywhere).collect()
    }

    /// The node's own rows stand as its snapshot shows them; what it changes from there on is judged.
    async fn start_from_snapshot(&self, id: i32, table: &QualifiedName, node: usize) -> Result<(), LifecycleError> {
        if self.surveys[node].is_live(table) {
            return Ok(());
        }
        let position = self.snapshots()[node].position;
        let node = &self.nodes[node];
        link::set_start_position(node.client(), id, position).await.on(&node.name, "noting where a table begins")
    }

    /// As long as no node has rows of another, nothing depends on where they were read, and the hub may go on with
    /// its other tables.
    async fn forget_start(&self, id: i32, table: &QualifiedName) -> Result<(), LifecycleError> {
        if !self.resume(id).await?.targets.is_empty() {
            return Ok(());
        }
        for (node, survey) in self.nodes.iter().zip(&self.surveys) {
            if !survey.is_live(table) {
                let reset = link::set_start_position(node.client(), id, PgLsn::from(0)).await;
                reset.on(&node.name, "taking a table's beginning back")?;
                link::delete_held_of_table(node.client(), id).await.on(&node.name, "taking a merge back")?;
            }
        }
        Ok(())
    }

    async fn copy(
        &self,
        id: i32,
        table: &QualifiedName,
        columns: &[Ident],
        source: usize,
        target: usize,
    ) -> Result<(), LifecycleError> {
        let (Some(from), Some(to)) = (self.shape(source, table), self.shape(target, table)) else {
            return Ok(());
        };
        let as_called =
            |shape: &TableShape| columns.iter().filter_map(|name| Some(shape.column(name)?.name.clone())).collect();
        let copy = Copy {
            id,
            from,
            to,
            read: as_called(from),
            written: as_called(to),
            source: &self.snapshots()[source],
            source_identity: &self.plan.identities[source],
            source_start: self.start_position(source, id).await?,
            target: self.nodes[target].another().await?,
            target_position: self.snapshots()[target].position,
            replica_role: self.surveys[target].role.may_set_replication_role,
            live: self.surveys[source].is_live(table),
            numbers: self.numbers(),
        };
        let rows = copy.run(self.progress).await?;
        self.progress.rows_end(table, rows);
        Ok(())
    }

    /// How many node numbers there are.
    pub(super) fn numbers(&self) -> i16 {
        self.plan.identities.iter().map(|identity| identity.number).max().unwrap_or(0) + 1
    }

    pub(super) async fn start_position(&self, node: usize, id: i32) -> Result<PgLsn, LifecycleError> {
        let node = &self.nodes[node];
        let tables = link::read_linked_tables(node.client()).await.on(&node.name, "reading the linked tables")?;
        Ok(tables.iter().find(|table| table.id == id).map_or(PgLsn::from(0), |table| table.start_position))
    }

    async fn make_live(&mut self, id: i32, table: &QualifiedName) -> Result<(), LifecycleError> {
        const DOING: &str = "making a table live";
        for node in &mut self.nodes {
            let name = node.name.clone();
            let work = async {
                let transaction = node.session.client.transaction().await?;
                link::set_live(&transaction, id).await?;
                link::delete_restore(&transaction, RestoreKind::Copy, &id.to_string()).await?;
                transaction.commit().await
            };
            work.await.on(&name, DOING)?;
        }
        for survey in &mut self.surveys {
            for linked in survey.link.iter_mut().flat_map(|link| &mut link.tables) {
                if linked.name == *table {
                    linked.state = TableState::Live;
                }
            }
        }
        Ok(())
    }
}

async fn holds_rows(snapshot: &Snapshot, table: Option<&TableShape>) -> Result<bool, LifecycleError> {
    let Some(table) = table else { return Ok(false) };
    let session = snapshot.session().await?;
    let row = session.client().query_one(&sql::holds_rows(&table.name), &[]).await;
    let holds = row.on(&session.name, "looking whether a table has rows")?.get(0);
    snapshot.give_back(session);
    Ok(holds)
}
