//! The commands of a running link, as a person and a program use them.

mod conflicts;
mod demo;
mod pause;
mod run;
mod status;
mod up;

use crate::support::{PRODUCTS, Pair, Setup};
use serde_json::Value as Json;

const HELD: &str = "SELECT count(*) FROM pgtandem.held WHERE released IS NULL";

/// Two nodes with one product each, linked, no hub.
fn linked(setup: Setup) -> Pair {
    let pair = Pair::with(setup.table("products", PRODUCTS));
    for node in pair.nodes() {
        node.sql(
            "INSERT INTO products (id, name, price, created_at, updated_at) VALUES (1, 'chair', 5, 'epoch', 'epoch')",
        );
    }
    pair.pgtandem(["up", "--yes"]).ok();
    pair
}

fn json(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The node's entry in a status.
fn node<'a>(status: &'a Json, name: &str) -> &'a Json {
    let nodes = status["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["name"] == name).unwrap()
}
