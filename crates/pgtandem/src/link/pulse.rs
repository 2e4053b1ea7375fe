//! `pgtandem.pulse`, and what else tells that a node is not what its peers have seen of it.

use std::collections::HashMap;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Error, GenericClient};

/// What a node knows of itself and of its peers.
#[derive(Debug, Clone)]
pub struct Sight {
    /// Its own number.
    pub number: i16,
    /// Where its WAL is; none: its positions are an outbox's, which a crash may set back.
    position: Option<PgLsn>,
    beats: HashMap<i16, i64>,
    /// By number: up to which position of each node anything that landed here reflects it.
    covers: Vec<PgLsn>,
}

impl Sight {
    #[must_use]
    pub fn beat(&self, number: i16) -> i64 {
        self.beats.get(&number).copied().unwrap_or_default()
    }
}

pub async fn read_sight(client: &impl GenericClient) -> Result<Sight, Error> {
    const SELF: &str = "SELECT (SELECT number FROM pgtandem.node),
        CASE WHEN pg_catalog.to_regclass('pgtandem.outbox_read') IS NULL AND NOT pg_catalog.pg_is_in_recovery()
             THEN pg_catalog.pg_current_wal_insert_lsn() END";
    const COVERS: &str = "SELECT pg_catalog.max(u.cover) FROM pgtandem.landing l,
        unnest(l.cover) WITH ORDINALITY AS u (cover, number) GROUP BY u.number ORDER BY u.number";
    let row = client.query_one(SELF, &[]).await?;
    let beats = client.query("SELECT node, beat FROM pgtandem.pulse", &[]).await?;
    let covers = client.query(COVERS, &[]).await?;
    Ok(Sight {
        number: row.get::<_, Option<i16>>(0).unwrap_or_default(),
        position: row.get(1),
        beats: beats.iter().map(|row| (row.get(0), row.get(1))).collect(),
        covers: covers.iter().map(|row| row.get(0)).collect(),
    })
}

/// Its peers have seen more of the node than it knows itself.
#[must_use]
pub fn is_set_back<'a>(node: &Sight, all: impl IntoIterator<Item = &'a Sight>) -> bool {
    let place = usize::try_from(node.number).unwrap_or_default();
    all.into_iter().filter(|peer| peer.number != node.number).any(|peer| {
        let seen = peer.covers.get(place).copied().unwrap_or(PgLsn::from(0));
        peer.beat(node.number) > node.beat(node.number) || node.position.is_some_and(|position| seen > position)
    })
}

/// A beat never falls.
pub async fn write_pulses(client: &impl GenericClient, numbers: &[i16], beats: &[i64]) -> Result<(), Error> {
    const QUERY: &str = "INSERT INTO pgtandem.pulse AS p (node, beat)
        SELECT * FROM unnest($1::int2[], $2::int8[])
        ON CONFLICT (node) DO UPDATE SET beat = excluded.beat WHERE p.beat < excluded.beat";
    client.execute(QUERY, &[&numbers, &beats]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(number: i16, position: u64, beats: [i64; 2], covers: [u64; 2]) -> Sight {
        Sight {
            number,
            position: Some(PgLsn::from(position)),
            beats: (0..).zip(beats).collect(),
            covers: covers.map(PgLsn::from).to_vec(),
        }
    }

    #[test]
    fn a_node_is_set_back_if_a_peer_has_seen_more_of_it() {
        let peer = sight(1, 900, [5, 9], [100, 800]);
        assert!(!is_set_back(&sight(0, 100, [5, 0], [100, 0]), [&peer]));
        assert!(is_set_back(&sight(0, 99, [5, 0], [99, 0]), [&peer]), "its WAL is behind");
        assert!(is_set_back(&sight(0, 5000, [4, 0], [99, 0]), [&peer]), "it has written much since");
        assert!(!is_set_back(&peer, [&peer]));
    }
}
