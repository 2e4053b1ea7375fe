//! Capture by logical decoding: a node's replication stream becomes whole transactions of changes.
//!
//! What the hub does not take waits in a short queue, then in the socket, then in the server. What a node has kept for long
//! is read in one go first: see [`wire::Backlog`].

use std::time::Duration;

use hub::Position;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use wire::{Backlog, Event, Lsn, Missed, Stream};

use super::assemble::{Assembler, Captured};
use super::error::{CaptureError, MissedError};

/// How long the node may be kept from cleaning up by one portion of what was missed, before what is left of it is streamed:
/// whoever takes its changes may have to wait for another node.
const LONGEST_PORTION: Duration = Duration::from_secs(20);

/// Where changes come from.
pub enum WalSource {
    Backlog(Box<Backlog>),
    Stream(Box<Stream>),
}

/// Reads one node until its stream fails or nobody listens.
pub struct WalCapture {
    source: WalSource,
    assembler: Assembler,
}

impl WalCapture {
    #[must_use]
    pub fn new(source: WalSource, assembler: Assembler) -> Self {
        Self { source, assembler }
    }

    /// Runs until the stream fails; ends quietly when the receiver is gone.
    ///
    /// # Errors
    /// Whatever ended the stream.
    pub async fn run(self, out: mpsc::Sender<Captured>) -> Result<(), CaptureError> {
        let Self { source, mut assembler } = self;
        let mut stream = match source {
            WalSource::Stream(stream) => *stream,
            WalSource::Backlog(backlog) => match read_missed(*backlog, &mut assembler, &out).await? {
                Some(stream) => stream,
                None => return Ok(()),
            },
        };
        loop {
            let captured = match stream.next().await? {
                Event::Keepalive { wal_end, .. } => Some(passed(wal_end)),
                Event::Message { message, .. } => assembler.take(message).await?,
            };
            if let Some(captured) = captured
                && out.send(captured).await.is_err()
            {
                return Ok(());
            }
        }
    }
}

/// Positions name commit records: what comes next begins at `end` or later.
fn passed(end: Lsn) -> Captured {
    Captured::Passed(Position(end.0.saturating_sub(1)))
}

/// The stream that follows; none: nobody listens any more.
async fn read_missed(
    mut backlog: Backlog,
    assembler: &mut Assembler,
    out: &mpsc::Sender<Captured>,
) -> Result<Option<Stream>, CaptureError> {
    let failed = |error: wire::Error| CaptureError::Missed(error.into());
    let mut until = Instant::now() + LONGEST_PORTION;
    while let Some(missed) = backlog.next().await.map_err(failed)? {
        let captured = match missed {
            Missed::ReadUpTo(end) => {
                until = Instant::now() + LONGEST_PORTION;
                Some(passed(end))
            }
            Missed::Message(message) => assembler.take(message).await?,
        };
        let Some(captured) = captured else { continue };
        match timeout_at(until, out.send(captured)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(None),
            Err(_) => return Err(CaptureError::Missed(MissedError::Slow)),
        }
    }
    backlog.start().await.map(Some).map_err(failed)
}
