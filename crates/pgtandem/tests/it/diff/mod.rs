//! `pgtandem diff`, with and without a link.

mod extras;
mod keys;
mod live;
mod output;
mod resume;
mod types;

use crate::support::{Fleet, Outcome, Pair, Setup};
use serde_json::Value as Json;

/// Two databases without a link.
fn pair(table: &str, create: &str) -> Pair {
    Pair::with(Setup::shared().table(table, create))
}

fn diff<'a, const N: usize>(fleet: &Fleet<N>, args: impl IntoIterator<Item = &'a str>) -> Outcome {
    fleet.pgtandem(["diff"].into_iter().chain(args))
}

#[track_caller]
fn equal<const N: usize>(fleet: &Fleet<N>) {
    diff(fleet, []).ok();
}

/// The first table's part of what `--json` says. `code`: the exit code.
#[track_caller]
fn table<const N: usize>(fleet: &Fleet<N>, code: i32) -> Json {
    let said = diff(fleet, ["--json"]).exits(code).stdout;
    let mut json: Json = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}\n{said}"));
    json["tables"][0].take()
}
