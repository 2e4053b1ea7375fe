//! A node as the conductor sees it: what is read from it, who delivers to it, and whether it is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hub::{Delivery, Micros, NodeId, Position, TableId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::conductor::Report;
use super::error::RunError;
use super::in_one_go;
use super::left_out::Notebook;
use super::probe::is_at_work;
use super::reach::{NodeContext, NodeSource, NodeUp, SHORTEST_RECONNECT, bring_up_again, reaching_peer};
use super::settings::SPELLING;
use crate::capture::trigger::TriggerCapture;
use crate::capture::wal::WalCapture;
use crate::capture::{Assembler, CaptureError, Captured, Image, Source, SourceColumn};
use crate::connect::FaultClass;
use crate::deliver::{DeliverError, Landing, LandingId, PAUSED, Target};

/// What may wait between a capture and the hub, in transactions; more waits in the socket and in the server.
const QUEUE: usize = 4_096;
/// Held keys of one delivery that are named in the log; `status` knows them all.
const HELD_REPORTED: usize = 5;
/// The first pause after a delivery that failed for a passing reason; doubled up to [`LONGEST_BACKOFF`].
const SHORTEST_BACKOFF: Duration = Duration::from_millis(10);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// Under load, deliveries to a node begin no closer together than this, so that more transactions share one: a delivery
/// costs the same for one row as for ten, and the application wants the processors, too.
const SPACING: Duration = Duration::from_millis(3);
/// So many in a row may begin at once: what comes now and then must not wait.
const BURST: u32 = 8;

/// A node that was there for so long has not been lost again for the same reason.
const STAYED: Duration = Duration::from_secs(10);
/// A node that comes and goes more often than this is not reported each time.
const NOTEWORTHY_PAUSE: Duration = Duration::from_millis(200);

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

    fn is_running(&self) -> bool {
        self.0.as_ref().is_some_and(|task| !task.is_finished())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Who is told what nobody needs any more.
pub enum Feedback {
    Slot(wire::Feedback),
    Outbox(watch::Sender<Position>),
}

pub struct Seat {
    pub node: NodeId,
    pub name: String,
    pub context: Arc<NodeContext>,
    pub captured: Option<mpsc::Receiver<Captured>>,
    pub feedback: Option<Feedback>,
    pub delivering: Delivering,
    pub counters: Counters,
    /// Shapes read off the stream that nobody has compared with the other nodes yet.
    pub new_shapes: Vec<(TableId, Vec<SourceColumn>)>,
    /// Read while recovering, beyond what recovery wanted.
    pub next: Option<Captured>,
    /// The target's tables changed.
    pub reload_tables: bool,
    /// Its tables may not be what they were taken for.
    pub shape_doubted: bool,
    /// The stream broke while a delivery was in flight.
    pub reconnect_when_idle: bool,
    pub last_landing: Option<LandingId>,
    /// Since when there is something to cover but no row to write.
    pub news_since: Option<Instant>,
    /// Which connection of this node captures report about.
    pub generation: u64,
    pub away_since: Option<Instant>,
    /// It is left out: what it is owed is noted.
    pub notebook: Option<Notebook>,
    /// What is in flight, or was last, deletes rows: which of them it found is known from its answer only.
    /// Of the delivery in flight: what it was answered, and what of that was heard of here.
    answers: Arc<AtomicU64>,
    answers_heard: u64,
    pub flying_deletes: bool,
    flying_rows: usize,
    /// Since when the node is owed something it has not got.
    owed_since: Option<Instant>,
    last_lag: Duration,
    /// Nothing is delivered before the node's own stream has been judged up to here.
    pub catch_up_to: Position,
    /// It leaves the link: what it wrote up to here is judged, nothing after it, and nothing is delivered to it.
    pub leaves_at: Option<Position>,
    /// When the next delivery would begin if all had kept their [`SPACING`].
    spaced: Instant,
    retry_at: Option<Instant>,
    backoff: Duration,
    /// The capture, or, while the node is away, the attempts to come back to it.
    task: Task,
    /// The delivery in flight.
    flight: Task,
    /// The question whether the server still works on it.
    probe: Task,
    /// When the delivery in flight began, or when it was last found at work.
    at_work: Instant,
    /// The server's process that writes the delivery in flight.
    pid: i32,
    up_since: Instant,
    /// Before the next attempt to come back: longer when the node did not stay the last time.
    reconnect_pause: Duration,
    last_loss: String,
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
            shape_doubted: false,
            reconnect_when_idle: false,
            last_landing: None,
            news_since: None,
            generation: 0,
            owed_since: None,
            last_lag: Duration::ZERO,
            away_since: None,
            notebook: None,
            flying_deletes: false,
            flying_rows: 0,
            answers: Arc::default(),
            answers_heard: 0,
            catch_up_to: Position(0),
            leaves_at: None,
            spaced: Instant::now(),
            retry_at: None,
            backoff: SHORTEST_BACKOFF,
            task: Task::default(),
            flight: Task::default(),
            probe: Task::default(),
            at_work: Instant::now(),
            pid: 0,
            up_since: Instant::now(),
            reconnect_pause: Duration::ZERO,
            last_loss: String::new(),
        }
    }

    /// It is away, and the others go on without it.
    pub fn leave_out(&mut self, notebook: Notebook) {
        self.away_since = Some(Instant::now());
        self.notebook = Some(notebook);
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
            && self.leaves_at.is_none()
            && self.retry_at.is_none_or(|at| at <= now)
            && judged >= self.catch_up_to
            && self.due() <= now
    }

    /// What is to be known of what was captured.
    pub fn up_to_leaving(&self, captured: Captured) -> Captured {
        match (self.leaves_at, captured) {
            (Some(last), Captured::Transaction { position, .. }) if position > last => Captured::Passed(last),
            (Some(last), Captured::Passed(position)) => Captured::Passed(position.min(last)),
            (_, captured) => captured,
        }
    }

    /// When a delivery may begin, as far as the load is concerned.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.spaced.checked_sub(SPACING * BURST).unwrap_or(self.spaced)
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

    /// How long the node has been owed something.
    #[must_use]
    pub fn owed_for(&self, now: Instant) -> Duration {
        self.owed_since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }

    /// Its changes are read faster than they are judged.
    #[must_use]
    pub fn has_much_to_judge(&self) -> bool {
        self.captured.as_ref().is_some_and(|captured| captured.len() >= QUEUE / 2)
    }

    /// Rows that a delivery carries at the moment.
    pub fn rows_in_flight(&self) -> usize {
        if matches!(self.delivering, Delivering::Flying(_)) { self.flying_rows } else { 0 }
    }

    pub fn next_landing(&self) -> LandingId {
        LandingId(self.last_landing.map_or(0, |id| id.0) + 1)
    }

    /// Takes the idle target for a delivery of what was heard at `heard` or before.
    pub fn take_off(&mut self, id: LandingId, delivery: &Delivery<Image>, heard: Instant) -> Option<Box<Target>> {
        if !delivery.rows.is_empty() {
            self.owed_since.get_or_insert(heard);
        }
        self.spaced = self.spaced.max(Instant::now()) + SPACING;
        self.flying_deletes = delivery.rows.iter().any(|row| !row.state.is_present());
        self.flying_rows = delivery.rows.len();
        match std::mem::replace(&mut self.delivering, Delivering::Flying(id)) {
            Delivering::Idle(target) => Some(target),
            other => {
                self.delivering = other;
                None
            }
        }
    }

    /// Sends a delivery off; its end comes as a report.
    pub fn fly(&mut self, delivery: impl Future<Output = ()> + Send + 'static, pid: i32, answers: Arc<AtomicU64>) {
        self.answers_heard = answers.load(Ordering::Relaxed);
        self.answers = answers;
        self.pid = pid;
        self.at_work = Instant::now();
        self.probe = Task::default();
        self.flight = Task::spawn(delivery);
    }

    /// A delivery from which nothing has been heard for long is looked at from another session: its server may be
    /// busy, or its connection may be dead without anybody having been told.
    pub fn doubt_flight(&mut self, now: Instant, report: &mpsc::UnboundedSender<Report>) {
        let Delivering::Flying(id) = self.delivering else { return };
        if self.gets_on() {
            self.at_work = now;
            return;
        }
        let patience = if self.reconnect_when_idle { LONGEST_BACKOFF } else { self.context.silence_timeout };
        if self.probe.is_running() || now.duration_since(self.at_work) < patience {
            return;
        }
        let (context, report, node, pid) = (Arc::clone(&self.context), report.clone(), self.node, self.pid);
        self.probe = Task::spawn(async move {
            let at_work = is_at_work(&context, pid).await;
            drop(report.send(Report::Probed { node, id, at_work }));
        });
    }

    /// Whether the delivery was answered anything since this was asked last.
    fn gets_on(&mut self) -> bool {
        let heard = self.answers.load(Ordering::Relaxed);
        std::mem::replace(&mut self.answers_heard, heard) != heard
    }

    /// What became of the doubt.
    pub fn probed(&mut self, id: LandingId, at_work: bool, report: &mpsc::UnboundedSender<Report>) {
        self.probe = Task::default();
        self.at_work = Instant::now();
        if at_work || !self.is_flying(id) || self.gets_on() {
            return;
        }
        tracing::warn!(node = %self.name, "no answer to a delivery; reconnecting to see what became of it");
        self.lost(report);
    }

    #[must_use]
    pub fn is_flying(&self, id: LandingId) -> bool {
        matches!(self.delivering, Delivering::Flying(flying) if flying == id)
    }

    pub fn landed(&mut self, id: LandingId, delivery: &Delivery<Image>, landing: &Landing) {
        self.last_landing = Some(id);
        if let Some(since) = self.owed_since.take() {
            self.last_lag = since.elapsed();
        }
        let (rows, took_ms) = (delivery.rows.len(), self.at_work.elapsed().as_secs_f64() * 1000.0);
        tracing::debug!(node = %self.name, landing = id.0, rows, took_ms, "delivered");
        self.counters.deliveries += 1;
        self.counters.rows_delivered += delivery.rows.len() as u64;
        self.counters.last_error = None;
        self.retry_at = None;
        self.backoff = SHORTEST_BACKOFF;
        let is_misfit = |held: &&crate::deliver::Held| {
            held.sqlstate.as_deref().is_some_and(|code| FaultClass::of_sqlstate(code) == FaultClass::ShapeChanged)
        };
        if landing.held.iter().any(|held| is_misfit(&held)) {
            self.doubt_shape();
        }
        // A paused table has been reported as such.
        // One that is tried again and refused again has been, too.
        let is_new = |held: &&crate::deliver::Held| {
            held.reason != PAUSED && !delivery.rows.iter().any(|row| row.was_held && row.key == held.key)
        };
        for held in landing.held.iter().filter(is_new).take(HELD_REPORTED) {
            let table = self.context.table_name(held.key.table());
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
        let text = error.to_string();
        if !error.may_pass() {
            return Err(RunError::Delivery { node: self.name.clone(), error: text });
        }
        // Tried again without end, said once.
        if self.counters.last_error.as_ref() != Some(&text) {
            tracing::info!(node = %self.name, "delivery rolled back, trying again: {text}");
        }
        self.counters.last_error = Some(text);
        if error.is_about_shape() {
            self.doubt_shape();
        }
        self.retry_at = Some(Instant::now() + self.backoff);
        self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
        Ok(())
    }

    /// A table here is not what it was taken for.
    fn doubt_shape(&mut self) {
        self.reload_tables = true;
        self.shape_doubted = true;
    }

    /// The stream ended.
    ///
    /// # Errors
    /// When reconnecting cannot help.
    pub fn capture_failed(&mut self, error: CaptureError) -> Result<(), RunError> {
        // A disk that is full may have room again, as a server may be there again: what could not be kept here is
        // read once more.
        if !error.may_pass() {
            return Err(RunError::Capture { node: self.name.clone(), error });
        }
        let text = error.to_string();
        // What was missed said it itself.
        if self.last_loss != text && !matches!(error, CaptureError::Missed(_)) {
            tracing::warn!(node = %self.name, "lost the stream of its changes: {text}");
            self.last_loss.clone_from(&text);
        }
        self.counters.last_error = Some(text);
        Ok(())
    }

    /// The node cannot be reached any more: forget its connections and try to come back.
    pub fn lost(&mut self, report: &mpsc::UnboundedSender<Report>) {
        let flying = match std::mem::replace(&mut self.delivering, Delivering::Away) {
            Delivering::Flying(id) => Some(id),
            Delivering::Idle(_) => None,
            Delivering::Away => return,
        };
        let pause = self.next_pause();
        if pause < NOTEWORTHY_PAUSE {
            tracing::warn!(node = %self.name, "away; its peers go on");
        }
        self.flight = Task::default();
        self.probe = Task::default();
        self.captured = None;
        self.next = None;
        self.feedback = None;
        self.reconnect_when_idle = false;
        self.generation += 1;
        self.away_since = Some(Instant::now());
        let (context, report) = (Arc::clone(&self.context), report.clone());
        self.task = Task::spawn(async move {
            let node = context.id;
            match bring_up_again(context, flying, pause).await {
                Ok((up, outcome)) => drop(report.send(Report::Up { node, up: Box::new(up), outcome })),
                Err(error) => drop(report.send(Report::Unreachable { error })),
            }
        });
    }

    /// How long to wait before coming back. One that was lost soon after it was there may be lost for the same reason
    /// again: its stream fails at the same place, say.
    fn next_pause(&mut self) -> Duration {
        if self.up_since.elapsed() > STAYED {
            self.last_loss.clear();
            self.reconnect_pause = Duration::ZERO;
        }
        let pause = self.reconnect_pause;
        self.reconnect_pause = (pause * 2).clamp(SHORTEST_RECONNECT, LONGEST_BACKOFF);
        pause
    }

    /// The node is there (again).
    pub fn up(&mut self, up: NodeUp, judged: Position, report: &mpsc::UnboundedSender<Report>) {
        if let Some(since) = self.away_since.take()
            && self.reconnect_pause <= NOTEWORTHY_PAUSE
        {
            tracing::info!(node = %self.name, "back after {} s", since.elapsed().as_secs());
        }
        self.up_since = Instant::now();
        self.generation += 1;
        self.last_landing = up.last_landing;
        self.catch_up_to = up.flushed;
        self.retry_at = None;
        self.delivering = Delivering::Idle(Box::new(up.target));
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.captured = Some(receiver);
        let context = &self.context;
        let assembler = Assembler::new(
            Source::new(context.endpoint.clone(), &SPELLING),
            context.captured.clone(),
            context.shapes.clone(),
            &context.secret,
            judged,
        );
        let (report, node, generation) = (report.clone(), self.node, self.generation);
        let ended = move |error| drop(report.send(Report::CaptureEnded { node, generation, error }));
        match up.source {
            NodeSource::Wal(source, feedback) => {
                self.feedback = Some(Feedback::Slot(feedback));
                let capture = WalCapture::new(source, assembler);
                let context = Arc::clone(context);
                self.task = Task::spawn(async move {
                    let error = capture.run(sender).await.err();
                    if let Some(error @ CaptureError::Missed(_)) = &error {
                        // Said here: while a hub recovers, nobody else does.
                        tracing::warn!(node = %context.name, "{error}");
                        in_one_go::has_failed(&context.slot);
                    }
                    ended(error);
                });
            }
            NodeSource::Outbox(client) => {
                let (acknowledge, acknowledged) = watch::channel(Position(0));
                self.feedback = Some(Feedback::Outbox(acknowledge));
                let (tables, silence) = (Arc::clone(&context.captured), context.silence_timeout);
                let peer = reaching_peer(context);
                self.task = Task::spawn(async move {
                    let capture = TriggerCapture::new(client, &tables, assembler, judged, acknowledged, peer, silence);
                    ended(match capture.await {
                        Ok(capture) => capture.run(sender).await.err(),
                        Err(error) => Some(error),
                    });
                });
            }
        }
    }

    /// Lets the node forget what nobody needs any more.
    pub fn acknowledge(&self, acknowledged: Position, judged: Position) {
        self.context.known.fetch_max(judged.0, Ordering::Relaxed);
        match &self.feedback {
            Some(Feedback::Slot(feedback)) => {
                // The server skips what committed before the confirmed position, so the first one still needed is it.
                let confirmed = wire::Lsn(acknowledged.0.saturating_add(1));
                feedback.set(confirmed, wire::Lsn(judged.0.saturating_add(1)).max(confirmed));
            }
            Some(Feedback::Outbox(watched)) => {
                watched.send_if_modified(|known| {
                    let grows = *known < acknowledged;
                    *known = (*known).max(acknowledged);
                    grows
                });
            }
            None => {}
        }
    }
}
