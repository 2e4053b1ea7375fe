//! One of three nodes or more is away for long: the others go on among themselves.
//!
//! To the hub it is a node like any other that has nothing to say. What it would be delivered is noted instead: which
//! keys, and by whom they were changed. A note is on disk before the hub is told that the delivery has landed, and only
//! then are changes acknowledged; so whatever the others let go of is either on that node or noted. Where it would
//! stand if it had got all that is noted (its cover) is kept with the keys, and becomes a landing once it is back.
//!
//! Only one node can be left out at a time: two hubs that each leave out one would share a node, and its lock keeps them
//! apart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hub::{Cover, Delivery, Landing, NodeId, Position, Wrote};
use tokio::sync::mpsc;
use tokio_postgres::types::PgLsn;
use uuid::Uuid;

use super::alone::kept;
use super::backlog::{Backlog, dirty_key, dirty_table};
use super::conductor::Report;
use super::control::Control;
use super::error::{ReachError, RunError};
use super::probe::answer_of;
use super::reach::{NodeContext, open_session, open_target};
use super::records::cover_of;
use super::start::{context_without_hub, node_id, read_landings};
use crate::capture::Image;
use crate::config::{Config, Node};
use crate::connect::Retry;
use crate::deliver::LandingId;
use crate::link::{self, DirtyKey, Noted};

/// What is noted is on disk this often, or sooner if it is much.
const ROUND: Duration = Duration::from_millis(250);
const MANY: usize = 8_192;
/// After so many more keys it is looked whether a table has too many.
const KEYS_BETWEEN_COUNTS: usize = 50_000;
/// A note may take so many times as long as a node may be silent: it may have to wait for the disk.
const PATIENCE: u32 = 8;
const PAUSE: Duration = Duration::from_secs(1);

/// The node that is away.
#[derive(Debug, Clone)]
pub(super) struct LeftOut {
    pub id: NodeId,
    pub node: Node,
    pub incarnation: Uuid,
}

impl LeftOut {
    /// If the nodes that are here are all but one of three or more, and keep more for it than they should, or have let go
    /// of it before.
    pub async fn of(config: &Config, away: &str, here: &[Control]) -> Result<Option<Self>, ReachError> {
        let Some(node) = config.node(away).filter(|_| here.len() >= 2) else { return Ok(None) };
        let peers = link::read_peers(&here[0].client).await?;
        let Some(peer) = peers.into_iter().find(|peer| peer.name == away) else { return Ok(None) };
        let left_out = Self { id: node_id(peer.number), node: node.clone(), incarnation: peer.incarnation };
        let marks = marks(here).await?;
        if !marks.is_empty() {
            return Ok(marks.contains(&left_out.id).then_some(left_out));
        }
        for control in here {
            if kept(control, config.keep_wal()).await?.is_too_much() {
                return Ok(Some(left_out));
            }
        }
        Ok(None)
    }

    /// Another one may have been left behind while the locks were waited for.
    pub async fn require_alone(&self, here: &[Control]) -> Result<(), RunError> {
        if marks(here).await?.iter().all(|of| *of == self.id) {
            return Ok(());
        }
        let why = format!("{} is needed to settle what another node has missed", self.node.name);
        Err(RunError::NotAllHere(vec![(self.node.name.clone(), why)]))
    }

    fn number(&self) -> i16 {
        i16::from(self.id.0)
    }

    /// Where it stands in lists of all nodes.
    pub fn place(&self) -> usize {
        usize::from(self.id.0)
    }

    /// What the hub is to know of it, beside its connections: nothing but whose number it is.
    pub fn context(&self, of_another: &NodeContext, beat: i64) -> NodeContext {
        NodeContext {
            id: self.id,
            name: self.node.name.clone(),
            endpoint: self.node.endpoint.clone(),
            incarnation: self.incarnation,
            system_identifier: String::new(),
            capture: crate::config::Capture::Wal,
            slot: String::new(),
            secret: Uuid::nil(),
            epoch: of_another.epoch,
            captured: Arc::default(),
            linked: Arc::clone(&of_another.linked),
            shapes: of_another.shapes.clone(),
            experience: Arc::default(),
            known: std::sync::atomic::AtomicU64::new(0),
            beat: std::sync::atomic::AtomicI64::new(beat),
            in_one_go: false,
            peer: std::sync::OnceLock::new(),
            status_interval: of_another.status_interval,
            silence_timeout: of_another.silence_timeout,
        }
    }

    /// Takes its place among starts and landings, where nothing of it is yet.
    ///
    /// The first time it counts as having all that any landing covers: the keys of what is not acknowledged of that are
    /// noted before the hub works ([`Self::begin`]).
    pub async fn stand_for(
        &self,
        keeper: &Control,
        starts: &mut Vec<Position>,
        landings: &mut Vec<Vec<Landing>>,
    ) -> Result<Standing, ReachError> {
        let place = self.place();
        let landed = landings.iter().map(|of| of.iter().map(|l| l.cover.of(self.id)).max().unwrap_or_default());
        let landed_everywhere = landed.min().unwrap_or_default();
        starts.insert(place, Position(0));
        landings.insert(place, Vec::new());
        let reach = hub::reach(starts, landings);
        let stored = link::read_left_behind(&keeper.client).await?.and_then(|left| left.cover);
        let is_new = stored.is_none();
        let mut cover = match stored {
            Some(stored) => cover_of(stored, starts.len()),
            None => Cover(reach.iter().copied().collect()),
        };
        let own = if is_new { landed_everywhere } else { cover.of(self.id) };
        // Nothing of it is read, so that nothing of it can be new.
        starts[place] = reach[place];
        cover.0[place] = reach[place];
        let position = Position(reach[place].0.saturating_add(1));
        let standing = Standing { is_new, own, cover: cover.clone() };
        landings[place] = vec![Landing { position, cover, wrote: Wrote::unknown() }];
        Ok(standing)
    }

    /// Notes on all nodes that are here that it is left behind. `backlogs`: what each has not acknowledged, if it is new.
    ///
    /// Last on the one that keeps the keys: as long as that one has no mark, nothing was let go of.
    pub async fn begin(
        &self,
        here: &[Control],
        epoch: i64,
        standing: &Standing,
        backlogs: Vec<Backlog>,
    ) -> Result<(), RunError> {
        let number = self.number();
        for control in here.iter().skip(1) {
            link::leave_behind(&control.client, number).await.map_err(ReachError::from)?;
        }
        let keeper = &here[0];
        if !standing.is_new {
            return Ok(());
        }
        let keys: Vec<(i16, Vec<DirtyKey>)> =
            here.iter().zip(backlogs).map(|(control, backlog)| (control.row.number, backlog.dirty_keys())).collect();
        let cover = standing.stored(self.id, &standing.cover);
        let noted = Noted { peer: number, keys: &keys, cover: &cover, count: true };
        let done = link::note_delivery(&keeper.client, epoch, &noted).await.map_err(ReachError::from)?;
        if !done {
            return Err(deposed().into());
        }
        tracing::warn!(
            node = %self.node.name,
            "is away, and too much would have to be kept for it: the others go on without it, and only the keys that \
             change are kept"
        );
        Ok(())
    }

    /// Whether it is back, or is not what it was, which a hub that begins will say.
    pub async fn is_back(&self, limit: Duration) -> bool {
        let answer = answer_of(&self.node.name, limit, async { Control::open(&self.node).await.map(drop) }).await;
        answer.map_or_else(|error| error.retry() == Retry::Never, |()| true)
    }
}

/// Of which nodes these say that they are left behind.
async fn marks(here: &[Control]) -> Result<Vec<NodeId>, ReachError> {
    let mut marks = Vec::new();
    for control in here {
        marks.extend(link::read_left_behind(&control.client).await?.map(|left| node_id(left.node)));
    }
    Ok(marks)
}

fn deposed() -> ReachError {
    ReachError::Deposed { holder: "see pgtandem.epoch".to_owned() }
}

/// What it has, or would have if it had got what is noted.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub is_new: bool,
    /// Up to where all others have what it wrote.
    own: Position,
    cover: Cover,
}

impl Standing {
    fn stored(&self, node: NodeId, cover: &Cover) -> Vec<PgLsn> {
        let of = |(at, position): (usize, &Position)| {
            PgLsn::from(if at == usize::from(node.0) { self.own.0 } else { position.0 })
        };
        cover.0.iter().enumerate().map(of).collect()
    }
}

struct Page {
    keys: Vec<(i16, Vec<DirtyKey>)>,
    cover: Vec<PgLsn>,
}

/// Takes the deliveries to a node that is left out.
pub(super) struct Notebook {
    node: NodeId,
    standing: Standing,
    pages: mpsc::UnboundedSender<Page>,
    written: Instant,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Notebook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Notebook {
    pub fn new(
        left_out: &LeftOut,
        standing: Standing,
        keeper: Arc<NodeContext>,
        report: mpsc::UnboundedSender<Report>,
    ) -> Self {
        let (pages, waiting) = mpsc::unbounded_channel();
        let (node, peer) = (left_out.id, left_out.number());
        let task = tokio::spawn(async move {
            if let Err(error) = keep(&keeper, node, peer, waiting, &report).await {
                // Nobody listens only when the run is over.
                drop(report.send(Report::Unreachable { error }));
            }
        });
        Self { node, standing, pages, written: Instant::now(), task }
    }

    /// Whether it is time for the next note.
    pub fn is_ready(&self, owed: usize, now: Instant) -> bool {
        owed >= MANY || now.duration_since(self.written) >= ROUND
    }

    /// One delivery is under way at a time, as everywhere; [`Report::Noted`] ends it.
    pub fn note(&mut self, delivery: &Delivery<Image>, now: Instant) {
        self.written = now;
        let mut by_node: Vec<(i16, Vec<DirtyKey>)> = Vec::new();
        let rows = delivery.rows.iter().map(|row| (row.dot.node, dirty_key(&row.key)));
        let truncates = delivery.truncates.iter().map(|truncate| (truncate.dot.node, dirty_table(truncate.table)));
        for (node, key) in rows.chain(truncates) {
            let by = i16::from(node.0);
            match by_node.iter_mut().find(|(of, _)| *of == by) {
                Some((_, keys)) => keys.push(key),
                None => by_node.push((by, vec![key])),
            }
        }
        let page = Page { keys: by_node, cover: self.standing.stored(self.node, &delivery.cover) };
        // A task that has ended has said why.
        drop(self.pages.send(page));
    }
}

/// Writes page after page on the node that keeps the keys. One that is away is waited for.
async fn keep(
    keeper: &NodeContext,
    node: NodeId,
    peer: i16,
    mut pages: mpsc::UnboundedReceiver<Page>,
    report: &mpsc::UnboundedSender<Report>,
) -> Result<(), ReachError> {
    let mut session = None;
    let mut uncounted = 0;
    while let Some(page) = pages.recv().await {
        uncounted += page.keys.iter().map(|(_, keys)| keys.len()).sum::<usize>();
        let count = uncounted >= KEYS_BETWEEN_COUNTS;
        let noted = Noted { peer, keys: &page.keys, cover: &page.cover, count };
        loop {
            let written = async {
                let open = match session.take() {
                    Some(open) => open,
                    // Whoever takes over ends sessions of this name.
                    None => open_session(keeper, "deliver").await?,
                };
                let written = link::note_delivery(&open.client, keeper.epoch, &noted).await?;
                session = Some(open);
                Ok(written)
            };
            match answer_of(&keeper.name, keeper.silence_timeout * PATIENCE, written).await {
                Ok(true) => break,
                Ok(false) => return Err(deposed()),
                Err(error) if error.retry() == Retry::Never => return Err(error),
                Err(error) => {
                    tracing::debug!(node = %keeper.name, "which keys have changed could not be noted: {error}; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        if count {
            uncounted = 0;
        }
        drop(report.send(Report::Noted { node }));
    }
    Ok(())
}

/// Brings a node that was left out to where it would stand if it had got all that was noted for it: what of that it lacks
/// is settled, as changes that come after.
///
/// Without it, a change that the others have not acknowledged yet, and that a later one has replaced that they have, would
/// be owed again to all, as if it were the last.
///
/// What is noted runs ahead of what the others have got from each other. Of such a change this node knows nothing: it is
/// on its way to it as to the others, and what the node writes meanwhile is in conflict with it. Nothing that had seen
/// it can be acknowledged, since that takes a landing of it on all others.
///
/// # Errors
/// When the node cannot be reached.
pub async fn stand_where_it_would(config: &Config, node: &Node, cover: Vec<PgLsn>) -> Result<(), RunError> {
    const FLUSH: &str = "UPDATE pgtandem.epoch SET holder = holder";
    let control = Control::open(node).await?;
    let client = &control.client;
    let context = context_without_hub(config, &control).await?;
    let session = open_session(&context, "deliver").await?;
    const LAST: &str = "SELECT coalesce(pg_catalog.max(id), 0) FROM pgtandem.landing";
    let last: i64 = client.query_one(LAST, &[]).await.map_err(ReachError::from)?.get(0);
    let mut target = open_target(&context, session.client).await?;
    let (acknowledged, _) = read_landings(&control, &context, config.nodes.len()).await?;
    let mut cover = cover_of(cover, config.nodes.len());
    let settled = landed_on_all(config, node).await?;
    for (noted, settled) in cover.0.iter_mut().zip(settled.0) {
        *noted = (*noted).min(settled);
    }
    // Of its own changes it is known already what it has.
    if let Some(own) = cover.0.get_mut(usize::from(control.id.0)) {
        *own = Position(0);
    }
    let delivery = Delivery {
        node: control.id,
        truncates: Vec::new(),
        rows: Vec::new(),
        cover,
        // A crash may set its slot back to before what is settled.
        acknowledged,
        fold_below: None,
        decisions: Vec::new(),
        released: Vec::new(),
    };
    target.deliver(LandingId(last + 1), &delivery).await.map_err(ReachError::from)?;
    // Deliveries need not be on disk when they commit. This one must: the keys are forgotten next.
    client.execute(FLUSH, &[]).await.map_err(ReachError::from)?;
    Ok(())
}

/// By node: up to where all others but `except` have its changes, or have no need of them any more.
async fn landed_on_all(config: &Config, except: &Node) -> Result<Cover, RunError> {
    let nodes = config.nodes.len();
    let mut others = Vec::new();
    for node in config.nodes.iter().filter(|node| node.name != except.name) {
        let control = Control::open(node).await?;
        let context = context_without_hub(config, &control).await?;
        let (acknowledged, landings) = read_landings(&control, &context, nodes).await?;
        others.push((control.id, acknowledged, landings));
    }
    let mut cover = Cover::nothing(nodes);
    for (number, position) in (0..).zip(&mut cover.0) {
        let of = node_id(number);
        let landed = |landings: &[Landing]| landings.iter().map(|l| l.cover.of(of)).max().unwrap_or_default();
        let on_all = others.iter().filter(|(id, ..)| *id != of).map(|(_, _, landings)| landed(landings)).min();
        let acknowledged = others.iter().find(|(id, ..)| *id == of).map(|(_, acknowledged, _)| *acknowledged);
        *position = on_all.unwrap_or_default().max(acknowledged.unwrap_or_default());
    }
    Ok(cover)
}
