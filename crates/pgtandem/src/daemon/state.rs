//! What a hub says of itself, as JSON in `pgtandem.hub_status`; `docs/json.md` describes it.

use std::time::Instant;

use serde_json::{Map, Value as Json, json};

use super::conductor::Conductor;
use super::seat::Seat;

impl Conductor {
    /// Equal as long as nothing happens, so that an idle hub need not write it.
    #[must_use]
    pub fn state(&self) -> Json {
        let nodes: Map<String, Json> =
            self.seats.iter().map(|seat| (seat.name.clone(), self.seat_state(seat))).collect();
        json!({ "window_keys": self.hub.window_len(), "nodes": nodes })
    }

    fn seat_state(&self, seat: &Seat) -> Json {
        let counters = &seat.counters;
        let lsn = |position: hub::Position| tokio_postgres::types::PgLsn::from(position.0).to_string();
        json!({
            "away": seat.is_away(),
            "judged": lsn(self.hub.judged(seat.node)),
            "acknowledged": lsn(self.hub.acknowledged(seat.node)),
            "transactions_read": counters.transactions_judged,
            "changes_read": counters.changes_judged,
            "deliveries": counters.deliveries,
            "rows_delivered": counters.rows_delivered,
            "owed_rows": self.hub.owed(seat.node) + seat.rows_in_flight(),
            "lag_ms": seat.lag_ms(Instant::now()),
            "last_error": counters.last_error,
        })
    }
}
