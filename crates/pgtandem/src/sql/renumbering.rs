//! Giving rows other ids, with everything that refers to them.

use super::rows::{WrittenColumn, arrays, values};
use super::{Canonical, Ident, Literal, QualifiedName, list};

/// Where ids of the table stand in one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub table: QualifiedName,
    pub spots: Vec<Spot>,
}

/// One column in which ids stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    pub column: Ident,
    /// What a text is cast to, to be one of its values.
    pub cast_type: String,
    /// What old ids are compared as.
    pub compared_as: String,
    /// Keys inside a jsonb column; empty: the column itself.
    pub path: Vec<String>,
    /// Only in rows where one of these holds, each of which names columns and their values; empty: in all rows.
    pub conditions: Vec<Vec<(Ident, String)>>,
}

/// The table whose rows get other ids.
#[derive(Debug, Clone)]
pub struct Renumbered {
    pub table: QualifiedName,
    pub key: Ident,
    pub key_type: String,
    /// GENERATED ALWAYS AS IDENTITY: no UPDATE may set it, so rows are deleted and inserted.
    pub key_is_fixed: bool,
    /// All that can be written.
    pub columns: Vec<Ident>,
    /// Columns of the table itself that refer to it.
    pub own_spots: Vec<Spot>,
    pub matched: Vec<(Ident, Canonical)>,
}

/// The temporary table of what is to be done.
pub const MOVES: &str = "pg_temp.pgtandem_moves";
const HERE: &str = "pg_temp.pgtandem_here";
const THERE: &str = "pg_temp.pgtandem_there";

/// Rows that are not yet known to be the same on both: of the node that is renumbered, and of the other one.
pub fn create_unsettled() -> String {
    let columns = "(id text NOT NULL, tokens text[] NOT NULL, collides boolean NOT NULL, clash text)";
    // How many rows of a match are alone the planner guesses at, far too low, and would compare each with each.
    format!(
        "SET enable_nestloop = off; DROP TABLE IF EXISTS {HERE}, {THERE}, {MOVES}; CREATE TEMPORARY TABLE pgtandem_here {columns}; \
         CREATE TEMPORARY TABLE pgtandem_there {columns}"
    )
}

/// Parameters: ids, one `text[]` per matched column, whether each collides, and which unique value both then claim.
pub fn insert_unsettled(here: bool, matched: usize) -> String {
    let names = list((0..matched).map(|at| format!("m{at}")));
    let parameters = list((2..2 + matched).map(|at| format!("${at}::text[]")));
    format!(
        "INSERT INTO {} SELECT v.id, ARRAY[{}]::text[], v.collides, v.clash \
         FROM unnest($1::text[], {parameters}, ${}::boolean[], ${}::text[]) AS v(id, {names}, collides, clash)",
        if here { HERE } else { THERE },
        list((0..matched).map(|at| format!("v.m{at}"))),
        matched + 2,
        matched + 3
    )
}

/// Whose match is one row on either side gets that one's id; who collides with another one, a new one. `$1`: collisions
/// count.
pub fn create_moves() -> [String; 3] {
    let whole = "pg_catalog.array_position(tokens, NULL) IS NULL";
    [
        format!("ANALYZE {HERE}; ANALYZE {THERE}"),
        format!(
            "CREATE TEMPORARY TABLE pgtandem_moves AS \
             WITH one AS (SELECT h.id AS old, t.id AS new \
                          FROM (SELECT tokens, pg_catalog.min(id) AS id FROM {HERE} WHERE {whole} GROUP BY 1 \
                                HAVING pg_catalog.count(*) = 1) AS h \
                          JOIN (SELECT tokens, pg_catalog.min(id) AS id FROM {THERE} WHERE {whole} GROUP BY 1 \
                                HAVING pg_catalog.count(*) = 1) AS t USING (tokens)) \
             SELECT pg_catalog.row_number() OVER (ORDER BY pg_catalog.length(h.id), h.id) AS place, h.id AS old, \
                    one.new, h.tokens, h.collides, h.clash \
             FROM {HERE} AS h LEFT JOIN one ON one.old = h.id WHERE one.new IS NOT NULL OR h.collides"
        ),
        format!("CREATE UNIQUE INDEX ON {MOVES} (place); ANALYZE {MOVES}; SET enable_nestloop = on"),
    ]
}

/// Matches of which one side has several rows and the other any: how many, then the first few with the ids.
pub fn ambiguous(examples: usize) -> String {
    let whole = "pg_catalog.array_position(tokens, NULL) IS NULL";
    let side = |table: &str| {
        format!(
            "(SELECT tokens, pg_catalog.count(*) AS n, (pg_catalog.array_agg(id ORDER BY pg_catalog.length(id), id))[1:3] \
             AS ids FROM {table} WHERE {whole} GROUP BY 1)"
        )
    };
    format!(
        "SELECT pg_catalog.count(*) OVER (), tokens, h.ids, t.ids FROM {} AS h JOIN {} AS t USING (tokens) \
         WHERE h.n > 1 OR t.n > 1 ORDER BY tokens LIMIT {examples}",
        side(HERE),
        side(THERE)
    )
}

/// Of rows that get a new id, though they and the one that has theirs claim one unique value: how many, then some ids with it.
pub fn clashing_moves(examples: usize) -> String {
    format!(
        "SELECT pg_catalog.count(*) OVER (), old, clash FROM {MOVES} WHERE new IS NULL AND clash IS NOT NULL \
         ORDER BY place LIMIT {examples}"
    )
}

/// How many get a new id, how many that of the other node's row, and of these how many have one that is taken there.
pub fn count_moves() -> String {
    format!(
        "SELECT pg_catalog.count(*) FILTER (WHERE new IS NULL), pg_catalog.count(new), \
                pg_catalog.count(new) FILTER (WHERE collides) FROM {MOVES}"
    )
}

/// Some that get a new id, then some that get another's: old id, new id, tokens.
pub fn first_moves(examples: usize) -> String {
    let some = |test: &str| {
        format!("(SELECT place, old, new, tokens FROM {MOVES} WHERE new {test} ORDER BY place LIMIT {examples})")
    };
    format!(
        "SELECT old, new, tokens FROM ({} UNION ALL {}) AS m ORDER BY new IS NOT NULL, place",
        some("IS NULL"),
        some("IS NOT NULL")
    )
}

impl Renumbered {
    /// Locks rows that still are what their match says, so that nobody can refer to them anew: old id, new id if there is
    /// one, whether the old one is taken on the other node, and whether the new one is here. Parameters: places, from and
    /// upto.
    pub fn lock(&self) -> String {
        let Self { table, key, key_type, .. } = self;
        let tokens = list(self.matched.iter().map(|(name, canonical)| canonical.token(name)));
        format!(
            "SELECT m.old, m.new, m.collides, \
                    m.new IS NOT NULL AND EXISTS (SELECT FROM {table} AS p WHERE p.{key} = m.new::{key_type}) \
             FROM {MOVES} AS m JOIN {table} AS t ON t.{key} = m.old::{key_type} \
             WHERE m.place > $1::pg_catalog.int8 AND m.place <= $2::pg_catalog.int8 \
               AND ARRAY[{tokens}]::text[] IS NOT DISTINCT FROM m.tokens ORDER BY t.{key} FOR UPDATE OF t"
        )
    }

    /// As [`Self::lock`], of rows with these ids (`$1::text[]`), whatever is in them; answers with the ids.
    pub fn lock_ids(&self) -> String {
        let Self { table, key, key_type, .. } = self;
        format!(
            "SELECT t.{key}::pg_catalog.text FROM {table} AS t WHERE t.{key} = ANY ($1::text[]::{key_type}[]) \
             ORDER BY t.{key} FOR UPDATE"
        )
    }

    /// Which of these ids (`$1::text[]`) are there.
    pub fn present(&self) -> String {
        let Self { table, key, key_type, .. } = self;
        format!("SELECT t.{key}::pg_catalog.text FROM {table} AS t WHERE t.{key} = ANY ($1::text[]::{key_type}[])")
    }

    /// All at once, so that foreign keys that cannot be deferred are asked when everything fits again. Parameters: old ids
    /// (`text[]`), and the new ones by the old (`jsonb`).
    pub fn renumber(&self, holders: &[Holder]) -> String {
        let mut steps = Vec::new();
        if self.key_is_fixed {
            self.move_rows(&mut steps);
        } else {
            let key = Spot {
                column: self.key.clone(),
                cast_type: self.key_type.clone(),
                compared_as: self.key_type.clone(),
                path: Vec::new(),
                conditions: Vec::new(),
            };
            let spots: Vec<&Spot> = std::iter::once(&key).chain(&self.own_spots).collect();
            steps.push(update(&self.table, &spots, None));
        }
        for holder in holders {
            steps.push(update(&holder.table, &holder.spots.iter().collect::<Vec<_>>(), None));
        }
        let named = steps.iter().enumerate().map(|(at, step)| format!("u{at} AS ({step})"));
        format!("WITH {} SELECT 1", list(named))
    }

    /// Deleted first, so that unique values are free when the row comes back.
    fn move_rows(&self, steps: &mut Vec<String>) {
        let Self { table, key, key_type, .. } = self;
        let held = format!("t.{key} = ANY ($1::text[]::{key_type}[])");
        let value = |name: &Ident| {
            let own = self.own_spots.iter().find(|spot| spot.column == *name);
            match own {
                _ if name == key => format!("($2::jsonb ->> t.{key}::pg_catalog.text)::{key_type}"),
                Some(spot) => spot.new_value(),
                None => format!("t.{name}"),
            }
        };
        steps.push(format!("DELETE FROM {table} AS t WHERE {held} RETURNING t.*"));
        let gone = steps.len() - 1;
        steps.push(format!(
            "INSERT INTO {table} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM u{gone} AS t RETURNING 1",
            list(&self.columns),
            list(self.columns.iter().map(value))
        ));
        if !self.own_spots.is_empty() {
            let spots: Vec<&Spot> = self.own_spots.iter().collect();
            steps.push(update(table, &spots, Some(&format!("NOT {held}"))));
        }
    }
}

impl Spot {
    fn text(&self) -> String {
        match self.path.as_slice() {
            [] => format!("t.{}::pg_catalog.text", self.column),
            _ => format!("(t.{} #>> {})", self.column, self.path_literal()),
        }
    }

    fn path_literal(&self) -> String {
        format!("ARRAY[{}]::pg_catalog.text[]", list(self.path.iter().map(|key| Literal(key))))
    }

    fn condition(&self) -> Option<String> {
        if self.conditions.is_empty() {
            return None;
        }
        let all = |of: &Vec<(Ident, String)>| {
            let each = of.iter().map(|(name, value)| format!("t.{name}::pg_catalog.text = {}", Literal(value)));
            format!("({})", each.collect::<Vec<_>>().join(" AND "))
        };
        Some(format!("({})", self.conditions.iter().map(all).collect::<Vec<_>>().join(" OR ")))
    }

    /// Whether one of the old ids stands there.
    fn holds(&self) -> String {
        let held = match self.path.as_slice() {
            [] => format!("t.{} = ANY ($1::text[]::{}[])", self.column, self.compared_as),
            _ => format!("{} = ANY ($1::text[])", self.text()),
        };
        match self.condition() {
            Some(condition) => format!("({held} AND {condition})"),
            None => held,
        }
    }

    fn new_value(&self) -> String {
        let Self { column, cast_type, .. } = self;
        let new = format!("($2::jsonb ->> {})", self.text());
        let value = match self.path.as_slice() {
            [] => format!("coalesce({new}::{cast_type}, t.{column})"),
            // A number stays a number, a text a text.
            _ => {
                let path = self.path_literal();
                format!(
                    "CASE WHEN {new} IS NULL THEN t.{column} ELSE pg_catalog.jsonb_set(t.{column}, {path}, \
                     CASE pg_catalog.jsonb_typeof(t.{column} #> {path}) WHEN 'number' THEN {new}::pg_catalog.jsonb \
                     ELSE pg_catalog.to_jsonb({new}) END) END"
                )
            }
        };
        match self.condition() {
            Some(condition) => format!("CASE WHEN {condition} THEN {value} ELSE t.{column} END"),
            None => value,
        }
    }
}

/// Places of one column are set one inside the other; only jsonb columns have several.
fn update(table: &QualifiedName, spots: &[&Spot], also: Option<&str>) -> String {
    let mut columns: Vec<&Ident> = Vec::new();
    for spot in spots {
        if !columns.contains(&&spot.column) {
            columns.push(&spot.column);
        }
    }
    let assigned = columns.iter().map(|column| {
        let mut of = spots.iter().filter(|spot| spot.column == **column);
        let first = of.next().map(|spot| spot.new_value()).unwrap_or_default();
        // `new_value` reads `t.column`: the places found before are put in its stead.
        let value =
            of.fold(first, |inner, spot| spot.new_value().replace(&format!("t.{column}"), &format!("({inner})")));
        format!("{column} = {value}")
    });
    let held: Vec<String> = spots.iter().map(|spot| spot.holds()).collect();
    let also = also.map(|also| format!(" AND {also}")).unwrap_or_default();
    format!("UPDATE {table} AS t SET {} WHERE ({}){also} RETURNING 1", list(assigned), held.join(" OR "))
}

/// Keeps everybody from writing to these tables until the transaction ends.
pub fn hold_writers<'a>(tables: impl IntoIterator<Item = &'a QualifiedName>) -> String {
    format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", list(tables))
}

/// So many (`$1`) values of a sequence, as texts.
pub fn draw(sequence: &QualifiedName) -> String {
    format!(
        "SELECT pg_catalog.nextval({})::pg_catalog.text FROM pg_catalog.generate_series(1, $1::pg_catalog.int8)",
        Literal(&sequence.to_string())
    )
}

/// Different values of a column, at most so many.
pub fn some_values(table: &QualifiedName, column: &Ident, most: usize) -> String {
    format!("SELECT DISTINCT t.{column}::pg_catalog.text FROM {table} AS t WHERE t.{column} IS NOT NULL LIMIT {most}")
}

/// Keys (of `$1::text[]`) that objects of a jsonb column have, among the first so many rows.
pub fn keys_inside(table: &QualifiedName, column: &Ident, most: usize) -> String {
    format!(
        "SELECT k.key FROM unnest($1::text[]) AS k(key) WHERE EXISTS (\
         SELECT FROM (SELECT {column} AS value FROM {table} LIMIT {most}) AS s WHERE s.value ? k.key)"
    )
}

/// Keys of rows that a condition of another node does not hold for. `columns`: the name of each here, and there, where
/// the condition comes from; `key`: as there.
pub fn rows_against(
    table: &QualifiedName,
    columns: &[(Ident, Ident)],
    key: &[Ident],
    condition: &str,
    most: usize,
) -> String {
    let renamed = list(columns.iter().map(|(here, there)| format!("t.{here} AS {there}")));
    format!(
        "SELECT ARRAY[{}] FROM (SELECT {renamed} FROM {table} AS t) AS t WHERE NOT ({condition}) LIMIT {most}",
        list(key.iter().map(|name| format!("{name}::pg_catalog.text")))
    )
}

fn key_texts(key: &[Ident]) -> String {
    format!("ARRAY[{}]", list(key.iter().map(|name| format!("t.{name}::pg_catalog.text"))))
}

/// Inserts rows unless something of theirs is there already. Answers with the key of each that was inserted, and its hash
/// (of the row `t`).
pub fn insert_missing(table: &QualifiedName, columns: &[WrittenColumn], key: &[Ident], hash: &str) -> String {
    format!(
        "INSERT INTO {table} AS t ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} ON CONFLICT DO NOTHING \
         RETURNING {}, {hash}",
        list(columns.iter().map(|column| &column.name)),
        values(columns),
        arrays(columns),
        key_texts(key)
    )
}

/// The key of each row that has one of these keys (one `text[]` per key column), and its hash (of the row `t`).
pub fn hashes_of(table: &QualifiedName, key: &[WrittenColumn], hash: &str) -> String {
    let names = list((0..key.len()).map(|at| format!("c{at}")));
    let parameters = list((1..=key.len()).map(|at| format!("${at}::text[]")));
    let equal =
        key.iter().enumerate().map(|(at, column)| format!("t.{} {} {}", column.name, column.equals, column.value(at)));
    format!(
        "SELECT {}, {hash} FROM unnest({parameters}) AS v({names}) JOIN {table} AS t ON {}",
        key_texts(&key.iter().map(|column| column.name.clone()).collect::<Vec<_>>()),
        equal.collect::<Vec<_>>().join(" AND ")
    )
}

/// Deletes rows that are as a merge inserted them, and that nothing refers to. Parameters: one `text[]` per key column,
/// then the hashes. `hash`: of the row `t`. `referring`: rows of other tables that refer to it. Answers with the places of those that are gone,
/// and those that were not there any more.
pub fn take_back_inserted(
    table: &QualifiedName,
    key: &[WrittenColumn],
    hash: &str,
    referring: &[(QualifiedName, Vec<(Ident, Ident)>)],
) -> String {
    let names = list((0..key.len()).map(|at| format!("c{at}")).chain(["hash".to_owned(), "place".to_owned()]));
    let parameters = list((1..=key.len()).map(|at| format!("${at}::text[]")));
    let equal: Vec<String> = key
        .iter()
        .enumerate()
        .map(|(at, column)| format!("t.{} {} {}", column.name, column.equals, column.value(at)))
        .collect();
    let equal = equal.join(" AND ");
    let free: String = referring
        .iter()
        .map(|(child, pairs)| {
            let pairs: Vec<String> = pairs.iter().map(|(from, to)| format!("c.{from} = t.{to}")).collect();
            format!(" AND NOT EXISTS (SELECT FROM {child} AS c WHERE {})", pairs.join(" AND "))
        })
        .collect();
    format!(
        "WITH v AS MATERIALIZED (SELECT * FROM unnest({parameters}, ${}::pg_catalog.int8[]) WITH ORDINALITY AS v({names})), \
              absent AS (SELECT v.place FROM v WHERE NOT EXISTS (SELECT FROM {table} AS t WHERE {equal})), \
              gone AS (DELETE FROM {table} AS t USING v WHERE {equal} AND {hash} = v.hash{free} RETURNING v.place) \
         SELECT place, true FROM gone UNION ALL SELECT place, false FROM absent",
        key.len() + 1
    )
}

/// Makes rows what they were before a merge wrote over them, where they still are what it wrote. Of each column also how
/// its type is spelled, modifiers included: what was written was cut to it. Parameters: one `text[]` per column of what
/// was there, one per column of what was written, then numbers, which it answers with.
pub fn take_back_overwritten(table: &QualifiedName, columns: &[(WrittenColumn, String)]) -> String {
    let width = columns.len();
    let parameters = list((1..=2 * width).map(|at| format!("${at}::text[]")));
    let names = list(
        (0..width).map(|at| format!("c{at}")).chain((0..width).map(|at| format!("w{at}"))).chain(["n".to_owned()]),
    );
    let places = || columns.iter().enumerate();
    let assigned = places().filter(|(_, (column, _))| !column.is_key && !column.is_fixed);
    let assigned = list(assigned.map(|(at, (column, _))| format!("{} = {}", column.name, column.value(at))));
    let stands = places().map(|(at, (column, type_text))| match column.is_key {
        true => format!("t.{} {} v.w{at}::{}", column.name, column.equals, column.cast_type),
        false => {
            // Not what the column's collation takes for equal.
            let standing = format!("(t.{}::pg_catalog.text COLLATE pg_catalog.\"C\")", column.name);
            format!("{standing} IS NOT DISTINCT FROM v.w{at}::{type_text}::pg_catalog.text")
        }
    });
    let stands = stands.collect::<Vec<_>>().join(" AND ");
    format!(
        "UPDATE {table} AS t SET {assigned} FROM unnest({parameters}, ${}::pg_catalog.int8[]) AS v({names}) \
         WHERE {stands} RETURNING v.n",
        2 * width + 1
    )
}
