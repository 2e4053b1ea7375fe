//! Keys as capture writes them, so that the hub knows them again.

use crate::capture::key::{self, Spelling};
use crate::catalog::TableShape;
use serde_json::Value as Json;

/// `texts`: in the order of the primary key.
pub(in crate::lifecycle) fn key_bytes(shape: &TableShape, texts: &[&str]) -> Vec<u8> {
    let spellings = shape.primary_key.iter().map(|name| {
        let column = shape.column(name);
        column.map_or(Spelling::Exact, |column| Spelling::of_type(&column.base_type))
    });
    let mut bytes = Vec::new();
    key::encode(spellings.zip(texts.iter().map(|text| text.as_bytes())), &mut bytes);
    bytes
}

/// The texts of a key, in the order of the primary key.
pub(in crate::lifecycle) fn key_texts(bytes: &[u8]) -> Vec<String> {
    key::raw_parts(bytes).map(|part| String::from_utf8_lossy(&part[4..]).into_owned()).collect()
}

pub(in crate::lifecycle) fn key_json(shape: &TableShape, bytes: &[u8]) -> Json {
    let names: Vec<String> = shape.primary_key.iter().map(|name| name.as_str().to_owned()).collect();
    key::to_json(&names, bytes)
}
