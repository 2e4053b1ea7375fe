//! What is compared: a table as each node has it, and which of its columns stand for each other.

use super::CompareError;
use super::clashes::unique_columns;
use super::error::On;
use super::form::{canonical, highest_key, is_one_integer, sorts_alike};
use crate::catalog::{Column, TableKind, TableShape, estimate_rows};
use crate::sql::{self, Canonical, ComparedColumn, ComparedTable, Ident, QualifiedName, Seed, Spelling, list};
use tokio_postgres::Client;

/// One node, and a session on it.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    pub name: &'a str,
    pub client: &'a Client,
}

/// Columns that stand for each other: their names, node by node.
pub type Columns = Vec<Ident>;

/// A table, as it is compared.
pub struct Subject {
    /// As the configuration has it.
    pub name: QualifiedName,
    /// Of the columns that are compared, on the first node.
    pub columns: Vec<Ident>,
    /// Where the key's columns are in `columns`.
    pub key: Vec<usize>,
    /// What was not compared: columns that some node lacks or computes itself.
    pub left_out: Vec<Ident>,
    /// Node by node.
    pub(super) tables: Vec<ComparedTable>,
    /// The key's types on each node, without domains: what the texts of a boundary are cast to.
    pub(super) key_types: Vec<Vec<String>>,
    pub(super) sorted: bool,
    pub(super) one_integer: bool,
    /// What a key of one integer can be at most on every node.
    pub(super) highest_key: i64,
    /// The columns of each secondary unique index.
    pub(super) unique: Vec<Vec<usize>>,
    /// About how many rows each node has.
    pub(super) estimates: Vec<u64>,
    pub(super) seed: Seed,
    is_spelled_alike: bool,
}

/// Columns of the same name that every node has and writes, in the first one's order.
pub fn columns_by_name(shapes: &[&TableShape]) -> Vec<Columns> {
    let Some((first, others)) = shapes.split_first() else { return Vec::new() };
    let everywhere =
        |name: &Ident| others.iter().all(|other| other.written_columns().any(|column| column.name == *name));
    let common = first.written_columns().map(|column| &column.name).filter(|name| everywhere(name));
    common.map(|name| vec![name.clone(); shapes.len()]).collect()
}

impl Subject {
    /// `sides`: sessions that are in no transaction, since questions are asked that may be answered with an error.
    /// `shapes`: one per side; `columns`: those that are compared.
    pub async fn new(
        name: &QualifiedName,
        sides: &[Side<'_>],
        shapes: &[&TableShape],
        columns: &[Columns],
    ) -> Result<Self, CompareError> {
        let first = shapes[0];
        for (side, shape) in sides.iter().zip(shapes) {
            if shape.primary_key.is_empty() {
                return Err(CompareError::unfit(
                    format!(
                        "node {}: {} has no primary key: nothing tells which rows are to be the same",
                        side.name,
                        name.plain()
                    ),
                    format!("ALTER TABLE {} ADD PRIMARY KEY (…), or leave the table out", shape.name),
                ));
            }
        }
        let of_key = |key: &Ident| columns.iter().position(|names| names[0] == *key);
        let key: Option<Vec<usize>> = first.primary_key.iter().map(of_key).collect();
        let Some(key) = key.filter(|key| are_keys(key, columns, shapes)) else {
            let keys = sides
                .iter()
                .zip(shapes)
                .map(|(side, shape)| format!("({}) on {}", list(&shape.primary_key), side.name));
            return Err(CompareError::unfit(
                format!("{}: its primary key is {}", name.plain(), list(keys)),
                "give it the same primary key on all nodes",
            ));
        };
        let found: Vec<Vec<&Column>> = columns.iter().map(|names| find(names, shapes)).collect();
        let mut forms = Vec::new();
        for columns in &found {
            forms.push(hashable(canonical(columns), columns, sides).await);
        }
        let estimates = estimates(name, sides, shapes).await?;
        let key_columns: Vec<Vec<&Column>> = key.iter().map(|at| found[*at].clone()).collect();
        let compared = |node: usize, at: usize| {
            let column = found[at][node];
            ComparedColumn {
                name: column.name.clone(),
                cast_type: column.cast_type.clone(),
                equals: column.equals.clone(),
                canonical: forms[at],
            }
        };
        let table = |(node, shape): (usize, &&TableShape)| ComparedTable {
            name: shape.name.clone(),
            is_partitioned: shape.kind == TableKind::Partitioned,
            key: key.iter().map(|at| compared(node, *at)).collect(),
            columns: (0..found.len()).map(|at| compared(node, at)).collect(),
        };
        Ok(Self {
            name: name.clone(),
            columns: columns.iter().map(|names| names[0].clone()).collect(),
            left_out: left_out(columns, shapes),
            tables: shapes.iter().enumerate().map(table).collect(),
            key_types: (0..shapes.len())
                .map(|node| key_columns.iter().map(|columns| columns[node].base_type.clone()).collect())
                .collect(),
            sorted: key_columns.iter().all(|columns| sorts_alike(columns)),
            one_integer: is_one_integer(&key_columns),
            highest_key: highest_key(&key_columns),
            unique: unique_columns(shapes, columns),
            estimates,
            is_spelled_alike: found.iter().zip(&forms).all(|(columns, form)| spells_alike(columns, *form)),
            seed: Seed(uuid::Uuid::new_v4().as_u64_pair().1.cast_signed()),
            key,
        })
    }

    /// About how many rows there are on the node that has most.
    pub fn estimated_rows(&self) -> u64 {
        self.estimates.iter().copied().max().unwrap_or_default()
    }

    /// Only in these unique indexes clashes are looked for; each is told by its columns.
    pub fn look_for_clashes_in(&mut self, wanted: impl Fn(&[&Ident]) -> bool) {
        let columns = &self.columns;
        self.unique.retain(|index| wanted(&index.iter().map(|at| &columns[*at]).collect::<Vec<_>>()));
    }

    /// The columns of the secondary unique indexes.
    pub fn unique_indexes(&self) -> &[Vec<usize>] {
        &self.unique
    }

    /// How a column's values become tokens.
    pub fn canonical(&self, column: usize) -> Canonical {
        self.tables[0].columns[column].canonical
    }

    /// Whether a row that is copied from one node to another has the same spelling there, and so the same hash of it.
    pub fn is_spelled_alike(&self) -> bool {
        self.is_spelled_alike
    }

    /// Whether rows that are equal have the same spelling.
    pub fn is_spelled_as_compared(&self) -> bool {
        self.tables[0].is_spelled_as_compared()
    }

    /// How a row's spelling is hashed.
    pub fn spelling(&self) -> Spelling {
        let name = |at: usize| self.columns[at].as_str().to_owned();
        Spelling {
            seed: self.seed.0,
            one_integer: self.one_integer,
            key: self.key.iter().map(|at| name(*at)).collect(),
            columns: (0..self.columns.len()).map(|at| (name(at), self.canonical(at).spelled())).collect(),
        }
    }

    /// The hash of its spelling, of the row `t` of this node's table.
    pub fn spelling_hash(&self, node: usize) -> String {
        self.spelling().hash(&self.tables[node])
    }

    /// The key is one integer.
    pub fn has_integer_key(&self) -> bool {
        self.one_integer
    }

    pub(super) fn is_hashed(&self, column: usize) -> bool {
        matches!(self.tables[0].columns[column].canonical, Canonical::Hashed | Canonical::HashedJson)
    }
}

fn find<'a>(names: &Columns, shapes: &[&'a TableShape]) -> Vec<&'a Column> {
    names.iter().zip(shapes).filter_map(|(name, shape)| shape.column(name)).collect()
}

/// On every node the columns are its primary key, in whatever order.
fn are_keys(key: &[usize], columns: &[Columns], shapes: &[&TableShape]) -> bool {
    shapes.iter().enumerate().all(|(node, shape)| {
        shape.primary_key.len() == key.len() && key.iter().all(|at| shape.is_key(&columns[*at][node]))
    })
}

/// Modifiers may change what is written: they cut blanks off, or add zeros.
fn spells_alike(columns: &[&Column], form: Canonical) -> bool {
    let same = columns.iter().all(|column| column.type_text == columns[0].type_text);
    let as_written = columns.iter().all(|column| !column.type_text.contains('('));
    same || form.spelled() == form && as_written
}

fn left_out(columns: &[Columns], shapes: &[&TableShape]) -> Vec<Ident> {
    let mut names: Vec<Ident> = Vec::new();
    for (node, shape) in shapes.iter().enumerate() {
        let compared = |name: &Ident| columns.iter().any(|names| names[node] == *name);
        let others = shape.columns.iter().map(|column| &column.name).filter(|name| !compared(name));
        for name in others {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    names
}

/// Types whose values cannot be hashed are compared by their texts.
async fn hashable(form: Canonical, columns: &[&Column], sides: &[Side<'_>]) -> Canonical {
    if form != Canonical::Hashed {
        return form;
    }
    for (column, side) in columns.iter().zip(sides) {
        if side.client.query(&sql::probe_hash(&column.cast_type), &[]).await.is_err() {
            return Canonical::Text;
        }
    }
    form
}

async fn estimates(name: &QualifiedName, sides: &[Side<'_>], shapes: &[&TableShape]) -> Result<Vec<u64>, CompareError> {
    let mut estimates = Vec::new();
    for (side, shape) in sides.iter().zip(shapes) {
        let rows = estimate_rows(side.client, &[shape.relid]).await;
        let rows = rows.on(side.name, || format!("reading how many rows {} has", name.plain()))?;
        estimates.push(rows.get(&shape.relid).map_or(0, |rows| rows.unsigned_abs()));
    }
    Ok(estimates)
}
