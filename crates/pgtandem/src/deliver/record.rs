//! What a delivery writes about itself: its landing, the decisions it reflects, the rows it could not write.

use std::io;

use bytes::{BufMut, BytesMut};
use hub::{Cover, Decision, DeliveryRow, DeliveryTruncate, Dot, Half, Key, NodeId, Position, State};
use serde_json::{Map, Value as Json, json};
use tokio_postgres::types::{IsNull, PgLsn, ToSql, Type, to_sql_checked};

use super::DeliverError;
use super::session::{LandingId, Target};
use super::target::TargetTables;
use crate::capture::{Image, Shapes, Value, key};
use crate::config::Capture;

/// Opens a delivery, and says where the node stands before anything is written. An outbox is asked only where rows are
/// deleted: `$3`.
pub fn open(capture: Capture) -> &'static str {
    match capture {
        Capture::Wal => "SELECT pgtandem.open_delivery($1, $2)::text, pg_current_wal_insert_lsn()",
        Capture::Trigger => {
            "SELECT pgtandem.open_delivery($1, $2)::text, \
             CASE WHEN $3 THEN pgtandem.mark_before() ELSE '0/0'::pg_lsn END"
        }
    }
}

/// A statement writes no more decisions than this, and no more bytes of rows than about that.
const DECISIONS: usize = 500;
const DECISION_BYTES: usize = 1 << 20;

/// What a landing wrote, as `bytea`; there may be millions.
#[derive(Debug)]
pub struct Hashes<'w>(pub &'w [u64]);

impl ToSql for Hashes<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.reserve(size_of_val(self.0));
        self.0.iter().for_each(|hash| out.put_u64_le(*hash));
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::BYTEA
    }

    to_sql_checked!();
}

/// Read last in the transaction, while its row locks are held: a local change to one of the rows either committed
/// before, and has a smaller position, or comes after, and has a larger one.
pub fn land(capture: Capture) -> &'static str {
    match capture {
        Capture::Wal => LAND,
        Capture::Trigger => LAND_IN_OUTBOX,
    }
}

/// Keeps others from taking positions until it has committed.
const LAND_IN_OUTBOX: &str = "INSERT INTO pgtandem.landing (id, epoch, position, cover, acknowledged, row_count, wrote, \
        snapshot, drawn, before) \
    SELECT $1, $2, m.at, $3, $4, $5, $6, m.snapshot, m.drawn, \
        nullif(pg_catalog.current_setting('pgtandem.before', true), '') \
    FROM pgtandem.mark(true) AS m RETURNING position";

const LAND: &str = "INSERT INTO pgtandem.landing (id, epoch, position, cover, acknowledged, row_count, wrote) \
    VALUES ($1, $2, pg_current_wal_insert_lsn(), $3, $4, $5, $6) RETURNING position";

/// A decision reaches a node with every delivery that reflects it; the first one writes it.
pub const DECIDE: &str = "INSERT INTO pgtandem.decision (table_id, key, key_bytes, winner_node, winner_position, \
        loser_node, loser_position, winner_stamp, loser_stamp, kind, winner_row, loser_row, policy, why) \
    SELECT d.table_id, d.key, decode(d.key_bytes, 'hex'), d.winner_node, d.winner_position, d.loser_node, \
        d.loser_position, timestamptz '2000-01-01 00:00:00+00' + d.winner_stamp * interval '1 microsecond', \
        timestamptz '2000-01-01 00:00:00+00' + d.loser_stamp * interval '1 microsecond', d.kind, \
        nullif(d.winner_row, 'null'), nullif(d.loser_row, 'null'), d.policy, d.why \
    FROM jsonb_to_recordset($1) AS d (table_id int, key jsonb, key_bytes text, winner_node int2, \
        winner_position pg_lsn, loser_node int2, loser_position pg_lsn, winner_stamp int8, loser_stamp int8, \
        kind text, winner_row jsonb, loser_row jsonb, policy text, why text) \
    ON CONFLICT DO NOTHING";

/// After the landing: its position is since when the key is held, and the cover of the landing before it says what the
/// target had seen of the key by then. Held again, it keeps what is known of the time until now
/// ([`hub::HeldRecord::replaces`]).
pub const HOLD: &str = "INSERT INTO pgtandem.held (table_id, key_bytes, key, source_node, source_position, stamp, \
        stamp_node, row, since, cover, reflects, partner_key, reason, sqlstate, overwritten, \
        half_keys, half_row, last_tried) \
    VALUES ($1, $2, $3, $4, $5, timestamptz '2000-01-01 00:00:00+00' + $6::int8 * interval '1 microsecond', $7, $8, \
        (SELECT l.position FROM pgtandem.landing AS l WHERE l.id = $14), \
        coalesce((SELECT l.cover FROM pgtandem.landing AS l WHERE l.id < $14 ORDER BY l.id DESC LIMIT 1), '{}'), \
        $12, $9, $10, $11, $15, $16, $17, clock_timestamp()) \
    ON CONFLICT (table_id, key_bytes) DO UPDATE SET source_node = excluded.source_node, \
        source_position = excluded.source_position, stamp = excluded.stamp, stamp_node = excluded.stamp_node, \
        since = CASE WHEN $13 AND held.released IS NULL THEN held.since ELSE excluded.since END, \
        cover = CASE WHEN $13 AND held.released IS NULL THEN held.cover ELSE excluded.cover END, \
        earlier = CASE WHEN NOT $13 THEN '[]' WHEN held.released IS NULL THEN held.earlier \
            ELSE held.earlier || jsonb_build_object('since', held.since, 'until', held.released, 'cover', held.cover) \
            END, \
        reflects = excluded.reflects, overwritten = excluded.overwritten, \
        half_keys = excluded.half_keys, half_row = excluded.half_row, \
        row = excluded.row, released = NULL, partner_key = excluded.partner_key, reason = excluded.reason, \
        sqlstate = excluded.sqlstate, last_tried = excluded.last_tried";

/// A TRUNCATE swept what stood in the place of the table's held rows ([`hub::HeldRecord::swept`]): of those its own
/// transaction wrote it has seen less.
pub const SWEEP: &str = "UPDATE pgtandem.held AS h SET since = l.position, overwritten = l.position, \
        cover = CASE WHEN (h.source_node, h.source_position) = ($3::int2, $4::pg_lsn) THEN $6::pg_lsn[] \
            ELSE $5::pg_lsn[] END, \
        earlier = h.earlier || jsonb_build_object('since', h.since, 'until', l.position, 'cover', h.cover) \
    FROM pgtandem.landing AS l WHERE l.id = $2 AND h.table_id = $1 AND h.released IS NULL";

/// The key was written after all. What the target had seen of it while it was held is needed until capture has passed
/// this landing.
pub const RELEASE: &str = "UPDATE pgtandem.held SET released = (SELECT l.position FROM pgtandem.landing AS l \
    WHERE l.id = $3) WHERE table_id = $1 AND key_bytes = $2 AND released IS NULL";

/// Recovery starts no earlier than what the landing says is acknowledged: landings below are not needed.
pub const FOLD: &str = "DELETE FROM pgtandem.landing WHERE position < $1";

pub const FORGET: &str = "DELETE FROM pgtandem.held WHERE table_id = $1 AND key_bytes = $2";

/// A key that the target did not take, and why.
#[derive(Debug, Clone)]
pub struct Held {
    pub key: Key,
    pub reason: String,
    pub sqlstate: Option<String>,
}

impl Target {
    /// Stores a change whole on the target instead of writing it.
    pub(super) async fn hold(
        &self,
        id: LandingId,
        row: &DeliveryRow<Image>,
        held: &Held,
        cover: &Cover,
    ) -> Result<(), DeliverError> {
        let key_json = self.key_json(&row.key);
        let row_json = |state: &State<Image>| match state {
            State::Absent => Ok(None),
            State::Present(image) => row_json(image, &self.shapes).map(Some),
        };
        let image = row_json(&row.state)?;
        let partners = |half: &Half<Image>| half.partners.iter().map(|key| key.bytes().to_vec()).collect();
        let half_keys: Option<Vec<Vec<u8>>> = row.half.as_ref().map(partners);
        let half_row = row.half.as_ref().map(|half| row_json(&half.fallback)).transpose()?.flatten();
        let table = i32::try_from(row.key.table().0).unwrap_or(i32::MAX);
        let partner = row.pair.as_ref().map(|pair| pair.bytes().to_vec());
        let position = PgLsn::from(row.dot.position.0);
        let (source, stamp_node) = (i16::from(row.dot.node.0), i16::from(row.stamp.node.0));
        let overwritten = row.overwritten.map(|position| PgLsn::from(position.0));
        let reflects: Vec<PgLsn> = cover.0.iter().map(|position| PgLsn::from(position.0)).collect();
        let parameters: [&(dyn ToSql + Sync); 17] = [
            &table,
            &row.key.bytes(),
            &key_json,
            &source,
            &position,
            &row.stamp.time.0,
            &stamp_node,
            &image,
            &partner,
            &held.reason,
            &held.sqlstate,
            &reflects,
            &row.was_held,
            &id.0,
            &overwritten,
            &half_keys,
            &half_row,
        ];
        self.client.execute(&self.fixed.hold, &parameters).await?;
        Ok(())
    }

    /// After the landing: its position is when the key was written.
    pub(super) async fn release(&self, key: &Key, id: LandingId) -> Result<(), DeliverError> {
        let table = i32::try_from(key.table().0).unwrap_or(i32::MAX);
        self.client.execute(&self.fixed.release, &[&table, &key.bytes(), &id.0]).await?;
        Ok(())
    }

    /// After the landing, and after what it released.
    pub(super) async fn sweep_held(
        &self,
        truncates: impl Iterator<Item = &DeliveryTruncate>,
        id: LandingId,
    ) -> Result<(), tokio_postgres::Error> {
        let stored = |cover: Cover| -> Vec<PgLsn> { cover.0.iter().map(|position| PgLsn::from(position.0)).collect() };
        for DeliveryTruncate { table, dot, .. } in truncates {
            let table = i32::try_from(table.0).unwrap_or(i32::MAX);
            let (node, position) = (i16::from(dot.node.0), PgLsn::from(dot.position.0));
            let nodes = usize::from(dot.node.0) + 1;
            let other = Dot { position: Position(0), ..*dot };
            let (seen, own) = (stored(Cover::swept(nodes, *dot, other)), stored(Cover::swept(nodes, *dot, *dot)));
            self.client.execute(&self.fixed.sweep, &[&table, &id.0, &node, &position, &seen, &own]).await?;
        }
        Ok(())
    }

    pub(super) async fn forget(&self, key: &Key) -> Result<(), DeliverError> {
        let table = i32::try_from(key.table().0).unwrap_or(i32::MAX);
        self.client.execute(&self.fixed.forget, &[&table, &key.bytes()]).await?;
        Ok(())
    }

    fn key_json(&self, key: &Key) -> Json {
        key_json(key, &self.tables)
    }
}

fn key_json(key: &Key, tables: &TargetTables) -> Json {
    let names: Vec<String> = tables
        .get(&key.table())
        .map(|table| table.key.iter().map(|name| name.as_str().to_owned()).collect())
        .unwrap_or_default();
    key::to_json(&names, key.bytes())
}

/// A row as JSON: column names and their texts.
///
/// # Errors
/// When the image was spilled and cannot be read back.
pub fn row_json(image: &Image, shapes: &Shapes) -> io::Result<Json> {
    let shape = shapes.get(image.shape());
    let loaded = image.load()?;
    let texts = loaded.values().map(|value| match value {
        Value::Null => Json::Null,
        Value::Unchanged => json!({ "unchanged": true }),
        Value::Text(text) => Json::String(String::from_utf8_lossy(text).into_owned()),
    });
    Ok(Json::Object(shape.columns.iter().cloned().zip(texts).collect::<Map<_, _>>()))
}

/// Takes as many decisions as one statement should write off the front of `rest`; after a long time apart there may be
/// a hundred thousand.
pub fn next_decisions<'d>(rest: &mut &'d [Decision<Image>]) -> Option<&'d [Decision<Image>]> {
    let bytes_of = |state: &State<Image>| match state {
        State::Absent => 0,
        State::Present(image) => image.byte_len(),
    };
    let mut bytes = 0;
    let fits = |decision: &&Decision<Image>| {
        let before = bytes;
        bytes += bytes_of(&decision.winner.state) + bytes_of(&decision.loser.state);
        before < DECISION_BYTES
    };
    let count = rest.iter().take(DECISIONS).take_while(fits).count();
    let (some, left) = rest.split_at(count);
    *rest = left;
    (!some.is_empty()).then_some(some)
}

/// Decisions as one parameter.
///
/// # Errors
/// When an image was spilled and cannot be read back.
pub fn decisions_json(decisions: &[Decision<Image>], shapes: &Shapes, tables: &TargetTables) -> io::Result<Json> {
    let all: io::Result<Vec<Json>> = decisions.iter().map(|d| decision_json(d, shapes, tables)).collect();
    Ok(Json::Array(all?))
}

fn decision_json(decision: &Decision<Image>, shapes: &Shapes, tables: &TargetTables) -> io::Result<Json> {
    let row = |state: &State<Image>| match state {
        State::Absent => Ok(Json::Null),
        State::Present(image) => row_json(image, shapes),
    };
    let lsn = |position: hub::Position| PgLsn::from(position.0).to_string();
    let number = |node: NodeId| node.0;
    let hex: String = decision.key.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(json!({
        "table_id": decision.key.table().0,
        "key": key_json(&decision.key, tables),
        "key_bytes": hex,
        "winner_node": number(decision.winner.dot.node),
        "winner_position": lsn(decision.winner.dot.position),
        "loser_node": number(decision.loser.dot.node),
        "loser_position": lsn(decision.loser.dot.position),
        "winner_stamp": decision.winner.stamp.time.0,
        "loser_stamp": decision.loser.stamp.time.0,
        "kind": decision.kind.word(),
        "winner_row": row(&decision.winner.state)?,
        "loser_row": row(&decision.loser.state)?,
        "policy": decision.policy,
        "why": decision.why,
    }))
}
