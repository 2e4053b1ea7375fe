//! Filled tables are linked only if they are equal.

use super::Work;
use crate::catalog::TableShape;
use crate::compare::{Columns, Options, Sessions, Side, Subject, Tally, Watch, compare_rows};
use crate::lifecycle::error::On;
use crate::lifecycle::plan::{Rows, Step};
use crate::lifecycle::{LifecycleError, OpenNode, Progress};
use crate::sql::QualifiedName;

/// One state of the rows is seen, so that one look will do. Nothing of the rows is kept.
const OPTIONS: Options = Options { frozen: true, max_load: 1.0, examples: 0 };

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
                sessions.push((*node, session));
            }
            self.require_equal(table, &sessions).await?;
        }
        Ok(())
    }

    /// `sessions`: one per node that has rows, with the node's number, each in a transaction that sees one state of them.
    pub(super) async fn require_equal(
        &self,
        table: &QualifiedName,
        sessions: &[(usize, OpenNode)],
    ) -> Result<(), LifecycleError> {
        if sessions.len() < 2 {
            return Ok(());
        }
        let tally = self.compare(table, sessions).await?;
        if tally.is_equal() {
            return Ok(());
        }
        let names: Vec<&str> = sessions.iter().map(|(_, session)| session.name.as_str()).collect();
        Err(LifecycleError::refused(
            format!(
                "{} holds rows on {}, and they differ: {}",
                table.plain(),
                names.join(" and on "),
                in_words(&tally, &names)
            ),
            format!(
                "see them with `pgtandem diff`; merging two filled tables is missing yet: make them equal, or empty one \
                 side (TRUNCATE {table}), and run `pgtandem up` again"
            ),
        ))
    }

    async fn compare(&self, table: &QualifiedName, sessions: &[(usize, OpenNode)]) -> Result<Tally, LifecycleError> {
        let columns: Vec<Columns> =
            self.common_columns(table).into_iter().map(|name| vec![name; sessions.len()]).collect();
        let shapes: Option<Vec<&TableShape>> = sessions.iter().map(|(node, _)| self.shape(*node, table)).collect();
        // Those of the surveys: a table that has gone since is missed by whatever reads it next.
        let Some(shapes) = shapes else { return Ok(Tally::default()) };
        // Outside of the transactions, which an error would end.
        let asked: Vec<Side<'_>> = sessions.iter().map(|(node, _)| side(&self.nodes[*node])).collect();
        let subject = Subject::new(table, &asked, &shapes, &columns).await?;
        let sides: Vec<Side<'_>> = sessions.iter().map(|(_, session)| side(session)).collect();
        let total = subject.estimated_rows();
        let mut watch = RowsDone { table, total, progress: self.progress };
        let tally = compare_rows(&subject, &Sessions::single(sides), OPTIONS, None, &mut watch).await?;
        self.progress.compared(table);
        Ok(tally)
    }
}

fn side(node: &OpenNode) -> Side<'_> {
    Side { name: &node.name, client: node.client() }
}

fn in_words(tally: &Tally, names: &[&str]) -> String {
    let mut parts: Vec<String> =
        names.iter().enumerate().map(|(node, name)| format!("{} only on {name}", tally.only_on(node))).collect();
    for partial in tally.partial.iter().filter(|partial| partial.on.len() > 1) {
        let on: Vec<&str> = partial.on.iter().map(|node| names[*node]).collect();
        parts.push(format!("{} only on {}", partial.keys, on.join(" and ")));
    }
    let everywhere = if names.len() == 2 { "both" } else { "all" };
    parts.push(format!("{} on {everywhere} but different", tally.different));
    parts.join(", ")
}

struct RowsDone<'a> {
    table: &'a QualifiedName,
    total: u64,
    progress: &'a dyn Progress,
}

impl Watch for RowsDone<'_> {
    fn rows(&mut self, done: u64) {
        self.progress.rows(self.table, done, self.total.max(done));
    }
}
