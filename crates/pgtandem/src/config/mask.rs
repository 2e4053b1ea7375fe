//! Hiding passwords in a line of the config before it is shown.

/// What stands in for a password.
const MASK: &str = "***";

/// A line as it may be shown.
pub(super) struct Masked {
    pub text: String,
    /// Hidden stretches of the original line, in bytes, in order.
    hidden: Vec<std::ops::Range<usize>>,
}

impl Masked {
    pub fn of(line: &str) -> Self {
        let mut hidden = in_urls(line);
        hidden.extend(in_assignments(line));
        hidden.sort_by_key(|range| range.start);
        let mut merged: Vec<std::ops::Range<usize>> = Vec::new();
        for range in hidden {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        let mut text = String::new();
        let mut from = 0;
        for range in &merged {
            text.push_str(&line[from..range.start]);
            text.push_str(MASK);
            from = range.end;
        }
        text.push_str(&line[from..]);
        Self { text, hidden: merged }
    }

    /// Where a byte of the original line is in the shown one.
    pub fn place(&self, at: usize) -> usize {
        let mut place = at;
        for range in &self.hidden {
            if at >= range.end {
                place = place + MASK.len() - range.len();
            } else if at > range.start {
                // Inside what is hidden: its beginning.
                return place - (at - range.start);
            }
        }
        place
    }
}

/// From the first colon of the user part to the last `@`: an unescaped `/` or `@` of a password is hidden too.
fn in_urls(line: &str) -> Vec<std::ops::Range<usize>> {
    let mut hidden = Vec::new();
    let mut from = 0;
    while let Some(found) = line[from..].find("://") {
        let start = from + found + 3;
        // The URL may hold anything, so it ends only with its TOML string.
        let quote = line[..start].chars().rev().find(|c| matches!(c, '"' | '\''));
        let end = match quote {
            Some(quote) => line[start..].find(quote).map_or(line.len(), |length| start + length),
            None => line.len(),
        };
        let (at, colon) = (line[start..end].rfind('@'), line[start..end].find(':'));
        match (at, colon) {
            (Some(at), Some(colon)) if colon < at => hidden.push(start + colon + 1..start + at),
            _ => {}
        }
        from = end;
    }
    hidden
}

/// `password=…` of keyword strings and of URL parameters, `sslpassword=…` too.
fn in_assignments(line: &str) -> Vec<std::ops::Range<usize>> {
    let mut hidden = Vec::new();
    let mut from = 0;
    while let Some(found) = line[from..].to_ascii_lowercase().find("password") {
        let after = from + found + "password".len();
        from = after;
        let spaces = |at: usize| line[at..].len() - line[at..].trim_start().len();
        let equals = after + spaces(after);
        if !line[equals..].starts_with('=') {
            continue;
        }
        let start = equals + 1 + spaces(equals + 1);
        let mut end = start + value_length(&line[start..]);
        // Words that follow and assign nothing are most likely the rest of a password that needed quotes.
        while let Some(length) = stray_word(&line[end..]) {
            end += length;
        }
        hidden.push(start..end);
        from = end;
    }
    hidden
}

fn value_length(text: &str) -> usize {
    let quoted = text.starts_with(['\'', '"']);
    let quote = text.chars().next();
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(usize::from(quoted)) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if quoted && Some(c) == quote => return at + 1,
            '"' | '\'' | '&' if !quoted => return at,
            _ if !quoted && c.is_whitespace() => return at,
            _ => {}
        }
    }
    text.len()
}

/// Length of the spaces and of the word at the start of the text, if that word is no assignment and no comment.
fn stray_word(text: &str) -> Option<usize> {
    let spaces = text.len() - text.trim_start().len();
    let word = text[spaces..].split([' ', '\t', '"', '\'', '&']).next().unwrap_or("");
    (spaces > 0 && !word.is_empty() && !word.contains(['=', '#'])).then_some(spaces + word.len())
}

#[cfg(test)]
mod tests {
    use super::Masked;

    fn masked(line: &str) -> String {
        Masked::of(line).text
    }

    #[test]
    fn hides_passwords_wherever_they_are_written() {
        assert_eq!(masked(r#"url = "postgres://app:s3cret@db1/x""#), r#"url = "postgres://app:***@db1/x""#);
        assert_eq!(masked(r#"url = "postgres://app:s3/cr@et@db1/x""#), r#"url = "postgres://app:***@db1/x""#);
        assert_eq!(masked(r#"url = 'postgres://app:s"t@db1/x'"#), r#"url = 'postgres://app:***@db1/x'"#);
        assert_eq!(
            masked(r#"url = "postgres://db1:5432/x?password=abc&user=u""#),
            r#"url = "postgres://db1:5432/x?password=***&user=u""#
        );
        assert_eq!(
            masked(r#"url = "host=a password = 'two \' words' user=u""#),
            r#"url = "host=a password = *** user=u""#
        );
        assert_eq!(masked(r#"url = "host=a sslpassword=abc""#), r#"url = "host=a sslpassword=***""#);
        assert_eq!(masked(r#"url = "host=a password=two words user=u""#), r#"url = "host=a password=*** user=u""#);
        assert_eq!(masked("url = postgres://app:s3cret@db1/x"), "url = postgres://app:***@db1/x");
        assert_eq!(masked(r#"password = "abc""#), "password = ***");
        assert_eq!(masked(r#"url = "postgres://app@db1:5432/x""#), r#"url = "postgres://app@db1:5432/x""#);
    }

    #[test]
    fn places_move_with_the_mask() {
        let line = r#"url = "postgres://app:s3cret@db1/x" # here"#;
        let masked = Masked::of(line);
        let here = line.find("here").expect("it is there");
        assert_eq!(&masked.text[masked.place(here)..], "here");
        assert_eq!(masked.place(3), 3);
    }
}
