//! Rows in COPY's text format, made from the images as they stand.
//!
//! See "Text Format" in the manual's page on COPY: columns end with a tab, rows with a newline; a backslash comes before
//! itself and stands in for what would be taken for one of these; NULL is `\N`.

use bytes::{BufMut, Bytes, BytesMut};

#[derive(Debug, Default)]
pub struct CopyText {
    bytes: BytesMut,
    in_row: bool,
}

impl CopyText {
    /// `raw` is a length word (-1: NULL) and the bytes behind it.
    pub fn push_raw(&mut self, raw: &[u8]) {
        if self.in_row {
            self.bytes.put_u8(b'\t');
        }
        self.in_row = true;
        match raw.split_at_checked(4) {
            Some((head, text)) if head != (-1_i32).to_be_bytes() => self.push_text(text),
            _ => self.bytes.put_slice(b"\\N"),
        }
    }

    fn push_text(&mut self, text: &[u8]) {
        let special = |byte: &u8| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r');
        let mut rest = text;
        while let Some(at) = rest.iter().position(special) {
            let (plain, from) = rest.split_at(at);
            self.bytes.put_slice(plain);
            let escaped = match from[0] {
                b'\t' => b't',
                b'\n' => b'n',
                b'\r' => b'r',
                other => other,
            };
            self.bytes.put_slice(&[b'\\', escaped]);
            rest = &from[1..];
        }
        self.bytes.put_slice(rest);
    }

    pub fn end_row(&mut self) {
        self.bytes.put_u8(b'\n');
        self.in_row = false;
    }

    #[must_use]
    pub fn freeze(self) -> Bytes {
        self.bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_taken_for_something_else_is_escaped() {
        let raw = |text: &str| [&(text.len() as i32).to_be_bytes()[..], text.as_bytes()].concat();
        let mut copy = CopyText::default();
        copy.push_raw(&raw("plain"));
        copy.push_raw(&(-1_i32).to_be_bytes());
        copy.push_raw(&raw(""));
        copy.push_raw(&raw("a\tb\nc\rd\\N\\"));
        copy.end_row();
        copy.push_raw(&raw("\\."));
        copy.end_row();
        assert_eq!(&copy.freeze()[..], b"plain\t\\N\t\ta\\tb\\nc\\rd\\\\N\\\\\n\\\\.\n");
    }
}
