//! From the text of `pgtandem.toml` to a [`Config`], collecting every fault on the way.

mod matching;
mod naming;

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::interpolate::interpolate;
use super::names::{check_node_name, table_name};
use super::{Capture, Config, ConfigFault, ConfigFaults, HubSettings, Ids, MERGE_BY, Merge, Node, Resolve, Table};
use crate::connect::spelling::closest;
use crate::connect::{Endpoint, Environment};
use crate::sql::Ident;

const OF_A_NODE: &str = "of a node";

pub(super) fn read(file: &Path, text: &str, environment: &Environment) -> Result<Config, ConfigFaults> {
    let (root, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        // What could be recovered would only bring faults that follow from these.
        let faults = syntax
            .iter()
            .map(|error| ConfigFault {
                span: error.span(),
                message: format!("this is not TOML: {}", error.message().trim().replace('\n', "; ")),
                remedy: "correct the syntax; values of text stand in double quotes".to_owned(),
            })
            .collect();
        return Err(ConfigFaults::new(file, text, faults));
    }
    let is_direct = root.get_ref().get("mode").and_then(|mode| mode.get_ref().as_str()) == Some("direct");
    let mut reader = Reader { text, environment, is_direct, faults: Vec::new() };
    let root = Section { table: root.get_ref(), span: 0..0 };
    reader.only_known(&root, "at the top of the file", &["mode", "nodes", "tables", "hub", "direct"]);
    let nodes = reader.nodes(&root);
    let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    let tables = reader.tables(&root, &names);
    let hub = reader.hub(&root, names.len());
    let direct = reader.direct(&root, &nodes);
    let nodes = nodes
        .into_iter()
        .filter_map(|node| {
            Some(Node {
                endpoint: node.endpoint?,
                name: node.name,
                capture: node.capture,
                direct_endpoint: node.direct_endpoint,
                line: node.line,
            })
        })
        .collect();
    match reader.faults {
        faults if faults.is_empty() => {
            Ok(Config { file: file.to_owned(), nodes, tables, hub, direct, replace_triggers: false })
        }
        faults => Err(ConfigFaults::new(file, text, faults)),
    }
}

pub(super) struct Reader<'a> {
    text: &'a str,
    environment: &'a Environment,
    is_direct: bool,
    faults: Vec<ConfigFault>,
}

pub(super) struct Section<'a> {
    pub(super) table: &'a DeTable<'a>,
    span: Range<usize>,
}

/// A node whose connection string may be faulty; its name still counts for `prefer:`.
pub(super) struct NodeDraft {
    pub(super) name: String,
    pub(super) name_span: Range<usize>,
    line: usize,
    url_span: Range<usize>,
    endpoint: Option<Endpoint>,
    pub(super) capture: Option<Capture>,
    direct_endpoint: Option<Endpoint>,
}

impl<'a> Reader<'a> {
    pub(super) fn fault(
        &mut self,
        span: impl Into<Option<Range<usize>>>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.faults.push(ConfigFault { span: span.into(), message: message.into(), remedy: remedy.into() });
    }

    fn line_of(&self, at: usize) -> usize {
        self.text[..at].matches('\n').count() + 1
    }

    pub(super) fn only_known(&mut self, section: &Section<'_>, place: &str, known: &[&str]) {
        for key in section.table.keys() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let remedy = match closest(name, known.iter().copied()) {
                Some(close) => format!("did you mean `{close}`?"),
                None if place == OF_A_NODE && crate::connect::is_keyword(name) => {
                    format!("write it into the url: postgres://…?{name}=… or \"host=… {name}=…\"")
                }
                None => format!("the keys here are: {}", known.join(", ")),
            };
            self.fault(key.span(), format!("unknown key `{name}` {place}"), remedy);
        }
    }

    pub(super) fn section(&mut self, value: &'a Spanned<DeValue<'a>>, what: &str, remedy: &str) -> Option<Section<'a>> {
        match value.get_ref().as_table() {
            Some(table) => Some(Section { table, span: value.span() }),
            None => {
                let kind = value.get_ref().type_str();
                self.fault(value.span(), format!("{what} is {} {kind}, not a table", article(kind)), remedy);
                None
            }
        }
    }

    /// A text with its variables put in.
    pub(super) fn text_value(
        &mut self,
        section: &Section<'a>,
        key: &str,
        example: &str,
    ) -> Option<(String, Range<usize>)> {
        let value = section.table.get(key)?;
        let span = value.span();
        let Some(text) = value.get_ref().as_str() else {
            let kind = value.get_ref().type_str();
            self.fault(span, format!("`{key}` is {} {kind}, not a text", article(kind)), format!("write {example}"));
            return None;
        };
        match interpolate(text, self.environment) {
            Ok(text) => Some((text, span)),
            Err(faults) => {
                for fault in faults {
                    let raw = &self.text[span.clone()];
                    let place = fault.variable.and_then(|variable| {
                        let at = span.start + raw.find(&variable)?;
                        Some(at..at + variable.len())
                    });
                    self.fault(place.unwrap_or(span.clone()), fault.message, fault.remedy);
                }
                None
            }
        }
    }

    fn nodes(&mut self, root: &Section<'a>) -> Vec<NodeDraft> {
        const EXAMPLE: &str = "write [nodes.NAME] with url = \"postgres://…\", once for each database";
        let Some(value) = root.table.get("nodes") else {
            self.fault(None, "there are no nodes", EXAMPLE);
            return Vec::new();
        };
        let Some(section) = self.section(value, "`nodes`", EXAMPLE) else {
            return Vec::new();
        };
        let mut entries: Vec<_> = section.table.iter().collect();
        // The order of the file, whatever the map keeps.
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut drafts: Vec<NodeDraft> = Vec::new();
        for (key, value) in entries {
            if let Some(draft) = self.node(key, value) {
                self.check_other_database(&draft, &drafts);
                drafts.push(draft);
            }
        }
        if section.table.len() < 2 {
            let span = drafts.first().map_or(section.span, |draft| draft.name_span.clone());
            self.fault(span, "there are fewer than two nodes", EXAMPLE);
        }
        drafts
    }

    fn node(&mut self, key: &Spanned<std::borrow::Cow<'a, str>>, value: &'a Spanned<DeValue<'a>>) -> Option<NodeDraft> {
        const URL: &str = "url = \"postgres://user@host/database\"";
        let name = key.get_ref().to_string();
        if let Err((message, remedy)) = check_node_name(&name) {
            self.fault(key.span(), message, remedy);
        }
        let section =
            self.section(value, &format!("node `{name}`"), &format!("write [nodes.{name}] and below it {URL}"))?;
        self.only_known(&section, OF_A_NODE, &["url", "capture", "direct_url"]);
        if !section.table.contains_key("url") {
            self.fault(key.span(), format!("node `{name}` has no url"), format!("add {URL}"));
        }
        let url = self.text_value(&section, "url", URL);
        let url_span = url.as_ref().map_or(key.span(), |(_, span)| span.clone());
        let endpoint = url.and_then(|(url, span)| self.endpoint(&url, span));
        let capture = self.capture(&section);
        let direct_url = self.text_value(&section, "direct_url", URL);
        let direct_endpoint = direct_url.and_then(|(url, span)| self.endpoint(&url, span));
        let line = self.line_of(key.span().start);
        Some(NodeDraft { line, name_span: key.span(), name, url_span, endpoint, capture, direct_endpoint })
    }

    fn capture(&mut self, section: &Section<'a>) -> Option<Capture> {
        let (text, span) = self.text_value(section, "capture", "capture = \"trigger\"")?;
        let found = [Capture::Wal, Capture::Trigger].into_iter().find(|capture| capture.as_str() == text);
        if found.is_none() {
            let remedy = "write \"wal\" or \"trigger\"; without it, what the server is decides";
            self.fault(span, format!("`capture` cannot be `{text}`"), remedy);
        }
        found
    }

    fn endpoint(&mut self, url: &str, span: Range<usize>) -> Option<Endpoint> {
        if url.trim().is_empty() {
            self.fault(span, "the url is empty", "give it as postgres://user@host/database or \"host=… dbname=…\"");
            return None;
        }
        match Endpoint::resolve(url, self.environment) {
            Ok(endpoint) => Some(endpoint),
            Err(faults) => {
                for fault in faults.0 {
                    let place = self.place_of(fault.parameter.as_deref(), &span);
                    self.fault(place, fault.message, fault.remedy);
                }
                None
            }
        }
    }

    /// The parameter inside the value where it can be found, else the whole value.
    fn place_of(&self, parameter: Option<&str>, span: &Range<usize>) -> Range<usize> {
        let value = &self.text[span.clone()];
        let found = parameter.and_then(|name| {
            // The last one counts, as for libpq.
            value.rmatch_indices(name).find_map(|(at, _)| {
                let before = value[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_');
                let after = value[at + name.len()..].trim_start().starts_with('=');
                (before && after).then_some(span.start + at..span.start + at + name.len())
            })
        });
        found.unwrap_or_else(|| span.clone())
    }

    fn check_other_database(&mut self, draft: &NodeDraft, earlier: &[NodeDraft]) {
        let Some(endpoint) = &draft.endpoint else {
            return;
        };
        let same = earlier
            .iter()
            .find(|other| other.endpoint.as_ref().is_some_and(|other| other.leads_to_same_database(endpoint)));
        if let Some(other) = same {
            let message = format!("nodes `{}` and `{}` are the same database", other.name, draft.name);
            self.fault(draft.url_span.clone(), message, "give each node a database of its own");
        }
    }

    fn tables(&mut self, root: &Section<'a>, nodes: &[&str]) -> Vec<Table> {
        const EXAMPLE: &str = "write [[tables]] and below it name = \"products\"";
        let Some(value) = root.table.get("tables") else {
            self.fault(None, "there are no tables", EXAMPLE);
            return Vec::new();
        };
        let Some(items) = value.get_ref().as_array() else {
            let kind = value.get_ref().type_str();
            self.fault(value.span(), format!("`tables` is {} {kind}, not a list of tables", article(kind)), EXAMPLE);
            return Vec::new();
        };
        if items.is_empty() {
            self.fault(value.span(), "there are no tables", EXAMPLE);
        }
        let mut tables: Vec<(Table, Range<usize>)> = Vec::new();
        for item in items.iter() {
            if let Some((table, span)) = self.table(item, nodes) {
                match tables.iter().find(|(other, _)| other.name == table.name) {
                    Some((first, _)) => {
                        let message =
                            format!("the table {} is listed twice, first in line {}", table.name.plain(), first.line);
                        self.fault(span, message, "remove one of the two");
                    }
                    None => tables.push((table, span)),
                }
            }
        }
        self.check_names_once(&tables, nodes);
        tables.into_iter().map(|(table, _)| table).collect()
    }

    fn table(&mut self, item: &'a Spanned<DeValue<'a>>, nodes: &[&str]) -> Option<(Table, Range<usize>)> {
        const NAME: &str = "name = \"products\" or name = \"shop.products\"";
        let section =
            self.section(item, "an entry of `tables`", "write [[tables]] and below it name = \"products\"")?;
        let known =
            [["name", "resolve", "ids", "merge", "merge_by"].as_slice(), &matching::KEYS, &naming::KEYS].concat();
        self.only_known(&section, "of a table", &known);
        let resolve = self.resolve(&section, nodes);
        let ids = self.ids(&section);
        let merge = self.merge(&section, nodes);
        let merge_by = self.merge_by(&section, &merge);
        let matching = self.matching(&section, nodes);
        if !section.table.contains_key("name") {
            self.fault(section.span.clone(), "a table has no name", format!("add {NAME}"));
        }
        let (name, span) = self.text_value(&section, "name", NAME)?;
        match table_name(&name) {
            Ok(name) => {
                let line = self.line_of(span.start);
                let namings = self.namings(&section, &name, nodes);
                Some((Table { name, namings, resolve, ids, merge, merge_by, matching, line }, span))
            }
            Err((message, remedy)) => {
                self.fault(span, message, remedy);
                None
            }
        }
    }

    fn resolve(&mut self, section: &Section<'a>, nodes: &[&str]) -> Resolve {
        const EXAMPLE: &str = "resolve = \"newest\" or resolve = \"prefer:NODE\"";
        let Some((text, span)) = self.text_value(section, "resolve", EXAMPLE) else {
            return Resolve::Newest;
        };
        match text.split_once(':') {
            None if text == "newest" => Resolve::Newest,
            Some(("prefer", node)) if nodes.contains(&node) => Resolve::Prefer(node.to_owned()),
            Some(("prefer", node)) => {
                self.no_such_node(node, nodes, span);
                Resolve::Newest
            }
            _ => {
                self.fault(span, format!("`{text}` is not a way to resolve conflicts"), format!("write {EXAMPLE}"));
                Resolve::Newest
            }
        }
    }

    fn no_such_node(&mut self, node: &str, nodes: &[&str], span: Range<usize>) {
        let remedy = match closest(node, nodes.iter().copied()) {
            Some(close) => format!("did you mean `prefer:{close}`?"),
            None => format!("the nodes are: {}", nodes.join(", ")),
        };
        self.fault(span, format!("there is no node `{node}` to prefer"), remedy);
    }

    fn merge(&mut self, section: &Section<'a>, nodes: &[&str]) -> Merge {
        const EXAMPLE: &str = "merge = \"newest\", \"prefer:NODE\", \"only-missing\" or \"refuse\"";
        let Some((text, span)) = self.text_value(section, "merge", EXAMPLE) else {
            return Merge::Refuse;
        };
        match text.split_once(':') {
            None if text == "refuse" => return Merge::Refuse,
            None if text == "newest" => return Merge::Newest,
            None if text == "only-missing" => return Merge::OnlyMissing,
            Some(("prefer", node)) if nodes.contains(&node) => return Merge::Prefer(node.to_owned()),
            Some(("prefer", node)) => self.no_such_node(node, nodes, span),
            _ => self.fault(span, format!("`{text}` is not a way to merge tables"), format!("write {EXAMPLE}")),
        }
        Merge::Refuse
    }

    fn merge_by(&mut self, section: &Section<'a>, merge: &Merge) -> Ident {
        const EXAMPLE: &str = "merge_by = \"updated_at\"";
        let Some((name, span)) = self.text_value(section, "merge_by", EXAMPLE) else {
            return Ident::new(MERGE_BY);
        };
        if name.is_empty() || name.len() > Ident::MAX_BYTES {
            self.fault(span, format!("`{name}` is not the name of a column"), format!("write {EXAMPLE}"));
        } else if *merge != Merge::Newest {
            let what = "`merge_by` says which row is newer, and this table's rows are not merged by that";
            self.fault(span, what, "add merge = \"newest\", or take merge_by out");
        }
        Ident::new(name)
    }

    fn ids(&mut self, section: &Section<'a>) -> Ids {
        const EXAMPLE: &str = "ids = \"interleave\", \"mirror\" or \"keep\"";
        match self.text_value(section, "ids", EXAMPLE) {
            None => Ids::Interleave,
            Some((text, _)) if text == "interleave" => Ids::Interleave,
            Some((text, _)) if text == "keep" => Ids::Keep,
            Some((text, _)) if text == "mirror" && self.is_direct => Ids::Mirror,
            Some((text, span)) if text == "mirror" => {
                let what = "ids = \"mirror\" goes with mode = \"direct\": otherwise rows arrive too late for it";
                self.fault(span, what, "write ids = \"interleave\", or choose direct mode");
                Ids::Interleave
            }
            Some((text, span)) => {
                self.fault(span, format!("`{text}` is not a way to treat ids"), format!("write {EXAMPLE}"));
                Ids::Interleave
            }
        }
    }

    fn hub(&mut self, root: &Section<'a>, nodes: usize) -> HubSettings {
        let defaults = HubSettings::default();
        let section = match root.table.get("hub") {
            Some(value) => self.section(value, "`hub`", "write [hub] and its keys below it"),
            None => None,
        };
        let Some(section) = section else {
            self.check_slots(defaults.id_slots, nodes, None);
            return defaults;
        };
        self.only_known(
            &section,
            "of [hub]",
            &[
                "silence_timeout_s",
                "status_interval_ms",
                "id_slots",
                "keep_conflicts_days",
                "keep_conflicts_mib",
                "verify_every",
                "keep_wal",
                "confirm_after_days",
            ],
        );
        let silence = defaults.silence_timeout.as_secs();
        let status = defaults.status_interval.as_secs() * 1000;
        let settings = HubSettings {
            silence_timeout: Duration::from_secs(self.number(&section, "silence_timeout_s", 2..=3600, silence)),
            status_interval: Duration::from_millis(self.number(&section, "status_interval_ms", 100..=60_000, status)),
            id_slots: self.number(&section, "id_slots", 2..=64, defaults.id_slots),
            keep_conflicts_days: self.number(&section, "keep_conflicts_days", 0..=36_500, defaults.keep_conflicts_days),
            keep_conflicts_mib: self.number(&section, "keep_conflicts_mib", 1..=1_048_576, defaults.keep_conflicts_mib),
            verify_every: self.interval(&section, "verify_every"),
            keep_wal: self.size(&section, "keep_wal").unwrap_or(defaults.keep_wal),
            confirm_after_days: self.number(&section, "confirm_after_days", 0..=3650, defaults.confirm_after_days),
        };
        let span = section.table.get("id_slots").map_or(section.span, Spanned::span);
        self.check_slots(settings.id_slots, nodes, Some(span));
        settings
    }

    fn check_slots(&mut self, slots: u16, nodes: usize, span: Option<Range<usize>>) {
        if nodes > usize::from(slots) {
            let message = format!("{nodes} nodes do not fit into {slots} id slots");
            let remedy = format!(
                "write id_slots = {nodes} or more into [hub]; \
                 it cannot be changed once tables are linked"
            );
            self.fault(span, message, remedy);
        }
    }

    fn size(&mut self, section: &Section<'a>, key: &str) -> Option<u64> {
        let value = section.table.get(key)?;
        let size = value.get_ref().as_str().and_then(super::measure::read_size);
        if size.is_none() {
            let remedy = format!("write a whole number and MiB or GiB in quotes: {key} = \"1GiB\"");
            self.fault(value.span(), format!("`{key}` is not a size"), remedy);
        }
        size
    }

    fn interval(&mut self, section: &Section<'a>, key: &str) -> Option<Duration> {
        let value = section.table.get(key)?;
        match value.get_ref().as_str().ok_or_else(String::new).and_then(super::read_interval) {
            Ok(interval) => Some(interval),
            Err(_) => {
                let remedy = format!("write a whole number and s, min, h or d in quotes: {key} = \"1h\"");
                self.fault(value.span(), format!("`{key}` is not an interval"), remedy);
                None
            }
        }
    }

    pub(super) fn number<N>(&mut self, section: &Section<'a>, key: &str, range: RangeInclusive<N>, default: N) -> N
    where
        N: Copy + PartialOrd + Display + TryFrom<u64>,
    {
        let Some(value) = section.table.get(key) else {
            return default;
        };
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok())
            .and_then(|number| N::try_from(number).ok())
            .filter(|number| range.contains(number));
        number.unwrap_or_else(|| {
            let (least, most) = (range.start(), range.end());
            self.fault(
                value.span(),
                format!("`{key}` is not a whole number from {least} to {most}"),
                format!("write a number without quotes and unit: {key} = {default}"),
            );
            default
        })
    }
}

fn article(kind: &str) -> &'static str {
    if kind.starts_with(['a', 'i', 'o']) { "an" } else { "a" }
}
