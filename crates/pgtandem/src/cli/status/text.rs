//! A status for people, at most 80 columns wide where names allow it.

use std::fmt::Write as _;

use jiff::Zoned;
use serde_json::Value as Json;

use crate::cli::Style;
use crate::cli::layout::{Cell, Grid, Tone, bytes, clip, count, milliseconds, wrap};
use crate::cli::when::{ago, clock, duration};
use crate::observe::{DirectStatus, HeldKeys, HubState, NodeState, NodeStatus, Owner, Status, TableStatus, TableWell};

const WIDTH: usize = 80;
/// Where what is said below a name begins, if names are of a usual length.
const INDENT: usize = 12;

pub fn render(status: &Status, now: &Zoned, style: Style) -> String {
    let mut text = String::new();
    text.push_str(&hub(status, now, style));
    text.push('\n');
    text.push_str(&nodes(status, now, style));
    if !status.nothing_reached() {
        text.push('\n');
        text.push_str(&tables(status, style));
        text.push('\n');
        text.push_str(&conflicts(status));
    }
    for held in &status.held {
        let paused = |table: &&TableStatus| table.name == held.table && table.state == TableWell::Paused;
        text.push_str(&held_keys(held, status.tables.iter().any(|table| paused(&table)), now, style));
    }
    let verdict = match status.well {
        true => style.good("all is well"),
        false => format!("{} {}", style.warn("needs attention:"), status.attention.join("; ")),
    };
    let _ = writeln!(text, "\n{verdict}");
    text
}

fn hub(status: &Status, now: &Zoned, style: Style) -> String {
    let hub = &status.hub;
    let holder = hub.holder.as_deref().unwrap_or("another process");
    let seen = match (hub.seen_at, hub.seen_seconds_ago) {
        (Some(at), Some(seconds)) => format!("last seen at {} ({} ago)", clock(at, now), duration(seconds)),
        _ => "not seen".to_owned(),
    };
    let since = hub.started_at.map(|at| {
        let seconds = now.timestamp().duration_since(at).as_secs_f64();
        format!(", since {} ({})", clock(at, now), duration(seconds))
    });
    let since = since.unwrap_or_default();
    let (word, tone, more) = match hub.state {
        HubState::Ended | HubState::Lost | HubState::NeverRan if status.is_direct() => (
            "not running",
            Tone::Dim,
            ": direct mode needs none, but for what is queued (`pgtandem run --once`)".to_owned(),
        ),
        HubState::Running => ("running", Tone::Good, format!(": {holder}{since}")),
        HubState::Starting => ("starting", Tone::Warn, ": it has the locks and reads where it stood".to_owned()),
        HubState::Silent => ("silent", Tone::Bad, format!(": {holder} keeps its sessions, but was {seen}")),
        HubState::Ended => ("not running", Tone::Bad, format!(": {holder} ended in good order; start `pgtandem run`")),
        HubState::Lost => (
            "not running",
            Tone::Bad,
            format!(": {holder}, {seen}\n     it was killed, or waits for a node that is away; start `pgtandem run`"),
        ),
        HubState::Unknown => ("unknown", Tone::Bad, ": no node could be asked".to_owned()),
        HubState::NeverRan => ("not running", Tone::Bad, ": it never was; start `pgtandem run`".to_owned()),
    };
    let mut text = format!("hub  {}{more}\n", tone.paint(style, word));
    if let Some(at) = hub.verified_at {
        let seconds = now.timestamp().duration_since(at).as_secs_f64();
        let found = match (hub.drifted.len(), &hub.verify_error) {
            (0, None) => "no difference".to_owned(),
            (0, Some(error)) => format!("not all of them: {error}"),
            (tables, _) => format!("{tables} table{} differ{}", plural(tables), if tables == 1 { "s" } else { "" }),
        };
        let _ = writeln!(text, "     compared the tables at {} ({} ago): {found}", clock(at, now), duration(seconds));
    }
    if hub.waiting > 0 {
        let s = if hub.waiting == 1 { "" } else { "s" };
        let _ =
            writeln!(text, "     {} more hub{s} wait{} to take over", hub.waiting, if s.is_empty() { "s" } else { "" });
    }
    if let Some(command) = &hub.other_command {
        let command = if command == "pgtandem" { "another pgtandem command" } else { command };
        let _ = writeln!(text, "     {command} has the lock; the hub waits for it");
    }
    text
}

fn nodes(status: &Status, now: &Zoned, style: Style) -> String {
    let head = |text: &str| Cell::new(text).tone(Tone::Dim);
    let mut grid = Grid::default();
    grid.row([
        head("node"),
        head("server"),
        head("read from").right(),
        head("delivered to").right(),
        head("owed").right(),
        head("lag").right(),
        head("behind").right(),
        head(if status.nodes.iter().any(|node| node.outbox_changes.is_some()) { "kept" } else { "WAL kept" }).right(),
    ]);
    for node in &status.nodes {
        let name = Cell::new(&node.name).tone(Tone::Bold);
        let word = match node.state {
            NodeState::Away => "away",
            NodeState::NotLinked => "not linked",
            NodeState::Linked => {
                grid.row(node_row(name, node));
                if let Some(reason) = &node.reason {
                    remark(&mut grid, Tone::Bad, reason);
                }
                for line in node.direct.iter().flat_map(|direct| direct_remarks(direct, now)) {
                    remark(&mut grid, Tone::Warn, &line);
                }
                remedy(&mut grid, node);
                continue;
            }
        };
        let reason = node.reason.as_deref().unwrap_or_default();
        grid.row([name, Cell::new(format!("{word}: {reason}")).tone(Tone::Bad)]);
        if let Some(owed) = node.delivered.as_ref().map(|to| to.owed_rows).filter(|owed| *owed > 0) {
            remark(&mut grid, Tone::Plain, &format!("{} rows wait for it", count(owed)));
        }
        remedy(&mut grid, node);
    }
    grid.render(style)
}

fn node_row(name: Cell, node: &NodeStatus) -> [Cell; 8] {
    let none = || "-".to_owned();
    let read = node.read.as_ref().map_or_else(none, |read| format!("{} tx", count(read.transactions)));
    let delivered = node.delivered.as_ref();
    let rows = delivered.map_or_else(none, |to| format!("{} rows", count(to.rows)));
    let owed = delivered.map_or_else(none, |to| count(to.owed_rows));
    let lag = delivered.filter(|to| to.deliveries > 0 || to.owed_rows > 0);
    let version = node.server_version.as_deref().unwrap_or_default();
    let version = version.split(' ').next().unwrap_or_default();
    let standby = if node.standby == Some(true) { " standby" } else { "" };
    let amount = |number: Option<i64>| number.map_or_else(none, bytes);
    // What is behind in an outbox is counted, and kept there.
    let (behind, kept) = match node.outbox_changes {
        Some(1) => ("1 change".to_owned(), amount(node.outbox_bytes)),
        Some(changes) => {
            (format!("{} changes", count(u64::try_from(changes).unwrap_or_default())), amount(node.outbox_bytes))
        }
        None => (amount(node.behind_bytes), amount(node.retained_bytes)),
    };
    [
        name,
        Cell::new(format!("{version}{standby}")),
        Cell::new(read).right(),
        Cell::new(rows).right(),
        Cell::new(owed).right(),
        Cell::new(lag.map_or_else(none, |to| milliseconds(to.lag_ms))).right(),
        Cell::new(behind).right(),
        Cell::new(kept).right(),
    ]
}

/// What waits, and why.
fn direct_remarks(direct: &DirectStatus, now: &Zoned) -> Vec<String> {
    let DirectStatus { peer, queued, breaker, in_doubt, .. } = direct;
    let amount = |number: i64, what: &str| {
        let s = if number == 1 { "" } else { "s" };
        format!("{} {what}{s}", count(number))
    };
    let mut lines = Vec::new();
    if queued.changes > 0 {
        let since = queued.since.map(|at| format!(", since {}", clock(at, now))).unwrap_or_default();
        let transactions = amount(queued.transactions, "transaction");
        lines.push(format!("queued for {peer}: {} of {transactions}{since}", amount(queued.changes, "change")));
    }
    if *in_doubt > 0 {
        lines.push(format!("in doubt: {} that {peer} was sent and has not answered", amount(*in_doubt, "transaction")));
    }
    if let Some(breaker) = breaker {
        let is_over = breaker.open_until.is_some_and(|until| until <= now.timestamp());
        let until = match breaker.open_until {
            _ if is_over => "the next COMMIT asks it again".to_owned(),
            Some(until) => format!("it is asked again from {} on", clock(until, now)),
            None => "it is not asked".to_owned(),
        };
        let why = breaker.why.as_deref().unwrap_or("no answer");
        lines.push(format!("{peer} did not answer, {until}: {why}"));
    }
    lines
}

fn remark(grid: &mut Grid, tone: Tone, text: &str) {
    for line in wrap(text, WIDTH - INDENT) {
        grid.row([Cell::new(""), Cell::new(line).tone(tone)]);
    }
}

fn remedy(grid: &mut Grid, node: &NodeStatus) {
    if let Some(remedy) = &node.remedy {
        remark(grid, Tone::Dim, &format!("→ {remedy}"));
    }
}

fn tables(status: &Status, style: Style) -> String {
    let head = |text: &str| Cell::new(text).tone(Tone::Dim);
    let mut grid = Grid::default();
    grid.row([
        head("table"),
        head("state"),
        head("resolve"),
        head("rows, about").right(),
        head("conflicts").right(),
        head("held").right(),
    ]);
    for table in &status.tables {
        let (word, tone) = match table.state {
            TableWell::Live => ("live", Tone::Good),
            TableWell::Linking => ("linking", Tone::Warn),
            TableWell::Paused => ("paused", Tone::Warn),
            TableWell::NotLinked => ("not linked", Tone::Warn),
        };
        grid.row([
            Cell::new(&table.name).tone(Tone::Bold),
            Cell::new(word).tone(tone),
            Cell::new(table.resolve.as_deref().unwrap_or("-")),
            Cell::new(rows(table)).right(),
            Cell::new(count(table.conflicts)).right(),
            Cell::new(count(table.held_keys)).right(),
        ]);
        for line in table_remarks(table) {
            remark(&mut grid, Tone::Dim, &line);
        }
    }
    match status.tables.is_empty() {
        true => "no table is linked\n".to_owned(),
        false => grid.render(style),
    }
}

/// One number if all nodes have about the same.
fn rows(table: &TableStatus) -> String {
    let mut counts: Vec<i64> = table.rows.values().copied().collect();
    counts.dedup();
    match counts.is_empty() {
        true => "-".to_owned(),
        false => counts.into_iter().map(count).collect::<Vec<_>>().join(" / "),
    }
}

fn table_remarks(table: &TableStatus) -> Vec<String> {
    match (table.state, table.paused_by) {
        (TableWell::Paused, Some(Owner::User)) => {
            vec![format!("by a person; `pgtandem resume {}` lets it go on", table.name)]
        }
        (TableWell::Paused, _) => {
            let why = table.reason.clone().unwrap_or_else(|| "its columns do not fit".to_owned());
            vec![why, "it goes on by itself once they fit".to_owned()]
        }
        (TableWell::Linking, _) => vec!["`pgtandem up` is at work on it, or was interrupted: run it again".to_owned()],
        (TableWell::NotLinked, _) => vec!["run `pgtandem up`".to_owned()],
        (TableWell::Live, _) => Vec::new(),
    }
}

fn conflicts(status: &Status) -> String {
    let decided = status.conflicts.decided;
    let last = status.conflicts.last_at.map(|at| ago(at, status.at)).unwrap_or_default();
    match decided {
        0 => "no conflicts so far\n".to_owned(),
        1 => format!("1 conflict decided, {last}; see `pgtandem conflicts`\n"),
        _ => format!("{} conflicts decided, the last {last}; see `pgtandem conflicts`\n", count(decided)),
    }
}

fn held_keys(held: &HeldKeys, table_paused: bool, now: &Zoned, style: Style) -> String {
    let waits_for_resume = table_paused && held.examples.iter().all(|example| example.sqlstate.is_none());
    let since = held.oldest.map(|at| format!(" since {}", clock(at, now))).unwrap_or_default();
    let keys = if held.count == 1 { "1 key".to_owned() } else { format!("{} keys", count(held.count)) };
    let mut text =
        format!("{} {} on {}: {keys},{since}\n", style.warn("held:"), style.bold(&held.table), style.bold(&held.node));
    let mut grid = Grid::indented(2);
    for example in held.examples.iter().filter(|_| !waits_for_resume) {
        let key = key(&example.key);
        let code = example.sqlstate.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
        let reason = clip(&format!("{}{code}", example.reason), WIDTH.saturating_sub(key.chars().count() + 4));
        grid.row([Cell::new(key), Cell::new(reason).tone(Tone::Dim)]);
    }
    text.push_str(&grid.render(style));
    let more = held.count - i64::try_from(held.examples.len()).unwrap_or(i64::MAX);
    if more > 0 && !waits_for_resume {
        let _ = writeln!(text, "  and {} more", count(more));
    }
    text
}

/// `id=5`, `shop=1 sku=A7`
pub fn key(key: &Json) -> String {
    let Json::Object(columns) = key else { return key.to_string() };
    let parts: Vec<String> = columns
        .iter()
        .map(|(name, value)| match value {
            Json::String(text) => format!("{name}={text}"),
            other => format!("{name}={other}"),
        })
        .collect();
    parts.join(" ")
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
