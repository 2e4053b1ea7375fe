//! Requests sent behind one another without waiting for the answers.
//!
//! `tokio-postgres` puts a request on the wire when its future is first polled, so polling each once in order is what
//! makes the pipeline. Only so many may be unanswered: what has not been sent takes no memory.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::poll;
use tokio_postgres::Error;

type Request<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

/// How many requests may be unanswered before the oldest answer is awaited.
const DEPTH: usize = 8;

pub struct Pipeline<'a> {
    waiting: VecDeque<Request<'a>>,
    /// Counts what was answered, for whoever doubts that this gets on.
    answers: &'a AtomicU64,
    /// The first error decides: what comes after it in a transaction only says that the transaction is aborted.
    first_error: Option<Error>,
}

impl<'a> Pipeline<'a> {
    #[must_use]
    pub fn new(answers: &'a AtomicU64) -> Self {
        Self { waiting: VecDeque::new(), answers, first_error: None }
    }

    /// Sends a request. Waits only while the pipeline is full.
    pub async fn send(&mut self, request: impl Future<Output = Result<(), Error>> + Send + 'a) {
        if self.waiting.len() >= DEPTH {
            self.receive().await;
        }
        let mut request: Request<'a> = Box::pin(request);
        if let std::task::Poll::Ready(Err(error)) = poll!(&mut request) {
            self.first_error.get_or_insert(error);
        } else {
            self.waiting.push_back(request);
        }
    }

    /// Waits for all answers so far; whether none of them was an error.
    pub async fn catch_up(&mut self) -> bool {
        while !self.waiting.is_empty() {
            self.receive().await;
        }
        !self.has_failed()
    }

    /// An answer was an error: nothing more need be sent.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.first_error.is_some()
    }

    async fn receive(&mut self) {
        let Some(request) = self.waiting.pop_front() else { return };
        if let Err(error) = request.await {
            self.first_error.get_or_insert(error);
        }
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for all answers.
    ///
    /// # Errors
    /// The first error of all requests.
    pub async fn finish(mut self) -> Result<(), Error> {
        self.catch_up().await;
        self.first_error.map_or(Ok(()), Err)
    }
}
