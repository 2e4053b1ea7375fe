//! Comparing a table's rows with those of another node.

use std::fmt::Write as _;

use super::{Canonical, Ident, QualifiedName, list};

/// A column as it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComparedColumn {
    pub name: Ident,
    /// What a text is cast to, to be one of its values.
    pub cast_type: String,
    /// The operator by which the type's values are equal.
    pub equals: String,
    pub canonical: Canonical,
}

/// One node's table as it is compared.
#[derive(Debug, Clone)]
pub struct ComparedTable {
    pub name: QualifiedName,
    pub key: Vec<ComparedColumn>,
    /// All that are compared, those of the key included.
    pub columns: Vec<ComparedColumn>,
}

/// Some of a table's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// Between two keys, the first excluded; open where there is none. Parameters: the texts of those that are given.
    /// `types`: what they are cast to.
    Between { after: bool, upto: bool, types: Vec<String> },
    /// Those whose key's hash has `number` in its topmost `bits`, for keys that two nodes may sort differently.
    Slice { number: u32, bits: u32 },
}

/// In which of `2 ^ bits` groups a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// By the key's hash.
    Hash { bits: u32 },
    /// The key is one integer: neighbours are in one group.
    Runs { bits: u32 },
}

/// Consecutive keys in one group of [`Grouping::Runs`], as a power of two.
const RUN_BITS: u32 = 5;

/// Hashes of keys and rows have different seeds.
const KEY_SEED: u8 = 7;

impl ComparedTable {
    /// A group's number, how many rows it has, and two sums over the rows' hashes, whatever their order: of texts,
    /// since the hashes of numbers and of whole records let too many differences cancel each other out.
    pub fn groups(&self, extent: &Extent, grouping: Grouping) -> String {
        format!(
            "SELECT r.g, pg_catalog.count(*), pg_catalog.bit_xor({}), pg_catalog.bit_xor({}) \
             FROM (SELECT {} AS g, {} AS v FROM {} AS t WHERE {} OFFSET 0) AS r GROUP BY r.g",
            row_hash(0),
            row_hash(1),
            self.group(grouping),
            forms(&self.columns),
            self.name,
            self.within(extent)
        )
    }

    /// Of the rows in these groups (the last parameter): the key's forms, its texts, and the hashes.
    pub fn rows_of_groups(&self, extent: &Extent, grouping: Grouping) -> String {
        let key = list(self.key.iter().map(|column| column.canonical.token(&column.name)));
        let texts = list(self.key.iter().map(|column| format!("t.{}::pg_catalog.text", column.name)));
        format!(
            "SELECT r.k, r.o, {}, {} FROM (SELECT ARRAY[{key}] AS k, ARRAY[{texts}] AS o, {} AS v FROM {} AS t \
             WHERE {} AND {} = ANY (${}) OFFSET 0) AS r",
            row_hash(0),
            row_hash(1),
            forms(&self.columns),
            self.name,
            self.within(extent),
            self.group(grouping),
            self.parameters(extent) + 1
        )
    }

    /// The texts of the key that is `rows` further on; no row if there are fewer.
    pub fn boundary(&self, extent: &Extent, rows: u64) -> String {
        let key = list(self.key.iter().map(|column| format!("t.{}", column.name)));
        let texts = list(self.key.iter().map(|column| format!("t.{}::pg_catalog.text", column.name)));
        format!(
            "SELECT ARRAY[{texts}] FROM {} AS t WHERE {} ORDER BY {key} OFFSET {} LIMIT 1",
            self.name,
            self.within(extent),
            rows.saturating_sub(1)
        )
    }

    /// Of the rows with these keys (one `text[]` per key column): the key's place in the arrays, what changes whenever
    /// the row is written, the values as they are shown, and their tokens.
    pub fn look(&self) -> String {
        let shown = list(self.columns.iter().map(|column| shown(&column.name)));
        let tokens = list(self.columns.iter().map(|column| column.canonical.token(&column.name)));
        format!(
            "SELECT v.place, pg_catalog.concat(t.tableoid, t.ctid, t.xmin), ARRAY[{shown}]::pg_catalog.text[], \
                    ARRAY[{tokens}]::pg_catalog.text[] FROM {} JOIN {} AS t ON {}",
            keys(self.key.len()),
            self.name,
            equal(&self.key, 0)
        )
    }

    /// Rows that have such values in the `wanted` columns under other keys. Parameters: one `text[]` per key column, then
    /// one per wanted column. Answers with the place in the arrays and the key's texts.
    pub fn claims(&self, wanted: &[&ComparedColumn]) -> String {
        let texts = list(self.key.iter().map(|column| format!("t.{}::pg_catalog.text", column.name)));
        let width = self.key.len();
        format!(
            "SELECT v.place, ARRAY[{texts}] FROM {} JOIN {} AS t ON {} WHERE NOT ({})",
            keys(width + wanted.len()),
            self.name,
            equal(wanted.iter().copied(), width),
            equal(&self.key, 0)
        )
    }

    fn group(&self, grouping: Grouping) -> String {
        match grouping {
            Grouping::Hash { bits } => {
                format!("({} & {})::pg_catalog.int4", self.key_hash(), (1_u64 << bits) - 1)
            }
            Grouping::Runs { bits } => {
                let key = list(self.key.iter().map(|column| format!("t.{}", column.name)));
                format!("(({key}::pg_catalog.int8 >> {RUN_BITS}) & {})::pg_catalog.int4", (1_u64 << bits) - 1)
            }
        }
    }

    fn key_hash(&self) -> String {
        format!("pg_catalog.hashtextextended({} COLLATE \"C\", {KEY_SEED})", forms(&self.key))
    }

    fn within(&self, extent: &Extent) -> String {
        match extent {
            Extent::Between { after, upto, types } => {
                let key = list(self.key.iter().map(|column| format!("t.{}", column.name)));
                let mut place = 0;
                let mut value = || {
                    list(types.iter().map(|of| {
                        place += 1;
                        format!("${place}::pg_catalog.text::{of}")
                    }))
                };
                let mut text = "true".to_owned();
                if *after {
                    let _ = write!(text, " AND ({key}) > ({})", value());
                }
                if *upto {
                    let _ = write!(text, " AND ({key}) <= ({})", value());
                }
                text
            }
            Extent::Slice { bits: 0, .. } => "true".to_owned(),
            Extent::Slice { number, bits } => {
                // The sign is shifted in.
                format!("(({} >> {}) & {}) = {number}", self.key_hash(), 64 - bits, (1_u64 << bits) - 1)
            }
        }
    }

    fn parameters(&self, extent: &Extent) -> usize {
        match extent {
            Extent::Between { after, upto, types } => types.len() * (usize::from(*after) + usize::from(*upto)),
            Extent::Slice { .. } => 0,
        }
    }
}

/// A row of forms as text: each value is delimited, and NULL is no empty text.
fn forms(columns: &[ComparedColumn]) -> String {
    format!("ROW({})::pg_catalog.text", list(columns.iter().map(|column| column.canonical.form(&column.name))))
}

fn row_hash(seed: u8) -> String {
    format!("pg_catalog.hashtextextended(r.v COLLATE \"C\", {seed})")
}

/// What is longer is cut off: nobody looks at more, and a thousand rows must fit into memory.
pub const LONGEST_SHOWN: usize = 1000;

fn shown(name: &Ident) -> String {
    let text = format!("t.{name}::pg_catalog.text");
    format!(
        "CASE WHEN pg_catalog.length({text}) <= {LONGEST_SHOWN} THEN {text} \
         ELSE pg_catalog.left({text}, {LONGEST_SHOWN}) || '…' END"
    )
}

fn keys(width: usize) -> String {
    let parameters = list((1..=width).map(|i| format!("${i}::text[]")));
    let names = list((0..width).map(|i| format!("c{i}")));
    format!("unnest({parameters}) WITH ORDINALITY AS v({names}, place)")
}

/// `first`: the place of the first one's values.
fn equal<'a>(columns: impl IntoIterator<Item = &'a ComparedColumn>, first: usize) -> String {
    let each = columns
        .into_iter()
        .zip(first..)
        .map(|(column, at)| format!("t.{} {} v.c{at}::{}", column.name, column.equals, column.cast_type));
    each.collect::<Vec<_>>().join(" AND ")
}

/// Fails where values of the type cannot be hashed.
pub fn probe_hash(cast_type: &str) -> String {
    format!("SELECT pg_catalog.hash_record_extended(ROW(NULL::{cast_type}), 0)")
}
