//! What a working hub does besides conducting: listens to commands, looks at drift, tries held keys again,
//! writes its state down. Each errand is a task with one answer; the conductor never waits for one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hub::{NodeId, TableId};
use serde_json::Value as Json;
use tokio::sync::mpsc;
use tokio_postgres::Notification;
use tokio_postgres::types::PgLsn;

use super::alone::{Kept, kept};
use super::conductor::{Conductor, Ended};
use super::control::Control;
use super::direct;
use super::error::ReachError;
use super::left_out::LeftOut;
use super::look::{Looked, TableVerdict, compare_tables};
use super::probe::answer_of;
use super::tables::table_id;
use super::verify::Verifying;
use crate::config::{Config, Node};
use crate::direct::Settled;
use crate::link::{self, LinkedTable};

const SECOND: Duration = Duration::from_secs(1);
/// Held keys are tried again, and paused tables looked at, this often.
const PATIENCE: Duration = Duration::from_secs(3);
/// Old decisions are dropped this often.
const PRUNE: Duration = Duration::from_secs(3600);

/// What an errand found.
enum Found {
    Tables(Looked),
    /// The hub's state was written down on a node, or not.
    Written(usize, Result<i64, ReachError>),
    /// A node that was away has a session for errands again.
    Reopened(usize, Box<Control>),
    /// Old decisions were dropped on a node.
    Pruned {
        node: String,
        count: u64,
    },
    /// What direct deliveries had left was looked through, or could not be.
    Settled(Result<Settled, ReachError>),
    /// A node keeps so much for one that is away.
    Kept {
        node: String,
        kept: Kept,
    },
    /// Whether the node that is left out is back.
    Returned(bool),
    Failed {
        node: String,
        error: ReachError,
    },
}

pub struct Errands {
    /// By node number; `None` while a node is away.
    controls: Vec<Option<Arc<Control>>>,
    nodes: Vec<Node>,
    notifications: Vec<mpsc::UnboundedReceiver<Notification>>,
    linked: Vec<LinkedTable>,
    epoch: i64,
    holder: String,
    /// No answer of a node is waited for any longer.
    silence_timeout: Duration,
    found: mpsc::UnboundedReceiver<Found>,
    find: mpsc::UnboundedSender<Found>,
    /// One errand of a kind runs at a time.
    looking: bool,
    reopening: bool,
    /// By node number: one that does not answer must not keep the others from knowing how the hub is.
    words: Vec<Word>,
    look_at: Instant,
    write_at: Instant,
    retry_at: Instant,
    reopen_at: Instant,
    prune_at: Instant,
    weigh_at: Instant,
    /// More than this no node keeps for one that is away.
    keep_wal: u64,
    /// Another node is away than this hub has begun without, or that one is back.
    start_over: Option<String>,
    left_out: Option<LeftOut>,
    awaiting: bool,
    await_at: Instant,
    keep: Keep,
    pub verifying: Verifying,
    /// By node: what was acknowledged when decisions were dropped last. That is settled for good by now.
    settled: Vec<PgLsn>,
    paused: BTreeSet<(TableId, NodeId)>,
    /// Why, as it was logged.
    said: HashMap<(TableId, NodeId), String>,
    /// Columns that were found to fit when the catalogs were looked at last.
    known: HashMap<(TableId, NodeId), BTreeSet<String>>,
    /// The nodes deliver directly what they can.
    is_direct: bool,
    settling: bool,
    settle_at: Instant,
}

/// What a node was told of the hub last.
#[derive(Clone)]
struct Word {
    writing: bool,
    state: Json,
    at: Instant,
}

/// How long decisions are kept.
#[derive(Clone, Copy)]
struct Keep {
    days: u32,
    mib: u32,
    /// A merge that is older can no longer be undone, and what that would need goes.
    confirm_after_days: u32,
}

impl Errands {
    #[must_use]
    pub fn new(
        config: &Config,
        controls: Vec<Control>,
        left_out: Option<LeftOut>,
        linked: Vec<LinkedTable>,
        epoch: i64,
        holder: String,
    ) -> Self {
        let (find, found) = mpsc::unbounded_channel();
        let now = Instant::now();
        let everywhere = |table: &LinkedTable| controls.iter().map(|c| (table_id(table.id), c.id)).collect::<Vec<_>>();
        let paused = linked.iter().filter(|table| table.paused_by.is_some()).flat_map(everywhere).collect();
        let names = linked.iter().map(|table| table.name.clone()).collect();
        let verifying = Verifying::start(config, names);
        let mut nodes: Vec<Node> = controls.iter().filter_map(|c| config.node(&c.name).cloned()).collect();
        let mut controls: Vec<Option<Control>> = controls.into_iter().map(Some).collect();
        if let Some(left_out) = &left_out {
            controls.insert(left_out.place(), None);
            nodes.insert(left_out.place(), left_out.node.clone());
        }
        let hears = |control: &mut Option<Control>| {
            control.as_mut().map_or_else(|| mpsc::unbounded_channel().1, Control::take_notifications)
        };
        let notifications = controls.iter_mut().map(hears).collect();
        let words = vec![Word { writing: false, state: Json::Null, at: now }; controls.len()];
        Self {
            words,
            controls: controls.into_iter().map(|control| control.map(Arc::new)).collect(),
            notifications,
            nodes,
            linked,
            epoch,
            holder,
            silence_timeout: config.hub.silence_timeout,
            found,
            find,
            looking: false,
            reopening: false,
            reopen_at: now,
            look_at: now,
            write_at: now,
            retry_at: now + PATIENCE,
            prune_at: now,
            weigh_at: now + PATIENCE,
            keep_wal: config.keep_wal(),
            start_over: None,
            left_out,
            awaiting: false,
            await_at: now,
            keep: Keep {
                days: config.hub.keep_conflicts_days,
                mib: config.hub.keep_conflicts_mib,
                confirm_after_days: config.hub.confirm_after_days,
            },
            verifying,
            settled: Vec::new(),
            paused,
            said: HashMap::new(),
            known: HashMap::new(),
            is_direct: config.direct.is_some(),
            settling: false,
            settle_at: now,
        }
    }

    /// Looks at the tables before anything is judged, so that the first shapes read off the streams are known.
    ///
    /// # Errors
    /// When a node is lost.
    pub async fn look_first(&mut self, conductor: &mut Conductor) -> Result<(), ReachError> {
        let looked = compare_tables(&self.present(conductor), &self.linked, self.silence_timeout)
            .await
            .map_err(|(_, error)| error)?;
        self.take(Found::Tables(looked), conductor);
        Ok(())
    }

    /// Starts the errands that are due and takes in what earlier ones found.
    pub fn run(&mut self, conductor: &mut Conductor) -> Option<Ended> {
        let now = Instant::now();
        if let Some(ended) = self.listen(now) {
            return Some(ended);
        }
        self.reopen(conductor, now);
        self.pause_at_new_shapes(conductor, now);
        while let Ok(found) = self.found.try_recv() {
            self.take(found, conductor);
        }
        if conductor.take_shape_doubts() {
            self.look_at = now;
        }
        if !self.looking && now >= self.look_at {
            self.looking = true;
            self.look_at = now + if self.paused.is_empty() { PATIENCE * 10 } else { SECOND };
            self.spawn(look_at_tables(self.present(conductor), self.linked.clone(), self.silence_timeout));
        }
        if now >= self.retry_at {
            self.retry_at = now + PATIENCE;
            conductor.retry_held(&self.paused);
        }
        if self.is_direct && !self.settling && now >= self.settle_at {
            self.settling = true;
            let (nodes, limit) = (self.nodes.clone(), self.silence_timeout * 2);
            self.spawn(async move { Found::Settled(direct::settle(&nodes, limit).await) });
        }
        if now >= self.write_at {
            self.write_at = now + SECOND;
            self.write_down(conductor, now);
        }
        if now >= self.weigh_at {
            self.weigh_at = now + PATIENCE;
            self.weigh(conductor);
        }
        self.await_return(now);
        if let Some(why) = self.start_over.take() {
            return Some(Ended::Recover(why));
        }
        if now >= self.prune_at {
            // What was acknowledged before the first interval is known after it.
            self.prune_at = now + if self.settled.is_empty() { PRUNE / 6 } else { PRUNE };
            self.prune(conductor);
        }
        None
    }

    /// While one node is away, what the others keep for it must not fill their disks. If it is left out already, they keep
    /// nothing for it.
    fn weigh(&self, conductor: &Conductor) {
        let here = self.present(conductor);
        if self.left_out.is_some() || here.len() + 1 != self.controls.len() {
            return;
        }
        for control in here {
            let (limit, most) = (self.silence_timeout, self.keep_wal);
            self.spawn(async move {
                let node = control.name.clone();
                match answer_of(&node, limit, kept(&control, most)).await {
                    Ok(kept) => Found::Kept { node, kept },
                    Err(error) => Found::Failed { node, error },
                }
            });
        }
    }

    /// Whether the node that is left out is there again: what it has missed is settled before a hub works with it.
    fn await_return(&mut self, now: Instant) {
        let Some(left_out) = self.left_out.clone().filter(|_| !self.awaiting && now >= self.await_at) else { return };
        self.await_at = now + SECOND;
        self.awaiting = true;
        let limit = self.silence_timeout;
        self.spawn(async move { Found::Returned(left_out.is_back(limit).await) });
    }

    fn spawn(&self, errand: impl Future<Output = Found> + Send + 'static) {
        let find = self.find.clone();
        tokio::spawn(async move { drop(find.send(errand.await)) });
    }

    /// The nodes that can be asked something.
    fn present(&self, conductor: &Conductor) -> Vec<Arc<Control>> {
        let here = |(at, control): (usize, &Option<Arc<Control>>)| control.clone().filter(|_| conductor.is_here(at));
        self.controls.iter().enumerate().filter_map(here).collect()
    }

    fn listen(&mut self, now: Instant) -> Option<Ended> {
        for (at, notifications) in self.notifications.iter_mut().enumerate() {
            while self.controls[at].is_some() {
                match notifications.try_recv() {
                    Ok(notification) if notification.payload() == link::YIELD => return Some(Ended::Yield),
                    Ok(_) => {
                        self.look_at = now;
                        self.retry_at = now;
                    }
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => self.controls[at] = None,
                }
            }
        }
        None
    }

    /// Gives a node that came back a session for errands. Its lock went with the old one; it is taken again if it is
    /// free. If another hub waits with it, that one still waits for the other nodes' locks, and deliveries are fenced
    /// by the epoch anyway.
    fn reopen(&mut self, conductor: &Conductor, now: Instant) {
        if self.reopening || now < self.reopen_at {
            return;
        }
        self.reopen_at = now + SECOND;
        let Some(at) = (0..self.controls.len()).find(|at| self.controls[*at].is_none() && conductor.is_here(*at))
        else {
            return;
        };
        let node = self.nodes[at].clone();
        self.reopening = true;
        let limit = self.silence_timeout;
        self.spawn(async move {
            let reopened = async {
                let control = Control::open(&node).await?;
                link::try_lock(&control.client).await?;
                Ok::<_, ReachError>(control)
            };
            match answer_of(&node.name, limit, reopened).await {
                Ok(control) => Found::Reopened(at, Box::new(control)),
                Err(error) => Found::Failed { node: node.name.clone(), error },
            }
        });
    }

    /// A table whose shape changed on its source is paused at once, until a look at the catalogs says that it fits:
    /// no row may go out without a column that the target should have.
    fn pause_at_new_shapes(&mut self, conductor: &mut Conductor, now: Instant) {
        for (table, source, columns) in conductor.take_new_shapes() {
            let Some(linked) = self.linked.iter().find(|linked| table_id(linked.id) == table) else { continue };
            let known = self.known.get(&(table, source));
            let names: BTreeSet<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            if known.is_some_and(|known| known.iter().map(String::as_str).eq(names.iter().copied())) {
                continue;
            }
            tracing::info!(table = %linked.name.plain(), "its columns changed; looking whether they still fit");
            for seat in conductor.other_nodes(source) {
                conductor.hub.pause(table, seat);
                self.paused.insert((table, seat));
            }
            self.look_at = now;
        }
    }

    fn take(&mut self, found: Found, conductor: &mut Conductor) {
        match found {
            Found::Written(at, written) => {
                self.words[at].writing = false;
                match written {
                    Ok(beat) => conductor.note_beat(at, beat),
                    Err(error) => {
                        // It is to be told again.
                        self.words[at].state = Json::Null;
                        self.failed(&self.nodes[at].name.clone(), &error);
                    }
                }
            }
            Found::Tables(looked) => {
                self.looking = false;
                for verdict in looked.verdicts.iter().filter(|verdict| verdict.has_drifted()) {
                    self.known.retain(|(table, _), _| *table != verdict.table);
                }
                // What was known of a node that is away stays.
                self.known.extend(looked.known);
                looked.verdicts.into_iter().for_each(|verdict| self.obey(verdict, conductor));
            }
            Found::Reopened(at, mut control) => {
                self.reopening = false;
                self.notifications[at] = control.take_notifications();
                self.controls[at] = Some(Arc::from(control));
                self.look_at = Instant::now();
            }
            Found::Settled(settled) => {
                self.settling = false;
                self.settle_at = Instant::now() + direct::PAUSE;
                if let Err(error) = settled {
                    tracing::debug!("receipts of direct deliveries were not looked through: {error}");
                }
            }
            Found::Kept { node, kept } => {
                if kept.is_too_much() && self.present(conductor).len() < self.controls.len() {
                    let mib = kept.bytes >> 20;
                    let away = conductor.first_away().unwrap_or("one");
                    self.start_over = Some(format!("{node} keeps {mib} MiB for {away}, which is away"));
                }
            }
            Found::Returned(is_back) => {
                self.awaiting = false;
                if let Some(left_out) = self.left_out.as_ref().filter(|_| is_back) {
                    self.start_over = Some(format!("{} is back", left_out.node.name));
                }
            }
            Found::Pruned { count: 0, .. } => {}
            Found::Pruned { node, count } => tracing::info!(%node, "dropped {count} old decisions"),
            Found::Failed { node, error } => {
                (self.looking, self.reopening) = (false, false);
                self.failed(&node, &error);
            }
        }
    }

    fn failed(&mut self, node: &str, error: &ReachError) {
        tracing::debug!(node, "an errand failed: {error}");
        if matches!(error, ReachError::Silent { .. }) {
            let silent = |control: &&mut Option<Arc<Control>>| control.as_ref().is_some_and(|c| c.name == node);
            self.controls.iter_mut().filter(silent).for_each(|control| *control = None);
        }
    }

    fn obey(&mut self, verdict: TableVerdict, conductor: &mut Conductor) {
        let place = (verdict.table, verdict.target);
        let node = conductor.node_name(verdict.target);
        match verdict.pause {
            Some(why) => {
                if self.paused.insert(place) {
                    self.write_at = Instant::now();
                }
                if self.said.get(&place) != Some(&why) {
                    tracing::warn!(table = %verdict.name, %node, "paused: {why}");
                    self.said.insert(place, why);
                }
                conductor.hub.pause(verdict.table, verdict.target);
            }
            None => {
                self.said.remove(&place);
                if self.paused.remove(&place) {
                    self.write_at = Instant::now();
                    tracing::info!(table = %verdict.name, %node, "goes on");
                    conductor.reload_tables(verdict.target);
                    conductor.hub.resume(verdict.table, verdict.target);
                }
            }
        }
    }

    /// Drops old decisions, but none about what was acknowledged only lately: after a crash a slot may fall back.
    fn prune(&mut self, conductor: &Conductor) {
        let acknowledged = conductor.acknowledged_positions();
        let settled = std::mem::replace(&mut self.settled, acknowledged);
        if settled.is_empty() {
            return;
        }
        let (days, bytes) = (f64::from(self.keep.days), i64::from(self.keep.mib) << 20);
        let confirm_after = f64::from(self.keep.confirm_after_days);
        for control in self.present(conductor) {
            let (settled, limit) = (settled.clone(), PRUNE);
            self.spawn(async move {
                let pruned = async {
                    link::confirm_merges(&control.client, Some(confirm_after)).await?;
                    Ok(link::prune_decisions(&control.client, days, bytes, &settled).await?)
                };
                let node = control.name.clone();
                match answer_of(&node, limit, pruned).await {
                    Ok(count) => Found::Pruned { node, count },
                    Err(error) => Found::Failed { node, error },
                }
            });
        }
    }

    /// Tables that are not delivered to some node; whoever paused one waits for this.
    fn paused_tables(&self) -> Vec<String> {
        let paused = |table: &&LinkedTable| self.paused.iter().any(|(id, _)| *id == table_id(table.id));
        self.linked.iter().filter(paused).map(|table| table.name.plain()).collect()
    }

    /// Writes the hub's state down where somebody may look for it.
    fn write_down(&mut self, conductor: &mut Conductor, now: Instant) {
        let mut state = conductor.state();
        state["paused"] = self.paused_tables().into();
        state["verified"] = self.verifying.last();
        for at in 0..self.controls.len() {
            let Some(control) = self.controls[at].clone().filter(|_| conductor.is_here(at)) else { continue };
            let word = &mut self.words[at];
            // An idle hub says once in a while that it is alive, and leaves the disks alone otherwise.
            let known = word.state == state && now.duration_since(word.at) < SECOND * 10;
            if word.writing || known {
                continue;
            }
            *word = Word { writing: true, state: state.clone(), at: now };
            let mut beats = conductor.beats();
            beats[at] += 1;
            let status = HubStatus { epoch: self.epoch, holder: self.holder.clone(), state: state.clone(), at, beats };
            let limit = self.silence_timeout;
            self.spawn(async move { Found::Written(at, write_down(&control, &status, limit).await) });
        }
    }

    /// Whether no key waits any more because of what each node's snapshot sees; looked at after a pause.
    ///
    /// # Errors
    /// When a node is lost.
    pub async fn have_forgotten(&self, snapshots: &[&str], pause: Duration) -> Result<bool, ReachError> {
        const WAITS: &str = "SELECT EXISTS (SELECT FROM pgtandem.queued q \
            WHERE pg_catalog.pg_visible_in_snapshot(q.xid, $1::text::pg_snapshot))";
        if !self.is_direct {
            return Ok(true);
        }
        for (control, snapshot) in self.controls.iter().zip(snapshots) {
            let Some(control) = control else { return Ok(false) };
            if control.client.query_one(WAITS, &[snapshot]).await?.get(0) {
                tokio::time::sleep(pause).await;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The last words of a hub that ends in good order: `status` then knows that it is not running.
    pub async fn say_goodbye(&mut self) {
        for control in self.controls.iter().flatten() {
            const GOODBYE: &str = "UPDATE pgtandem.hub_status SET seen_at = NULL WHERE epoch = $1";
            let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&self.epoch];
            let done = control.client.execute(GOODBYE, &parameters);
            // The node may be away; then its status says when the hub was last seen.
            drop(tokio::time::timeout(SECOND * 3, done).await);
        }
    }
}

/// What a hub says of itself.
struct HubStatus {
    epoch: i64,
    holder: String,
    state: Json,
    /// The node that is told, and what it and its peers are to know of each other.
    at: usize,
    beats: Vec<i64>,
}

/// Answers with the node's beat, which its peers may be told from then on.
async fn write_down(control: &Control, words: &HubStatus, limit: Duration) -> Result<i64, ReachError> {
    const STATE: &str = "INSERT INTO pgtandem.hub_status AS s (epoch, holder, started_at, seen_at, state) \
        VALUES ($1, $2, clock_timestamp(), clock_timestamp(), $3) \
        ON CONFLICT (only_row) DO UPDATE SET started_at = CASE WHEN s.epoch = excluded.epoch THEN s.started_at \
            ELSE excluded.started_at END, epoch = excluded.epoch, holder = excluded.holder, \
            seen_at = excluded.seen_at, state = excluded.state WHERE s.epoch IS NULL OR s.epoch <= excluded.epoch";
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&words.epoch, &words.holder, &words.state];
    let numbers: Vec<i16> = (0..).take(words.beats.len()).collect();
    let written = async {
        control.client.execute(STATE, &parameters).await?;
        Ok(link::write_pulses(&control.client, &numbers, &words.beats).await?)
    };
    answer_of(&control.name, limit, written).await.map(|()| words.beats[words.at])
}

/// Compares the linked tables of all nodes and says which may be written where.
async fn look_at_tables(controls: Vec<Arc<Control>>, linked: Vec<LinkedTable>, limit: Duration) -> Found {
    match compare_tables(&controls, &linked, limit).await {
        Ok(looked) => Found::Tables(looked),
        Err((node, error)) => Found::Failed { node, error },
    }
}
