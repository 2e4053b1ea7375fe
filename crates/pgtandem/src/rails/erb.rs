//! ERB in a YAML file, as far as it says where a value comes from. Nothing is ever evaluated.

use super::fault::Fault;
use std::path::Path;

/// What stands in a `<%= … %>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    /// `ENV["X"]`, `ENV.fetch("X")`, and the forms with a default.
    Variable { name: String, default: Option<String> },
    /// Anything else, as it is written.
    Other { source: String, line: usize },
}

/// A file whose expressions have been replaced by marks, which are plain words to YAML.
pub(super) struct Template {
    pub text: String,
    pub expressions: Vec<Expression>,
}

/// A part of a value: text, or the expression that was there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Text(&'a str),
    Expression(&'a Expression),
}

const MARK: &str = "pgtandem-erb-";

/// Replaces expressions by marks. Lines stay where they are; comments are emptied first, because what stands there is
/// often an example.
///
/// # Errors
/// Where Ruby decides which lines there are.
pub(super) fn read(file: &Path, text: &str) -> Result<Template, Vec<Fault>> {
    let text: String =
        text.lines().map(|line| if is_comment(line) { "\n".to_owned() } else { format!("{line}\n") }).collect();
    let mut template = Template { text: String::with_capacity(text.len()), expressions: Vec::new() };
    let mut faults = Vec::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("<%") {
        template.text.push_str(&rest[..at]);
        let line = template.text.matches('\n').count() + 1;
        let Some(length) = rest[at..].find("%>") else {
            faults.push(Fault::new(file, line, "a `<%` has no closing `%>`", "close it"));
            return Err(faults);
        };
        let inside = &rest[at + 2..at + length];
        rest = &rest[at + length + 2..];
        if let Some(source) = inside.strip_prefix('=') {
            template.text.push_str(&format!("{MARK}{}-", template.expressions.len()));
            template.expressions.push(expression(source.trim_matches(['-', ' ', '\t', '\n']), line));
        } else if !inside.starts_with('#') {
            let what = format!("`<%{inside}%>` is Ruby that decides what the file says");
            faults.push(Fault::new(file, line, what, "name the databases as NAME=URL in place of --rails"));
        }
        template.text.extend(inside.chars().filter(|c| *c == '\n'));
    }
    template.text.push_str(rest);
    if faults.is_empty() { Ok(template) } else { Err(faults) }
}

impl Template {
    pub fn parts<'a>(&'a self, value: &'a str) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        let mut rest = value;
        while let Some((before, after)) = rest.split_once(MARK) {
            let (number, behind) = after.split_once('-').unwrap_or((after, ""));
            let found = number.parse().ok().and_then(|number: usize| self.expressions.get(number));
            if !before.is_empty() {
                parts.push(Part::Text(before));
            }
            parts.extend(found.map(Part::Expression));
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest));
        }
        parts
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

fn expression(source: &str, line: usize) -> Expression {
    variable(source).unwrap_or_else(|| Expression::Other { source: source.to_owned(), line })
}

fn variable(source: &str) -> Option<Expression> {
    let (name, default) = if let Some(rest) = source.strip_prefix("ENV[") {
        let (name, rest) = quoted(rest)?;
        let rest = rest.strip_prefix(']')?.trim();
        match rest.strip_prefix("||") {
            Some(default) => (name, literal(default.trim())?),
            None if rest.is_empty() => (name, None),
            None => return None,
        }
    } else {
        let rest = source.strip_prefix("ENV.fetch")?.trim_start();
        let rest = rest.strip_prefix('(')?.trim_start();
        let (name, rest) = quoted(rest)?;
        let rest = rest.trim_start();
        if let Some(block) = rest.strip_prefix(')') {
            let block = block.trim();
            let inside = block.strip_prefix('{').and_then(|block| block.strip_suffix('}'));
            match inside {
                Some(inside) => (name, literal(inside.trim())?),
                None if block.is_empty() => (name, None),
                None => return None,
            }
        } else {
            let default = rest.strip_prefix(',')?.trim().strip_suffix(')')?;
            (name, literal(default.trim())?)
        }
    };
    Some(Expression::Variable { name: name.to_owned(), default })
}

/// A text in quotes without anything that Ruby would replace, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let (inside, after) = text[1..].split_once(quote)?;
    let is_replaced = inside.contains('\\') || (quote == '"' && inside.contains("#{"));
    (!is_replaced).then_some((inside, after))
}

/// A text, a number or nil.
fn literal(text: &str) -> Option<Option<String>> {
    if text == "nil" {
        return Some(None);
    }
    if let Some((inside, "")) = quoted(text) {
        return Some(Some(inside.to_owned()));
    }
    let is_number = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    is_number.then(|| Some(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, default: Option<&str>) -> Expression {
        Expression::Variable { name: name.to_owned(), default: default.map(str::to_owned) }
    }

    #[test]
    fn the_ways_to_read_a_variable_are_known() {
        for (source, default) in [
            ("ENV['X']", None),
            ("ENV[\"X\"]", None),
            ("ENV.fetch('X')", None),
            ("ENV.fetch(\"X\", nil)", None),
            ("ENV.fetch(\"X\") { 5432 }", Some("5432")),
            ("ENV.fetch(\"X\") { \"localhost\" }", Some("localhost")),
            ("ENV.fetch( \"X\", 'local host' )", Some("local host")),
            ("ENV[\"X\"] || \"app\"", Some("app")),
        ] {
            assert_eq!(expression(source, 1), variable("X", default), "{source}");
        }
    }

    #[test]
    fn anything_else_is_not_evaluated() {
        for source in [
            "Rails.application.credentials.db_password",
            "ENV[\"X\"].downcase",
            "ENV.fetch(\"X\") { rand(9) }",
            "ENV.fetch(\"X\") { \"#{1 + 1}\" }",
            "ENV[\"X\"] || `id`",
            "ENV[\"A\\\"B\"]",
        ] {
            let other = Expression::Other { source: source.to_owned(), line: 3 };
            assert_eq!(expression(source, 3), other, "{source}");
        }
    }

    #[test]
    fn lines_stay_and_comments_do_not_count() {
        let text = "# <%= secret %>\na: <%= ENV['A'] %>\nb: x<%=\n  other %>y\nc: 1\n";
        let template = read(Path::new("f"), text).ok().unwrap();
        assert_eq!(template.text, "\na: pgtandem-erb-0-\nb: xpgtandem-erb-1-\ny\nc: 1\n");
        assert_eq!(template.expressions[1], Expression::Other { source: "other".to_owned(), line: 3 });
        let parts = template.parts("xpgtandem-erb-0-y");
        assert_eq!(parts, [Part::Text("x"), Part::Expression(&variable("A", None)), Part::Text("y")]);
    }

    #[test]
    fn control_flow_is_refused_with_its_line() {
        let faults = read(Path::new("f"), "a: 1\n<% if x %>\nb: 1\n<% end %>\n").err().unwrap();
        let lines: Vec<usize> = faults.iter().map(|fault| fault.line).collect();
        assert_eq!(lines, [2, 4]);
    }
}
