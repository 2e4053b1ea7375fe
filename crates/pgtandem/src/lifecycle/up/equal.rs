//! Filled tables are linked only if they are equal.

use super::Work;
use super::compare::{compare, digest};
use crate::lifecycle::error::On;
use crate::lifecycle::plan::{Rows, Step};
use crate::lifecycle::{LifecycleError, OpenNode};
use crate::sql::QualifiedName;
use futures::future::{try_join, try_join_all};

impl Work<'_> {
    /// Before anything is changed: a link that cannot come to be should not leave a slot behind that keeps WAL. What
    /// decides is the comparison at the snapshots, later.
    pub(super) async fn refuse_different_tables(&self) -> Result<(), LifecycleError> {
        for step in &self.plan.steps {
            let Step::Fill { id, table, rows: Rows::Compare { nodes, .. } } = step else { continue };
            // Filled, but by an `up` that was interrupted.
            let copied = self.surveys.iter().filter_map(|survey| survey.link.as_ref()).flat_map(|link| &link.copies);
            if copied.into_iter().any(|copy| copy.object == id.to_string()) {
                continue;
            }
            self.progress.step(&format!("comparing {}", table.plain()));
            let mut sessions = Vec::new();
            for node in nodes {
                let session = self.nodes[*node].another().await?;
                let begin = session.client().batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await;
                begin.on(&session.name, "comparing rows")?;
                sessions.push(session);
            }
            self.require_equal(table, &sessions).await?;
        }
        Ok(())
    }

    /// `sessions`: one per node that has rows, each in a transaction that sees one state of them.
    pub(super) async fn require_equal(
        &self,
        table: &QualifiedName,
        sessions: &[OpenNode],
    ) -> Result<(), LifecycleError> {
        let [first, others @ ..] = sessions else { return Ok(()) };
        if others.is_empty() {
            return Ok(());
        }
        let columns = self.common_columns(table);
        let digests = try_join_all(others.iter().map(|other| digest(other, table, &columns)));
        let (first_digest, digests) = try_join(digest(first, table, &columns), digests).await?;
        let Some((other, _)) = others.iter().zip(digests).find(|(_, digest)| *digest != first_digest) else {
            return Ok(());
        };
        let key = self.shape(0, table).map(|shape| shape.primary_key.clone()).unwrap_or_default();
        let differences = compare((first, other), table, &key, &columns).await?;
        let (a, b) = (&first.name, &other.name);
        Err(LifecycleError::refused(
            format!(
                "{} holds rows on {a} and on {b}, and they differ: {} only on {a}, {} only on {b}, {} on both but different",
                table.plain(),
                differences.only_first,
                differences.only_second,
                differences.different
            ),
            format!(
                "merging two filled tables is missing yet; make them equal, or empty one side (TRUNCATE {table}), and \
                 run `pgtandem up` again"
            ),
        ))
    }
}
