//! Whether a hub is at work, from what all nodes say.

use std::collections::BTreeMap;
use std::time::SystemTime;

use jiff::Timestamp;
use serde_json::Value as Json;

use super::node::{HUB_APPLICATION, HubRow, LinkView};
use super::observer::Observed;
use super::status::{HubState, HubStatus};

/// An idle hub writes its status every ten seconds.
const SEEN_LATELY: f64 = 15.0;

pub(super) fn hub_status(observed: &[Observed]) -> HubStatus {
    let links = || observed.iter().flatten().filter_map(|view| view.link.as_ref());
    let row = latest_row(links());
    let locked = links().filter_map(|link| link.lock.as_ref()).any(|lock| lock.application == HUB_APPLICATION);
    let others = links().filter_map(|link| link.lock.as_ref()).find(|lock| lock.application != HUB_APPLICATION);
    let lately = row.and_then(|row| row.seen_seconds_ago).is_some_and(|ago| ago <= SEEN_LATELY);
    let asked = observed.iter().any(Result::is_ok);
    let ended = row.is_some_and(|row| row.seen_at.is_none());
    let state = match (locked, row) {
        _ if !asked => HubState::Unknown,
        (true, Some(_)) if lately => HubState::Running,
        // It writes its status once it has recovered.
        (true, _) if row.is_none() || ended => HubState::Starting,
        (true, _) => HubState::Silent,
        (false, None) => HubState::NeverRan,
        (false, Some(_)) if ended => HubState::Ended,
        (false, Some(_)) => HubState::Lost,
    };
    HubStatus {
        state,
        holder: row.map(|row| row.holder.clone()),
        epoch: row.map(|row| row.epoch),
        started_at: row.and_then(|row| timestamp(row.started_at)),
        seen_at: row.and_then(|row| row.seen_at).and_then(timestamp),
        seen_seconds_ago: row.and_then(|row| row.seen_seconds_ago).map(|ago| ago.max(0.0)),
        waiting: links().map(|link| link.hubs_waiting).max().unwrap_or_default(),
        other_command: others.map(|lock| lock.application.clone()),
        paused: row.map(|row| paused(&row.state)).unwrap_or_default(),
        verified_at: row.and_then(|row| row.state["verified"]["at"].as_str()?.parse().ok()),
        drifted: row.map(|row| drifted(&row.state["verified"]["tables"])).unwrap_or_default(),
        verify_error: row.and_then(|row| Some(row.state["verified"]["error"].as_str()?.to_owned())),
    }
}

fn drifted(tables: &Json) -> BTreeMap<String, u64> {
    let tables = tables.as_object().into_iter().flatten();
    let rows = |found: &Json| ["different", "missing"].iter().filter_map(|name| found[*name].as_u64()).sum::<u64>();
    tables.map(|(name, found)| (name.clone(), rows(found))).filter(|(_, rows)| *rows > 0).collect()
}

fn paused(state: &Json) -> Vec<String> {
    let tables = state.get("paused").and_then(Json::as_array).into_iter().flatten();
    tables.filter_map(Json::as_str).map(str::to_owned).collect()
}

/// The word of the newest hub; a node that was away may still have an older one's.
pub(super) fn latest_row<'a>(links: impl Iterator<Item = &'a LinkView>) -> Option<&'a HubRow> {
    links.filter_map(|link| link.hub.as_ref()).max_by(|a, b| {
        // A row without time is that of a hub that has ended since: later than any other of its epoch.
        let key = |row: &HubRow| (row.epoch, row.seen_at.is_none(), row.seen_at);
        key(a).cmp(&key(b))
    })
}

pub(super) fn timestamp(time: SystemTime) -> Option<Timestamp> {
    Timestamp::try_from(time).ok()
}
