//! Cutting the server's byte stream into messages.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::{Error, Result};

/// One read takes up to this much: under load, thousands of messages per system call.
const READ_BUFFER: usize = 256 * 1024;
/// Below this much room, a read is not worth its system call: the buffer is renewed first.
const WORTH_READING: usize = 32 * 1024;
/// PostgreSQL itself builds no message larger than this.
const LARGEST_FRAME: usize = 1 << 30;

/// A message of the server: its type and what follows the length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub tag: u8,
    /// A slice of the read buffer, which lives as long as any slice of it does.
    pub body: Bytes,
}

/// Reads frames from `R`.
#[derive(Debug)]
pub struct Frames<R> {
    input: R,
    buffer: BytesMut,
    limit: usize,
    /// The buffer grew for a large frame and is to be given back once that is done.
    grown: bool,
}

impl<R> Frames<R> {
    pub fn new(input: R) -> Self {
        Frames { input, buffer: BytesMut::with_capacity(READ_BUFFER), limit: LARGEST_FRAME, grown: false }
    }

    /// Frames longer than this are malformed. A server that has not yet been authenticated deserves
    /// little memory.
    pub(crate) fn limit(&mut self, limit: Option<usize>) {
        self.limit = limit.unwrap_or(LARGEST_FRAME);
    }

    pub(crate) fn input(&mut self) -> &mut R {
        &mut self.input
    }

    /// The same frames from another form of the input; what is buffered stays.
    pub(crate) fn map<S, T>(self, change: impl FnOnce(R) -> (S, T)) -> (Frames<S>, T) {
        let (input, rest) = change(self.input);
        let frames = Frames { input, buffer: self.buffer, limit: self.limit, grown: self.grown };
        (frames, rest)
    }

    /// The length of the frame at the head of the buffer, its five bytes of header included.
    #[inline]
    fn head(&self) -> Result<Option<usize>> {
        let Some(&[_, a, b, c, d]) = self.buffer.first_chunk::<5>() else {
            return Ok(None);
        };
        // The length counts itself but not the type.
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length < 4 || length > self.limit {
            return Err(Error::malformed("length of a message", 1));
        }
        Ok(Some(length + 1))
    }

    /// The next frame, if it is here already.
    #[inline]
    pub fn buffered(&mut self) -> Result<Option<Frame>> {
        match self.head()? {
            Some(length) if length <= self.buffer.len() => {
                let tag = self.buffer[0];
                let mut body = self.buffer.split_to(length).freeze();
                body.advance(5);
                Ok(Some(Frame { tag, body }))
            }
            _ => Ok(None),
        }
    }

    /// Makes room for the next read. The buffer grows only with what has arrived, never with what a
    /// length field promises.
    fn make_room(&mut self) -> Result<()> {
        let wanted = self.head()?.unwrap_or(0);
        if self.grown && wanted <= READ_BUFFER {
            let mut fresh = BytesMut::with_capacity(READ_BUFFER.max(self.buffer.len() * 2));
            fresh.extend_from_slice(&self.buffer);
            self.buffer = fresh;
            self.grown = false;
        }
        let room = self.buffer.capacity() - self.buffer.len();
        if wanted > READ_BUFFER {
            self.grown = true;
            if room < WORTH_READING {
                let missing = wanted.saturating_sub(self.buffer.len());
                let step = self.buffer.len().max(READ_BUFFER).min(missing + WORTH_READING);
                self.buffer.reserve(step);
            }
        } else if room < WORTH_READING {
            self.buffer.reserve(READ_BUFFER - self.buffer.len().min(READ_BUFFER - WORTH_READING));
        }
        Ok(())
    }
}

impl<R: AsyncRead + Unpin> Frames<R> {
    /// Reads what there is; zero bytes mean the end. Cancel-safe: what was read is in the buffer.
    pub async fn fill(&mut self) -> Result<usize> {
        self.make_room()?;
        match self.input.read_buf(&mut self.buffer).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            other => Ok(other?),
        }
    }

    /// The next frame; `Error::Closed` when there is none. Cancel-safe.
    pub async fn next(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            if self.fill().await? == 0 {
                return Err(Error::Closed);
            }
        }
    }
}
