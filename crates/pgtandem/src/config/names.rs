//! Names of tables and nodes as people write them in the config.

use crate::sql::{Ident, QualifiedName};

/// Message and remedy.
pub(super) type NameFault = (String, String);

/// Reads `products`, `shop.products` or `"My Schema"."T"`.
pub(super) fn table_name(text: &str) -> Result<QualifiedName, NameFault> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        let (part, after) = identifier(rest)?;
        parts.push(part);
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None if after.is_empty() => break,
            None => {
                return Err((
                    format!("`{text}` is not a table name"),
                    "write table, schema.table or \"Quoted Schema\".\"Quoted Table\"".to_owned(),
                ));
            }
        }
    }
    let (schema, table) = match <[String; 2]>::try_from(parts) {
        Ok([schema, table]) => (schema, table),
        Err(mut parts) if parts.len() == 1 => ("public".to_owned(), parts.remove(0)),
        Err(parts) => {
            return Err((
                format!("`{text}` has {} parts", parts.len()),
                "write schema.table; the database is named in the node's url".to_owned(),
            ));
        }
    };
    if schema.starts_with("pg_") || schema == "information_schema" || schema == "pgtandem" {
        return Err((
            format!("the tables of the schema `{schema}` cannot be linked"),
            "link tables of your own".to_owned(),
        ));
    }
    Ok(QualifiedName::new(schema, table))
}

/// One identifier at the start of the text, and what follows it.
pub(super) fn identifier(text: &str) -> Result<(String, &str), NameFault> {
    let (name, after) = match text.strip_prefix('"') {
        Some(quoted) => {
            let (name, after) = until_closing_quote(quoted)
                .ok_or_else(|| ("a quoted name has no closing quote".to_owned(), format!("write {text}\"")))?;
            (name, after)
        }
        None => {
            let end = text.find('.').unwrap_or(text.len());
            let name = &text[..end];
            check_unquoted(name)?;
            (name.to_owned(), &text[end..])
        }
    };
    if name.is_empty() {
        return Err(("a part of the table's name is empty".to_owned(), "write table or schema.table".to_owned()));
    }
    if name.len() > Ident::MAX_BYTES {
        return Err((
            format!("`{name}` is longer than PostgreSQL's {} bytes", Ident::MAX_BYTES),
            "write the name as the database shows it".to_owned(),
        ));
    }
    Ok((name, after))
}

fn until_closing_quote(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match (c, chars.peek()) {
            ('"', Some((_, '"'))) => {
                chars.next();
                name.push('"');
            }
            ('"', _) => return Some((name, &text[at + 1..])),
            _ => name.push(c),
        }
    }
    None
}

/// SQL would fold capitals and refuse the rest; we ask rather than guess.
fn check_unquoted(name: &str) -> Result<(), NameFault> {
    let plain = |(index, c): (usize, char)| {
        c.is_ascii_lowercase() || c == '_' || !c.is_ascii() || (index > 0 && (c.is_ascii_digit() || c == '$'))
    };
    if name.chars().enumerate().all(plain) {
        return Ok(());
    }
    let quoted = format!("write it quoted if it is spelled so in the database: '\"{name}\"'");
    let remedy = match name.to_lowercase() {
        lower if name.chars().any(|c| c.is_ascii_uppercase()) && lower.chars().enumerate().all(plain) => {
            format!("{quoted}; or write {lower}, which is what SQL makes of it without quotes")
        }
        _ => quoted,
    };
    Err((format!("the name `{name}` has characters that SQL takes only in quotes"), remedy))
}

/// A table's name as it can be written in the config: quoted only where it must be, `public` left out.
pub fn spell_table_name(name: &QualifiedName) -> String {
    let spell = |part: &Ident| match check_unquoted(part.as_str()) {
        Ok(()) => part.as_str().to_owned(),
        Err(_) => part.to_string(),
    };
    match name.schema.as_str() {
        "public" => spell(&name.name),
        _ => format!("{}.{}", spell(&name.schema), spell(&name.name)),
    }
}

pub(super) fn check_node_name(name: &str) -> Result<(), NameFault> {
    const LONGEST: usize = 30;
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase());
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if starts_well && name.chars().all(plain) && name.len() <= LONGEST {
        return Ok(());
    }
    Err((
        format!("`{name}` cannot name a node"),
        format!(
            "use lower-case letters, digits and _, a letter first, at most {LONGEST} in all: it becomes a part of the slot's name"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_are_read_and_spelled_the_same() {
        for (text, schema, table, spelled) in [
            ("products", "public", "products", "products"),
            ("public.products", "public", "products", "products"),
            ("shop.order_2$", "shop", "order_2$", "shop.order_2$"),
            ("größe", "public", "größe", "größe"),
            (r#""My Schema"."T""#, "My Schema", "T", r#""My Schema"."T""#),
            (r#""a.b""#, "public", "a.b", r#""a.b""#),
            (r#"shop."say ""hi""""#, "shop", r#"say "hi""#, r#"shop."say ""hi""""#),
        ] {
            let name = table_name(text).unwrap_or_else(|fault| panic!("{text}: {fault:?}"));
            assert_eq!(name, QualifiedName::new(schema, table), "{text}");
            assert_eq!(spell_table_name(&name), spelled);
            assert_eq!(table_name(spelled), Ok(name));
        }
    }

    #[test]
    fn names_that_sql_would_read_differently_are_refused() {
        for text in [
            "",
            "a.",
            ".a",
            "a.b.c",
            "Products",
            "my-table",
            "1st",
            "a b",
            r#""open"#,
            r#""a"b"#,
            "pg_catalog.pg_class",
            "pgtandem.node",
        ] {
            assert!(table_name(text).is_err(), "{text}");
        }
        assert!(table_name(&"x".repeat(63)).is_ok());
        assert!(table_name(&"x".repeat(64)).is_err());
    }

    #[test]
    fn node_names_fit_into_slot_names() {
        assert!(check_node_name("db_2").is_ok());
        assert!(check_node_name(&"n".repeat(30)).is_ok());
        for name in ["", "2db", "_db", "Db", "d-b", "é", &"n".repeat(31)] {
            assert!(check_node_name(name).is_err(), "{name}");
        }
    }
}
