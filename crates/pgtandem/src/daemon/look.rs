//! A look at the linked tables of all nodes: which may be written where.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use hub::{NodeId, TableId};

use super::control::Control;
use super::drift::{Side, misfit};
use super::error::ReachError;
use super::probe::answer_of;
use super::tables::table_id;
use crate::catalog::{self, TableShape};
use crate::link::{self, LinkedTable, PausedBy};

/// What a look at the catalogs of all nodes brought.
pub struct Looked {
    pub verdicts: Vec<TableVerdict>,
    /// The columns of each table that fits.
    pub known: HashMap<(TableId, NodeId), BTreeSet<String>>,
}

/// Whether a table may be written on a node.
#[derive(Debug, Clone)]
pub struct TableVerdict {
    pub table: TableId,
    pub name: String,
    pub target: NodeId,
    /// Why not.
    pub pause: Option<String>,
}

impl TableVerdict {
    /// Its columns do not fit its peers'; a table that a person paused may fit all the same.
    #[must_use]
    pub fn has_drifted(&self) -> bool {
        self.pause.as_deref().is_some_and(|why| why != BY_USER)
    }
}

const BY_USER: &str = "by `pgtandem pause`";

/// A node's linked tables: as they are, as they were, and who paused them.
struct View {
    shapes: Vec<TableShape>,
    own: Vec<LinkedTable>,
}

/// Compares the linked tables of the nodes that are here.
///
/// # Errors
/// With the name of the node that was lost.
pub async fn compare_tables(
    controls: &[Arc<Control>],
    linked: &[LinkedTable],
    limit: Duration,
) -> Result<Looked, (String, ReachError)> {
    let mut views = Vec::new();
    for control in controls {
        views
            .push(answer_of(&control.name, limit, view(control)).await.map_err(|error| (control.name.clone(), error))?);
    }
    let mut verdicts = Vec::new();
    for table in linked {
        for (at, control) in controls.iter().enumerate() {
            let pause = why_paused(table, controls, &views, at);
            verdicts.push(TableVerdict {
                table: table_id(table.id),
                name: table.name.plain(),
                target: control.id,
                pause,
            });
        }
        let remembered = remember(table, controls, &views, &verdicts);
        // What is not written now is written at the next look.
        drop(tokio::time::timeout(limit, remembered).await);
    }
    let known = fitting_columns(controls, &views, &verdicts);
    Ok(Looked { verdicts, known })
}

fn fitting_columns(
    controls: &[Arc<Control>],
    views: &[View],
    verdicts: &[TableVerdict],
) -> HashMap<(TableId, NodeId), BTreeSet<String>> {
    let mut known = HashMap::new();
    for (control, view) in controls.iter().zip(views) {
        for own in &view.own {
            let table = table_id(own.id);
            let fits = verdicts.iter().all(|verdict| verdict.table != table || !verdict.has_drifted());
            if let (true, Some(shape)) = (fits, view.shapes.iter().find(|shape| shape.relid == own.relid)) {
                let columns = shape.written_columns().map(|column| column.name.as_str().to_owned());
                known.insert((table, control.id), columns.collect());
            }
        }
    }
    known
}

async fn view(control: &Control) -> Result<View, ReachError> {
    let own = link::read_linked_tables(&control.client).await?;
    let namings: Vec<_> = own.iter().map(|table| table.naming.clone()).collect();
    let shapes = catalog::read_tables(&control.client, &namings).await?;
    Ok(View { shapes, own })
}

fn why_paused(table: &LinkedTable, controls: &[Arc<Control>], views: &[View], at: usize) -> Option<String> {
    let by_user =
        views.iter().flat_map(|view| &view.own).any(|own| own.id == table.id && own.paused_by == Some(PausedBy::User));
    if by_user {
        return Some(BY_USER.to_owned());
    }
    let side = |at: usize| -> Result<(&TableShape, BTreeSet<String>), String> {
        let own = views[at].own.iter().find(|own| own.id == table.id);
        let own = own.ok_or_else(|| format!("it is not linked on {}", controls[at].name))?;
        let shape = views[at].shapes.iter().find(|shape| shape.relid == own.relid);
        let gone = || {
            format!(
                "{} is not there on {} any more (renamed or dropped); give it its name back",
                own.name.own().plain(),
                controls[at].name
            )
        };
        Ok((shape.ok_or_else(gone)?, own.columns.iter().cloned().collect()))
    };
    let (target, target_columns) = match side(at) {
        Ok(side) => side,
        Err(why) => return Some(why),
    };
    let target = Side { node: &controls[at].name, shape: target, linked_columns: &target_columns };
    (0..controls.len()).filter(|source| *source != at).find_map(|source| match side(source) {
        Ok((shape, columns)) => {
            misfit(&Side { node: &controls[source].name, shape, linked_columns: &columns }, &target)
        }
        Err(why) => Some(why),
    })
}

/// Writes on every node whether the table is paused by drift; where all fits, also its columns of now.
async fn remember(table: &LinkedTable, controls: &[Arc<Control>], views: &[View], verdicts: &[TableVerdict]) {
    let of_table = verdicts.iter().filter(|verdict| verdict.table == table_id(table.id));
    let why = of_table.filter_map(|verdict| verdict.pause.clone()).next();
    for (control, view) in controls.iter().zip(views) {
        let Some(own) = view.own.iter().find(|own| own.id == table.id) else { continue };
        if own.paused_by == Some(PausedBy::User) {
            continue;
        }
        let by = why.as_ref().map(|_| PausedBy::Drift);
        if own.paused_by != by || own.pause_reason != why {
            let pause = why.as_deref().map(|why| (PausedBy::Drift, why));
            drop(link::set_paused(&control.client, own.id, pause).await);
        }
        let shape = view.shapes.iter().find(|shape| shape.relid == own.relid);
        if let (None, Some(shape)) = (&why, shape) {
            let now: Vec<String> = shape.written_columns().map(|column| column.name.as_str().to_owned()).collect();
            if now.iter().collect::<BTreeSet<_>>() != own.columns.iter().collect() {
                drop(link::set_columns(&control.client, own.id, &now).await);
            }
        }
    }
}
