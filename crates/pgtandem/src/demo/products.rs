//! What the two applications sell.

/// As a Rails migration makes it: `bigserial`, `varchar`, microseconds, times given by the application.
pub const CREATE: &str = "CREATE TABLE products (
    id bigserial PRIMARY KEY,
    name varchar NOT NULL,
    description text,
    price integer,
    created_at timestamp(6) NOT NULL,
    updated_at timestamp(6) NOT NULL)";

const WOODS: [&str; 12] =
    ["Oak", "Walnut", "Birch", "Cherry", "Maple", "Ash", "Beech", "Pine", "Elm", "Teak", "Larch", "Cedar"];
const THINGS: [&str; 12] =
    ["table", "chair", "shelf", "desk", "bench", "stool", "lamp", "frame", "box", "bed", "mirror", "cradle"];

pub const NOW: &str = "clock_timestamp() AT TIME ZONE 'UTC'";

/// The same products in every demo.
pub fn fill(count: u32) -> String {
    let rows: Vec<String> = (1..=count)
        .map(|id| format!("('{}', 'Made by hand since 19{:02}.', {})", name(id.into()), id % 100, 100 + id % 900))
        .collect();
    format!(
        "INSERT INTO products (name, description, price, created_at, updated_at)
         SELECT name, description, price, {NOW}, {NOW} FROM (VALUES {}) AS v (name, description, price)",
        rows.join(", ")
    )
}

pub fn insert(number: u64) -> String {
    format!(
        "INSERT INTO products (name, description, price, created_at, updated_at)
         VALUES ('{}', 'Number {number} of its kind.', {}, {NOW}, {NOW}) RETURNING id",
        name(number),
        100 + number % 900
    )
}

/// Of the first product at or after this id.
pub fn update(id: u64, number: u64) -> String {
    let price = 100 + number % 900;
    format!(
        "UPDATE products SET price = {price}, updated_at = {NOW}
         WHERE id = (SELECT id FROM products WHERE id >= {id} ORDER BY id LIMIT 1) RETURNING id"
    )
}

pub fn delete(id: u64) -> String {
    format!(
        "DELETE FROM products
         WHERE id = (SELECT id FROM products WHERE id >= {id} ORDER BY id LIMIT 1) RETURNING id"
    )
}

pub fn reprice(id: u32, price: u32) -> String {
    format!("UPDATE products SET price = {price}, updated_at = {NOW} WHERE id = {id}")
}

fn name(number: u64) -> String {
    let pick = |words: [&'static str; 12], number: u64| words[usize::try_from(number % 12).unwrap_or_default()];
    format!("{} {}", pick(WOODS, number), pick(THINGS, number / 12))
}
