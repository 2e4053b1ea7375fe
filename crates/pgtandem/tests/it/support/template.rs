//! initdb takes longer than all else that a server needs to start: each test run does it once for each place in a link.

use std::sync::{Arc, OnceLock};

use pgtandem::cluster::{ClusterOptions, Template};

use super::fleet::NAMES;

/// Never dropped: their watchdogs remove them with this process.
static TEMPLATES: [OnceLock<Arc<Template>>; NAMES.len()] = [const { OnceLock::new() }; NAMES.len()];

/// The servers of one link have different places in it, and so do not take each other for clones.
pub fn template(place: usize) -> Arc<Template> {
    let make = || ClusterOptions::new(NAMES[place]).and_then(Template::make).unwrap_or_else(|e| panic!("{e}"));
    TEMPLATES[place].get_or_init(|| Arc::new(make())).clone()
}
