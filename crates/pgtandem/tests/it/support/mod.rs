//! What a scenario needs: nodes on servers of their own, the real binary, hubs that can be killed,
//! comparing all nodes. When a test panics, the logs of its hubs and servers are printed.

// Each helper is for some scenarios, and no scenario uses all.
#![allow(dead_code, unused_imports)]

mod backup;
mod compare;
mod fleet;
mod hub;
mod killed;
mod proxy;
pub mod scene;
mod shared;
mod template;
mod wait;

pub use backup::{back_up, restore};
pub use fleet::{Fleet, Node, Outcome, Pair, Setup, Trio};
pub use hub::Hub;
pub use killed::killed_after;
pub use proxy::Proxy;
pub use template::template;
pub use wait::{PATIENCE, wait_until};

/// The table of the two applications this product was made for.
pub const PRODUCTS: &str = "CREATE TABLE products (
    id bigserial PRIMARY KEY,
    name varchar NOT NULL,
    description text,
    price integer,
    created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now())";
