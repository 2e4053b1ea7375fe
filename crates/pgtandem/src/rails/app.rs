//! One application.

use super::database_yml::DatabaseYml;
use super::fault::Faults;
use super::settings::{self, NodeSettings};
use crate::connect::Environment;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where an application is, as it was given: PATH or NAME=PATH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The node's name.
    pub name: String,
    pub root: PathBuf,
}

/// An application that was read.
#[derive(Debug)]
pub struct App {
    pub place: Place,
    pub settings: NodeSettings,
}

impl Place {
    /// # Errors
    /// Where the path says no name.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, root)) if !name.is_empty() && !root.is_empty() && !name.contains('/') => {
                Ok(Self { name: name.to_owned(), root: root.into() })
            }
            _ => {
                let name = name_of(Path::new(text)).ok_or_else(|| "write NAME=PATH".to_owned())?;
                Ok(Self { name, root: text.into() })
            }
        }
    }
}

impl App {
    /// Reads `config/database.yml`.
    ///
    /// # Errors
    /// What cannot be read without running Ruby, each with its line.
    pub fn read(place: Place, rails_env: &str, environment: &Environment) -> Result<Self, Faults> {
        let yml = DatabaseYml::read(&place.root, rails_env)?;
        let settings = settings::of_yml(&yml, &place.name, environment)?;
        Ok(Self { place, settings })
    }

    /// The tables that `db/schema.rb` makes; none where there is no such file.
    pub fn tables_of_schema(&self) -> BTreeSet<String> {
        let schema = std::fs::read_to_string(self.place.root.join("db/schema.rb")).unwrap_or_default();
        let named = |line: &str| {
            let rest = line.trim_start().strip_prefix("create_table \"")?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        schema.lines().filter_map(named).collect()
    }
}

/// `shop/legacy_app` is `legacy`.
fn name_of(root: &Path) -> Option<String> {
    let full = std::fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    let directory = full.file_name()?.to_str()?.to_lowercase();
    let name = directory.strip_suffix("_app").or_else(|| directory.strip_suffix("-app")).unwrap_or(&directory);
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    let name: String = name.chars().take(30).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_after_its_directory() {
        for (given, name) in [
            ("apps/legacy_app", "legacy"),
            ("/srv/new-app/", "new"),
            ("Shop 2.0", "shop_2_0"),
            ("2nd", "nd"),
            ("other=apps/legacy_app", "other"),
        ] {
            assert_eq!(Place::parse(given).unwrap().name, name, "{given}");
        }
        assert!(Place::parse("12").is_err());
    }
}
