//! Filled tables are linked only if they are equal, or become so.

use super::Work;
use super::unchanged::Earlier;
use crate::catalog::TableShape;
use crate::compare::{Columns, Options, Sessions, Side, Subject, Tally, compare_rows};
use crate::config::{MERGE_BY, Merge, spell_table_name};
use crate::lifecycle::error::On;
use crate::lifecycle::plan::{Rows, Step};
use crate::lifecycle::settle::differences::{Differences, Keep};
use crate::lifecycle::{LifecycleError, OpenNode};
use crate::sql::{Ident, Literal, QualifiedName};
use futures::future::{try_join, try_join_all};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// One state of the rows is seen, so that one look will do. Of rows that clash some are shown.
const OPTIONS: Options = Options { frozen: true, max_load: 1.0, examples: 3 };

/// So many rows are worth more sessions: while some are looked into, others are summed up.
const LARGE: u64 = 1 << 18;

/// What a comparison is for.
#[derive(Clone, Copy)]
pub(super) enum Purpose<'a> {
    /// To see what there is.
    Looking,
    Renumbering,
    Merging(&'a Merge),
}

impl Purpose<'_> {
    /// `one_encoding`: of all the nodes' databases.
    fn keep(self, subject: &Subject, sides: &[Side<'_>], one_encoding: bool) -> Keep {
        let nodes = sides.len();
        match self {
            Self::Looking => Keep::Nothing,
            // What is copied as it is must be known again by the hash that it had where it came from.
            Self::Merging(merge) if one_encoding && subject.is_spelled_alike() => {
                let preferred = match merge {
                    Merge::Prefer(node) => sides.iter().position(|side| side.name == node),
                    Merge::Newest | Merge::OnlyMissing | Merge::Refuse => None,
                };
                Keep::Merge { nodes, preferred, integers: subject.has_integer_key() }
            }
            Self::Renumbering | Self::Merging(_) => Keep::Keys { nodes },
        }
    }
}

/// What a comparison found. The subject is none if the table is gone.
pub(super) struct Compared<'a> {
    pub subject: Option<Subject>,
    pub tally: Tally,
    pub differences: Differences<'a>,
}

impl<'w> Work<'w> {
    /// Before anything is changed: a link that cannot come to be should not leave a slot behind that keeps WAL. What
    /// decides is the comparison at the snapshots, later, or this one if it still holds then.
    ///
    /// Says what differs. `only_merges`: of tables that would not be merged nothing is said, none is refused, and no
    /// comparison is kept.
    pub(super) async fn refuse_different_tables(
        &self,
        only_merges: bool,
    ) -> Result<(Vec<(QualifiedName, String)>, Vec<Earlier<'w>>), LifecycleError> {
        let (mut differ, mut kept) = (Vec::new(), Vec::new());
        // Where rows get other ids there will be others to compare, and other clashes to look for.
        let keep = !only_merges && !self.plan.steps.iter().any(|step| matches!(step, Step::Renumber { .. }));
        for step in &self.plan.steps {
            let Step::Fill { id, table, rows: Rows::Compare { nodes, merge, by, .. } } = step else { continue };
            if only_merges && *merge == Merge::Refuse {
                continue;
            }
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
            let purpose = if keep && *merge != Merge::Refuse { Purpose::Merging(merge) } else { Purpose::Looking };
            let compared = self.compare_before(table, &sessions, purpose).await?;
            // Of rows that share an id and get different ones nobody loses. Which they are shows when they have them.
            let merge_now =
                if self.is_renumbered(table) && *merge == Merge::OnlyMissing { &Merge::Newest } else { merge };
            self.require_mergeable(table, &sessions, &compared, merge_now)?;
            self.refuse_what_constraints_refuse(table, &sessions, &compared, (merge, by)).await?;
            if !compared.tally.is_equal() {
                let names = names(&sessions);
                let words = in_words(&compared.tally, &names);
                self.progress.merged(table, &words);
                differ.push((table.clone(), words));
            }
            if keep {
                self.keep_comparison(&mut kept, (*id, table), &sessions, compared).await?;
            }
        }
        Ok((differ, kept))
    }

    /// Refuses what the merge cannot make equal.
    pub(super) fn require_mergeable(
        &self,
        table: &QualifiedName,
        sessions: &[(usize, OpenNode)],
        compared: &Compared<'_>,
        merge: &Merge,
    ) -> Result<(), LifecycleError> {
        let tally = &compared.tally;
        if tally.is_equal() {
            return Ok(());
        }
        let names = names(sessions);
        let what = format!(
            "{} holds rows on {}, and they differ: {}",
            table.plain(),
            names.join(" and on "),
            in_words(tally, &names)
        );
        if sessions.iter().any(|(node, _)| self.surveys[*node].is_live(table)) {
            let joins = sessions.iter().find(|(node, _)| !self.surveys[*node].is_live(table));
            let shape = joins.and_then(|(node, _)| self.shape(*node, table));
            let remedy = format!(
                "see them with `pgtandem diff`; merging into a table that is linked already is missing yet: make them \
                 equal, or empty it on the node that joins (TRUNCATE {}), and run `pgtandem up` again",
                shape.map_or(table, |shape| &shape.name)
            );
            return Err(LifecycleError::refused(what, remedy));
        }
        if tally.clashes > 0 && *merge != Merge::Refuse {
            return Err(refuse_clashes(table, tally, &names, compared.subject.as_ref()));
        }
        let contested = compared.differences.contested;
        match merge {
            Merge::Refuse => Err(LifecycleError::refused(what, self.how_to_merge(table, &names))),
            Merge::OnlyMissing if contested > 0 => {
                let what = format!("{what}; merge = \"only-missing\" leaves {contested} of them as they are");
                Err(LifecycleError::refused(what, self.how_to_merge(table, &names)))
            }
            Merge::Newest | Merge::Prefer(_) | Merge::OnlyMissing => Ok(()),
        }
    }

    /// The lines that the configuration needs.
    fn how_to_merge(&self, table: &QualifiedName, names: &[&str]) -> String {
        let by = Ident::new(MERGE_BY);
        let newest = self.common_columns(table).contains(&by);
        let (line, others) = match newest {
            true => ("merge = \"newest\"".to_owned(), format!("or \"prefer:{}\": its rows win", names[0])),
            false => (
                format!("merge = \"prefer:{}\"", names[0]),
                "or \"newest\", with merge_by = \"COLUMN\": the row with the larger value wins".to_owned(),
            ),
        };
        let wins = if newest { format!("the row whose {MERGE_BY} is larger wins") } else { "its rows win".to_owned() };
        format!(
            "see them with `pgtandem diff`, and say in pgtandem.toml how they become the same (docs/merging.md):\n\
             \n  [[tables]]\n  name = {}\n  {line}   # {wins}; {others}\n\n\
             or make them equal, or empty one side ({}), and run `pgtandem up` again",
            toml_text(&spell_table_name(table)),
            self.truncate_one(table)
        )
    }

    /// Nodes may call it differently.
    fn truncate_one(&self, table: &QualifiedName) -> String {
        let own: BTreeSet<String> =
            self.surveys.iter().filter_map(|of| Some(of.table(table)?.name.to_string())).collect();
        let statements: Vec<String> = own.iter().map(|name| format!("TRUNCATE {name}")).collect();
        statements.join(", or ")
    }

    /// Two more sessions for each of these.
    async fn see_the_same(&self, sessions: &[(usize, OpenNode)]) -> Result<Vec<[OpenNode; 2]>, LifecycleError> {
        const QUERY: &str = "SELECT pg_catalog.pg_export_snapshot()";
        let more = sessions.iter().map(|(node, session)| async move {
            let snapshot = session.client().query_one(QUERY, &[]).await.on(&session.name, "exporting a snapshot")?;
            let snapshot: String = snapshot.get(0);
            let (node, snapshot) = (&self.nodes[*node], snapshot.as_str());
            let (ranges, looks) = try_join(see_the_same(node, snapshot), see_the_same(node, snapshot)).await?;
            Ok::<_, LifecycleError>([ranges, looks])
        });
        try_join_all(more).await
    }

    /// Before rows are renumbered: unique values that will only then show whether they clash are not looked at.
    async fn compare_before(
        &self,
        table: &QualifiedName,
        sessions: &[(usize, OpenNode)],
        purpose: Purpose<'_>,
    ) -> Result<Compared<'w>, LifecycleError> {
        self.compare_clashes(table, sessions, purpose, |index| !self.shows_later(table, index)).await
    }

    /// Whether rows with the same values in a unique index of these columns may become one row, or have other values, when
    /// rows are renumbered.
    pub(super) fn shows_later(&self, table: &QualifiedName, index: &[&Ident]) -> bool {
        let matching = self.config.tables.iter().find(|of| of.name == *table && self.is_renumbered(table));
        let matching = matching.and_then(|table| table.matching.as_ref());
        let joined = matching.is_some_and(|matching| matching.columns.iter().all(|name| index.contains(&name)));
        let shapes = (0..self.nodes.len()).filter_map(|node| self.shape(node, table));
        let refers = |column: &Ident| {
            let keys = shapes.clone().flat_map(|shape| &shape.foreign_keys_out);
            keys.filter(|key| key.columns.contains(column)).any(|key| self.is_renumbered(&key.referenced))
        };
        joined || index.iter().any(|column| refers(column))
    }

    fn is_renumbered(&self, name: &QualifiedName) -> bool {
        self.plan.steps.iter().any(|step| matches!(step, Step::Renumber { table, .. } if table == name))
    }

    /// `sessions`: one per node whose rows are compared, with the node's number, each in a transaction that sees one
    /// state of them.
    pub(super) async fn compare(
        &self,
        table: &QualifiedName,
        sessions: &[(usize, OpenNode)],
        purpose: Purpose<'_>,
    ) -> Result<Compared<'w>, LifecycleError> {
        self.compare_clashes(table, sessions, purpose, |_| true).await
    }

    /// `clashes`: whether they are looked for in a unique index of these columns.
    async fn compare_clashes(
        &self,
        table: &QualifiedName,
        sessions: &[(usize, OpenNode)],
        purpose: Purpose<'_>,
        clashes: impl Fn(&[&Ident]) -> bool,
    ) -> Result<Compared<'w>, LifecycleError> {
        let columns: Vec<Columns> =
            self.common_columns(table).into_iter().map(|name| vec![name; sessions.len()]).collect();
        let shapes: Option<Vec<&TableShape>> = sessions.iter().map(|(node, _)| self.shape(*node, table)).collect();
        // Those of the surveys: a table that has gone since is missed by whatever reads it next.
        let Some(shapes) = shapes.filter(|shapes| shapes.len() > 1) else {
            let differences = Differences::new(table, 0, self.progress, Keep::Nothing)?;
            return Ok(Compared { subject: None, tally: Tally::default(), differences });
        };
        // Outside of the transactions, which an error would end.
        let asked: Vec<Side<'_>> = sessions.iter().map(|(node, _)| side(&self.nodes[*node])).collect();
        let mut subject = Subject::new(table, &asked, &shapes, &columns).await?;
        subject.look_for_clashes_in(clashes);
        let sides: Vec<Side<'_>> = sessions.iter().map(|(_, session)| side(session)).collect();
        let encodings: BTreeSet<&str> =
            sessions.iter().map(|(node, _)| self.surveys[*node].server.encoding.as_str()).collect();
        let keep = purpose.keep(&subject, &sides, encodings.len() == 1);
        let mut differences = Differences::new(table, subject.estimated_rows(), self.progress, keep)?;
        let more = if subject.estimated_rows() >= LARGE { Some(self.see_the_same(sessions).await?) } else { None };
        let sessions = match &more {
            None => Sessions::single(sides),
            Some(more) => {
                let of = |which: usize| more.iter().map(|sessions| side(&sessions[which])).collect();
                Sessions { sums: sides, ranges: of(0), looks: of(1), ask_ahead: true }
            }
        };
        let tally = compare_rows(&subject, &sessions, OPTIONS, None, &mut differences).await?;
        self.progress.compared(table);
        Ok(Compared { subject: Some(subject), tally, differences })
    }
}

/// A session that sees what another one's transaction sees.
async fn see_the_same(node: &OpenNode, snapshot: &str) -> Result<OpenNode, LifecycleError> {
    let session = node.another().await?;
    let script =
        format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}", Literal(snapshot));
    session.client().batch_execute(&script).await.on(&session.name, "entering a snapshot")?;
    Ok(session)
}

fn side(node: &OpenNode) -> Side<'_> {
    Side { name: &node.name, client: node.client() }
}

fn names(sessions: &[(usize, OpenNode)]) -> Vec<&str> {
    sessions.iter().map(|(_, session)| session.name.as_str()).collect()
}

fn toml_text(text: &str) -> String {
    if text.contains('"') { format!("'{text}'") } else { format!("\"{text}\"") }
}

fn refuse_clashes(table: &QualifiedName, tally: &Tally, names: &[&str], subject: Option<&Subject>) -> LifecycleError {
    let mut what = format!(
        "{}: rows with different keys claim the same unique value, and cannot be in one table ({} {})",
        table.plain(),
        tally.clashes,
        if tally.clashes == 1 { "pair" } else { "pairs" }
    );
    for clash in &tally.clash_examples {
        let columns = clash.columns.iter().filter_map(|at| Some(subject?.columns.get(*at)?.as_str()));
        let columns: Vec<&str> = columns.collect();
        let row = |(node, key): &(usize, Vec<String>)| format!("{} on {}", key.join(", "), names[*node]);
        let _ = write!(
            what,
            "\n  {} = {}: {} and {}",
            columns.join(", "),
            clash.values.join(", "),
            row(&clash.rows[0]),
            row(&clash.rows[1])
        );
    }
    LifecycleError::refused(
        what,
        "see them with `pgtandem diff`; give such rows the same key, or one of them another value, and run `pgtandem up` \
         again",
    )
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
