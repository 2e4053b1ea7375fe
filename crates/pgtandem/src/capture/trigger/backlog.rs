//! A read of much: what was written during an outage, or while no hub ran.
//!
//! Its order is that of any read: boundary by boundary, and before each by last numbers. So it is taken boundary by
//! boundary. The server puts the transactions before one in order and keeps their list, which says how many there are:
//! positions are counted back from the boundary. Their rows are fetched a piece at a time; no snapshot is held meanwhile.
//! Rows and list belong to a read that is recorded: whoever begins anew finds the same in the same order.

use std::collections::{HashMap, VecDeque};
use std::str::FromStr;
use std::time::Duration;

use hub::{Boundary, Outboxed, Position};
use tokio::sync::mpsc;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::landed::Landed;
use super::read::{Place, Transaction, crowded};
use super::reading::Reading;
use super::{BACKLOG, CaptureError, Captured, PIECE, TriggerCapture, answered};
use crate::sql;

/// The list's name on the server.
const CURSOR: &str = "pgtandem_backlog";

impl TriggerCapture {
    /// What `end` sees and `before` does not, a piece at a time. False: nobody listens.
    pub(super) async fn hand_on_in_pieces(
        &mut self,
        before: Option<&Boundary>,
        end: &Boundary,
        landed: &Landed,
        out: &mpsc::Sender<Captured>,
    ) -> Result<bool, CaptureError> {
        let from = before.map_or(Position(0), |before| before.position);
        let between = self.boundaries.iter().filter(|mark| mark.position > from && mark.position <= end.position);
        let mut before = before.cloned();
        for end in between.cloned().collect::<Vec<_>>() {
            let mut listed = Listed::open(&self.client, before.as_ref(), &end, self.silence).await?;
            while let Some(piece) = listed.next(&self.client).await? {
                // What was judged before this capture began is not asked for again.
                let is_new = piece.last > self.passed;
                if is_new && !self.hand_on_piece(piece, &end, landed, out).await? {
                    return Ok(false);
                }
                answered(self.silence, self.leaves.turn(&self.client, &mut self.boundaries)).await?;
            }
            listed.close(&self.client).await?;
            before = Some(end);
        }
        Ok(true)
    }

    async fn hand_on_piece(
        &mut self,
        piece: Piece,
        end: &Boundary,
        landed: &Landed,
        out: &mpsc::Sender<Captured>,
    ) -> Result<bool, CaptureError> {
        let Self { client, queries, assembler, columns, silence, .. } = self;
        answered(*silence, columns.look(client)).await?;
        let xids = piece.placed.keys().map(u64::to_string).collect();
        let rows = answered(*silence * BACKLOG, queries.rows_of(client, xids, end)).await?;
        let mut reading = Reading::new(assembler, columns, piece.placed, landed, *silence);
        reading.read(rows).await?;
        reading.hand_on(out).await
    }
}

/// Transactions that follow each other, with about as many changes as are taken at once.
struct Piece {
    placed: HashMap<u64, Place>,
    /// Of the last of them.
    last: Position,
}

/// The transactions before one boundary, in order, in a list that the server keeps.
struct Listed {
    end: Boundary,
    /// Fetched, and not yet in a piece, with the number of their changes.
    fetched: VecDeque<(Transaction, u64)>,
    /// Not yet in a piece.
    left: u64,
    silence: Duration,
}

impl Listed {
    async fn open(
        client: &Client,
        before: Option<&Boundary>,
        end: &Boundary,
        silence: Duration,
    ) -> Result<Self, CaptureError> {
        let (next, in_progress) =
            before.map_or((0, &[][..]), |before| (before.snapshot.next(), before.snapshot.in_progress()));
        let script = sql::open_backlog(CURSOR, next, in_progress, &end.snapshot.to_string(), end.drawn);
        answered(silence * BACKLOG, async { Ok(client.batch_execute(&script).await?) }).await?;
        let mut listed = Self { end: end.clone(), fetched: VecDeque::new(), left: 0, silence };
        listed.left = listed.fetch(client).await?;
        end.holds(listed.left, before).map_err(crowded)?;
        Ok(listed)
    }

    async fn next(&mut self, client: &Client) -> Result<Option<Piece>, CaptureError> {
        let mut piece = Piece { placed: HashMap::new(), last: Position(0) };
        let mut changes = 0;
        while changes < PIECE && self.left > 0 {
            if self.fetched.is_empty() {
                self.fetch(client).await?;
            }
            let (Transaction { outboxed, time }, count) = self.fetched.pop_front().ok_or_else(cut_short)?;
            self.left -= 1;
            piece.last = self.end.place(self.left);
            piece.placed.insert(outboxed.xid, Place { position: piece.last, time });
            changes += count;
        }
        Ok((changes > 0).then_some(piece))
    }

    /// Fetches more, and says how many there are in all.
    async fn fetch(&mut self, client: &Client) -> Result<u64, CaptureError> {
        let fetch = format!("FETCH {PIECE} FROM {CURSOR}");
        let found = answered(self.silence, async { Ok(client.simple_query(&fetch).await?) }).await?;
        let mut all = 0;
        for message in &found {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let [xid, last, count, of] = [0, 1, 3, 4].map(|at| field(row, at));
            let outboxed = Outboxed { xid: xid?, last: last? };
            self.fetched.push_back((Transaction { outboxed, time: field(row, 2)? }, count?));
            all = of?;
        }
        Ok(all)
    }

    async fn close(self, client: &Client) -> Result<(), CaptureError> {
        let close = format!("CLOSE {CURSOR}");
        answered(self.silence, async { Ok(client.batch_execute(&close).await?) }).await
    }
}

fn field<T: FromStr>(row: &SimpleQueryRow, at: usize) -> Result<T, CaptureError> {
    let found = row.get(at).and_then(|text| text.parse().ok());
    found.ok_or_else(|| CaptureError::Unreadable("the list of a backlog's transactions".to_owned()))
}

fn cut_short() -> CaptureError {
    CaptureError::Unreadable("the list of a backlog's transactions ended early".to_owned())
}
