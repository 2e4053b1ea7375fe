//! A row as text, as PostgreSQL writes a composite value, becomes a row as the replication stream has it.

use bytes::Bytes;
use wire::Tuple;

/// The values of a row; `None` is NULL.
pub fn fields(text: &str) -> Option<Vec<Option<Vec<u8>>>> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?.as_bytes();
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let (field, after) = field(inner, at)?;
        fields.push(field);
        match inner.get(after) {
            None => return Some(fields),
            Some(b',') => at = after + 1,
            Some(_) => return None,
        }
    }
}

/// One value and where it ends. Nothing at all is NULL; whatever could be misread stands in quotes, in which quotes and
/// backslashes are doubled.
fn field(text: &[u8], from: usize) -> Option<(Option<Vec<u8>>, usize)> {
    let mut at = from;
    if text.get(at) != Some(&b'"') {
        let end = text[at..].iter().position(|byte| *byte == b',').map_or(text.len(), |length| at + length);
        let value = &text[at..end];
        return Some(((!value.is_empty()).then(|| value.to_vec()), end));
    }
    at += 1;
    let mut value = Vec::new();
    loop {
        let end = at + text[at..].iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        value.extend_from_slice(&text[at..end]);
        match (text[end], text.get(end + 1)) {
            (b'"', Some(b'"')) => value.push(b'"'),
            (b'"', _) => return Some((Some(value), end + 1)),
            (_, Some(escaped)) => value.push(*escaped),
            (_, None) => return None,
        }
        at = end + 2;
    }
}

/// `None`: too long for PostgreSQL, so it cannot be.
pub fn tuple<'a>(values: impl ExactSizeIterator<Item = Option<&'a [u8]>>) -> Option<Tuple> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&u16::try_from(values.len()).ok()?.to_be_bytes());
    for value in values {
        match value {
            None => bytes.push(b'n'),
            Some(value) => {
                bytes.push(b't');
                bytes.extend_from_slice(&u32::try_from(value.len()).ok()?.to_be_bytes());
                bytes.extend_from_slice(value);
            }
        }
    }
    Tuple::from_raw(Bytes::from(bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Vec<Option<String>>> {
        let text_of = |value: Vec<u8>| String::from_utf8(value).unwrap();
        Some(fields(text)?.into_iter().map(|field| field.map(text_of)).collect())
    }

    #[test]
    fn rows_are_read_as_postgresql_writes_them() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(r#"(1,,"",a b)"#), Some(vec![some("1"), None, some(""), some("a b")]));
        assert_eq!(read(r#"("say ""hi"", c:\\d",x)"#), Some(vec![some(r#"say "hi", c:\d"#), some("x")]));
        assert_eq!(read(r#"("(1,2)","{""a"",b}")"#), Some(vec![some("(1,2)"), some(r#"{"a",b}"#)]));
        assert_eq!(read("()"), Some(vec![None]));
        assert_eq!(read("(1,2"), None);
        assert_eq!(read(r#"("1)"#), None);
    }

    #[test]
    fn a_row_has_the_values_it_was_made_of() {
        let made = tuple([Some(b"1".as_slice()), None].into_iter()).unwrap();
        let columns: Vec<_> = made.columns().collect();
        assert_eq!(columns, [wire::Column::Text(b"1"), wire::Column::Null]);
    }
}
