//! `pgtandem diff`, with and without a link.

mod types;

use crate::support::{Outcome, Pair, Setup};

/// Two databases without a link.
fn pair(table: &str, create: &str) -> Pair {
    Pair::with(Setup::shared().table(table, create))
}

/// What a person sees, on equal or different rows.
#[track_caller]
fn diff<'a, const N: usize>(fleet: &crate::support::Fleet<N>, args: impl IntoIterator<Item = &'a str>) -> Outcome {
    let mut all = vec!["diff"];
    all.extend(args);
    fleet.pgtandem(all)
}

#[track_caller]
fn equal(pair: &Pair) {
    diff(pair, []).ok();
}
