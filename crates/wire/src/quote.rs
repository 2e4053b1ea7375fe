//! Names and strings inside replication commands. The replication grammar is not SQL, but it quotes
//! the same way.

use std::fmt::{self, Write};

/// A name; `Display` quotes it.
pub(crate) struct Ident<'a>(pub &'a str);

/// A string; `Display` quotes it.
pub(crate) struct Literal<'a>(pub &'a str);

fn quoted(f: &mut fmt::Formatter<'_>, quote: char, text: &str) -> fmt::Result {
    f.write_char(quote)?;
    for character in text.chars() {
        if character == quote {
            f.write_char(quote)?;
        }
        f.write_char(character)?;
    }
    f.write_char(quote)
}

impl fmt::Display for Ident<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        quoted(f, '"', self.0)
    }
}

impl fmt::Display for Literal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        quoted(f, '\'', self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_the_quote() {
        assert_eq!(Ident(r#"a"b'c"#).to_string(), r#""a""b'c""#);
        assert_eq!(Literal(r#"a"b'c"#).to_string(), r#"'a"b''c'"#);
    }
}
