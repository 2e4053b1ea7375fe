//! Rows of an outbox become transactions, in order.

use std::collections::HashMap;
use std::time::Duration;

use hub::Position;
use tokio::sync::mpsc;
use wire::Message;

use super::columns::Columns;
use super::landed::Landed;
use super::read::{OutboxRows, Place, commit};
use super::{Assembler, CaptureError, Captured, answered};

/// Transactions as they are put together.
pub struct Reading<'a> {
    assembler: &'a mut Assembler,
    columns: &'a mut Columns,
    /// By transaction number.
    placed: HashMap<u64, Place>,
    landed: &'a Landed,
    silence: Duration,
    ready: Vec<Captured>,
}

impl<'a> Reading<'a> {
    pub fn new(
        assembler: &'a mut Assembler,
        columns: &'a mut Columns,
        placed: HashMap<u64, Place>,
        landed: &'a Landed,
        silence: Duration,
    ) -> Self {
        Self { assembler, columns, placed, landed, silence, ready: Vec::new() }
    }

    /// Takes all rows; they come transaction by transaction.
    pub async fn read(&mut self, mut rows: OutboxRows) -> Result<(), CaptureError> {
        let mut open = None;
        while let Some(row) = answered(self.silence, rows.next()).await? {
            if self.landed.has(&row) {
                continue;
            }
            if open != Some(row.xid) {
                if open.is_some() {
                    self.take(commit()).await?;
                }
                let Some(place) = self.placed.get(&row.xid) else {
                    return Err(CaptureError::Unreadable(format!("transaction {} came from nowhere", row.xid)));
                };
                let begin = place.begin(row.xid);
                self.take(begin).await?;
                open = Some(row.xid);
            }
            for message in self.columns.messages(row)? {
                self.take(message).await?;
            }
        }
        if open.is_some() {
            self.take(commit()).await?;
        }
        Ok(())
    }

    async fn take(&mut self, message: Message) -> Result<(), CaptureError> {
        self.ready.extend(self.assembler.take(message).await?);
        Ok(())
    }

    /// False: nobody listens.
    pub async fn hand_on(mut self, out: &mpsc::Sender<Captured>) -> Result<bool, CaptureError> {
        self.ready.sort_by_key(position_of);
        for captured in self.ready {
            if out.send(captured).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Shapes go ahead of what has them.
fn position_of(captured: &Captured) -> Position {
    match captured {
        Captured::Transaction { position, .. } | Captured::Passed(position) => *position,
        Captured::Shape { .. } => Position(0),
    }
}
