//! What a working hub does besides conducting: listens to commands, looks at drift, tries held keys again,
//! writes its state down. Each errand is a task with one answer; the conductor never waits for one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hub::{NodeId, TableId};
use serde_json::Value as Json;
use tokio::sync::mpsc;
use tokio_postgres::Notification;

use super::conductor::{Conductor, Ended};
use super::control::Control;
use super::drift::{Side, misfit};
use super::error::ReachError;
use super::tables::table_id;
use crate::catalog::{self, TableShape};
use crate::link::{self, LinkedTable, PausedBy};

const SECOND: Duration = Duration::from_secs(1);
/// Held keys are tried again, and paused tables looked at, this often.
const PATIENCE: Duration = Duration::from_secs(3);

/// What an errand found.
enum Found {
    Tables(Looked),
    Done,
    Failed { node: String, error: String },
}

/// What a look at the catalogs of all nodes brought.
struct Looked {
    verdicts: Vec<TableVerdict>,
    /// The columns of each table that fits.
    known: HashMap<(TableId, NodeId), BTreeSet<String>>,
}

/// Whether a table may be written on a node.
#[derive(Debug, Clone)]
struct TableVerdict {
    table: TableId,
    name: String,
    target: NodeId,
    /// Why not.
    pause: Option<String>,
}

pub struct Errands {
    controls: Arc<Vec<Control>>,
    /// What the nodes' sessions hear, with the nodes' names.
    notifications: Vec<(String, mpsc::UnboundedReceiver<Notification>)>,
    linked: Vec<LinkedTable>,
    epoch: i64,
    holder: String,
    found: mpsc::UnboundedReceiver<Found>,
    find: mpsc::UnboundedSender<Found>,
    /// One errand of a kind runs at a time.
    looking: bool,
    writing: bool,
    look_at: Instant,
    write_at: Instant,
    retry_at: Instant,
    paused: BTreeSet<(TableId, NodeId)>,
    /// Columns that were found to fit when the catalogs were looked at last.
    known: HashMap<(TableId, NodeId), BTreeSet<String>>,
    last_state: Json,
    written_at: Instant,
}

impl Errands {
    #[must_use]
    pub fn new(mut controls: Vec<Control>, linked: Vec<LinkedTable>, epoch: i64, holder: String) -> Self {
        let (find, found) = mpsc::unbounded_channel();
        let now = Instant::now();
        let notifications = controls.iter_mut().map(|c| (c.name.clone(), c.take_notifications())).collect();
        let everywhere = |table: &LinkedTable| controls.iter().map(|c| (table_id(table.id), c.id)).collect::<Vec<_>>();
        let paused = linked.iter().filter(|table| table.paused_by.is_some()).flat_map(everywhere).collect();
        Self {
            controls: Arc::new(controls),
            notifications,
            linked,
            epoch,
            holder,
            found,
            find,
            looking: false,
            writing: false,
            look_at: now,
            write_at: now,
            retry_at: now + PATIENCE,
            paused,
            known: HashMap::new(),
            last_state: Json::Null,
            written_at: now,
        }
    }

    /// Looks at the tables before anything is judged, so that the first shapes read off the streams are known.
    ///
    /// # Errors
    /// When a node is lost.
    pub async fn look_first(&mut self, conductor: &mut Conductor) -> Result<(), ReachError> {
        let looked = compare_tables(&self.controls, &self.linked).await.map_err(|(_, error)| error)?;
        self.take(Found::Tables(looked), conductor);
        Ok(())
    }

    /// Starts the errands that are due and takes in what earlier ones found.
    pub fn run(&mut self, conductor: &mut Conductor) -> Option<Ended> {
        let now = Instant::now();
        if let Some(ended) = self.listen(now) {
            return Some(ended);
        }
        self.pause_at_new_shapes(conductor, now);
        while let Ok(found) = self.found.try_recv() {
            self.take(found, conductor);
        }
        if !self.looking && now >= self.look_at {
            self.looking = true;
            self.look_at = now + if self.paused.is_empty() { PATIENCE * 10 } else { SECOND };
            self.spawn(look_at_tables(Arc::clone(&self.controls), self.linked.clone()));
        }
        if now >= self.retry_at {
            self.retry_at = now + PATIENCE;
            conductor.retry_held();
        }
        if !self.writing && now >= self.write_at {
            self.write_at = now + SECOND;
            self.write_down(conductor, now);
        }
        None
    }

    fn spawn(&self, errand: impl Future<Output = Found> + Send + 'static) {
        let find = self.find.clone();
        tokio::spawn(async move { drop(find.send(errand.await)) });
    }

    fn listen(&mut self, now: Instant) -> Option<Ended> {
        for (name, notifications) in &mut self.notifications {
            loop {
                match notifications.try_recv() {
                    Ok(notification) if notification.payload() == link::YIELD => return Some(Ended::Yield),
                    Ok(_) => {
                        self.look_at = now;
                        self.retry_at = now;
                    }
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => {
                        // With the session the node's lock is gone: somebody else may be at work there by now.
                        return Some(Ended::Recover(format!("lost the session that holds the lock on {name}")));
                    }
                }
            }
        }
        None
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
            Found::Done => self.writing = false,
            Found::Tables(looked) => {
                self.looking = false;
                self.known = looked.known;
                looked.verdicts.into_iter().for_each(|verdict| self.obey(verdict, conductor));
            }
            Found::Failed { node, error } => {
                (self.looking, self.writing) = (false, false);
                tracing::debug!(%node, "an errand failed: {error}");
            }
        }
    }

    fn obey(&mut self, verdict: TableVerdict, conductor: &mut Conductor) {
        let place = (verdict.table, verdict.target);
        let node = conductor.node_name(verdict.target);
        match verdict.pause {
            Some(why) => {
                if self.paused.insert(place) {
                    tracing::warn!(table = %verdict.name, %node, "paused: {why}");
                }
                conductor.hub.pause(verdict.table, verdict.target);
            }
            None => {
                if self.paused.remove(&place) {
                    tracing::info!(table = %verdict.name, %node, "goes on");
                    conductor.reload_tables(verdict.target);
                    conductor.hub.resume(verdict.table, verdict.target);
                }
            }
        }
    }

    /// Writes the hub's state down where somebody may look for it.
    fn write_down(&mut self, conductor: &mut Conductor, now: Instant) {
        let state = conductor.state();
        // An idle hub says once in a while that it is alive, and leaves the disks alone otherwise.
        if state == self.last_state && now.duration_since(self.written_at) < SECOND * 10 {
            return;
        }
        self.last_state = state.clone();
        self.written_at = now;
        self.writing = true;
        self.spawn(write_down(Arc::clone(&self.controls), self.epoch, self.holder.clone(), state));
    }

    /// The last words of a hub that ends in good order: `status` then knows that it is not running.
    pub async fn say_goodbye(&mut self) {
        for control in self.controls.iter() {
            const GOODBYE: &str = "UPDATE pgtandem.hub_status SET seen_at = NULL WHERE epoch = $1";
            let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&self.epoch];
            let done = control.client.execute(GOODBYE, &parameters);
            // The node may be away; then its status says when the hub was last seen.
            drop(tokio::time::timeout(SECOND, done).await);
        }
    }
}

async fn write_down(controls: Arc<Vec<Control>>, epoch: i64, holder: String, state: Json) -> Found {
    const STATE: &str = "INSERT INTO pgtandem.hub_status AS s (epoch, holder, started_at, seen_at, state) \
        VALUES ($1, $2, clock_timestamp(), clock_timestamp(), $3) \
        ON CONFLICT (only_row) DO UPDATE SET started_at = CASE WHEN s.epoch = excluded.epoch THEN s.started_at \
            ELSE excluded.started_at END, epoch = excluded.epoch, holder = excluded.holder, \
            seen_at = excluded.seen_at, state = excluded.state WHERE s.epoch IS NULL OR s.epoch <= excluded.epoch";
    for control in controls.iter() {
        if let Err(error) = control.client.execute(STATE, &[&epoch, &holder, &state]).await {
            return Found::Failed { node: control.name.clone(), error: error.to_string() };
        }
    }
    Found::Done
}

/// Compares the linked tables of all nodes and says which may be written where.
async fn look_at_tables(controls: Arc<Vec<Control>>, linked: Vec<LinkedTable>) -> Found {
    match compare_tables(&controls, &linked).await {
        Ok(looked) => Found::Tables(looked),
        Err((node, error)) => Found::Failed { node, error: error.to_string() },
    }
}

/// A node's linked tables: as they are, as they were, and who paused them.
struct View {
    shapes: Vec<TableShape>,
    own: Vec<LinkedTable>,
}

async fn compare_tables(controls: &[Control], linked: &[LinkedTable]) -> Result<Looked, (String, ReachError)> {
    let mut views = Vec::new();
    for control in controls {
        views.push(view(control).await.map_err(|error| (control.name.clone(), error))?);
    }
    let mut verdicts = Vec::new();
    for table in linked {
        for (control, at) in controls.iter().zip(0..) {
            let pause = why_paused(table, controls, &views, at);
            verdicts.push(TableVerdict {
                table: table_id(table.id),
                name: table.name.plain(),
                target: control.id,
                pause,
            });
        }
        remember(table, controls, &views, &verdicts).await;
    }
    let known = fitting_columns(controls, &views, &verdicts);
    Ok(Looked { verdicts, known })
}

fn fitting_columns(
    controls: &[Control],
    views: &[View],
    verdicts: &[TableVerdict],
) -> HashMap<(TableId, NodeId), BTreeSet<String>> {
    let mut known = HashMap::new();
    for (control, view) in controls.iter().zip(views) {
        for own in &view.own {
            let table = table_id(own.id);
            let fits = verdicts.iter().all(|verdict| verdict.table != table || verdict.pause.is_none());
            if let (true, Some(shape)) = (fits, view.shapes.iter().find(|shape| shape.relid == own.relid)) {
                let columns = shape.written_columns().map(|column| column.name.as_str().to_owned());
                known.insert((table, control.id), columns.collect());
            }
        }
    }
    known
}

async fn view(control: &Control) -> Result<View, ReachError> {
    let own = link::read_linked_tables(&control.client).await?;
    let names: Vec<_> = own.iter().map(|table| table.name.clone()).collect();
    let shapes = catalog::read_tables(&control.client, &names).await?;
    Ok(View { shapes, own })
}

fn why_paused(table: &LinkedTable, controls: &[Control], views: &[View], at: usize) -> Option<String> {
    let by_user =
        views.iter().flat_map(|view| &view.own).any(|own| own.id == table.id && own.paused_by == Some(PausedBy::User));
    if by_user {
        return Some("by `pgtandem pause`".to_owned());
    }
    let side = |at: usize| -> Result<(&TableShape, BTreeSet<String>), String> {
        let own = views[at].own.iter().find(|own| own.id == table.id);
        let own = own.ok_or_else(|| format!("it is not linked on {}", controls[at].name))?;
        let shape = views[at].shapes.iter().find(|shape| shape.relid == own.relid);
        let gone = || {
            format!(
                "{} is not there on {} any more (renamed or dropped); give it its name back",
                own.name.plain(),
                controls[at].name
            )
        };
        Ok((shape.ok_or_else(gone)?, own.columns.iter().cloned().collect()))
    };
    let (target, target_columns) = match side(at) {
        Ok(side) => side,
        Err(why) => return Some(why),
    };
    let target = Side { node: &controls[at].name, shape: target, linked_columns: &target_columns };
    (0..controls.len()).filter(|source| *source != at).find_map(|source| match side(source) {
        Ok((shape, columns)) => {
            misfit(&Side { node: &controls[source].name, shape, linked_columns: &columns }, &target)
        }
        Err(why) => Some(why),
    })
}

/// Writes on every node whether the table is paused by drift; where all fits, also its columns of now.
async fn remember(table: &LinkedTable, controls: &[Control], views: &[View], verdicts: &[TableVerdict]) {
    let of_table = verdicts.iter().filter(|verdict| verdict.table == table_id(table.id));
    let why = of_table.filter_map(|verdict| verdict.pause.clone()).next();
    for (control, view) in controls.iter().zip(views) {
        let Some(own) = view.own.iter().find(|own| own.id == table.id) else { continue };
        if own.paused_by == Some(PausedBy::User) {
            continue;
        }
        let by = why.as_ref().map(|_| PausedBy::Drift);
        if own.paused_by != by || own.pause_reason != why {
            // What is not written now is written at the next look.
            let pause = why.as_deref().map(|why| (PausedBy::Drift, why));
            drop(link::set_paused(&control.client, own.id, pause).await);
        }
        let shape = view.shapes.iter().find(|shape| shape.relid == own.relid);
        if let (None, Some(shape)) = (&why, shape) {
            let now: Vec<String> = shape.written_columns().map(|column| column.name.as_str().to_owned()).collect();
            if now.iter().collect::<BTreeSet<_>>() != own.columns.iter().collect() {
                drop(link::set_columns(&control.client, own.id, &now).await);
            }
        }
    }
}
