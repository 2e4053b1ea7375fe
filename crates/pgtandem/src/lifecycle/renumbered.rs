//! Which rows were given other ids.

use super::error::On;
use super::{LifecycleError, open_nodes};
use crate::config::Config;
use crate::link::{self, Installed};
use crate::sql::QualifiedName;
use std::collections::HashMap;

/// One of them, as it stands in the end: whoever moved twice is listed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renumbered {
    pub table: String,
    pub node: String,
    pub old_id: String,
    pub new_id: String,
    /// `collision` or `joined`.
    pub why: String,
    pub at: jiff::Timestamp,
}

/// Of one table, or of all, node by node.
///
/// # Errors
/// When a node cannot be asked: half a map would be a wrong one.
pub async fn renumbered(config: &Config, wanted: Option<&QualifiedName>) -> Result<Vec<Renumbered>, LifecycleError> {
    const DOING: &str = "reading which rows were renumbered";
    let mut all = Vec::new();
    for node in open_nodes(config).await.all()? {
        let client = node.client();
        if link::is_installed(client).await.on(&node.name, DOING)? != Installed::Yes {
            continue;
        }
        super::require_this_version(&node).await?;
        for table in link::read_linked_tables(client).await.on(&node.name, DOING)? {
            if wanted.is_none_or(|wanted| *wanted == table.name) {
                let moved = link::list_renumbered(client, Some(table.id)).await.on(&node.name, DOING)?;
                all.extend(in_the_end(&moved).into_iter().map(|(first, last)| Renumbered {
                    table: table.name.plain(),
                    node: node.name.clone(),
                    old_id: first.old_id.clone(),
                    new_id: last.new_id.clone(),
                    why: last.why.as_str().to_owned(),
                    at: jiff::Timestamp::try_from(last.at).unwrap_or_default(),
                }));
            }
        }
    }
    Ok(all)
}

/// A row that went out of another's way first and was joined then has moved twice: its first move, and its last.
fn in_the_end(moved: &[link::Renumbered]) -> Vec<(&link::Renumbered, &link::Renumbered)> {
    let mut chains: Vec<(&link::Renumbered, &link::Renumbered)> = Vec::new();
    let mut by_last: HashMap<&str, usize> = HashMap::new();
    for one in moved {
        match by_last.remove(one.old_id.as_str()) {
            Some(at) => {
                chains[at].1 = one;
                by_last.insert(&one.new_id, at);
            }
            None => {
                by_last.insert(&one.new_id, chains.len());
                chains.push((one, one));
            }
        }
    }
    chains
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Why;
    use std::time::SystemTime;

    #[test]
    fn who_moved_twice_is_listed_once() {
        let one = |id: i64, old: &str, new: &str, why| link::Renumbered {
            id,
            table_id: 1,
            old_id: old.to_owned(),
            new_id: new.to_owned(),
            why,
            at: SystemTime::UNIX_EPOCH,
        };
        let moved =
            [one(1, "1", "104", Why::Collision), one(2, "2", "108", Why::Collision), one(3, "104", "2", Why::Joined)];
        let ends: Vec<(&str, &str)> =
            in_the_end(&moved).iter().map(|(first, last)| (first.old_id.as_str(), last.new_id.as_str())).collect();
        assert_eq!(ends, [("1", "2"), ("2", "108")]);
    }
}
