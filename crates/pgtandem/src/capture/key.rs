//! Primary-key values as bytes that are equal exactly when PostgreSQL calls the keys equal.
//!
//! The bytes are the key's text values in key order, each behind its length, in the one spelling that stands for all
//! equal spellings: `1.0` and `1.00` are one numeric key, `ABC` and `abc` one citext key.

use serde_json::{Map, Value as Json};

/// Which texts of a key column's type mean the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// Equal values have equal texts.
    Exact,
    /// `1.0` = `1.00`.
    Numeric,
    /// `-0` = `0`.
    Float,
    /// Trailing blanks do not count.
    Blank,
    /// Upper and lower case are the same (citext). What is the lower case of what is the node's to say; here only
    /// plain ASCII is folded.
    CaseFolded,
}

impl Spelling {
    /// By the type's name as `format_type` prints it without a modifier.
    #[must_use]
    pub fn of_type(type_name: &str) -> Self {
        match type_name {
            "numeric" => Self::Numeric,
            "real" | "double precision" => Self::Float,
            "character" | "bpchar" => Self::Blank,
            _ if type_name == "citext" || type_name.ends_with(".citext") => Self::CaseFolded,
            _ => Self::Exact,
        }
    }

    fn push(self, text: &[u8], bytes: &mut Vec<u8>) {
        match self {
            Self::Exact => push_part(text, bytes),
            Self::Numeric => push_part(plain_numeric(text), bytes),
            Self::Float => push_part(if text == b"-0" { b"0" } else { text }, bytes),
            Self::Blank => push_part(without_blanks(text), bytes),
            Self::CaseFolded => push_part(&text.to_ascii_lowercase(), bytes),
        }
    }
}

fn without_blanks(text: &[u8]) -> &[u8] {
    let kept = text.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    &text[..kept]
}

/// `1.50` and `1.5` are the same number; `100` keeps its zeros.
fn plain_numeric(text: &[u8]) -> &[u8] {
    if !text.contains(&b'.') {
        return text;
    }
    let kept = text.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
    let trimmed = &text[..kept];
    trimmed.strip_suffix(b".").unwrap_or(trimmed)
}

/// Appends one value in the spelling that stands for all equal ones.
pub fn push_part(text: &[u8], bytes: &mut Vec<u8>) {
    let len = u32::try_from(text.len()).expect("an index entry is far below 4 GiB");
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(text);
}

/// Appends the key made of `values`, one per key column; key columns are never NULL.
pub fn encode<'a>(values: impl Iterator<Item = (Spelling, &'a [u8])>, bytes: &mut Vec<u8>) {
    for (spelling, text) in values {
        spelling.push(text, bytes);
    }
}

/// The key's values, each with its length word as a binary array holds it.
pub fn raw_parts(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let len = u32::from_be_bytes(*rest.first_chunk::<4>()?) as usize;
        let (part, after) = rest.split_at_checked(4 + len)?;
        rest = after;
        Some(part)
    })
}

/// The key as JSON for a person: column names and their texts.
#[must_use]
pub fn to_json(columns: &[String], bytes: &[u8]) -> Json {
    let texts = raw_parts(bytes).map(|part| Json::String(String::from_utf8_lossy(&part[4..]).into_owned()));
    Json::Object(columns.iter().cloned().zip(texts).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(spelling: Spelling, text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode([(spelling, text.as_bytes())].into_iter(), &mut bytes);
        bytes
    }

    #[test]
    fn equal_values_have_equal_keys() {
        for (spelling, one, other) in [
            (Spelling::Numeric, "1.0", "1.00"),
            (Spelling::Numeric, "0", "0.00"),
            (Spelling::Numeric, "-2.5", "-2.50"),
            (Spelling::Float, "-0", "0"),
            (Spelling::Blank, "a  ", "a"),
            (Spelling::CaseFolded, "Straße", "STRAßE"),
        ] {
            assert_eq!(key(spelling, one), key(spelling, other), "{spelling:?} {one} {other}");
        }
        assert_ne!(key(Spelling::Numeric, "100"), key(Spelling::Numeric, "1"));
        assert_ne!(key(Spelling::Exact, "a "), key(Spelling::Exact, "a"));
    }

    #[test]
    fn parts_of_a_composite_key_cannot_run_into_each_other() {
        let pair = |a: &str, b: &str| {
            let mut bytes = Vec::new();
            encode([(Spelling::Exact, a.as_bytes()), (Spelling::Exact, b.as_bytes())].into_iter(), &mut bytes);
            bytes
        };
        assert_ne!(pair("ab", "c"), pair("a", "bc"));
        let names = ["x".to_string(), "y".to_string()];
        assert_eq!(to_json(&names, &pair("ab", "c")), serde_json::json!({"x": "ab", "y": "c"}));
    }
}
