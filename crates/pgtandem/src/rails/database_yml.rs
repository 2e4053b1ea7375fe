//! `config/database.yml`: the settings of one environment.

use super::erb::{self, Part, Template};
use super::fault::{Fault, Faults};
use saphyr::{MarkedYaml, ScalarStyle, YamlData, YamlLoader};
use saphyr_parser::{BufferedInput, Parser};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The settings, and the file they are from.
pub(super) struct DatabaseYml {
    pub file: PathBuf,
    template: Template,
    settings: BTreeMap<String, Setting>,
}

/// A scalar as it stands in the file, with marks for expressions.
#[derive(Clone)]
struct Setting {
    text: String,
    line: usize,
}

/// A value with its expressions.
pub(super) struct Value<'a> {
    pub parts: Vec<Part<'a>>,
    pub line: usize,
}

/// Anchors that refer to anchors could make a small file large.
const MOST_BYTES: u64 = 1 << 20;

impl DatabaseYml {
    pub fn read(root: &Path, environment: &str) -> Result<Self, Faults> {
        let file = root.join("config/database.yml");
        let fault = |what: String, remedy: &str| Faults(vec![Fault::new(&file, 0, what, remedy)]);
        let length = std::fs::metadata(&file).map(|metadata| metadata.len());
        if length.is_ok_and(|length| length > MOST_BYTES) {
            return Err(fault("the file is too large for a database.yml".to_owned(), "name the databases as NAME=URL"));
        }
        let text = std::fs::read_to_string(&file).map_err(|error| {
            fault(format!("cannot be read: {error}"), "--rails takes the directory of a Rails application")
        })?;
        let template = erb::read(&file, &text).map_err(Faults)?;
        let settings = parse(&file, &template.text, environment).map_err(|fault| Faults(vec![fault]))?;
        Ok(Self { file, template, settings })
    }

    /// None: it is not there, or empty.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        let setting = self.settings.get(key)?;
        Some(Value { parts: self.template.parts(&setting.text), line: setting.line })
    }

    /// As it is written, where no expression stands in it.
    pub fn literal(&self, key: &str) -> Option<&str> {
        match self.get(key)?.parts[..] {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}

fn parse(file: &Path, text: &str, environment: &str) -> Result<BTreeMap<String, Setting>, Fault> {
    let documents = load(text).map_err(|error| {
        Fault::new(file, error.marker().line(), format!("this is not YAML: {}", error.info()), "mend it")
    })?;
    let root = documents.first().map(entries).unwrap_or_default();
    let Some(section) = root.get(environment).copied() else {
        let others: Vec<&str> = root.keys().map(String::as_str).filter(|name| *name != "default").collect();
        let what = format!("there is no environment `{environment}`");
        return Err(Fault::new(file, 0, what, format!("name one with --rails-env: {}", others.join(", "))));
    };
    let mut section = entries(section);
    // Several databases: each has its own entries under a name; `primary` is the one that counts.
    if !section.contains_key("adapter") && !section.contains_key("url") {
        let inner = section.get("primary").or_else(|| section.values().find(|node| is_mapping(node)));
        if let Some(inner) = inner.copied() {
            section = entries(inner);
        }
    }
    Ok(section.iter().filter_map(|(key, node)| Some((key.clone(), scalar(node)?))).collect())
}

fn load(text: &str) -> Result<Vec<MarkedYaml<'static>>, saphyr::ScanError> {
    let characters: Vec<char> = text.chars().collect();
    let mut loader = YamlLoader::<MarkedYaml>::default();
    // Texts as they are written: a port or a password is no number to us.
    loader.early_parse(false);
    // Two `<<` in one mapping.
    loader.allow_duplicate_keys(true);
    Parser::new(BufferedInput::new(characters.into_iter())).load(&mut loader, true)?;
    match loader.error() {
        Some(error) => Err(error.clone()),
        None => Ok(loader.into_documents()),
    }
}

/// A mapping's entries, with those that `<<` brings in; its own come first.
fn entries<'a>(node: &'a MarkedYaml<'static>) -> BTreeMap<String, &'a MarkedYaml<'static>> {
    let YamlData::Mapping(mapping) = &node.data else { return BTreeMap::new() };
    let mut own = BTreeMap::new();
    let mut merged = BTreeMap::new();
    for (key, value) in mapping {
        let Some(key) = scalar(key) else { continue };
        match (key.text.as_str(), &value.data) {
            ("<<", YamlData::Sequence(several)) => {
                for one in several.iter().rev() {
                    merged.extend(entries(one));
                }
            }
            ("<<", _) => merged.extend(entries(value)),
            _ => drop(own.insert(key.text, value)),
        }
    }
    merged.extend(own);
    merged
}

fn is_mapping(node: &MarkedYaml<'_>) -> bool {
    matches!(node.data, YamlData::Mapping(_))
}

fn scalar(node: &MarkedYaml<'_>) -> Option<Setting> {
    let YamlData::Representation(text, style, _) = &node.data else { return None };
    let is_nothing = matches!(style, ScalarStyle::Plain) && matches!(&**text, "" | "~" | "null" | "Null" | "NULL");
    (!is_nothing).then(|| Setting { text: text.to_string(), line: node.span.start.line() })
}
