//! A node as the conductor sees it: what is read from it, who delivers to it, and whether it is there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hub::{Delivery, Micros, NodeId, Position, TableId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::conductor::Report;
use super::error::RunError;
use super::reach::{NodeContext, NodeUp, bring_up_again};
use crate::capture::Image;
use crate::capture::wal::{CaptureError, Captured, SourceColumn, WalCapture};
use crate::deliver::{DeliverError, Landing, LandingId, Target};

/// What may wait between a capture and the hub, in transactions; more waits in the socket and in the server.
const QUEUE: usize = 4_096;
/// Held keys of one delivery that are named in the log; `status` knows them all.
const HELD_REPORTED: usize = 5;
/// The first pause after a delivery that failed for a passing reason; doubled up to [`LONGEST_BACKOFF`].
const SHORTEST_BACKOFF: Duration = Duration::from_millis(10);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// Where deliveries to a node stand. Set by the conductor only.
pub enum Delivering {
    Idle(Box<Target>),
    /// A task writes it, or its outcome is being looked for.
    Flying(LandingId),
    Away,
}

/// Counted since the hub started; for `status`.
#[derive(Debug, Default, Clone)]
pub struct Counters {
    pub transactions_judged: u64,
    pub changes_judged: u64,
    pub deliveries: u64,
    pub rows_delivered: u64,
    pub last_commit: Option<Micros>,
    pub last_error: Option<String>,
}

/// Ends with whoever holds it.
#[derive(Default)]
struct Task(Option<JoinHandle<()>>);

impl Task {
    fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(tokio::spawn(future)))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

pub struct Seat {
    pub node: NodeId,
    pub name: String,
    pub context: Arc<NodeContext>,
    pub captured: Option<mpsc::Receiver<Captured>>,
    pub feedback: Option<wire::Feedback>,
    pub delivering: Delivering,
    pub counters: Counters,
    /// Shapes read off the stream that nobody has compared with the other nodes yet.
    pub new_shapes: Vec<(TableId, Vec<SourceColumn>)>,
    /// Read while recovering, beyond what recovery wanted.
    pub next: Option<Captured>,
    /// The target's tables changed.
    pub reload_tables: bool,
    /// The stream broke while a delivery was in flight.
    pub reconnect_when_idle: bool,
    pub last_landing: Option<LandingId>,
    /// Since when there is something to cover but no row to write.
    pub news_since: Option<Instant>,
    /// Which connection of this node captures report about.
    pub generation: u64,
    pub away_since: Option<Instant>,
    /// What is in flight, or was last, deletes rows: which of them it found is known from its answer only.
    pub flying_deletes: bool,
    /// Since when the node is owed something it has not got.
    owed_since: Option<Instant>,
    last_lag: Duration,
    /// Nothing is delivered before the node's own stream has been judged up to here.
    catch_up_to: Position,
    retry_at: Option<Instant>,
    backoff: Duration,
    /// The capture, or, while the node is away, the attempts to come back to it.
    task: Task,
}

impl Seat {
    #[must_use]
    pub fn new(context: Arc<NodeContext>) -> Self {
        Self {
            node: context.id,
            name: context.name.clone(),
            context,
            captured: None,
            feedback: None,
            delivering: Delivering::Away,
            counters: Counters::default(),
            new_shapes: Vec::new(),
            next: None,
            reload_tables: false,
            reconnect_when_idle: false,
            last_landing: None,
            news_since: None,
            generation: 0,
            owed_since: None,
            last_lag: Duration::ZERO,
            away_since: None,
            flying_deletes: false,
            catch_up_to: Position(0),
            retry_at: None,
            backoff: SHORTEST_BACKOFF,
            task: Task::default(),
        }
    }

    #[must_use]
    pub fn is_away(&self) -> bool {
        self.away_since.is_some()
    }

    /// Whether a delivery may be cut now. A node that fell behind is read up to date first, so that its newer rows are
    /// not overwritten and put back.
    #[must_use]
    pub fn may_deliver(&self, now: Instant, judged: Position) -> bool {
        matches!(self.delivering, Delivering::Idle(_))
            && self.retry_at.is_none_or(|at| at <= now)
            && judged >= self.catch_up_to
    }

    /// To be told after each turn whether the node is owed anything.
    pub fn note_owed(&mut self, owes: bool, now: Instant) {
        match (owes, self.owed_since) {
            (true, None) => self.owed_since = Some(now),
            (false, Some(_)) if !matches!(self.delivering, Delivering::Flying(_)) => self.owed_since = None,
            _ => {}
        }
    }

    /// For how long the oldest change has been known here that the node has not got; once it has all, how long the
    /// last one took.
    #[must_use]
    pub fn lag_ms(&self, now: Instant) -> f64 {
        let lag = self.owed_since.map_or(self.last_lag, |since| now.duration_since(since));
        (lag.as_secs_f64() * 10_000.0).round() / 10.0
    }

    pub fn next_landing(&self) -> LandingId {
        LandingId(self.last_landing.map_or(0, |id| id.0) + 1)
    }

    /// Takes the idle target for a delivery of what was heard at `heard` or before.
    pub fn take_off(&mut self, id: LandingId, delivery: &Delivery<Image>, heard: Instant) -> Option<Box<Target>> {
        if !delivery.rows.is_empty() {
            self.owed_since.get_or_insert(heard);
        }
        self.flying_deletes = delivery.rows.iter().any(|row| !row.state.is_present());
        match std::mem::replace(&mut self.delivering, Delivering::Flying(id)) {
            Delivering::Idle(target) => Some(target),
            other => {
                self.delivering = other;
                None
            }
        }
    }

    pub fn landed(&mut self, id: LandingId, delivery: &Delivery<Image>, landing: &Landing) {
        self.last_landing = Some(id);
        if let Some(since) = self.owed_since.take() {
            self.last_lag = since.elapsed();
        }
        self.counters.deliveries += 1;
        self.counters.rows_delivered += delivery.rows.len() as u64;
        self.counters.last_error = None;
        self.retry_at = None;
        self.backoff = SHORTEST_BACKOFF;
        // A paused table has been reported as such.
        for held in landing.held.iter().filter(|held| held.sqlstate.is_some()).take(HELD_REPORTED) {
            let table = self.context.table_name(held.key.table);
            let key = self.context.key_text(&held.key);
            tracing::warn!(node = %self.name, %table, %key, "held: {}", held.reason);
        }
    }

    /// The delivery was rolled back and the session is well.
    ///
    /// # Errors
    /// When trying again cannot help.
    pub fn delivery_failed(&mut self, target: Box<Target>, error: &DeliverError) -> Result<(), RunError> {
        self.delivering = Delivering::Idle(target);
        self.counters.last_error = Some(error.to_string());
        if !error.may_pass() {
            return Err(RunError::Delivery { node: self.name.clone(), error: error.to_string() });
        }
        tracing::info!(node = %self.name, "delivery rolled back, trying again: {error}");
        self.retry_at = Some(Instant::now() + self.backoff);
        self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
        Ok(())
    }

    /// The stream ended.
    ///
    /// # Errors
    /// When reconnecting cannot help.
    pub fn capture_failed(&mut self, error: CaptureError) -> Result<(), RunError> {
        match error {
            CaptureError::Wire(error) => {
                tracing::warn!(node = %self.name, "lost the replication stream: {error}");
                self.counters.last_error = Some(error.to_string());
                Ok(())
            }
            error => Err(RunError::Capture { node: self.name.clone(), error }),
        }
    }

    /// The node cannot be reached any more: forget its connections and try to come back.
    pub fn lost(&mut self, report: &mpsc::UnboundedSender<Report>) {
        let flying = match std::mem::replace(&mut self.delivering, Delivering::Away) {
            Delivering::Flying(id) => Some(id),
            Delivering::Idle(_) => None,
            Delivering::Away => return,
        };
        tracing::warn!(node = %self.name, "away; its peers go on");
        self.captured = None;
        self.next = None;
        self.feedback = None;
        self.reconnect_when_idle = false;
        self.generation += 1;
        self.away_since = Some(Instant::now());
        let (context, report) = (Arc::clone(&self.context), report.clone());
        self.task = Task::spawn(async move {
            let node = context.id;
            match bring_up_again(context, flying).await {
                Ok((up, outcome)) => drop(report.send(Report::Up { node, up: Box::new(up), outcome })),
                Err(error) => drop(report.send(Report::Unreachable { error })),
            }
        });
    }

    /// The node is there (again).
    pub fn up(&mut self, up: NodeUp, judged: Position, report: &mpsc::UnboundedSender<Report>) {
        if let Some(since) = self.away_since.take() {
            tracing::info!(node = %self.name, "back after {} s", since.elapsed().as_secs());
        }
        self.generation += 1;
        self.last_landing = up.last_landing;
        self.catch_up_to = up.flushed;
        self.retry_at = None;
        self.feedback = Some(up.feedback);
        self.delivering = Delivering::Idle(Box::new(up.target));
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.captured = Some(receiver);
        let context = &self.context;
        let capture =
            WalCapture::new(up.stream, context.captured.clone(), context.shapes.clone(), &context.secret, judged);
        let (report, node, generation) = (report.clone(), self.node, self.generation);
        self.task = Task::spawn(async move {
            let error = capture.run(sender).await.err();
            drop(report.send(Report::CaptureEnded { node, generation, error }));
        });
    }
}
