//! What a comparison found, in numbers and a few examples: never more than fits into memory.

use serde::{Deserialize, Serialize};

/// A table's rows on all nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many rows each node has.
    pub rows: Vec<u64>,
    /// Keys that all nodes have, but whose rows are not the same.
    pub different: u64,
    /// Keys that only some nodes have.
    pub partial: Vec<Partial>,
    /// Keys that were written too often, or whose changes took too long to arrive, to tell.
    pub in_flight: u64,
    /// Pairs of rows under different keys that claim one unique value.
    pub clashes: u64,
    pub examples: Vec<Found>,
    pub clash_examples: Vec<Clash>,
}

/// Keys that only these nodes have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// Numbers of nodes, ascending.
    pub on: Vec<usize>,
    pub keys: u64,
}

/// A key whose rows are not the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Texts of the key's columns.
    pub key: Vec<String>,
    /// Node by node the texts of the compared columns; a node without the row: none; NULL: none.
    pub rows: Vec<Option<Vec<Option<String>>>>,
    /// Which columns are not the same wherever the row is.
    pub differs: Vec<bool>,
    /// Node by node the texts of the key's columns; where the row is missing, those of a node that has it. Only for who
    /// watches.
    #[serde(skip)]
    pub keys: Vec<Vec<String>>,
}

/// Two rows that would violate a unique index if they were in one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clash {
    /// Which of the compared columns have the same values.
    pub columns: Vec<usize>,
    pub values: Vec<String>,
    /// Number of a node, and the key there.
    pub rows: [(usize, Vec<String>); 2],
}

impl Found {
    /// Numbers of the nodes that have it.
    pub fn on(&self) -> Vec<usize> {
        (0..self.rows.len()).filter(|node| self.rows[*node].is_some()).collect()
    }

    /// Two nodes have it, and not the same row.
    pub fn is_contested(&self) -> bool {
        self.differs.contains(&true)
    }

    pub fn is_everywhere(&self) -> bool {
        self.rows.iter().all(Option::is_some)
    }
}

impl Tally {
    pub(super) fn add_rows(&mut self, rows: &[u64]) {
        self.rows.resize(rows.len(), 0);
        for (sum, rows) in self.rows.iter_mut().zip(rows) {
            *sum += rows;
        }
    }

    /// At most `examples` are kept of rows that differ, and of rows that only the same nodes have.
    pub(super) fn add(&mut self, found: &Found, examples: usize) {
        let on = found.on();
        if self.wants_example(&on, examples) {
            self.examples.push(found.clone());
        }
        if found.is_everywhere() {
            self.different += 1;
        } else {
            self.add_partial(&on, 1);
        }
    }

    /// Of keys that these nodes have.
    pub(super) fn wants_example(&self, on: &[usize], examples: usize) -> bool {
        self.examples_wanted(on, examples) > 0
    }

    /// How many more of them, of keys that these nodes have.
    pub(super) fn examples_wanted(&self, on: &[usize], examples: usize) -> usize {
        examples.saturating_sub(self.examples.iter().filter(|example| example.on() == on).count())
    }

    /// Keys that only these nodes have.
    pub(super) fn add_partial(&mut self, on: &[usize], keys: u64) {
        match self.partial.iter_mut().find(|partial| partial.on == on) {
            Some(partial) => partial.keys += keys,
            None => {
                self.partial.push(Partial { on: on.to_vec(), keys });
                self.partial.sort_by(|a, b| (a.on.len(), &a.on).cmp(&(b.on.len(), &b.on)));
            }
        }
    }

    pub(super) fn add_clash(&mut self, clash: Clash, examples: usize) {
        self.clashes += 1;
        if self.clash_examples.len() < examples {
            self.clash_examples.push(clash);
        }
    }

    /// Keys whose rows are the same on all nodes. While they are written to, about.
    pub fn equal(&self) -> u64 {
        let partial: u64 =
            self.partial.iter().filter(|partial| partial.on.contains(&0)).map(|partial| partial.keys).sum();
        let first = self.rows.first().copied().unwrap_or_default();
        first.saturating_sub(self.different + partial + self.in_flight)
    }

    /// Keys that only this node has.
    pub fn only_on(&self, node: usize) -> u64 {
        self.partial.iter().find(|partial| partial.on == [node]).map_or(0, |partial| partial.keys)
    }

    pub fn is_equal(&self) -> bool {
        self.different == 0 && self.partial.is_empty()
    }
}
