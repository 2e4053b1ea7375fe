//! Capture by logical decoding: a node's replication stream becomes whole transactions of changes.
//!
//! What the hub does not take waits in a short queue, then in the socket, then in the server.

use hub::Position;
use tokio::sync::mpsc;
use wire::{Event, Stream};

use super::CaptureError;
use super::assemble::{Assembler, Captured};

/// Reads one node until its stream fails or nobody listens.
pub struct WalCapture {
    stream: Stream,
    assembler: Assembler,
}

impl WalCapture {
    #[must_use]
    pub fn new(stream: Stream, assembler: Assembler) -> Self {
        Self { stream, assembler }
    }

    /// Runs until the stream fails; ends quietly when the receiver is gone.
    ///
    /// # Errors
    /// Whatever ended the stream.
    pub async fn run(mut self, out: mpsc::Sender<Captured>) -> Result<(), CaptureError> {
        loop {
            let captured = match self.stream.next().await? {
                // Positions name commit records: what comes next begins at `wal_end` or later.
                Event::Keepalive { wal_end, .. } => Some(Captured::Passed(Position(wal_end.0.saturating_sub(1)))),
                Event::Message { message, .. } => self.assembler.take(message).await?,
            };
            if let Some(captured) = captured
                && out.send(captured).await.is_err()
            {
                return Ok(());
            }
        }
    }
}
