//! One node's rows.

use super::{Left, Merged, Unmerged};
use crate::catalog::TableShape;
use crate::config::{Config, Matching, Reference};
use crate::connect::FaultClass;
use crate::lifecycle::error::On;
use crate::lifecycle::locks::{Attempts, busy, is_lock_timeout, set_lock_timeout};
use crate::lifecycle::up::own;
use crate::lifecycle::up::renumber::{References, move_ids, renumbered, resolve_references};
use crate::lifecycle::{LifecycleError, NodeSurvey, OpenNode};
use crate::link::{self, Decision, Renumbered, RestoreKind};
use crate::sql::{self, Ident, QualifiedName, WrittenColumn};
use serde_json::Value as Json;
use std::collections::{HashMap, HashSet};
use tokio_postgres::types::ToSql;

pub(super) const DOING: &str = "undoing a merge";
pub(super) const BATCH: usize = 500;
const CHANGED: &str = "it was changed since";

pub(super) struct Undoing<'a> {
    pub node: &'a OpenNode,
    survey: &'a NodeSurvey,
    pub done: &'a mut Unmerged,
}

/// Children first, so that nothing refers to a parent that goes; ids last, when their old places are free.
pub(super) async fn take_back(
    config: &Config,
    node: &OpenNode,
    survey: &NodeSurvey,
    merged: &[Merged],
    done: &mut Unmerged,
) -> Result<(), LifecycleError> {
    let mut undoing = Undoing { node, survey, done };
    let tables: Vec<(&Merged, &TableShape)> =
        merged.iter().filter_map(|merged| Some((merged, survey.table(&merged.table)?))).collect();
    for (merged, shape) in children_first(&tables) {
        undoing.inserted(merged, shape).await?;
    }
    for (merged, shape) in &tables {
        undoing.overwritten(merged, shape).await?;
    }
    undoing.ids(config, &tables).await
}

fn children_first<'m>(tables: &[(&'m Merged, &'m TableShape)]) -> Vec<(&'m Merged, &'m TableShape)> {
    let mut waiting = tables.to_vec();
    let mut ordered = Vec::new();
    while !waiting.is_empty() {
        let has_waiting_child = |(_, shape): &(&Merged, &TableShape)| {
            let mut children = shape.foreign_keys_in.iter().map(|key| &key.table);
            children.any(|child| *child != shape.name && waiting.iter().any(|(_, other)| other.name == *child))
        };
        // Tables that refer to each other in a circle: the first one begins.
        let next = waiting.iter().position(|table| !has_waiting_child(table)).unwrap_or(0);
        ordered.push(waiting.remove(next));
    }
    ordered
}

impl Undoing<'_> {
    pub(super) fn left(&mut self, table: &QualifiedName, key: Vec<String>, why: &str) {
        let (table, node) = (table.plain(), self.node.name.clone());
        self.done.left.push(Left { table, node, key, why: why.to_owned() });
    }

    pub(super) async fn begin(&self) -> Result<(), LifecycleError> {
        own::begin(self.node, self.survey.role.may_set_replication_role, &[&set_lock_timeout()], DOING).await
    }

    pub(super) async fn commit(&self) -> Result<(), LifecycleError> {
        self.node.client().batch_execute("COMMIT").await.on(&self.node.name, DOING)
    }

    /// After an error in a transaction: waits, if waiting may help. False: some row is refused.
    pub(super) async fn recover(
        &self,
        error: LifecycleError,
        attempts: &mut Attempts,
        table: &QualifiedName,
    ) -> Result<bool, LifecycleError> {
        self.node.client().batch_execute("ROLLBACK").await.on(&self.node.name, DOING)?;
        if is_lock_timeout(&error) {
            if attempts.again().await {
                return Ok(true);
            }
            return Err(busy(self.node, DOING, table).await);
        }
        let about_a_row =
            error.sqlstate().is_some_and(|state| FaultClass::of_sqlstate(state) == FaultClass::RowRejected);
        if about_a_row { Ok(false) } else { Err(error) }
    }

    async fn overwritten(&mut self, merged: &Merged, shape: &TableShape) -> Result<(), LifecycleError> {
        let number = self.survey.link.as_ref().map_or(-1, |link| link.node.number);
        let (client, node) = (self.node.client(), self.node.name.as_str());
        // The last one first: a merge that was interrupted may have overwritten a row twice.
        let mut before = i64::MAX;
        loop {
            let decisions = link::list_merge_decisions(client, merged.id, number, before, BATCH as i64).await;
            let decisions = decisions.on(node, DOING)?;
            let Some((last, _)) = decisions.last() else { return Ok(()) };
            before = *last;
            let mut attempts = Attempts::new();
            let mut waiting: Vec<Vec<(i64, Decision)>> = vec![decisions];
            while let Some(some) = waiting.pop().filter(|some| !some.is_empty()) {
                match self.try_restore(shape, &some).await {
                    Ok(restored) => {
                        self.done.restored += restored.len() as u64;
                        for (_, decision) in some.iter().filter(|(id, _)| !restored.contains(id)) {
                            self.left(&merged.table, key_of(shape, &decision.key), CHANGED);
                        }
                    }
                    Err(error) => match self.recover(error, &mut attempts, &shape.name).await? {
                        true => waiting.push(some),
                        false if some.len() == 1 => {
                            let key = key_of(shape, &some[0].1.key);
                            self.left(&merged.table, key, "a constraint refuses what it was");
                        }
                        false => {
                            let (first, second) = some.split_at(some.len() / 2);
                            waiting.extend([second.to_vec(), first.to_vec()]);
                        }
                    },
                }
            }
        }
    }

    /// Ids of the decisions that are undone.
    async fn try_restore(&self, shape: &TableShape, some: &[(i64, Decision)]) -> Result<HashSet<i64>, LifecycleError> {
        let (client, node) = (self.node.client(), self.node.name.as_str());
        let winner = some.first().and_then(|(_, decision)| decision.winner_row.as_ref());
        let in_record = |name: &Ident| winner.is_some_and(|row| row.get(name.as_str()).is_some());
        let columns: Vec<_> = shape.written_columns().filter(|column| in_record(&column.name)).collect();
        let value = |row: &'_ Option<Json>, name: &Ident| {
            row.as_ref().and_then(|row| row.get(name.as_str())?.as_str().map(str::to_owned))
        };
        let side = |row: fn(&Decision) -> &Option<Json>| {
            let values = |name: &Ident| some.iter().map(|(_, decision)| value(row(decision), name)).collect::<Vec<_>>();
            columns.iter().map(|column| values(&column.name)).collect::<Vec<_>>()
        };
        let (lost, won) = (side(|decision| &decision.loser_row), side(|decision| &decision.winner_row));
        let ids: Vec<i64> = some.iter().map(|(id, _)| *id).collect();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = lost.iter().chain(&won).map(|values| values as _).collect();
        parameters.push(&ids);
        let written: Vec<(WrittenColumn, String)> =
            columns.iter().map(|column| (shape.written(column), column.type_text.clone())).collect();
        self.begin().await?;
        let query = sql::take_back_overwritten(&shape.name, &written);
        let restored = client.query(&query, &parameters).await.on(node, DOING)?;
        let restored: Vec<i64> = restored.iter().map(|row| row.get(0)).collect();
        link::set_decisions_undone(client, &restored).await.on(node, DOING)?;
        self.commit().await?;
        Ok(restored.into_iter().collect())
    }

    /// The last one first, table by table as they were moved.
    async fn ids(&mut self, config: &Config, tables: &[(&Merged, &TableShape)]) -> Result<(), LifecycleError> {
        let (client, node) = (self.node.client(), self.node.name.as_str());
        let mut moved = link::list_renumbered(client, None).await.on(node, DOING)?;
        moved.retain(|one| tables.iter().any(|(merged, _)| merged.id == one.table_id));
        while let Some(table_id) = moved.last().map(|one| one.table_id) {
            let Some((merged, shape)) = tables.iter().find(|(merged, _)| merged.id == table_id) else { return Ok(()) };
            let references = self.references(config, merged, shape).await?;
            let mut attempts = Attempts::new();
            while moved.last().is_some_and(|one| one.table_id == table_id) {
                let batch = independent(&moved);
                match self.try_move(shape, &references, &batch).await {
                    Ok(taken) => {
                        self.done.renumbered += (batch.len() - taken.len()) as u64;
                        self.call_by_old_ids(&merged.table, batch.iter().filter(|one| !taken.contains(&one.new_id)));
                        for one in &batch {
                            if taken.contains(&one.new_id) {
                                let why = format!("its old id {} is another row's now", one.old_id);
                                self.left(&merged.table, vec![one.new_id.clone()], &why);
                            }
                        }
                        moved.truncate(moved.len() - batch.len());
                    }
                    Err(error) => {
                        let text = error.without_node(node);
                        if !self.recover(error, &mut attempts, &shape.name).await? {
                            return Err(LifecycleError::refused(
                                format!(
                                    "node {node}: rows of {} cannot get their old ids back: {text}",
                                    merged.table.plain()
                                ),
                                "mend what stands in the way, and run `pgtandem undo merge` again: it goes on where it was",
                            ));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Rows that were left before are listed under the ids that they have in the end.
    fn call_by_old_ids<'r>(&mut self, table: &QualifiedName, moved: impl Iterator<Item = &'r Renumbered>) {
        let moved: HashMap<&str, &str> = moved.map(|one| (one.new_id.as_str(), one.old_id.as_str())).collect();
        let (table, node) = (table.plain(), self.node.name.as_str());
        for left in self.done.left.iter_mut().filter(|left| left.table == table && left.node == node) {
            if let Some(old) = left.key.first().and_then(|key| moved.get(key.as_str())) {
                left.key = vec![(*old).to_owned()];
            }
        }
    }

    /// As they were when the ids were given.
    async fn references(
        &self,
        config: &Config,
        merged: &Merged,
        shape: &TableShape,
    ) -> Result<References, LifecycleError> {
        let saved = link::read_restore(self.node.client(), RestoreKind::Renumber, &merged.id.to_string()).await;
        let saved = saved.on(&self.node.name, DOING)?.map(|saved| saved.before["references"].clone());
        let texts = saved.and_then(|texts| serde_json::from_value::<Vec<String>>(texts).ok());
        let of_config = || {
            let table = config.tables.iter().find(|table| table.name == merged.table);
            table.and_then(|table| table.matching.as_ref()).map(|matching: &Matching| matching.references.clone())
        };
        let named: Vec<Reference> = match texts {
            Some(texts) => texts.iter().filter_map(|text| Reference::read(text).ok()).collect(),
            None => of_config().unwrap_or_default(),
        };
        resolve_references(self.node, shape, &named).await
    }

    /// The new ids of those whose old place is taken.
    async fn try_move(
        &self,
        shape: &TableShape,
        references: &References,
        batch: &[Renumbered],
    ) -> Result<HashSet<String>, LifecycleError> {
        let (client, node) = (self.node.client(), self.node.name.as_str());
        let back = renumbered(shape, Vec::new(), references);
        let texts = |rows: Vec<tokio_postgres::Row>| rows.iter().map(|row| row.get(0)).collect::<HashSet<String>>();
        let new: Vec<&str> = batch.iter().map(|one| one.new_id.as_str()).collect();
        let old: Vec<&str> = batch.iter().map(|one| one.old_id.as_str()).collect();
        self.begin().await?;
        if !references.unguarded.is_empty() {
            client.batch_execute(&sql::hold_writers(&references.unguarded)).await.on(node, DOING)?;
        }
        let there = texts(client.query(&back.lock_ids(), &[&new]).await.on(node, DOING)?);
        let taken = texts(client.query(&back.present(), &[&old]).await.on(node, DOING)?);
        let free: Vec<&Renumbered> =
            batch.iter().filter(|one| there.contains(&one.new_id) && !taken.contains(&one.old_id)).collect();
        let pairs = free.iter().map(|one| (one.new_id.as_str(), one.old_id.as_str()));
        move_ids(self.node, &back, references, pairs).await.on(node, DOING)?;
        let ids: Vec<i64> = batch.iter().map(|one| one.id).collect();
        link::delete_renumbered(client, &ids).await.on(node, DOING)?;
        self.commit().await?;
        let stuck = batch.iter().filter(|one| there.contains(&one.new_id) && taken.contains(&one.old_id));
        Ok(stuck.map(|one| one.new_id.clone()).collect())
    }
}

/// From the end, as many of one table as do not get into each other's way.
fn independent(moved: &[Renumbered]) -> Vec<Renumbered> {
    let (mut from, mut to) = (HashSet::new(), HashSet::new());
    let mut batch: Vec<Renumbered> = Vec::new();
    for one in moved.iter().rev().take(BATCH) {
        let other_table = batch.first().is_some_and(|first| first.table_id != one.table_id);
        if other_table || to.contains(&one.new_id) || from.contains(&one.old_id) {
            break;
        }
        from.insert(&one.new_id);
        to.insert(&one.old_id);
        batch.push(one.clone());
    }
    batch
}

fn key_of(shape: &TableShape, key: &Json) -> Vec<String> {
    let value = |name: &Ident| key.get(name.as_str()).and_then(Json::as_str).unwrap_or_default().to_owned();
    shape.primary_key.iter().map(value).collect()
}
