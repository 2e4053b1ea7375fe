//! `match`, and the keys of a table that go with it.

use super::{Reader, Section, article};
use crate::config::matching::{EXAMPLE, Matching, Reference};
use crate::sql::Ident;
use std::ops::Range;
use std::time::Duration;
use toml::Spanned;

pub(super) const KEYS: [&str; 5] = ["match", "renumber", "references", "dismiss", "write_pause"];

const MATCH: &str = "match = [\"sku\"]";
const PAUSE: &str = "write_pause = \"2s\"";
/// No application should have to wait for longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl<'a> Reader<'a> {
    pub(super) fn matching(&mut self, section: &Section<'a>, nodes: &[&str]) -> Option<Matching> {
        let columns = self.texts(section, "match", MATCH);
        let renumber = self.text_value(section, "renumber", "renumber = \"NODE\"");
        let renumber = renumber.and_then(|(node, span)| {
            if !nodes.contains(&node.as_str()) {
                let remedy = format!("the nodes are: {}", nodes.join(", "));
                self.fault(span, format!("there is no node `{node}` whose rows could get new ids"), remedy);
                return None;
            }
            Some(node)
        });
        let references = self.references(section, "references");
        let dismiss = self.references(section, "dismiss");
        let write_pause = self.write_pause(section);
        let Some(columns) = columns else {
            for key in KEYS.iter().filter(|key| **key != "match") {
                if let Some(value) = section.table.get(*key) {
                    let what = format!("`{key}` says something of rows that `match` finds, and there is no `match`");
                    self.fault(value.span(), what, format!("add {MATCH}, or take `{key}` out"));
                }
            }
            return None;
        };
        if columns.is_empty() {
            let span = section.table.get("match").map(Spanned::span);
            self.fault(span, "`match` names no column", format!("write {MATCH}"));
        }
        let columns = columns.into_iter().map(|(name, _)| Ident::new(name)).collect();
        Some(Matching { columns, renumber, references, dismiss, write_pause })
    }

    fn references(&mut self, section: &Section<'a>, key: &str) -> Vec<Reference> {
        let mut references = Vec::new();
        for (text, span) in self.texts(section, key, EXAMPLE).unwrap_or_default() {
            match Reference::read(&text) {
                Ok(reference) => references.push(reference),
                Err(what) => self.fault(span, what, format!("write {EXAMPLE}")),
            }
        }
        references
    }

    fn write_pause(&mut self, section: &Section<'a>) -> Option<Duration> {
        let (text, span) = self.text_value(section, "write_pause", PAUSE)?;
        let pause = text.parse::<jiff::SignedDuration>().ok().and_then(|pause| Duration::try_from(pause).ok());
        let pause = pause.filter(|pause| *pause > Duration::ZERO && *pause <= LONGEST_PAUSE);
        if pause.is_none() {
            let what = format!("`write_pause` cannot be `{text}`");
            self.fault(span, what, format!("write a time of up to a minute: {PAUSE}, or \"500ms\""));
        }
        pause
    }

    /// A list of texts; a single one will do as well.
    fn texts(&mut self, section: &Section<'a>, key: &str, example: &str) -> Option<Vec<(String, Range<usize>)>> {
        let value = section.table.get(key)?;
        if let Some(text) = value.get_ref().as_str() {
            return Some(vec![(text.to_owned(), value.span())]);
        }
        let Some(items) = value.get_ref().as_array() else {
            let kind = value.get_ref().type_str();
            let what = format!("`{key}` is {} {kind}, not a list of texts", article(kind));
            self.fault(value.span(), what, format!("write {example}"));
            return None;
        };
        let mut texts = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_str() {
                Some(text) => texts.push((text.to_owned(), item.span())),
                None => self.fault(item.span(), format!("`{key}` lists texts only"), format!("write {example}")),
            }
        }
        Some(texts)
    }
}
