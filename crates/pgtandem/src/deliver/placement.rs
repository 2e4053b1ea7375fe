//! In which order and in which form a delivery's rows are written.

use std::collections::HashMap;

use hub::{DeliveryRow, Key, Presence, State, TableId};

use super::target::{TargetTable, TargetTables};
use super::trust::Trust;
use crate::capture::{Image, ShapeId, Shapes};

/// For fewer rows a form of their own is not worth its statement.
const WORTH_A_FORM: usize = 64;

/// What one statement does; statements are prepared once per form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// Of the old half of a key change: the row takes the new key, where it may.
    Move(TableId),
    Delete(TableId),
    Upsert(TableId, ShapeId),
    /// The row is expected to be there.
    Update(TableId, ShapeId),
    /// The row is expected not to be there.
    Insert(TableId, ShapeId),
}

/// A row on its way, with the form it takes.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'a> {
    pub form: Form,
    pub row: &'a DeliveryRow<Image>,
}

/// Rows in the order in which they are written: deletes before upserts, children before parents in deletes and after
/// them in upserts, then by key, so that row locks are taken in one order. Where foreign keys are enforced, a parent
/// goes last: its children may have been given to another one.
#[derive(Debug)]
pub struct Placement<'a> {
    rows: &'a [DeliveryRow<Image>],
    forms: Vec<Form>,
    /// Numbers of a form and of a row; a delivery may have millions.
    order: Vec<(u32, u32)>,
}

impl<'a> Placement<'a> {
    /// Of those rows that `takes` wants.
    pub fn new(
        rows: &'a [DeliveryRow<Image>],
        takes: impl Fn(&DeliveryRow<Image>) -> bool,
        tables: &TargetTables,
        shapes: &Shapes,
        trust: Trust,
    ) -> Self {
        let mut placement = Self { rows, forms: Vec::new(), order: Vec::with_capacity(rows.len()) };
        let mut key_changes = Vec::new();
        for (number, row) in (0..).zip(rows).filter(|(_, row)| takes(row)) {
            let form = placement.number_of(form_of(row, tables, trust));
            placement.order.push((form, number));
            if row.pair.is_some() {
                key_changes.push(number);
            }
        }
        placement.expect_only_of_many();
        placement.add_moves(&key_changes, tables, shapes);
        placement.sort(tables);
        placement
    }

    /// Those that occur.
    pub fn forms(&self) -> Vec<Form> {
        self.order.chunk_by(|a, b| a.0 == b.0).map(|run| self.forms[run[0].0 as usize]).collect()
    }

    /// From the one with number `from` on.
    pub fn rows(&self, from: usize) -> impl Iterator<Item = Placed<'a>> {
        self.order[from..]
            .iter()
            .map(|(form, row)| Placed { form: self.forms[*form as usize], row: &self.rows[*row as usize] })
    }

    fn number_of(&mut self, form: Form) -> u32 {
        // There are few, and neighbours mostly have the same.
        let found = self.forms.iter().rposition(|known| *known == form);
        let number = found.unwrap_or_else(|| {
            self.forms.push(form);
            self.forms.len() - 1
        });
        u32::try_from(number).expect("forms are a few for each table")
    }

    fn expect_only_of_many(&mut self) {
        let mut counts = vec![0_usize; self.forms.len()];
        for (form, _) in &self.order {
            counts[*form as usize] += 1;
        }
        let mut becomes: Vec<u32> = (0..).zip(&counts).map(|(number, _)| number).collect();
        for number in 0..counts.len() {
            if let (Form::Update(table, shape) | Form::Insert(table, shape), 0..WORTH_A_FORM) =
                (self.forms[number], counts[number])
            {
                becomes[number] = self.number_of(Form::Upsert(table, shape));
            }
        }
        self.order.iter_mut().for_each(|(form, _)| *form = becomes[*form as usize]);
    }

    /// Old halves of key changes whose row is to stay itself, and whose new key nobody else takes.
    fn add_moves(&mut self, key_changes: &[u32], tables: &TargetTables, shapes: &Shapes) {
        let rows = || key_changes.iter().map(|number| (*number, &self.rows[*number as usize]));
        let mut images: HashMap<&Key, &Image> = HashMap::new();
        for (_, row) in rows() {
            if let State::Present(image) = &row.state {
                images.insert(&row.key, image);
            }
        }
        let is_moved = |row: &DeliveryRow<Image>| {
            let table = tables.get(&row.key.table())?;
            let image = images.get(row.pair.as_ref()?)?;
            table.moves(&shapes.get(image.shape())).then_some(())
        };
        let moved = rows().filter(|(_, row)| matches!(row.state, State::Absent) && is_moved(row).is_some());
        let moved: Vec<_> = moved.map(|(number, row)| (Form::Move(row.key.table()), number)).collect();
        for (form, number) in moved {
            let form = self.number_of(form);
            self.order.push((form, number));
        }
    }

    fn sort(&mut self, tables: &TargetTables) {
        let rank = |table: TableId| tables.get(&table).map_or(0, |table| table.rank);
        let is_parent = |table: TableId| tables.get(&table).is_some_and(|table| !table.referrers.is_empty());
        let place = |form: Form| match form {
            Form::Move(table) => (0, rank(table)),
            Form::Delete(table) if is_parent(table) => (3, usize::MAX - rank(table)),
            Form::Delete(table) => (1, usize::MAX - rank(table)),
            Form::Upsert(table, _) | Form::Update(table, _) | Form::Insert(table, _) => (2, rank(table)),
        };
        let before = self.forms.clone();
        self.forms.sort_unstable_by_key(|form| (place(*form), *form));
        let now = |form: &Form| self.forms.iter().position(|other| other == form).unwrap_or_default() as u32;
        let becomes: Vec<u32> = before.iter().map(now).collect();
        self.order.iter_mut().for_each(|(form, _)| *form = becomes[*form as usize]);
        let rows = self.rows;
        let key = |row: u32| rows[row as usize].key.bytes();
        self.order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| key(a.1).cmp(key(b.1))));
    }
}

fn form_of(row: &DeliveryRow<Image>, tables: &TargetTables, trust: Trust) -> Form {
    let id = row.key.table();
    let State::Present(image) = &row.state else { return Form::Delete(id) };
    let expects = |allowed: fn(&TargetTable) -> bool| trust == Trust::Presence && tables.get(&id).is_some_and(allowed);
    match row.presence {
        Presence::Present if expects(TargetTable::may_update) => Form::Update(id, image.shape()),
        Presence::Absent if expects(TargetTable::may_copy) => Form::Insert(id, image.shape()),
        _ => Form::Upsert(id, image.shape()),
    }
}

impl TargetTable {
    /// Rows can be copied in: nothing has to be looked at behind them.
    fn may_copy(&self) -> bool {
        self.is_replica && !self.row_security && !self.may_leave_out && self.unchecked.is_empty()
    }

    /// Rows can be updated by key, all columns but the key's.
    fn may_update(&self) -> bool {
        let free = |column: &super::TargetColumn| !column.is_fixed || self.key.contains(&column.name);
        self.may_copy() && !self.key_is_spelled && self.columns.len() > self.key.len() && self.columns.iter().all(free)
    }
}
