//! What recovery reads besides landings: kept decisions and held rows.

use std::collections::HashMap;

use hub::{Cover, Dot, Half, HeldBefore, HeldRecord, Kept, Key, Kind, Micros, Position, Stamp, State};
use serde_json::Value as Json;
use tokio_postgres::Row;
use tokio_postgres::types::PgLsn;

use super::control::Control;
use super::error::ReachError;
use super::start::node_id;
use super::tables::table_id;
use crate::capture::{Image, ImageBuilder, Shape, Shapes, Value};
use crate::link;

/// Decisions that go from node to node in one value.
const COPIED_AT_ONCE: usize = 500;

/// Every node's decisions that a change still to be read may meet. What only some nodes have written down, because a
/// hub died in between, is written on the others.
///
/// # Errors
/// When a node is lost.
pub async fn kept_decisions(controls: &[Control], starts: &[Position]) -> Result<Vec<Kept>, ReachError> {
    const QUERY: &str = "SELECT table_id, key_bytes, winner_node, winner_position, loser_node, loser_position, kind, id \
        FROM pgtandem.decision \
        WHERE winner_position > ($1::pg_lsn[])[winner_node + 1] OR loser_position > ($1::pg_lsn[])[loser_node + 1]";
    let starts: Vec<PgLsn> = starts.iter().map(|start| PgLsn::from(start.0)).collect();
    let mut by_node = Vec::new();
    for control in controls {
        let rows = control.client.query(QUERY, &[&starts]).await?;
        by_node.push(rows.iter().map(|row| (kept(row), row.get(7))).collect::<HashMap<Kept, i64>>());
    }
    for (from, kept) in controls.iter().zip(&by_node) {
        for (to, has) in controls.iter().zip(&by_node).filter(|(to, _)| to.id != from.id) {
            let missing: Vec<i64> = kept.iter().filter(|(k, _)| !has.contains_key(k)).map(|(_, id)| *id).collect();
            for some in missing.chunks(COPIED_AT_ONCE) {
                link::copy_decisions(&from.client, &to.client, "id = ANY ($1)", &some).await?;
            }
        }
    }
    Ok(by_node.into_iter().flat_map(HashMap::into_keys).collect())
}

fn kept(row: &Row) -> Kept {
    let forfeit = row.get::<_, &str>(6) == Kind::KeyChange.word();
    Kept { key: key(row), winner: dot(row, 2), loser: dot(row, 4), forfeit }
}

/// Every node's held rows.
///
/// # Errors
/// When a node is lost.
pub async fn held_records(
    controls: &[Control],
    nodes: usize,
    shapes: &Shapes,
) -> Result<Vec<HeldRecord<Image>>, ReachError> {
    const QUERY: &str = "SELECT table_id, key_bytes, source_node, source_position, stamp_node, \
            (extract(epoch FROM stamp - timestamptz '2000-01-01 00:00:00+00') * 1000000)::int8, row, cover, released, \
            reflects, since, earlier, overwritten, half_keys, half_row \
        FROM pgtandem.held";
    let mut held = Vec::new();
    for control in controls {
        for row in control.client.query(QUERY, &[]).await? {
            let key = key(&row);
            let state_of = |json: Option<Json>| match json {
                None => State::Absent,
                Some(json) => State::Present(image_of_json(&key, &json, shapes)),
            };
            let half = row.get::<_, Option<Vec<Vec<u8>>>>(13).map(|keys| Half {
                partners: keys.into_iter().map(|bytes| Key::new(key.table(), bytes)).collect(),
                fallback: state_of(row.get(14)),
            });
            let cover: Vec<PgLsn> = row.get(7);
            held.push(HeldRecord {
                node: control.id,
                state: state_of(row.get(6)),
                dot: dot(&row, 2),
                half,
                since: Position(row.get::<_, PgLsn>(10).into()),
                stamp: Stamp { time: Micros(row.get(5)), node: node_id(row.get(4)) },
                cover: cover_of(cover, nodes),
                reflects: cover_of(row.get(9), nodes),
                overwritten: row.get::<_, Option<PgLsn>>(12).map(|position| Position(position.into())),
                earlier: earlier(&row.get(11), nodes),
                released: row.get::<_, Option<PgLsn>>(8).map(|position| Position(position.into())),
                key,
            });
        }
    }
    Ok(held)
}

/// What a held record tells of the times before: see `HOLD` and `SWEEP` in `deliver/record.rs`. What cannot be read as a
/// position counts as none: too little seen is the safe side.
fn earlier(stored: &Json, nodes: usize) -> Vec<HeldBefore> {
    let lsn = |json: &Json| json.as_str().and_then(|text| text.parse::<PgLsn>().ok()).unwrap_or(PgLsn::from(0));
    let position = |json: &Json| Position(lsn(json).into());
    let times = stored.as_array().into_iter().flatten();
    let time = |time: &Json| HeldBefore {
        since: position(&time["since"]),
        until: position(&time["until"]),
        cover: cover_of(time["cover"].as_array().into_iter().flatten().map(lsn).collect(), nodes),
    };
    times.map(time).collect()
}

/// A cover as it is stored; one made before a node joined is shorter.
#[must_use]
pub fn cover_of(stored: Vec<PgLsn>, nodes: usize) -> Cover {
    let mut cover = Cover::nothing(nodes);
    for (place, position) in cover.0.iter_mut().zip(stored) {
        *place = Position(position.into());
    }
    cover
}

fn key(row: &Row) -> Key {
    Key::new(table_id(row.get(0)), row.get::<_, Vec<u8>>(1))
}

fn dot(row: &Row, at: usize) -> Dot {
    Dot { node: node_id(row.get(at)), position: Position(row.get::<_, PgLsn>(at + 1).into()) }
}

fn image_of_json(key: &Key, json: &Json, shapes: &Shapes) -> Image {
    let empty = serde_json::Map::new();
    let row = json.as_object().unwrap_or(&empty);
    let columns: Vec<String> = row.keys().cloned().collect();
    let mut builder = ImageBuilder::default();
    builder.start(shapes.intern(Shape { table: key.table(), columns }));
    for value in row.values() {
        builder.push(match value {
            Json::String(text) => Value::Text(text.as_bytes()),
            Json::Object(_) => Value::Unchanged,
            _ => Value::Null,
        });
    }
    Image::in_memory(builder.bytes())
}
