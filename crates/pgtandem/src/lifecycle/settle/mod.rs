//! Keys whose rows differ are made the same on all nodes, while everybody goes on writing.
//!
//! Of each key the rows are read on all nodes, and it is decided whose state of it stands. That state is then written
//! once more where it is: by a transaction that counts as the node's own (`touch`), so that capture reads it and the hub
//! brings it to all others like any change. It is written only while the row is still the version that was read, and in
//! one transaction with a decision for each row that it will replace. So nothing is lost: a row of another node is either
//! the one that was read, and kept, or it was written later, and then the hub judges it against this change, neither
//! having seen the other.

pub(in crate::lifecycle) mod differences;
mod keys;
pub(in crate::lifecycle) mod missing;
mod touch;
pub(in crate::lifecycle) mod winner;

pub(in crate::lifecycle) use keys::{key_bytes, key_json, key_texts};

use super::error::On;
use super::{LifecycleError, OpenNode};
use crate::catalog::TableShape;
use crate::compare::{ComparedRow, Side, Subject, read_whole};
use crate::config::Capture;
use crate::connect::Session;
use crate::link::{self, Contender, MergeDecision};
use crate::sql::Ident;
use differences::Key;
use serde::Serialize;
use serde_json::{Map, Value as Json};
use std::collections::{HashMap, HashSet};
use std::time::SystemTime;
use tokio_postgres::types::PgLsn;
use winner::Winner;

/// A key that is written between each two reads is given up after so many.
const ROUNDS: usize = 8;

/// One of the nodes whose rows become the same.
pub(in crate::lifecycle) struct Place {
    pub name: String,
    pub number: i16,
    pub capture: Capture,
    pub shape: TableShape,
    pub reader: OpenNode,
    pub writer: Session,
    /// The application's triggers need not fire for a row that only is written once more.
    pub replica_role: bool,
}

/// What is known of who has written a key, beside what is in the rows.
#[derive(Debug, Clone, Default)]
pub(in crate::lifecycle) struct Known {
    /// By the key's bytes.
    pub keys: HashMap<Vec<u8>, Stand>,
    /// Of all other keys: the place whose state stands, deleted or not; none: the policy decides.
    pub otherwise: Option<usize>,
    /// One of three nodes or more is back, and the others are one side.
    pub away: Option<Away>,
    /// Of a node that is back: keys that a place holds, so that its row is not what it should be. No key: all of the table.
    pub held: HashSet<(usize, Vec<u8>)>,
}

/// How it is decided whose state of a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::lifecycle) enum Stand {
    /// This place's state, deleted or not: nobody else has changed it.
    State(usize),
    /// Several have changed it: the policy decides.
    Policy,
    /// This place has changed it for certain, another one perhaps: where one of them has no row, this place's state
    /// stands, since rows say nothing of when they were deleted. Otherwise the policy decides.
    ChangedBy(usize),
}

/// One node was left out while the others went on among themselves.
#[derive(Debug, Clone)]
pub(in crate::lifecycle) struct Away {
    pub place: usize,
    /// Keys that one of the others has changed, which is not known to have arrived everywhere.
    pub in_flight: HashSet<Vec<u8>>,
}

impl Known {
    fn is_held(&self, place: usize, bytes: &[u8]) -> bool {
        !self.held.is_empty()
            && (self.held.contains(&(place, bytes.to_vec())) || self.held.contains(&(place, Vec::new())))
    }

    /// Whether what the place holds of the key may be older than what it has missed.
    fn is_stale(&self, place: usize, bytes: &[u8]) -> bool {
        self.away.as_ref().is_none_or(|away| away.place == place) && self.is_held(place, bytes)
    }

    /// Whether the node at this place has, or may have, changed the key.
    fn may_be_of(&self, place: usize, bytes: &[u8]) -> bool {
        match self.keys.get(bytes) {
            Some(Stand::State(of)) => *of == place,
            Some(Stand::Policy | Stand::ChangedBy(_)) => true,
            None => self.otherwise.is_none_or(|of| of == place),
        }
    }

    fn place(&self, bytes: &[u8], rows: &winner::Rows) -> Option<usize> {
        match self.keys.get(bytes) {
            Some(Stand::State(place)) => Some(*place),
            Some(Stand::Policy) => None,
            Some(Stand::ChangedBy(place)) => rows.iter().any(Option::is_none).then_some(*place),
            None => self.otherwise,
        }
    }
}

/// One table.
pub(in crate::lifecycle) struct Settling {
    pub id: i32,
    pub subject: Subject,
    pub places: Vec<Place>,
    pub winner: Winner,
    pub known: Known,
    /// As the decisions tell it.
    pub policy: String,
}

/// What became, or would become, of the keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Settled {
    /// Node by node: keys whose row is taken from there.
    pub taken_from: Vec<u64>,
    /// Keys that are deleted everywhere.
    pub deleted: u64,
    /// Keys that the policy leaves as they are.
    pub left: u64,
    /// Keys that were the same when they were looked at again.
    pub equal: u64,
    /// Keys that were written whenever they were to be settled: the hub judges who wrote them.
    pub overtaken: u64,
    pub refused: u64,
    /// Why the first of those was.
    pub refused_why: Option<String>,
}

impl Settled {
    pub(in crate::lifecycle) fn of(nodes: usize) -> Self {
        Self { taken_from: vec![0; nodes], ..Self::default() }
    }

    /// Keys that are, or would be, written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.taken_from.iter().sum::<u64>() + self.deleted
    }
}

/// What is to be done about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// This place's row is written once more there.
    Row(usize),
    /// The place's row is deleted, since another one's lack of it stands.
    Gone {
        at: usize,
        by: usize,
    },
    Leave,
    Equal,
}

/// Where a node stood before the rows were read.
struct Mark {
    position: PgLsn,
    taken_at: SystemTime,
}

/// A key as all places have it, and what becomes of it.
struct Case<'k> {
    key: &'k Key,
    bytes: Vec<u8>,
    rows: Vec<Option<ComparedRow>>,
    verdict: Verdict,
}

impl Settling {
    /// What would become of the keys as they are now.
    pub async fn foresee(&self, keys: &[Key], sum: &mut Settled) -> Result<(), LifecycleError> {
        for case in self.look(keys.iter()).await? {
            count(sum, case.verdict);
        }
        Ok(())
    }

    pub async fn settle(&self, keys: &[Key], sum: &mut Settled) -> Result<(), LifecycleError> {
        let mut waiting: Vec<&Key> = keys.iter().collect();
        for _ in 0..ROUNDS {
            if waiting.is_empty() {
                return Ok(());
            }
            let marks = self.marks().await?;
            let cases = self.look(waiting.into_iter()).await?;
            let mut by_place: Vec<Vec<&Case<'_>>> = self.places.iter().map(|_| Vec::new()).collect();
            for case in &cases {
                match case.verdict {
                    Verdict::Row(at) | Verdict::Gone { at, .. } => by_place[at].push(case),
                    Verdict::Leave | Verdict::Equal => count(sum, case.verdict),
                }
            }
            self.forget_stale(cases.iter().filter(|case| case.verdict == Verdict::Equal)).await?;
            let mut again = Vec::new();
            for (place, cases) in by_place.iter().enumerate() {
                again.extend(self.write(place, cases, &marks, sum).await?);
            }
            waiting = again;
        }
        sum.overtaken += waiting.len() as u64;
        Ok(())
    }

    /// How many of the keys are the same on all nodes.
    pub async fn count_equal(&self, keys: &[Key]) -> Result<usize, LifecycleError> {
        let rows = read_whole(&self.sides(), &self.subject, keys).await?;
        Ok(rows.iter().filter(|rows| self.is_equal(rows)).count())
    }

    fn sides(&self) -> Vec<Side<'_>> {
        self.places.iter().map(|place| Side { name: &place.name, client: place.reader.client() }).collect()
    }

    async fn look<'k>(&self, keys: impl Iterator<Item = &'k Key>) -> Result<Vec<Case<'k>>, LifecycleError> {
        let keys: Vec<&Key> = keys.collect();
        let sides = self.sides();
        let all = read_whole(&sides, &self.subject, &keys).await?;
        let chosen = self.winner.choose(&all, &self.subject, sides[0]).await?;
        let cases = keys.into_iter().zip(all).zip(chosen).map(|((key, rows), chosen)| {
            let bytes = self.bytes(key);
            let verdict = self.verdict(&bytes, &rows, chosen);
            Case { key, bytes, rows, verdict }
        });
        Ok(cases.collect())
    }

    fn verdict(&self, bytes: &[u8], rows: &winner::Rows, chosen: Option<usize>) -> Verdict {
        if self.is_equal(rows) {
            return self.verdict_of_equal(bytes, rows);
        }
        if let Some(away) = &self.known.away {
            return self.verdict_of_return(away, bytes, rows, chosen);
        }
        match self.known.place(bytes, rows).or(chosen) {
            None => Verdict::Leave,
            Some(place) if rows[place].is_some() => Verdict::Row(place),
            Some(by) => match rows.iter().position(Option::is_some) {
                Some(at) => Verdict::Gone { at, by },
                None => Verdict::Equal,
            },
        }
    }

    /// Where a place holds an older change of the key, no hub would know any more what has replaced it, and take the held one
    /// for the last. So the row is written once more, by who does not hold it; where nobody can, the held one is forgotten.
    fn verdict_of_equal(&self, bytes: &[u8], rows: &winner::Rows) -> Verdict {
        let mut places = 0..rows.len();
        if !places.clone().any(|place| self.known.is_stale(place, bytes)) {
            return Verdict::Equal;
        }
        let writes = places.find(|place| rows[*place].is_some() && !self.known.is_held(*place, bytes));
        writes.map_or(Verdict::Equal, Verdict::Row)
    }

    /// The others have settled among themselves what they acknowledged: where their rows differ, a change is on its way,
    /// and the hub will bring it to all.
    fn verdict_of_return(&self, away: &Away, bytes: &[u8], rows: &winner::Rows, chosen: Option<usize>) -> Verdict {
        let others = || (0..rows.len()).filter(|place| *place != away.place);
        let mut peers: Vec<usize> = others().filter(|place| !self.known.is_held(*place, bytes)).collect();
        if peers.is_empty() {
            peers = others().collect();
        }
        let (peer, own) = (peers[0], rows[away.place].is_some());
        if !peers.iter().all(|place| self.are_same(&rows[*place], &rows[peer])) {
            // Of what both sides have changed, its own is written once more, and the hub finds the conflict.
            return match peers.iter().find(|place| rows[**place].is_some()) {
                _ if !self.known.may_be_of(away.place, bytes) => Verdict::Leave,
                _ if own => Verdict::Row(away.place),
                Some(at) if !away.in_flight.contains(bytes) => Verdict::Gone { at: *at, by: away.place },
                _ => Verdict::Leave,
            };
        }
        if self.are_same(&rows[peer], &rows[away.place]) {
            return self.verdict_of_equal(bytes, rows);
        }
        match self.known.place(bytes, rows).or(chosen) {
            None => Verdict::Leave,
            Some(place) if place == away.place => {
                if own {
                    Verdict::Row(place)
                } else {
                    Verdict::Gone { at: peer, by: place }
                }
            }
            Some(_) if rows[peer].is_some() => Verdict::Row(peer),
            Some(_) => Verdict::Gone { at: away.place, by: peer },
        }
    }

    fn are_same(&self, one: &Option<ComparedRow>, other: &Option<ComparedRow>) -> bool {
        match (one, other) {
            (Some(one), Some(other)) => one.is_same(other, &self.subject),
            (one, other) => one.is_none() && other.is_none(),
        }
    }

    fn is_equal(&self, rows: &winner::Rows) -> bool {
        let there: Vec<&ComparedRow> = rows.iter().flatten().collect();
        there.is_empty() || (there.len() == rows.len() && there.iter().all(|row| row.is_same(there[0], &self.subject)))
    }

    /// Where each node stands. What it writes from here on has a later position, and so has what is read from here on.
    async fn marks(&self) -> Result<Vec<Mark>, LifecycleError> {
        const DOING: &str = "reading where the node stands";
        const WAL: &str = "SELECT pg_catalog.pg_current_wal_insert_lsn(), pg_catalog.clock_timestamp()";
        const OUTBOX: &str = "SELECT '0/0'::pg_lsn OPERATOR(pg_catalog.+) last_value::numeric, \
            pg_catalog.clock_timestamp() FROM pgtandem.outbox_position";
        let mut marks = Vec::new();
        for place in &self.places {
            let query = if place.capture == Capture::Wal { WAL } else { OUTBOX };
            let row = place.reader.client().query_one(query, &[]).await.on(&place.name, DOING)?;
            // No change has just this position, so none is taken for it.
            let position = PgLsn::from(u64::from(row.get::<_, PgLsn>(0)).saturating_sub(1));
            marks.push(Mark { position, taken_at: row.get(1) });
        }
        Ok(marks)
    }

    fn bytes(&self, key: &Key) -> Vec<u8> {
        key_bytes(&self.places[0].shape, &self.texts(0, key))
    }

    /// The key's texts on a node, in the order of its primary key.
    fn texts<'k>(&self, place: usize, key: &'k Key) -> Vec<&'k str> {
        let of = |name: &Ident| {
            let at = self.subject.key.iter().position(|at| self.subject.columns[*at] == *name);
            at.map_or("", |at| key[place][at].as_str())
        };
        self.places[place].shape.primary_key.iter().map(of).collect()
    }

    /// One for each row that the verdict does away with.
    fn decisions(&self, case: &Case<'_>, marks: &[Mark]) -> Vec<MergeDecision> {
        let by = match case.verdict {
            Verdict::Row(place) => place,
            Verdict::Gone { by, .. } => by,
            Verdict::Leave | Verdict::Equal => return Vec::new(),
        };
        let winning = case.rows[by].as_ref();
        let contender = |place: usize| {
            let row = case.rows[place].as_ref().map(|row| self.json(row));
            let Mark { position, taken_at } = marks[place];
            Contender { node: self.places[place].number, position, stamp: taken_at, row }
        };
        let lost = |(_, row): &(usize, &Option<ComparedRow>)| {
            row.as_ref().is_some_and(|row| winning.is_none_or(|winning| !row.is_same(winning, &self.subject)))
        };
        let losing = case.rows.iter().enumerate().filter(lost);
        let decision = |(place, row): (usize, &Option<ComparedRow>)| MergeDecision {
            key: key_json(&self.places[0].shape, &case.bytes),
            key_bytes: case.bytes.clone(),
            winner: contender(by),
            loser: contender(place),
            why: self.why(case, by, (place, row.as_ref())),
        };
        losing.map(decision).collect()
    }

    fn why(&self, case: &Case<'_>, by: usize, (place, row): (usize, Option<&ComparedRow>)) -> String {
        let (winner, loser) = (self.places[by].name.as_str(), self.places[place].name.as_str());
        match (self.known.place(&case.bytes, &case.rows), &case.rows[by], row) {
            (None, Some(winning), Some(losing)) => self.winner.why((winner, winning), (loser, losing), &self.subject),
            (_, Some(_), _) => format!("{winner} wrote the row last"),
            (_, None, _) => format!("{winner} deleted the row last"),
        }
    }

    fn json(&self, row: &ComparedRow) -> Json {
        let value = |value: &Option<String>| value.clone().map_or(Json::Null, Json::String);
        let columns = self.subject.columns.iter().zip(&row.values);
        Json::Object(columns.map(|(name, of)| (name.as_str().to_owned(), value(of))).collect::<Map<_, _>>())
    }
}

fn count(sum: &mut Settled, verdict: Verdict) {
    match verdict {
        Verdict::Row(place) => sum.taken_from[place] += 1,
        Verdict::Gone { .. } => sum.deleted += 1,
        Verdict::Leave => sum.left += 1,
        Verdict::Equal => sum.equal += 1,
    }
}

/// As the decisions are called.
const KIND: &str = link::REPAIR;
