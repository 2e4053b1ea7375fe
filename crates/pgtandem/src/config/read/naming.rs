//! `names` and `columns` of a table: what nodes call it otherwise.

use super::{Reader, Section, article};
use crate::config::names::table_name;
use crate::sql::{Ident, Naming, QualifiedName};
use std::collections::BTreeMap;
use std::ops::Range;
use toml::Spanned;
use toml::de::DeValue;

pub(super) const KEYS: [&str; 2] = ["names", "columns"];

const NAMES: &str = "names = { NODE = \"legacy_products\" }";
const COLUMNS: &str = "columns = { NODE = { name = \"title\" } }, the name it has elsewhere first";

/// A key of a TOML table, what stands for it, and where.
type Entry<'a> = (String, Range<usize>, &'a Spanned<DeValue<'a>>);

impl<'a> Reader<'a> {
    /// Node by node; nodes that call everything the same are left out.
    pub(super) fn namings(
        &mut self,
        section: &Section<'a>,
        table: &QualifiedName,
        nodes: &[&str],
    ) -> BTreeMap<String, Naming> {
        let mut names = self.names(section, nodes);
        let mut columns = self.columns(section, nodes);
        let mut namings = BTreeMap::new();
        for node in nodes {
            let (name, columns) = (names.remove(*node), columns.remove(*node));
            if name.is_none() && columns.is_none() {
                continue;
            }
            let own = name.unwrap_or_else(|| table.clone());
            namings.insert((*node).to_owned(), Naming::new(table.called(&own), columns.unwrap_or_default()));
        }
        namings
    }

    fn names(&mut self, section: &Section<'a>, nodes: &[&str]) -> BTreeMap<String, QualifiedName> {
        let mut names = BTreeMap::new();
        for (node, _, value) in self.by_node(section, "names", nodes, NAMES) {
            let Some(text) = value.get_ref().as_str() else {
                self.fault(value.span(), format!("the name on `{node}` is not a text"), format!("write {NAMES}"));
                continue;
            };
            match table_name(text) {
                Ok(name) => drop(names.insert(node, name)),
                Err((message, remedy)) => self.fault(value.span(), message, remedy),
            }
        }
        names
    }

    fn columns(&mut self, section: &Section<'a>, nodes: &[&str]) -> BTreeMap<String, Vec<Ident>> {
        let mut all = BTreeMap::new();
        for (node, _, value) in self.by_node(section, "columns", nodes, COLUMNS) {
            let Some(entries) = self.entries(value, &format!("`columns` of `{node}`"), COLUMNS) else { continue };
            let mut columns: Vec<Ident> = Vec::new();
            for (name, span, own) in entries {
                if let Some(column) = self.column(&name, span, own, &columns) {
                    columns.push(column);
                }
            }
            all.insert(node, columns);
        }
        all
    }

    fn column(
        &mut self,
        name: &str,
        span: Range<usize>,
        own: &'a Spanned<DeValue<'a>>,
        earlier: &[Ident],
    ) -> Option<Ident> {
        let Some(text) = own.get_ref().as_str() else {
            self.fault(own.span(), format!("the name for `{name}` is not a text"), format!("write {COLUMNS}"));
            return None;
        };
        for (name, span) in [(name, span), (text, own.span())] {
            if name.is_empty() || name.len() > Ident::MAX_BYTES {
                self.fault(span, format!("`{name}` is not the name of a column"), format!("write {COLUMNS}"));
                return None;
            }
        }
        if let Some(other) = earlier.iter().find(|column| column.own_str() == text) {
            let what = format!("`{text}` stands for two columns, `{}` and `{name}`", other.as_str());
            self.fault(own.span(), what, "a column stands for one; remove one of the two");
            return None;
        }
        Some(Ident::called(name, text))
    }

    /// Entries that are told by the name of a node.
    fn by_node(&mut self, section: &Section<'a>, key: &str, nodes: &[&str], example: &str) -> Vec<Entry<'a>> {
        let Some(value) = section.table.get(key) else { return Vec::new() };
        let mut entries = self.entries(value, &format!("`{key}`"), example).unwrap_or_default();
        entries.retain(|(node, span, _)| {
            let known = nodes.contains(&node.as_str());
            if !known {
                let remedy = format!("the nodes are: {}", nodes.join(", "));
                self.fault(span.clone(), format!("there is no node `{node}` that could call it otherwise"), remedy);
            }
            known
        });
        entries
    }

    /// In the order of the file.
    fn entries(&mut self, value: &'a Spanned<DeValue<'a>>, what: &str, example: &str) -> Option<Vec<Entry<'a>>> {
        let Some(table) = value.get_ref().as_table() else {
            let kind = value.get_ref().type_str();
            let what = format!("{what} is {} {kind}, not a table", article(kind));
            self.fault(value.span(), what, format!("write {example}"));
            return None;
        };
        let entry = |(key, value): (&Spanned<std::borrow::Cow<'a, str>>, &'a Spanned<DeValue<'a>>)| {
            (key.get_ref().to_string(), key.span(), value)
        };
        let mut entries: Vec<Entry<'a>> = table.iter().map(entry).collect();
        entries.sort_by_key(|(_, span, _)| span.start);
        Some(entries)
    }

    /// One table of a node can be kept the same as one other only.
    pub(super) fn check_names_once(&mut self, tables: &[(super::Table, Range<usize>)], nodes: &[&str]) {
        for node in nodes {
            let mut seen: Vec<(QualifiedName, usize)> = Vec::new();
            for (table, span) in tables {
                let own = table.naming(node).table.own();
                match seen.iter().find(|(name, _)| *name == own) {
                    Some((_, line)) => {
                        let what = format!("{} of `{node}` is listed twice, first in line {line}", own.plain());
                        self.fault(span.clone(), what, "name another table of that node, in `names`");
                    }
                    None => seen.push((own, table.line)),
                }
            }
        }
    }
}
