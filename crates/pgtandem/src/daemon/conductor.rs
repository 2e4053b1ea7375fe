//! The loop that owns the hub: judges what the captures read, cuts deliveries, takes note of landings.
//!
//! Nothing here waits for a server. Deliveries and reconnects run as tasks of their own and report as [`Report`]s.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use hub::{Delivery, Hub, Key, Landed, NodeId, Position, TableId};
use tokio::sync::mpsc;
use tokio_postgres::types::PgLsn;

use super::error::{ReachError, RunError};
use super::reach::{NodeContext, NodeUp};
use super::seat::{Delivering, Feedback, Seat};
use super::tables::read_target_tables;
use crate::capture::{CaptureError, Captured, Image, SourceColumn};
use crate::config::Capture;
use crate::deliver::{DeliverError, Landing, LandingId, Target};

/// Judging stops while a live target is owed more rows than this: it bounds a delivery, and so how long its row locks
/// are held.
const OWED_ROWS: usize = 16_384;
/// While the only possible targets are away, judging stops beyond this: their sources keep the WAL anyway.
const OWED_ROWS_AWAY: usize = 65_536;
/// While a backlog is read, a delivery waits until it has so many rows, since of a row that has changed often only the last
/// state is written; but no longer than this.
const GATHERED_ROWS: usize = 8_192;
const GATHERING: Duration = Duration::from_millis(300);
/// How much is taken from the captures before deliveries are looked at again, in transactions.
const TURN: usize = 2_048;
/// A turn takes no longer than about this: connections are opened and watched between turns.
const TURN_TIME: Duration = Duration::from_millis(20);
/// A landing without rows may wait this long for company.
const EMPTY_LANDING_DELAY: Duration = Duration::from_millis(100);
/// How long a hub that ends waits for the deliveries it has begun.
const SETTLE: Duration = Duration::from_secs(10);

/// What tasks tell the conductor.
pub enum Report {
    Delivered {
        node: NodeId,
        id: LandingId,
        target: Box<Target>,
        delivery: Delivery<Image>,
        result: Result<Landing, DeliverError>,
    },
    /// A node is reached (again); what became of the delivery that was in flight when it was lost.
    Up {
        node: NodeId,
        up: Box<NodeUp>,
        outcome: Option<Result<Landing, ()>>,
    },
    /// What a node would have been delivered that is left out is noted.
    Noted {
        node: NodeId,
    },
    /// It will not be reached any more without a person.
    Unreachable {
        error: ReachError,
    },
    /// Whether the server is at work on a delivery from which nothing was heard for long.
    Probed {
        node: NodeId,
        id: LandingId,
        at_work: bool,
    },
    CaptureEnded {
        node: NodeId,
        generation: u64,
        error: Option<CaptureError>,
    },
}

/// How a run of the conductor ends.
pub enum Ended {
    /// SIGTERM or SIGINT.
    Asked,
    /// `up` or `down` want the lock.
    Yield,
    /// Memory and databases no longer agree: start over from the databases.
    Recover(String),
}

pub struct Conductor {
    pub hub: Hub<Image>,
    pub(super) seats: Vec<Seat>,
    reports: mpsc::UnboundedReceiver<Report>,
    report: mpsc::UnboundedSender<Report>,
    /// The seat whose capture was heard last.
    heard_last: usize,
}

enum Heard {
    Captured(usize, Captured),
    CaptureGone(usize),
    Report(Box<Report>),
}

impl Conductor {
    #[must_use]
    pub fn new(
        hub: Hub<Image>,
        seats: Vec<Seat>,
        report: mpsc::UnboundedSender<Report>,
        reports: mpsc::UnboundedReceiver<Report>,
    ) -> Self {
        Self { hub, seats, reports, report, heard_last: 0 }
    }

    /// Waits until there is something to do, does all that is there, and sends out what came of it.
    ///
    /// # Errors
    /// When the hub must stop: deposed, or a fault that only a person can mend.
    pub async fn turn(&mut self, deadline: Instant) -> Result<Option<Ended>, RunError> {
        let deadline = self.due().map_or(deadline, |due| deadline.min(due));
        let heard = tokio::time::timeout_at(deadline.into(), poll_fn(|cx| self.poll_heard(cx))).await;
        let woken = Instant::now();
        let mut next = heard.ok();
        let mut taken = 0;
        while let Some(heard) = next.take() {
            if let Some(ended) = self.take(heard)? {
                return Ok(Some(ended));
            }
            taken += 1;
            if taken < TURN && (taken % 16 != 0 || woken.elapsed() < TURN_TIME) {
                next = self.try_heard();
            }
        }
        // A changed shape is looked at before any row in it goes out.
        if self.seats.iter().all(|seat| seat.new_shapes.is_empty()) {
            self.dispatch(woken);
        }
        self.acknowledge();
        let now = Instant::now();
        for seat in &mut self.seats {
            seat.note_owed(self.hub.owed(seat.node) > 0, now);
            seat.doubt_flight(now, &self.report);
        }
        Ok(None)
    }

    /// When the first delivery may begin that is owed rows and waits only for its turn.
    fn due(&self) -> Option<Instant> {
        let waiting = self
            .seats
            .iter()
            .filter(|seat| matches!(seat.delivering, Delivering::Idle(_)) && self.hub.owed(seat.node) > 0);
        let now = Instant::now();
        waiting.map(Seat::due).filter(|due| *due > now).min()
    }

    fn poll_heard(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Heard> {
        if let Poll::Ready(Some(report)) = self.reports.poll_recv(cx) {
            return Poll::Ready(Heard::Report(Box::new(report)));
        }
        let crowded = self.is_crowded();
        let first = self.first_to_catch_up();
        for step in 0..self.seats.len() {
            // A node with a backlog must not keep the others from being heard.
            let at = (self.heard_last + 1 + step) % self.seats.len();
            let node = self.seats[at].node;
            let waits = first.is_some_and(|first| first != at && self.is_catching_up(&self.seats[at]));
            if crowded || waits || !self.hub.may_judge(node) {
                continue;
            }
            if let Some(captured) = self.seats[at].next.take() {
                self.heard_last = at;
                return Poll::Ready(Heard::Captured(at, captured));
            }
            let Some(captured) = &mut self.seats[at].captured else { continue };
            match captured.poll_recv(cx) {
                Poll::Ready(Some(captured)) => {
                    self.heard_last = at;
                    return Poll::Ready(Heard::Captured(at, captured));
                }
                Poll::Ready(None) => return Poll::Ready(Heard::CaptureGone(at)),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    fn try_heard(&mut self) -> Option<Heard> {
        let waker = futures::task::noop_waker();
        let mut cx = std::task::Context::from_waker(&waker);
        match self.poll_heard(&mut cx) {
            Poll::Ready(heard) => Some(heard),
            Poll::Pending => None,
        }
    }

    /// It is here, but takes no delivery before its own changes are read up to date.
    fn is_catching_up(&self, seat: &Seat) -> bool {
        !seat.is_away() && seat.leaves_at.is_none() && self.hub.judged(seat.node) < seat.catch_up_to
    }

    /// Where several nodes have to catch up, and much waits for it, the one that has the least to read goes first: what
    /// it changed stays in the window until the others have, too.
    fn first_to_catch_up(&self) -> Option<usize> {
        let catching_up = || (0..self.seats.len()).filter(|at| self.is_catching_up(&self.seats[*at]));
        if !catching_up().any(|at| self.hub.owed(self.seats[at].node) > OWED_ROWS) {
            return None;
        }
        let left = |at: &usize| self.seats[*at].catch_up_to.0.saturating_sub(self.hub.judged(self.seats[*at].node).0);
        catching_up().min_by_key(left)
    }

    /// So much is owed that judging more would only make the next delivery larger. What a node is owed that has to catch
    /// up does not count: it takes nothing before, and only judging brings it there. What is noted for one that is left out
    /// waits for the first node, which keeps it: while that one is away, so is the other.
    fn is_crowded(&self) -> bool {
        let anyone_up = |except: NodeId| self.seats.iter().any(|seat| seat.node != except && !seat.is_away());
        let targets = self.seats.iter().filter(|seat| seat.notebook.is_none()).count();
        let nothing_is_noted = self.seats.iter().find(|seat| seat.notebook.is_none()).is_some_and(Seat::is_away);
        self.seats.iter().filter(|seat| seat.leaves_at.is_none()).any(|seat| {
            let owed = self.hub.owed(seat.node);
            if seat.is_away() && (seat.notebook.is_none() || nothing_is_noted) {
                owed > OWED_ROWS_AWAY && (targets == 2 || !anyone_up(seat.node))
            } else {
                owed > OWED_ROWS && !self.is_catching_up(seat)
            }
        })
    }

    fn take(&mut self, heard: Heard) -> Result<Option<Ended>, RunError> {
        match heard {
            Heard::Captured(at, captured) => self.judge(at, captured),
            Heard::CaptureGone(at) => {
                self.seats[at].captured = None;
                Ok(None)
            }
            Heard::Report(report) => self.take_report(*report),
        }
    }

    fn take_report(&mut self, report: Report) -> Result<Option<Ended>, RunError> {
        match report {
            Report::Delivered { node, id, target, delivery, result } => {
                self.delivered(node, id, target, &delivery, result)
            }
            Report::Noted { node } => {
                // Behind all that is judged of it, so that no change of its own ever comes after.
                let position = Position(self.hub.judged(node).0.saturating_add(1));
                let (held, missed) = (Vec::new(), Vec::new());
                self.hub.landed(node, Landed { position, durable: position, held, missed, before: Position(0) });
                Ok(None)
            }
            Report::Unreachable { error } => Err(error.into()),
            Report::Probed { node, id, at_work } => {
                self.seats[usize::from(node.0)].probed(id, at_work, &self.report);
                Ok(None)
            }
            Report::Up { node, up, outcome } => Ok(self.node_up(node, *up, outcome)),
            Report::CaptureEnded { node, generation, error } => self.capture_ended(node, generation, error),
        }
    }

    fn judge(&mut self, at: usize, captured: Captured) -> Result<Option<Ended>, RunError> {
        let seat = &mut self.seats[at];
        match seat.up_to_leaving(captured) {
            Captured::Transaction { position, time, changes } => {
                seat.counters.transactions_judged += 1;
                seat.counters.changes_judged += changes.len() as u64;
                seat.counters.last_commit = Some(time);
                let mut changes = match changes.into_changes() {
                    Ok(changes) => changes,
                    Err(error) => return Ok(Some(spill_unreadable(&error))),
                };
                // A slot repeats what was not confirmed. An outbox does not; what the hub would ignore would be lost.
                if seat.context.capture == Capture::Trigger && position <= self.hub.judged(seat.node) {
                    return Ok(Some(Ended::Recover(format!("changes of {} came out of order", seat.name))));
                }
                self.hub.judge(seat.node, position, time, &mut changes);
                if let Some(error) = changes.failed() {
                    return Ok(Some(spill_unreadable(&error)));
                }
            }
            // The hub is told what is still to come. Being exact matters at rest: nothing more would make up for it.
            Captured::Passed(position) => self.hub.advance(seat.node, Position(position.0.saturating_add(1))),
            Captured::Shape { table, columns, .. } => seat.new_shapes.push((table, columns)),
        }
        Ok(None)
    }

    fn delivered(
        &mut self,
        node: NodeId,
        id: LandingId,
        target: Box<Target>,
        delivery: &Delivery<Image>,
        result: Result<Landing, DeliverError>,
    ) -> Result<Option<Ended>, RunError> {
        let seat = &mut self.seats[usize::from(node.0)];
        if !seat.is_flying(id) {
            // Its answer was no longer waited for; what became of it is being looked for.
            return Ok(None);
        }
        match result {
            Ok(landing) => {
                seat.landed(id, delivery, &landing);
                seat.delivering = Delivering::Idle(target);
                self.hub.landed(node, landed(landing));
            }
            Err(DeliverError::Deposed(holder)) => return Err(RunError::Deposed(holder)),
            Err(DeliverError::Spill(error)) => return Ok(Some(spill_unreadable(&error))),
            Err(error) if error.is_outcome_unknown() => {
                tracing::warn!(node = %seat.name, "lost the connection during a delivery: {error}");
                // The hub keeps the delivery in flight until its landing has been looked for.
                seat.lost(&self.report);
            }
            Err(error) => {
                self.hub.failed(node);
                seat.delivery_failed(target, &error)?;
            }
        }
        Ok(None)
    }

    fn node_up(&mut self, node: NodeId, up: NodeUp, outcome: Option<Result<Landing, ()>>) -> Option<Ended> {
        let seat = &mut self.seats[usize::from(node.0)];
        if up.last_landing < seat.last_landing {
            let why = format!("{} lost what had been delivered to it: its server crashed", seat.name);
            return Some(Ended::Recover(why));
        }
        match outcome {
            Some(Ok(_)) if seat.flying_deletes => {
                return Some(Ended::Recover(format!("the answer to a delivery to {} was lost", seat.name)));
            }
            Some(Ok(landing)) => self.hub.landed(node, landed(landing)),
            Some(Err(())) => self.hub.failed(node),
            None => {}
        }
        seat.up(up, self.hub.judged(node), &self.report);
        None
    }

    fn capture_ended(
        &mut self,
        node: NodeId,
        generation: u64,
        error: Option<CaptureError>,
    ) -> Result<Option<Ended>, RunError> {
        let seat = &mut self.seats[usize::from(node.0)];
        if seat.generation != generation {
            return Ok(None);
        }
        if let Some(error) = error {
            seat.capture_failed(error)?;
        }
        seat.captured = None;
        if matches!(seat.delivering, Delivering::Idle(_)) {
            seat.lost(&self.report);
        } else {
            seat.reconnect_when_idle = true;
        }
        Ok(None)
    }

    /// Cuts a delivery for every node that can take one and is owed one.
    fn dispatch(&mut self, woken: Instant) {
        let now = Instant::now();
        for at in 0..self.seats.len() {
            let node = self.seats[at].node;
            if self.note_instead(at, now) {
                continue;
            }
            if self.seats[at].reconnect_when_idle && matches!(self.seats[at].delivering, Delivering::Idle(_)) {
                self.seats[at].lost(&self.report);
            }
            let judged = self.hub.judged(node);
            let seat = &mut self.seats[at];
            let ready = seat.may_deliver(now, judged);
            if !ready || !self.wants_delivery(at, now) {
                continue;
            }
            let Some(delivery) = self.hub.cut(node) else { continue };
            let seat = &mut self.seats[at];
            let id = seat.next_landing();
            let Some(mut target) = seat.take_off(id, &delivery, woken) else { continue };
            let reload = std::mem::take(&mut seat.reload_tables);
            let (report, context) = (self.report.clone(), Arc::clone(&seat.context));
            let (pid, answers) = (target.pid, Arc::clone(&target.answers));
            let flight = async move {
                let result = deliver(&mut target, &context, reload, id, &delivery).await;
                // Nobody listens only when the run is over.
                drop(report.send(Report::Delivered { node, id, target, delivery, result }));
            };
            seat.fly(flight, pid, answers);
        }
    }

    /// For a node that is left out, what it is owed is noted; false: it is not.
    fn note_instead(&mut self, at: usize, now: Instant) -> bool {
        let node = self.seats[at].node;
        let Some(notebook) = &mut self.seats[at].notebook else { return false };
        if notebook.is_ready(self.hub.owed(node), now)
            && let Some(delivery) = self.hub.cut(node)
        {
            notebook.note(&delivery, now);
        }
        true
    }

    /// Whether much is about to come for the node: what a peer had changed before it was connected to, or faster than it
    /// can be judged.
    fn is_backlog_read(&self, at: usize) -> bool {
        let mut peers = self.seats.iter().filter(|seat| seat.node != self.seats[at].node);
        peers.any(|seat| self.is_catching_up(seat) || seat.has_much_to_judge())
    }

    fn wants_delivery(&mut self, at: usize, now: Instant) -> bool {
        let owed = self.hub.owed(self.seats[at].node);
        if owed > 0 {
            self.seats[at].news_since = None;
            return owed >= GATHERED_ROWS || self.seats[at].owed_for(now) >= GATHERING || !self.is_backlog_read(at);
        }
        let seat = &mut self.seats[at];
        if !self.hub.has_news(seat.node) {
            seat.news_since = None;
            return false;
        }
        let since = *seat.news_since.get_or_insert(now);
        let due = now.duration_since(since) >= EMPTY_LANDING_DELAY;
        if due {
            seat.news_since = None;
        }
        due
    }

    /// Lets the nodes forget what nobody needs any more.
    fn acknowledge(&mut self) {
        self.hub.retire();
        for seat in &mut self.seats {
            seat.acknowledge(self.hub.acknowledged(seat.node), self.hub.judged(seat.node));
        }
    }
}

/// What the errands ask for.
impl Conductor {
    /// Shapes read off the streams since the last call.
    pub fn take_new_shapes(&mut self) -> Vec<(TableId, NodeId, Vec<SourceColumn>)> {
        let shapes = self.seats.iter_mut().flat_map(|seat| {
            let node = seat.node;
            std::mem::take(&mut seat.new_shapes).into_iter().map(move |(table, columns)| (table, node, columns))
        });
        shapes.collect()
    }

    pub fn other_nodes(&self, node: NodeId) -> Vec<NodeId> {
        self.seats.iter().map(|seat| seat.node).filter(|other| *other != node).collect()
    }

    #[must_use]
    pub fn is_here(&self, at: usize) -> bool {
        !self.seats[at].is_away()
    }

    #[must_use]
    pub fn first_away(&self) -> Option<&str> {
        self.seats.iter().find(|seat| seat.is_away()).map(|seat| seat.name.as_str())
    }

    /// A node leaves: what it writes from now on is nobody's concern, and nothing more is delivered to it, since what
    /// that would overwrite could no longer be told. Returns what is the last of it.
    pub fn let_go(&mut self, at: usize) -> Position {
        let seat = &mut self.seats[at];
        seat.leaves_at = Some(seat.catch_up_to);
        seat.catch_up_to
    }

    /// Whether its peers have all that a node changed up to there.
    #[must_use]
    pub fn has_landed_everywhere(&self, at: usize, position: Position) -> bool {
        let source = self.seats[at].node;
        self.other_nodes(source).iter().all(|node| self.hub.has_landed(source, position, *node))
    }

    #[must_use]
    /// By node.
    pub fn acknowledged_positions(&self) -> Vec<PgLsn> {
        self.seats.iter().map(|seat| PgLsn::from(self.hub.acknowledged(seat.node).0)).collect()
    }

    /// By node: what its peers may know of it.
    pub fn beats(&self) -> Vec<i64> {
        self.seats.iter().map(|seat| seat.context.beat.load(Ordering::Relaxed)).collect()
    }

    pub fn note_beat(&self, at: usize, beat: i64) {
        self.seats[at].context.beat.fetch_max(beat, Ordering::Relaxed);
    }

    pub fn node_name(&self, node: NodeId) -> String {
        self.seats[usize::from(node.0)].name.clone()
    }

    /// Every held key is owed again, but for those of paused tables: what was in its way may be gone.
    pub fn retry_held(&mut self, paused: &BTreeSet<(TableId, NodeId)>) {
        for seat in &mut self.seats {
            if seat.is_away() {
                continue;
            }
            let held = self.hub.held(seat.node).filter(|key| !paused.contains(&(key.table(), seat.node)));
            let held: Vec<Key> = held.cloned().collect();
            // A wider column may have been what they needed.
            seat.reload_tables |= !held.is_empty();
            held.iter().for_each(|key| self.hub.retry_held(seat.node, key));
        }
    }

    /// Whether a delivery met a table that is not what it was taken for, since this was last asked.
    pub fn take_shape_doubts(&mut self) -> bool {
        self.seats.iter_mut().fold(false, |any, seat| std::mem::take(&mut seat.shape_doubted) | any)
    }

    /// The target reads its tables again before the next delivery.
    pub fn reload_tables(&mut self, node: NodeId) {
        self.seats[usize::from(node.0)].reload_tables = true;
    }

    /// Lets deliveries in flight end, so that a hub that ends in good order leaves no doubt behind.
    pub async fn settle(&mut self) {
        let deadline = Instant::now() + SETTLE;
        while self.seats.iter().any(|seat| matches!(seat.delivering, Delivering::Flying(_))) {
            let report = tokio::time::timeout_at(deadline.into(), self.reports.recv()).await;
            let Ok(Some(report)) = report else { return };
            if let Report::Delivered { node, id, target, delivery, result } = report {
                // Whatever it was, the next hub finds out from the landing.
                drop(self.delivered(node, id, target, &delivery, result));
            }
        }
        self.acknowledge();
        for seat in &mut self.seats {
            if let Some(Feedback::Slot(feedback)) = &seat.feedback {
                feedback.flush_now();
            }
        }
    }
}

/// What was in the file is still with its node.
fn spill_unreadable(error: &std::io::Error) -> Ended {
    Ended::Recover(format!("a spill file cannot be read: {error}"))
}

async fn deliver(
    target: &mut Target,
    context: &NodeContext,
    reload: bool,
    id: LandingId,
    delivery: &Delivery<Image>,
) -> Result<Landing, DeliverError> {
    if reload || target.is_stale() {
        let tables = read_target_tables(&target.client, &context.linked, target.is_replica).await?;
        target.replace_tables(tables);
    }
    target.deliver(id, delivery).await
}

fn landed(landing: Landing) -> Landed {
    let held = landing.held.into_iter().map(|held| held.key).collect();
    Landed {
        position: landing.position,
        durable: landing.durable,
        held,
        missed: landing.missed,
        before: landing.before,
    }
}
