//! SQL text with names in it is built here and nowhere else.
//!
//! A name reaches SQL text only through [`Ident`] or [`QualifiedName`], whose `Display` quotes; a value only as a
//! parameter, or, where the grammar allows none (DDL, `SET`), through [`Literal`].

use std::cmp::Ordering;
use std::fmt::{self, Display, Formatter, Write as _};
use std::hash::{Hash, Hasher};

mod canonical;
mod capture;
mod comparing;
mod copying;
mod direct;
mod merging;
mod naming;
mod renumbering;
mod rows;
mod sequence;
mod spelling;
mod table;

pub use canonical::Canonical;
pub use capture::{
    LAST_WRITTEN_MICROS, TableCapture, create_capture, create_mirror, drop_capture, drop_mirror, empty_outbox,
    open_backlog,
};
pub use comparing::{
    ComparedColumn, ComparedTable, Extent, FOR_GROUPS, Grouping, LONGEST_SHOWN, ROW_VERSION, RUN_BITS, Reference, Seed,
    parents_present, probe_hash, rows_since, rows_without_parent, tables_behind,
};
pub use copying::{
    copy_in, copy_integers_out, copy_keys_out, copy_out, copy_table, create_copy_table, holds_rows,
    insert_from_copy_table, rest_of_copy_table,
};
pub use direct::{
    ArrivingColumn, DBLINK, DirectTable, ServerOption, alter_server, create_foreign_table, create_server,
    create_user_mapping, drop_direct_table, drop_foreign_table, drop_server,
};
pub use merging::{newest, overwrite, remove, touch};
pub use naming::Naming;
pub use renumbering::{
    Holder, MOVES, Renumbered, Spot, ambiguous, clashing_moves, count_moves, create_moves, create_unsettled, draw,
    first_moves, hashes_of, hold_writers, insert_missing, insert_unsettled, keys_inside, rows_against, some_values,
    take_back_inserted, take_back_overwritten,
};
pub use rows::{
    NOT_WRITTEN, WrittenColumn, copy_rows, counted_update, counted_upsert, delete, delete_all, delete_found,
    lock_for_writing, lock_rows, move_rows, probe_values, refuse_duplicates, refuse_present, refuse_referenced,
    select_values, stash, truncate, unstash, upsert,
};
pub use sequence::{SequenceOptions, highest_value, sequence_state, set_value};
pub use spelling::Spelling;
pub use table::{
    add_to_publication, alter_replica_identity, create_publication, disable_trigger, drop_from_publication,
    enable_trigger, lock_table,
};

/// One name: of a schema, a table, a column. Held as it is, shown quoted.
///
/// Always quoted, not only when it seems needed: whether a name is a keyword depends on the server's version.
///
/// A node may call something otherwise than pgtandem does ([`Naming`]). The two names are held together from where the
/// node's catalog is read: what is compared, kept and shown to people goes by the one that is the same on all nodes, and
/// only SQL text by the node's own.
#[derive(Clone)]
pub struct Ident {
    name: String,
    /// None: the same.
    own: Option<Box<str>>,
}

impl Ident {
    /// PostgreSQL cuts longer names off (`NAMEDATALEN - 1`).
    pub const MAX_BYTES: usize = 63;

    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), own: None }
    }

    /// What is called `own` on one node.
    pub fn called(name: impl Into<String>, own: &str) -> Self {
        let name = name.into();
        let own = (name != own).then(|| own.into());
        Self { name, own }
    }

    /// As [`Ident::new`], for names that PostgreSQL does not know yet: cut off at a character boundary
    /// so that the server will not do it (and the name will be found again as we know it).
    pub fn truncated(name: &str) -> Self {
        let mut end = name.len().min(Self::MAX_BYTES);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        Self::new(&name[..end])
    }

    /// The bare name, for comparing, for what is kept and for people. Never for SQL text.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The node's bare name for it, to ask its catalog.
    pub fn own_str(&self) -> &str {
        self.own.as_deref().unwrap_or(&self.name)
    }

    /// As the node alone calls it, to be compared with other names of that node.
    #[must_use]
    pub fn own(&self) -> Self {
        Self::new(self.own_str())
    }
}

impl PartialEq for Ident {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Ident {}

impl PartialOrd for Ident {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ident {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name.cmp(&other.name)
    }
}

impl Hash for Ident {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// The node's own name, quoted.
impl Display for Ident {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        quote(f, self.own_str(), '"')
    }
}

impl fmt::Debug for Ident {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl From<&str> for Ident {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Ident {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

/// A schema and a name in it. Sorted by schema, then name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QualifiedName {
    pub schema: Ident,
    pub name: Ident,
}

impl QualifiedName {
    pub fn new(schema: impl Into<Ident>, name: impl Into<Ident>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }

    /// What is called `own` on one node.
    #[must_use]
    pub fn called(&self, own: &Self) -> Self {
        let called = |name: &Ident, own: &Ident| Ident::called(name.as_str(), own.own_str());
        Self { schema: called(&self.schema, &own.schema), name: called(&self.name, &own.name) }
    }

    /// As the node alone calls it, to be compared with other names of that node.
    #[must_use]
    pub fn own(&self) -> Self {
        Self { schema: self.schema.own(), name: self.name.own() }
    }

    /// How a person writes it (and `pgtandem.toml` does): bare if in `public`.
    pub fn plain(&self) -> String {
        match self.schema.as_str() {
            "public" => self.name.as_str().to_owned(),
            schema => format!("{schema}.{}", self.name.as_str()),
        }
    }
}

impl Display for QualifiedName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

impl fmt::Debug for QualifiedName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

/// A text literal, for the statements that take no parameters.
pub struct Literal<'a>(pub &'a str);

impl Display for Literal<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // With a backslash in it the plain form would depend on `standard_conforming_strings`.
        if self.0.contains('\\') {
            f.write_str(" E")?;
            return quote(f, &self.0.replace('\\', "\\\\"), '\'');
        }
        quote(f, self.0, '\'')
    }
}

fn quote(f: &mut Formatter<'_>, text: &str, mark: char) -> fmt::Result {
    f.write_char(mark)?;
    for c in text.chars() {
        if c == mark {
            f.write_char(mark)?;
        }
        f.write_char(c)?;
    }
    f.write_char(mark)
}

/// `a, b, c` of anything that can be shown.
pub fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let mut text = String::new();
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            text.push_str(", ");
        }
        let _ = write!(text, "{item}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_always_quoted() {
        assert_eq!(Ident::new("products").to_string(), r#""products""#);
        assert_eq!(Ident::new(r#"od"d"#).to_string(), r#""od""d""#);
        assert_eq!(QualifiedName::new("My Schema", "täble.x").to_string(), r#""My Schema"."täble.x""#);
        assert_eq!(QualifiedName::new("public", "products").plain(), "products");
        assert_eq!(QualifiedName::new("shop", "products").plain(), "shop.products");
    }

    #[test]
    fn what_a_node_calls_otherwise_is_known_by_one_name_and_asked_for_by_the_other() {
        let column = Ident::called("name", "title");
        assert_eq!((column.as_str(), column.to_string().as_str()), ("name", "\"title\""));
        assert_eq!(column, Ident::new("name"));
        assert_ne!(column.own(), column);
        let table = QualifiedName::new("public", "products").called(&QualifiedName::new("shop", "legacy_products"));
        assert_eq!((table.plain().as_str(), table.to_string().as_str()), ("products", "\"shop\".\"legacy_products\""));
        assert_eq!(table.own().plain(), "shop.legacy_products");
    }

    #[test]
    fn long_names_end_at_a_character() {
        assert_eq!(Ident::truncated(&"a".repeat(80)).as_str().len(), 63);
        assert_eq!(Ident::truncated(&format!("{}ä", "a".repeat(62))).as_str(), "a".repeat(62));
    }

    #[test]
    fn literals_survive_quotes_and_backslashes() {
        assert_eq!(Literal("it's").to_string(), "'it''s'");
        assert_eq!(Literal(r"a\b'c").to_string(), r" E'a\\b''c'");
    }
}
