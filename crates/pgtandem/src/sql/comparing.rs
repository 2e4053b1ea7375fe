//! Comparing a table's rows with those of another node.

use std::fmt::Write as _;

use super::{Canonical, Ident, Literal, QualifiedName, list};

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
    /// Its rows are in partitions, each with an index of its own.
    pub is_partitioned: bool,
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

/// Consecutive keys in one run, as a power of two: of shorter ones there would be so many that finding where each begins
/// shows, of longer ones more rows are read for each that differs.
pub const RUN_BITS: u32 = 6;

/// Mixed into every hash. Another one for each comparison: should two different rows have one hash, they will not have it
/// again the next time, and nobody can make two rows that always do.
#[derive(Debug, Clone, Copy)]
pub struct Seed(pub i64);

/// Of the row `t`: another after every write of it. (Not only `xmin`, which two writes may have in common.)
pub const ROW_VERSION: &str = "pg_catalog.concat(t.tableoid, t.ctid, t.xmin)";

impl ComparedTable {
    /// One row of three arrays, NULL if there are no rows: the groups' numbers, how many rows each has, and the sum
    /// (without carry) of the rows' hashes, whatever their order. The seed of a row's hash comes from its key: so values
    /// that changed places between two rows do not cancel out.
    pub fn groups(&self, extent: &Extent, grouping: Grouping, seed: Seed) -> String {
        format!(
            "SELECT pg_catalog.array_agg(s.g), pg_catalog.array_agg(s.n), pg_catalog.array_agg(s.h) FROM \
             (SELECT {} AS g, pg_catalog.count(*) AS n, pg_catalog.bit_xor({}) AS h FROM {} GROUP BY 1) AS s",
            self.group(grouping),
            self.row_hash(grouping, seed),
            self.within(extent, grouping, seed)
        )
    }

    /// All of the extent as one group: how many rows, and the sum of their hashes.
    pub fn total(&self, extent: &Extent, grouping: Grouping, seed: Seed) -> String {
        format!(
            "SELECT pg_catalog.count(*), pg_catalog.bit_xor({}) FROM {}",
            self.row_hash(grouping, seed),
            self.within(extent, grouping, seed)
        )
    }

    /// As [`Self::groups`], of a key of one integer whose runs from the one number to the other (the last two parameters) hold
    /// all of the extent: each run is a group, numbered from 0. Looking where a run begins takes less than putting each of its
    /// rows into a group, if there is one index to look into. Sorting is off: so the order asks for that index, whatever the
    /// planner thinks of the table's size.
    pub fn runs(&self, extent: &Extent, seed: Seed) -> String {
        let first = self.parameters(extent) + 1;
        let (last, key, between) = (first + 1, &self.key[0].name, self.between(extent));
        let sum = format!(
            "pg_catalog.count(*) AS n, pg_catalog.bit_xor({}) AS h",
            self.row_hash(Grouping::Runs { bits: 0 }, seed)
        );
        let groups = match self.is_partitioned {
            true => format!(
                "(SELECT (t.{key} >> {RUN_BITS}) - ${first}::pg_catalog.int8 AS g, {sum} FROM {} AS t \
                 WHERE {between} AND (t.{key} >> {RUN_BITS}) <= ${last}::pg_catalog.int8 GROUP BY 1) AS s",
                self.name
            ),
            false => format!(
                "(SELECT v.run - ${first} AS g, r.n, r.h \
                 FROM pg_catalog.generate_series(${first}::pg_catalog.int8, ${last}::pg_catalog.int8) AS v(run), LATERAL \
                 (SELECT {sum} FROM (SELECT {} FROM {} AS t WHERE {} AND {between} ORDER BY t.{key} OFFSET 0) AS t) AS r) AS s",
                list(self.columns.iter().map(|column| format!("t.{}", column.name))),
                self.name,
                self.of_run(),
            ),
        };
        format!(
            "SELECT pg_catalog.array_agg(s.g::pg_catalog.int4), pg_catalog.array_agg(s.n), pg_catalog.array_agg(s.h) FROM {groups}"
        )
    }

    fn of_run(&self) -> String {
        let (key, last) = (&self.key[0].name, (1_u64 << RUN_BITS) - 1);
        format!("t.{key} >= (v.run << {RUN_BITS}) AND t.{key} <= ((v.run << {RUN_BITS}) | {last})")
    }

    /// Of the rows in these groups (the last parameter): the key's tokens, its texts, the hash, and that of the spelling.
    pub fn rows_of_groups(&self, extent: &Extent, grouping: Grouping, seed: Seed) -> String {
        let key = list(self.key.iter().map(|column| column.canonical.token(&column.name)));
        let hash = self.row_hash(grouping, seed);
        let spelled = match self.is_spelled_as_compared() {
            true => hash.clone(),
            false => self.spelling_hash(matches!(grouping, Grouping::Runs { .. }), seed),
        };
        format!(
            "SELECT ARRAY[{key}]::pg_catalog.text[], ARRAY[{}], {hash}, {spelled} FROM {} AND {} = ANY (${})",
            texts(&self.key),
            self.within(extent, grouping, seed),
            self.group(grouping),
            self.parameters(extent) + 1
        )
    }

    /// Of the rows whose keys are in these runs (a `bigint[]`, the last parameter), which the primary key's index leads to, so
    /// that the range need not be read once more: one row of three, NULL if there are no rows: the keys, each one integer,
    /// the hashes, and the hashes of their spelling, NULL if these are the same; of each eight bytes, the highest first.
    pub fn rows_of_runs(&self, extent: &Extent, seed: Seed) -> String {
        format!(
            "SELECT {} FROM unnest(${}::pg_catalog.int8[]) AS v(run) JOIN {} AS t ON {} WHERE {}",
            self.integers_and_hashes(seed),
            self.parameters(extent) + 1,
            self.name,
            self.of_run(),
            self.between(extent)
        )
    }

    /// As [`Self::rows_of_runs`], of all rows of the extent.
    pub fn rows_of_range(&self, extent: &Extent, seed: Seed) -> String {
        format!("SELECT {} FROM {} AS t WHERE {}", self.integers_and_hashes(seed), self.name, self.between(extent))
    }

    fn integers_and_hashes(&self, seed: Seed) -> String {
        // Half as dear as array_agg, which the server puts together twice.
        let packed =
            |number: &str| format!("pg_catalog.string_agg(pg_catalog.int8send({number}), ''::pg_catalog.bytea)");
        let spelled = match self.is_spelled_as_compared() {
            true => "NULL::pg_catalog.bytea".to_owned(),
            false => packed(&self.spelling_hash(true, seed)),
        };
        format!(
            "{}, {}, {spelled}",
            packed(&format!("t.{}::pg_catalog.int8", self.key[0].name)),
            packed(&self.row_hash(Grouping::Runs { bits: 0 }, seed))
        )
    }

    /// Whether rows that are equal have the same spelling.
    pub fn is_spelled_as_compared(&self) -> bool {
        self.columns.iter().all(|column| column.canonical == column.canonical.spelled())
    }

    /// A hash of the row `t` as its values are spelled. Where that is as they are compared, the one that they are compared
    /// by. `one_integer`: the key is.
    pub fn spelling_hash(&self, one_integer: bool, seed: Seed) -> String {
        let spelled = |columns: &[ComparedColumn]| -> Vec<ComparedColumn> {
            let spelled =
                |column: &ComparedColumn| ComparedColumn { canonical: column.canonical.spelled(), ..column.clone() };
            columns.iter().map(spelled).collect()
        };
        let spelled = Self { key: spelled(&self.key), columns: spelled(&self.columns), ..self.clone() };
        let key = match one_integer {
            true => format!("t.{}::pg_catalog.int8 # ({})", self.key[0].name, seed.0),
            false => format!("pg_catalog.hash_record_extended(ROW({}), {})", spelled.hashed_key(), seed.0),
        };
        spelled.hash_seeded_with(&key)
    }

    /// The texts of the key that is `rows` further on; no row if there are fewer.
    pub fn boundary(&self, extent: &Extent, rows: u64) -> String {
        let key = list(self.key.iter().map(|column| format!("t.{}", column.name)));
        format!(
            "SELECT ARRAY[{}] FROM {} AS t WHERE {} ORDER BY {key} OFFSET {} LIMIT 1",
            texts(&self.key),
            self.name,
            self.between(extent),
            rows.saturating_sub(1)
        )
    }

    /// The first and the last key, which is one integer.
    pub fn ends(&self) -> String {
        let end = |end: &str| format!("pg_catalog.{end}(t.{})::pg_catalog.int8", self.key[0].name);
        format!("SELECT {}, {} FROM {} AS t", end("min"), end("max"), self.name)
    }

    /// Of the rows with these keys (one `text[]` per key column): the key's place in the arrays, what changes whenever
    /// the row is written, the values as they are shown, and their tokens.
    pub fn look(&self) -> String {
        self.look_at(&list(self.columns.iter().map(|column| shown(&column.name))))
    }

    /// As [`Self::look`], with the values whole.
    pub fn read_whole(&self) -> String {
        self.look_at(&texts(&self.columns))
    }

    fn look_at(&self, values: &str) -> String {
        let tokens = list(self.columns.iter().map(|column| column.canonical.token(&column.name)));
        format!(
            "SELECT v.place, {ROW_VERSION}, ARRAY[{values}]::pg_catalog.text[], \
                    ARRAY[{tokens}]::pg_catalog.text[] FROM {} JOIN {} AS t ON {}",
            keys(self.key.len()),
            self.name,
            equal(&self.key, 0)
        )
    }

    /// Rows that have such values in the `wanted` columns under other keys. Parameters: one `text[]` per key column, then
    /// one per wanted column. Answers with the place in the arrays and the key's texts.
    pub fn claims(&self, wanted: &[&ComparedColumn]) -> String {
        let width = self.key.len();
        format!(
            "SELECT v.place, ARRAY[{}] FROM {} JOIN {} AS t ON {} WHERE NOT ({})",
            texts(&self.key),
            keys(width + wanted.len()),
            self.name,
            equal(wanted.iter().copied(), width),
            equal(&self.key, 0)
        )
    }

    /// The rows, as `t`, with the hash of their key where it is needed; ends in a condition.
    fn within(&self, extent: &Extent, grouping: Grouping, seed: Seed) -> String {
        if let (Grouping::Runs { .. }, Extent::Between { .. }) = (grouping, extent) {
            return format!("{} AS t WHERE {}", self.name, self.between(extent));
        }
        let columns = list(self.columns.iter().map(|column| format!("t.{}", column.name)));
        let hash = self.key_hash();
        let rows = format!(
            "(SELECT {columns}, pg_catalog.hash_record_extended(ROW({}), {}) AS {hash} FROM {} AS t WHERE {} OFFSET 0)",
            self.hashed_key(),
            seed.0,
            self.name,
            self.between(extent)
        );
        match extent {
            Extent::Slice { number, bits: bits @ 1.. } => {
                // The sign is shifted in.
                format!("{rows} AS t WHERE ((t.{hash} >> {}) & {}) = {number}", 64 - bits, (1_u64 << bits) - 1)
            }
            _ => format!("{rows} AS t WHERE true"),
        }
    }

    fn group(&self, grouping: Grouping) -> String {
        match grouping {
            Grouping::Hash { bits } => {
                format!("(t.{} & {})::pg_catalog.int4", self.key_hash(), (1_u64 << bits) - 1)
            }
            Grouping::Runs { bits } => {
                let key = &self.key[0].name;
                format!("((t.{key} >> {RUN_BITS}) & {})::pg_catalog.int4", (1_u64 << bits) - 1)
            }
        }
    }

    fn row_hash(&self, grouping: Grouping, seed: Seed) -> String {
        self.hash_seeded_with(&match grouping {
            Grouping::Hash { .. } => format!("t.{}", self.key_hash()),
            Grouping::Runs { .. } => format!("t.{}::pg_catalog.int8 # ({})", self.key[0].name, seed.0),
        })
    }

    fn hashed_key(&self) -> String {
        list(self.key.iter().map(|column| column.canonical.hashed(&column.name)))
    }

    fn hash_seeded_with(&self, key: &str) -> String {
        let values = self.columns.iter().filter(|column| !self.key.contains(column));
        let values = list(values.map(|column| column.canonical.hashed(&column.name)));
        match values.as_str() {
            "" => format!("pg_catalog.hash_record_extended(ROW(0), {key})"),
            values => format!("pg_catalog.hash_record_extended(ROW({values}), {key})"),
        }
    }

    /// A name that no column has.
    fn key_hash(&self) -> Ident {
        let mut name = "key_hash".to_owned();
        while self.columns.iter().any(|column| column.name.own_str() == name) {
            name.push('_');
        }
        Ident::new(name)
    }

    fn between(&self, extent: &Extent) -> String {
        let Extent::Between { after, upto, types } = extent else { return "true".to_owned() };
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

    fn parameters(&self, extent: &Extent) -> usize {
        match extent {
            Extent::Between { after, upto, types } => types.len() * (usize::from(*after) + usize::from(*upto)),
            Extent::Slice { .. } => 0,
        }
    }
}

/// How many rows there are, and how many of them may have been written by a transaction with this number (`$1`) or a later
/// one. Rows that were frozen long ago may be among them.
pub fn rows_since(table: &QualifiedName) -> String {
    format!(
        "SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (\
         WHERE pg_catalog.age(t.xmin) <= pg_catalog.age($1::pg_catalog.text::pg_catalog.xid)) FROM {table} AS t"
    )
}

/// The OIDs of the table and of all its partitions, in order.
pub fn tables_behind(table: &QualifiedName) -> String {
    let table = format!("{}::pg_catalog.regclass", Literal(&table.to_string()));
    format!(
        "SELECT pg_catalog.array_agg(p.relid ORDER BY p.relid) FROM (SELECT {table}::pg_catalog.oid AS relid \
         UNION SELECT relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree({table})) AS p"
    )
}

/// Set on the sessions that ask for groups: there are few of them, but the planner expects one per row, and would sort
/// the rows on disk. A range takes less than starting a parallel worker and compiling its expressions are worth, and the
/// server has others to serve.
pub const FOR_GROUPS: &str = "SET enable_sort = off; SET jit = off; SET max_parallel_workers_per_gather = 0";

fn texts(columns: &[ComparedColumn]) -> String {
    list(columns.iter().map(|column| format!("t.{}::pg_catalog.text", column.name)))
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

/// A referring column and what it refers to.
#[derive(Debug, Clone)]
pub struct Reference {
    pub from: Ident,
    pub to: Ident,
    /// The operator by which the referred-to column's values are equal.
    pub equals: String,
    pub cast_type: String,
}

/// The key's and the referring columns' texts of rows that refer to none of the parent's.
pub fn rows_without_parent(
    child: &QualifiedName,
    key: &[Ident],
    parent: &QualifiedName,
    references: &[Reference],
) -> String {
    let text = |name: &Ident| format!("t.{name}::pg_catalog.text");
    let given: Vec<String> = references.iter().map(|column| format!("t.{} IS NOT NULL", column.from)).collect();
    let refers: Vec<String> =
        references.iter().map(|column| format!("p.{} {} t.{}", column.to, column.equals, column.from)).collect();
    format!(
        "SELECT ARRAY[{}], ARRAY[{}] FROM {child} AS t WHERE {} AND NOT EXISTS (SELECT FROM {parent} AS p WHERE {})",
        list(key.iter().map(text)),
        list(references.iter().map(|column| text(&column.from))),
        given.join(" AND "),
        refers.join(" AND ")
    )
}

/// The places of values (one `text[]` per column) that some row of the parent has.
pub fn parents_present(parent: &QualifiedName, references: &[Reference]) -> String {
    let equal = references.iter().enumerate();
    let equal = equal.map(|(at, column)| format!("p.{} {} v.c{at}::{}", column.to, column.equals, column.cast_type));
    format!(
        "SELECT DISTINCT v.place FROM {} JOIN {parent} AS p ON {}",
        keys(references.len()),
        equal.collect::<Vec<_>>().join(" AND ")
    )
}

/// Fails where values of the type cannot be hashed.
pub fn probe_hash(cast_type: &str) -> String {
    format!("SELECT pg_catalog.hash_record_extended(ROW(NULL::{cast_type}), 0)")
}
