//! Which rows of two nodes are the same thing although their ids say otherwise, and what becomes of the ids.

use super::names::identifier;
use super::spell_table_name;
use crate::sql::{Ident, Literal, QualifiedName};
use std::fmt;
use std::time::Duration;

/// `match` of a table, and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matching {
    /// Rows whose values in these are equal are the same.
    pub columns: Vec<Ident>,
    /// The node whose rows get other ids. None: nothing is renumbered, and ids that mean different things are refused.
    pub renumber: Option<String>,
    /// Where ids of the table stand that no foreign key tells of.
    pub references: Vec<Reference>,
    /// What looks like such a place, and is none.
    pub dismiss: Vec<Reference>,
    /// Writers of the table, and of those that refer to it, are held for so long at most while a batch is renumbered.
    pub write_pause: Option<Duration>,
}

/// A place where ids of a table stand. `Display` is the spelling of the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub table: QualifiedName,
    pub column: Ident,
    /// Keys inside a jsonb column; empty: the column itself.
    pub path: Vec<String>,
    /// Only in rows where these columns have these values.
    pub conditions: Vec<(Ident, String)>,
}

pub(super) const EXAMPLE: &str = "\"orders.product_id\", \"notes.notable_id where notable_type = 'Product'\" or \
    \"events.payload -> 'product_id'\"";

impl Reference {
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut rest = Rest(text.trim());
        let mut parts = vec![rest.name()?];
        while rest.takes(".") {
            parts.push(rest.name()?);
        }
        let column = parts.pop().unwrap_or_default();
        let table = match <[String; 2]>::try_from(parts) {
            Ok([schema, table]) => QualifiedName::new(schema, table),
            Err(mut parts) if parts.len() == 1 => QualifiedName::new("public", parts.remove(0)),
            Err(_) => return Err(format!("`{text}` does not name a table and a column")),
        };
        let mut reference = Self { table, column: Ident::new(column), path: Vec::new(), conditions: Vec::new() };
        while rest.takes("->") {
            reference.path.push(rest.literal()?);
        }
        if rest.takes("where ") {
            loop {
                let name = Ident::new(rest.name()?);
                if !rest.takes("=") {
                    return Err(format!("after `{}` in `{text}` no `=` follows", name.as_str()));
                }
                reference.conditions.push((name, rest.literal()?));
                if !rest.takes("and ") {
                    break;
                }
            }
        }
        match rest.0 {
            "" => Ok(reference),
            more => Err(format!("`{more}` in `{text}` is not understood")),
        }
    }

    /// Whether what is said of `self` holds for `other` too: the same place, or all of it.
    pub fn covers(&self, other: &Self) -> bool {
        let same = self.table == other.table && self.column == other.column;
        let path = self.path == other.path;
        same && path && (self.conditions.is_empty() || self.conditions == other.conditions)
    }
}

/// What is still to be read.
struct Rest<'a>(&'a str);

impl Rest<'_> {
    fn takes(&mut self, word: &str) -> bool {
        let trimmed = self.0.trim_start();
        match trimmed.strip_prefix(word) {
            Some(after) => {
                self.0 = after.trim_start();
                true
            }
            None => false,
        }
    }

    fn name(&mut self) -> Result<String, String> {
        let text = self.0.trim_start();
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
        let end = match text.starts_with('"') {
            true => text.len(),
            false => text.find(|c| !is_part(c)).unwrap_or(text.len()),
        };
        let (name, after) = identifier(&text[..end]).map_err(|(what, remedy)| format!("{what}: {remedy}"))?;
        self.0 = if after.is_empty() { &text[end..] } else { after };
        Ok(name)
    }

    fn literal(&mut self) -> Result<String, String> {
        let wrong = || format!("a text in single quotes should stand where `{}` begins", self.0);
        let inside = self.0.trim_start().strip_prefix('\'').ok_or_else(wrong)?;
        let mut value = String::new();
        let mut chars = inside.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            match (c, chars.peek()) {
                ('\'', Some((_, '\''))) => {
                    chars.next();
                    value.push('\'');
                }
                ('\'', _) => {
                    self.0 = inside[at + 1..].trim_start();
                    return Ok(value);
                }
                _ => value.push(c),
            }
        }
        Err(wrong())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spell = |name: &Ident| spell_table_name(&QualifiedName::new("public", name.as_str()));
        write!(f, "{}.{}", spell_table_name(&self.table), spell(&self.column))?;
        for key in &self.path {
            write!(f, " -> {}", Literal(key))?;
        }
        for (at, (name, value)) in self.conditions.iter().enumerate() {
            write!(f, " {} {} = {}", if at == 0 { "where" } else { "and" }, spell(name), Literal(value))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_spelled_the_same() {
        for text in [
            "orders.product_id",
            "shop.orders.product_id",
            "notes.notable_id where notable_type = 'Product'",
            "notes.notable_id where notable_type = 'it''s' and kind = 'x y'",
            "events.payload -> 'product' -> 'id'",
            r#""My Schema"."T"."Product Id" where "Kind" = 'P'"#,
        ] {
            let reference = Reference::read(text).unwrap_or_else(|what| panic!("{text}: {what}"));
            assert_eq!(reference.to_string(), text);
        }
        let loose = Reference::read(" notes.notable_id  where notable_type='Product' ").unwrap();
        assert_eq!(loose.to_string(), "notes.notable_id where notable_type = 'Product'");
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in
            ["", "orders", "a.b.c.d", "orders.id where", "orders.id where x", "orders.id where x = y", "o.id; x"]
        {
            assert!(Reference::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_column_covers_all_of_its_rows() {
        let read = |text: &str| Reference::read(text).unwrap();
        assert!(read("notes.notable_id").covers(&read("notes.notable_id where notable_type = 'Product'")));
        assert!(!read("notes.notable_id where notable_type = 'Product'").covers(&read("notes.notable_id")));
        assert!(!read("notes.notable_id").covers(&read("notes.other_id")));
    }
}
