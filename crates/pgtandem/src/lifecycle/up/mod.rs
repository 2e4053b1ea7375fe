//! `up`: takes the steps of a plan.
//!
//! Each step is one transaction per node and leaves a durable trace by which the next survey knows that it was
//! taken. So `up` may be killed at any point, and a repeated one goes on from there.

mod clash;
mod constraints;
mod copy;
mod direct;
mod equal;
mod fill;
mod install;
mod interleave;
mod lacking;
mod merge;
pub(in crate::lifecycle) mod own;
mod publish;
pub(in crate::lifecycle) mod renumber;
mod resume;
mod snapshot;
mod unchanged;
mod write;

pub(in crate::lifecycle) use super::settle::winner::order;

pub use renumber::{Example, Renumbering};

use super::check::{check_and_survey, judge, survey_all};
use super::plan::{Plan, Rows, Step, plan};
use super::{LifecycleError, NodeSurvey, OpenNode, Report, locks, open_nodes, restore, triggers};
use crate::config::{Config, Merge};
use crate::link;
use crate::sql::{self, QualifiedName};

/// What a person watches while it works. All of it may be left out.
pub trait Progress: Send + Sync {
    /// A step begins.
    fn step(&self, _text: &str) {}
    /// So many rows of a table are done, of about so many.
    fn rows(&self, _table: &QualifiedName, _done: u64, _total: u64) {}
    /// The table's rows are compared.
    fn compared(&self, _table: &QualifiedName) {}
    /// What of the table's rows differs, or was merged, in words.
    fn merged(&self, _table: &QualifiedName, _what: &str) {}
    /// The table's rows are copied.
    fn rows_end(&self, _table: &QualifiedName, _rows: u64) {}
}

/// For those who do not watch.
pub struct Silent;

impl Progress for Silent {}

/// How closely the rows are looked at for a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Which of them would get other ids. The others `up` looks at itself, before it begins.
    Ids,
    /// And whether they can be merged.
    Rows,
}

/// What `up` would do, and what `check` says; no plan if there are faults.
pub async fn make_plan(config: &Config, look: Look) -> Result<(Report, Option<Plan>), LifecycleError> {
    let (report, planned) = make_plan_and_stay(config, look).await?;
    Ok((report, planned.map(|(plan, _)| plan)))
}

/// As [`make_plan`], with the sessions that it was made with: whoever goes on at once need not connect again, and servers
/// know by then what they are asked.
pub async fn make_plan_and_stay(
    config: &Config,
    look: Look,
) -> Result<(Report, Option<(Plan, Vec<OpenNode>)>), LifecycleError> {
    let (report, surveys, nodes) = check_and_survey(config).await;
    if !report.is_passed() {
        return Ok((report, None));
    }
    let plan = plan(config, &surveys)?;
    let wants = |step: &Step| match step {
        Step::Renumber { .. } => true,
        Step::Fill { rows: Rows::Compare { merge, .. }, .. } => look == Look::Rows && *merge != Merge::Refuse,
        _ => false,
    };
    if !plan.steps.iter().any(wants) {
        return Ok((report, Some((plan, nodes))));
    }
    let mut work = Work {
        nodes,
        surveys,
        plan,
        config,
        until: Until::Linked,
        progress: &Silent,
        snapshots: None,
        earlier: Vec::new(),
    };
    work.preview_renumbering().await?;
    if look == Look::Rows {
        work.plan.differ = work.refuse_different_tables(true).await?.0;
    }
    Ok((report, Some((work.plan, work.nodes))))
}

/// How far `up` goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The rows are the same on all nodes, and what is written from then on is kept for the next `up`.
    Merged,
    Linked,
}

/// Takes the steps of `agreed`, if it is still what there is to do.
pub async fn up(config: &Config, agreed: &Plan, until: Until, progress: &dyn Progress) -> Result<(), LifecycleError> {
    up_from(open_nodes(config).await.all()?, config, agreed, until, progress).await
}

/// As [`up`], with sessions that are open already.
pub async fn up_from(
    nodes: Vec<OpenNode>,
    config: &Config,
    agreed: &Plan,
    until: Until,
    progress: &dyn Progress,
) -> Result<(), LifecycleError> {
    progress.step("asking a running hub to wait");
    locks::keep_others_away(&nodes).await?;
    let surveys: Vec<NodeSurvey> =
        survey_all(&nodes, |node| config.namings(node)).await.into_iter().collect::<Result<_, _>>()?;
    let now = plan(config, &surveys)?;
    let text = |plan: &Plan| plan.steps.iter().map(|step| plan.describe(step)).collect::<Vec<_>>();
    if !judge(config, &surveys).is_passed() || text(&now) != text(agreed) {
        return Err(LifecycleError::refused(
            "what there is to do has changed since the plan was shown",
            "look at `pgtandem plan` and run `pgtandem up` again",
        ));
    }
    let mut work = Work { nodes, surveys, plan: now, config, until, progress, snapshots: None, earlier: Vec::new() };
    work.earlier = work.refuse_different_tables(false).await?.1;
    let steps = work.plan.steps.clone();
    for steps in steps.chunk_by(|one, next| one.as_install().is_some() && next.as_install().is_some()) {
        work.take(steps).await?;
    }
    for node in &work.nodes {
        let days = f64::from(config.hub.confirm_after_days);
        let confirmed = link::confirm_merges(node.client(), Some(days)).await;
        confirmed.map_err(|e| LifecycleError::sql(&node.name, "confirming what was merged long ago", e))?;
        link::notify_changed(node.client()).await.map_err(|e| LifecycleError::sql(&node.name, "waking the hub", e))?;
    }
    Ok(())
}

/// Everything a step needs.
pub(super) struct Work<'a> {
    pub config: &'a Config,
    pub nodes: Vec<OpenNode>,
    /// As it was before the first step.
    pub surveys: Vec<NodeSurvey>,
    pub plan: Plan,
    pub until: Until,
    pub progress: &'a dyn Progress,
    /// One per node, taken when the first table is filled.
    pub snapshots: Option<Vec<snapshot::Snapshot>>,
    /// What was compared before the first step.
    earlier: Vec<unchanged::Earlier<'a>>,
}

impl Work<'_> {
    /// One step, or several installations.
    async fn take(&mut self, steps: &[Step]) -> Result<(), LifecycleError> {
        for step in steps {
            let text = self.plan.describe(step);
            match self.plan.node_of(step) {
                Some(node) => self.progress.step(&format!("{node}: {text}")),
                None => self.progress.step(&text),
            }
        }
        match steps {
            [step] => self.take_one(step).await,
            steps => self.install_all(&steps.iter().filter_map(Step::as_install).collect::<Vec<_>>()).await,
        }
    }

    async fn take_one(&mut self, step: &Step) -> Result<(), LifecycleError> {
        match step {
            Step::Unlink { node, id, table } => restore::unlink_table(&self.nodes[*node], *id, table).await,
            Step::Install { node, capture } => self.install_all(&[(*node, *capture)]).await,
            Step::AddPeer { node, peer } => self.add_peer(*node, *peer).await,
            Step::SlotCount { node } => self.set_slot_count(*node).await,
            Step::ReplicaIdentity { node, table, from, to } => self.set_replica_identity(*node, table, from, to).await,
            Step::Publish { node, create, generated, tables } => self.publish(*node, *create, *generated, tables).await,
            Step::CreateSlot { node } => self.create_slot(*node).await,
            Step::Capture { node, table, capture } => {
                let statements = sql::create_capture(table, capture);
                locks::in_short_transaction(&self.nodes[*node], "making triggers", table, &statements).await
            }
            Step::Register { node, id, table, naming, columns } => {
                self.register(*node, *id, (table, naming), columns).await
            }
            Step::Policy { node, id, table } => self.set_policy(*node, *id, table).await,
            Step::RetireTrigger { node, table, trigger } => triggers::retire(&self.nodes[*node], table, trigger).await,
            Step::DirectPeer { node, peer } => self.make_direct_peer(self.config, *node, *peer).await,
            Step::DirectWait { node, statements, .. } => self.change_wait(*node, statements).await,
            Step::DirectTable { node, peer, table } => self.make_direct_table(*node, *peer, table).await,
            Step::Mirror { node, id, table, columns } => {
                let statements = sql::create_mirror(table, *id, columns);
                locks::in_short_transaction(&self.nodes[*node], "mirroring ids", table, &statements).await
            }
            Step::EndMirror { node, id, table } => {
                let statements = sql::drop_mirror(table, *id);
                locks::in_short_transaction(&self.nodes[*node], "ending to mirror ids", table, &statements).await
            }
            Step::Interleave(interleaving) => self.interleave(interleaving).await,
            Step::Renumber { id, table, node, against, matching } => {
                self.renumber(*id, table, *node, *against, matching).await
            }
            Step::Fill { id, table, rows } => self.fill(*id, table, rows).await,
        }
    }
}
