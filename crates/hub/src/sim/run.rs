//! One schedule: random writes, deliveries, crashes, outages, until all is at rest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::database::{Cell, Database, Image, Names, TABLES, Write, name};
use super::outbox::{Outbox, Piece};
use crate::hub::Broken;
use crate::{
    Change, Contender, Cover, Delivery, Dot, Hub, Kept, Key, Landing, Newest, NodeId, Policies, Position, Prefer,
    Recovery, TableId, Verdict,
};

/// What a schedule may contain.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub nodes: u8,
    pub keys: u8,
    pub steps: usize,
    pub crash: bool,
    pub jump_back: bool,
    pub truncates: bool,
    pub moves: bool,
    pub holds: bool,
    pub outages: bool,
    /// Which nodes have trigger capture, one bit each.
    pub triggers: u8,
    /// Two nodes with trigger capture write directly where they may.
    pub inline: bool,
    pub policy: Policy,
}

#[derive(Clone, Copy, Debug)]
pub enum Policy {
    Newest,
    Prefer,
    Coin,
}

struct Coin(SmallRng);

impl Policies for Coin {
    fn decide(&mut self, _: TableId, _: &Contender, _: &Contender) -> Verdict {
        Verdict { challenger_wins: self.0.random(), policy: "coin".into(), why: "thrown".into() }
    }
}

pub struct Simulation {
    pub rng: SmallRng,
    pub shape: Shape,
    pub broken: Option<Broken>,
    pub trace: bool,
    pub databases: Vec<Database>,
    pub hub: Hub<Image>,
    pub flying: Vec<Option<Delivery<Image>>>,
    /// Beside `flying`: which absent keys its TRUNCATEs sweep, and what is canonical there.
    swept: Vec<BTreeMap<Key, Option<Dot>>>,
    pub acknowledged: Vec<Position>,
    pub down: Vec<bool>,
    pub paused: BTreeSet<(TableId, NodeId)>,
    pub now: i64,
    pub crashes: usize,
    pub truncate_held_across_crash: bool,
    /// Of nodes with trigger capture: what was read and not judged, and what would survive a crash of the server.
    pub pending: Vec<VecDeque<Piece>>,
    pub flushed: Vec<Option<Box<Database>>>,
    /// The last landing that the hub was told of.
    pub told: Vec<Option<Position>>,
    /// Noticed where nobody could be told.
    pub fault: Option<String>,
    pub names: Names,
    /// In direct mode: what is in an outbox and has landed on the other side all the same.
    pub landed_unanswered: BTreeSet<Dot>,
    /// Deliveries to a node with trigger capture wait for the disk; otherwise whatever passes them does.
    pub durable_deliveries: bool,
    busy: f64,
    fold: bool,
    gaps: bool,
}

impl Simulation {
    pub fn new(seed: u64, shape: Shape, broken: Option<Broken>, trace: bool) -> Simulation {
        let mut rng = SmallRng::seed_from_u64(seed);
        let per_table = shape.keys;
        let all_keys: Vec<Key> =
            (0..TABLES).flat_map(|t| (0..per_table).map(move |k| Key::new(TableId(t), vec![k + 1]))).collect();
        let databases = (0..shape.nodes)
            .map(|n| Database {
                node: NodeId(n),
                outbox: (shape.triggers >> n & 1 == 1).then(Outbox::default),
                position: Position(0),
                skew: rng.random_range(-50..=50),
                cells: Default::default(),
                log: Vec::new(),
                landings: Vec::new(),
                decisions: Vec::new(),
                held: Default::default(),
                refused: Default::default(),
                idle: Default::default(),
                parents: Default::default(),
                deleted_twice: Default::default(),
                also_seen: Default::default(),
                all_keys: all_keys.clone(),
            })
            .collect();
        let busy = [0.03, 0.08, 0.25][rng.random_range(0..3)];
        let (fold, durable_deliveries) = (rng.random(), rng.random());
        let nodes = usize::from(shape.nodes);
        let mut simulation = Simulation {
            hub: Hub::new(nodes, policy(shape.policy, &mut rng)),
            rng,
            shape,
            broken,
            trace,
            databases,
            flying: vec![None; nodes],
            swept: vec![BTreeMap::new(); nodes],
            acknowledged: vec![Position(0); nodes],
            down: vec![false; nodes],
            paused: BTreeSet::new(),
            now: 0,
            crashes: 0,
            truncate_held_across_crash: false,
            pending: vec![VecDeque::new(); nodes],
            flushed: (0..nodes).map(|_| None).collect(),
            told: vec![None; nodes],
            fault: None,
            names: Names::new(),
            landed_unanswered: BTreeSet::new(),
            durable_deliveries,
            busy,
            fold,
            gaps: !shape.crash,
        };
        simulation.hub.broken = broken;
        (0..nodes).for_each(|index| simulation.flush(index));
        simulation
    }

    /// What the oracles call a change.
    pub fn name(&self, dot: Dot) -> Dot {
        name(&self.names, dot)
    }

    pub fn note(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>4} {}", self.now, text());
        }
    }

    pub fn run(&mut self) -> Result<(), String> {
        for step in 0..self.shape.steps {
            self.now = step as i64;
            self.step()?;
        }
        self.rest()?;
        self.tell_history();
        self.check_at_rest()
    }

    /// For a person who replays a seed: what was written over what, and what was decided.
    fn tell_history(&self) {
        for database in &self.databases {
            for ((key, dot), parent) in &database.parents {
                let parent = parent.map(|p| (p.node.0, p.position.0));
                self.note(|| format!("{key:?}: {:?} over {parent:?}", (dot.node.0, dot.position.0)));
            }
        }
        for d in &self.databases[0].decisions {
            let dot = |d: Dot| (d.node.0, self.name(d).position.0);
            self.note(|| format!("{:?}: {} {:?} beat {:?}", d.key, d.kind.word(), dot(d.winner.dot), dot(d.loser.dot)));
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let index = self.rng.random_range(0..self.databases.len());
        let node = NodeId(index as u8);
        if self.rng.random_bool(self.busy) {
            return self.write(index);
        }
        if self.databases[index].outbox.is_some() && self.rng.random_bool(0.3) {
            return self.serve(index);
        }
        if self.shape.outages && self.rng.random_bool(0.01) {
            self.down[index] = !self.down[index];
        }
        let dice: f64 = self.rng.random();
        let up = !self.down[index];
        if dice < 0.45 {
            if up {
                self.judge_next(node)?;
            }
        } else if dice < 0.65 {
            if up {
                self.cut(node)?;
            }
        } else if dice < 0.90 {
            if up {
                self.land(node, true);
            }
        } else if dice < 0.96 {
            self.retire();
        } else if dice < 0.975 {
            self.meddle(index);
        } else if self.shape.crash && dice < 0.985 {
            self.crash();
        }
        Ok(())
    }

    pub fn key(&mut self) -> Key {
        let table = TableId(self.rng.random_range(0..TABLES));
        Key::new(table, vec![self.rng.random_range(1..=self.shape.keys)])
    }

    fn write(&mut self, index: usize) -> Result<(), String> {
        let writes = self.writes();
        if self.shape.inline && self.rng.random_bool(0.8) && self.write_inline(index, &writes)? {
            return Ok(());
        }
        match self.databases[index].outbox {
            None => self.commit(index, &writes),
            Some(_) => self.begin(index, writes),
        }
        Ok(())
    }

    pub fn writes(&mut self) -> Vec<Write> {
        let count = [1, 1, 1, 2, 3][self.rng.random_range(0..5)];
        let mut writes = Vec::new();
        for _ in 0..count {
            let key = self.key();
            let dice = self.rng.random_range(0..100);
            writes.push(match dice {
                0..3 if self.shape.truncates => Write::Truncate(key.table()),
                3..20 if self.shape.moves => {
                    let to = Key::new(key.table(), vec![self.rng.random_range(1..=self.shape.keys)]);
                    Write::Move(key, to)
                }
                20..40 => Write::Delete(key),
                _ => Write::Put(key),
            });
        }
        writes
    }

    pub fn commit(&mut self, index: usize, writes: &[Write]) {
        let gap = self.rng.random_range(1..=3);
        let database = &mut self.databases[index];
        if let Some(position) = database.commit(writes, gap, self.now) {
            self.note(|| format!("node {index} commits {} {writes:?}", position.0));
        }
    }

    fn judge_next(&mut self, node: NodeId) -> Result<bool, String> {
        if !self.hub.may_judge(node) && self.broken != Some(Broken::Landing) {
            return Ok(false);
        }
        if self.databases[usize::from(node.0)].outbox.is_some() {
            return self.judge_outboxed(node);
        }
        Ok(self.judge_logged(node))
    }

    fn judge_logged(&mut self, node: NodeId) -> bool {
        let judged = self.hub.judged(node);
        let database = &self.databases[usize::from(node.0)];
        let at = database.log.partition_point(|t| t.position <= judged);
        match database.log.get(at) {
            Some(transaction) => {
                let (position, time) = (transaction.position, transaction.time);
                let changes = transaction.changes.clone();
                self.note(|| format!("judge {} of node {}", position.0, node.0));
                self.hub.judge(node, position, time, changes);
                true
            }
            None => {
                let end = Position(database.position.0 + 1);
                self.hub.advance(node, end);
                self.hub.judged(node) > judged
            }
        }
    }

    fn cut(&mut self, node: NodeId) -> Result<bool, String> {
        if self.flying[usize::from(node.0)].is_some() {
            return Ok(false);
        }
        let Some(delivery) = self.hub.cut(node) else {
            return Ok(false);
        };
        self.note(|| {
            let rows: Vec<_> = delivery.rows.iter().map(|r| (&r.key, r.dot, r.state.is_present())).collect();
            format!("cut for {}: cover {:?} truncates {:?} rows {rows:?}", node.0, delivery.cover.0, delivery.truncates)
        });
        self.check_whole(&delivery)?;
        self.swept[usize::from(node.0)] = self.swept_by_flight(node);
        self.flying[usize::from(node.0)] = Some(delivery);
        Ok(true)
    }

    /// What the hub counts a TRUNCATE in the delivery as writing: the absent canonical.
    fn swept_by_flight(&self, node: NodeId) -> BTreeMap<Key, Option<Dot>> {
        let flight = self.hub.node(node).flight.as_ref();
        let slots = flight.map_or(&[][..], |f| &f.swept);
        let entries = slots.iter().map(|s| self.hub.window.get(*s));
        entries.map(|e| (e.key.clone(), Some(self.name(e.dot())))).collect()
    }

    /// The delivery commits, or sometimes fails.
    fn land(&mut self, node: NodeId, may_fail: bool) -> bool {
        let Some(delivery) = self.flying[usize::from(node.0)].take() else {
            return false;
        };
        if self.waits_for_lock(&delivery) && !may_fail {
            self.flying[usize::from(node.0)] = Some(delivery);
            return false;
        }
        if may_fail && (self.rng.random_bool(0.1) || self.waits_for_lock(&delivery)) {
            self.note(|| format!("delivery to {} fails", node.0));
            self.hub.failed(node);
            return true;
        }
        let landed = self.commit_delivery(&delivery);
        self.note(|| format!("landed on {} at {} held {:?}", node.0, landed.position.0, landed.held));
        self.told[usize::from(node.0)] = Some(landed.position);
        self.hub.landed(node, landed);
        true
    }

    pub fn commit_delivery(&mut self, delivery: &Delivery<Image>) -> crate::Landed {
        let index = usize::from(delivery.node.0);
        let mut marks = self.mark_landing(index);
        let before = marks.last().map_or(Position(self.databases[index].position.0 + 1), |mark| mark.position);
        let missed = self.missed_deletes(delivery);
        marks.extend(self.mark_landing(index));
        // What was read meanwhile lies behind the first.
        let read = self.databases[index].outbox.as_ref().and_then(Outbox::last_read);
        marks.retain(|mark| Some(mark.position) > read);
        let mut swept = self.swept[index].clone();
        for key in self.written_behind(delivery) {
            swept.entry(key).or_insert(None);
        }
        let landed = self.databases[index].land(delivery, &swept, missed, before, marks, &self.names);
        if self.broken == Some(Broken::Released) {
            self.databases[index].held.retain(|_, r| r.released.is_none());
        }
        if self.fold
            && let Some(below) = delivery.fold_below
        {
            self.databases[index].fold(below);
        }
        if self.durable_deliveries {
            self.flush(index);
        }
        landed
    }

    /// Keys that a truncating transaction in the delivery wrote behind its TRUNCATE: who finds them swept has not seen
    /// what became of them.
    fn written_behind(&self, delivery: &Delivery<Image>) -> Vec<Key> {
        let dots = delivery.truncates.iter().map(|t| t.dot);
        let of_dot = |dot: Dot| {
            let log = &self.databases[usize::from(dot.node.0)].log;
            log.iter().find(|t| t.position == dot.position)
        };
        let changes = dots.filter_map(of_dot).flat_map(|t| &t.changes);
        let written = changes.filter_map(|change| match change {
            Change::Row { key, .. } => Some(key.clone()),
            Change::KeyChange { to, .. } => Some(to.clone()),
            Change::Truncate { .. } => None,
        });
        written.collect()
    }

    /// Deletes that find no row lock nothing: the application may insert between the statement and the landing's
    /// position. That there is no row is what the delivery says too, so it inserts over what was delivered.
    fn missed_deletes(&mut self, delivery: &Delivery<Image>) -> Vec<Key> {
        let index = usize::from(delivery.node.0);
        let missed = self.databases[index].missed_deletes(delivery);
        for key in &missed {
            let dot = delivery.rows.iter().find(|r| r.key == *key).map(|r| self.name(r.dot));
            let cell = Cell { image: None, dot };
            self.databases[index].cells.insert(key.clone(), cell);
        }
        for key in &missed {
            while self.gaps && self.rng.random_bool(0.2) {
                self.write_in_gap(index, key);
            }
        }
        missed
    }

    fn retire(&mut self) {
        self.hub.retire();
        for (index, acknowledged) in self.acknowledged.iter_mut().enumerate() {
            *acknowledged = (*acknowledged).max(self.hub.acknowledged(NodeId(index as u8)));
            if self.databases[index].outbox.is_some() && self.rng.random() {
                self.databases[index].forget_outboxed(*acknowledged);
            }
        }
        self.note(|| format!("acknowledged {:?} window {}", self.acknowledged, self.hub.window_len()));
    }

    /// A person or a broken target gets in the way, or out of it.
    fn meddle(&mut self, index: usize) {
        if !self.shape.holds {
            return;
        }
        let node = NodeId(index as u8);
        let key = self.key();
        match self.rng.random_range(0..8) {
            0 => drop(self.databases[index].refused.insert(key)),
            1..=3 => drop(self.databases[index].refused.remove(&key)),
            4 if self.shape.truncates => drop(self.databases[index].refused.insert(Key::whole_table(key.table()))),
            5 => {
                self.paused.insert((key.table(), node));
                self.hub.pause(key.table(), node);
            }
            6 => {
                self.paused.remove(&(key.table(), node));
                self.hub.resume(key.table(), node);
            }
            _ => self.hub.retry_held(node, &key),
        }
    }

    pub fn crash(&mut self) {
        self.crashes += 1;
        for index in 0..self.databases.len() {
            if let Some(delivery) = self.flying[index].take()
                && self.rng.random()
            {
                self.commit_delivery(&delivery);
                self.note(|| format!("unknown to the hub, the delivery to {index} landed"));
            }
        }
        if self.shape.jump_back {
            for index in 0..self.databases.len() {
                if self.rng.random_bool(0.3) {
                    let back = Position(self.acknowledged[index].0.saturating_sub(self.rng.random_range(0..=10)));
                    // Whoever recovers reads what the landings say was acknowledged, and starts no earlier.
                    let durable = self.databases[index].landings.iter().map(|l| l.acknowledged).max();
                    self.acknowledged[index] = back.max(durable.unwrap_or_default());
                }
            }
        }
        self.recover();
    }

    pub fn recover(&mut self) {
        self.restart_captures();
        // Every node keeps every decision: what one has and another lacks is copied before work begins.
        let mut all: Vec<_> = Vec::new();
        for decision in self.databases.iter().flat_map(|d| d.decisions.iter()) {
            let same = |d: &&crate::Decision<Image>| {
                d.key == decision.key && d.winner.dot == decision.winner.dot && d.loser.dot == decision.loser.dot
            };
            if all.iter().find(same).is_none() {
                all.push(decision.clone());
            }
        }
        let kept: Vec<Kept> = match self.broken {
            Some(Broken::Decisions) => Vec::new(),
            _ => all
                .iter()
                .map(|d| Kept {
                    key: d.key.clone(),
                    winner: d.winner.dot,
                    loser: d.loser.dot,
                    forfeit: d.kind == crate::Kind::KeyChange,
                })
                .collect(),
        };
        for index in 0..self.databases.len() {
            self.databases[index].decisions = all.clone();
            self.flush(index);
        }
        let landing = |l: &super::database::LandingRow| Landing {
            position: l.position,
            cover: l.cover.clone(),
            wrote: l.wrote.clone(),
        };
        let landings = self.databases.iter().map(|d| d.landings.iter().map(landing).collect()).collect();
        let held: Vec<_> = self.databases.iter().flat_map(|d| d.held.values().cloned()).collect();
        self.truncate_held_across_crash |= held.iter().any(|r| r.key.is_whole_table());
        self.note(|| format!("crash; start {:?}, held {held:?}", self.acknowledged));
        let policies = policy(self.shape.policy, &mut self.rng);
        let mut recovery = Recovery::new(self.acknowledged.clone(), landings, kept, held, policies);
        recovery.break_rule(self.broken);
        for index in 0..self.databases.len() {
            let node = self.databases[index].node;
            for transaction in self.already_judged(index, recovery.reach(node)) {
                for change in transaction.changes {
                    recovery.change(node, transaction.position, transaction.time, change);
                }
            }
        }
        self.hub = recovery.finish();
        for (table, node) in &self.paused {
            self.hub.pause(*table, *node);
        }
        self.note(|| format!("recovered: judged {:?}, window {}", self.judged(), self.hub.window_len()));
    }

    fn judged(&self) -> Cover {
        Cover((0..self.databases.len()).map(|n| self.hub.judged(NodeId(n as u8))).collect())
    }

    /// Everything works again, and all that is under way arrives.
    fn rest(&mut self) -> Result<(), String> {
        self.down.fill(false);
        for index in 0..self.databases.len() {
            self.end_open(index);
            let node = NodeId(index as u8);
            self.databases[index].refused.clear();
            for table in 0..TABLES {
                self.hub.resume(TableId(table), node);
            }
        }
        self.paused.clear();
        for round in 0.. {
            let mut busy = false;
            for index in 0..self.databases.len() {
                let node = NodeId(index as u8);
                busy |= self.judge_next(node)?;
                busy |= self.cut(node)?;
                busy |= self.land(node, false);
                let held: Vec<Key> = self.hub.held(node).cloned().collect();
                held.iter().for_each(|key| self.hub.retry_held(node, key));
            }
            self.retire();
            busy |= self.databases.iter().any(|d| self.hub.has_news(d.node));
            if !busy {
                return Ok(());
            }
            if round > 10_000 {
                return Err("never comes to rest".into());
            }
        }
        Ok(())
    }
}

fn policy(policy: Policy, rng: &mut SmallRng) -> Box<dyn Policies> {
    match policy {
        Policy::Newest => Box::new(Newest),
        Policy::Prefer => Box::new(Prefer { node: NodeId(0), name: "prefer:a".into() }),
        Policy::Coin => Box::new(Coin(SmallRng::from_rng(rng))),
    }
}

impl Shape {
    /// For leaving kinds of schedules out.
    pub fn tag(self) -> u64 {
        [self.crash, self.jump_back, self.truncates, self.moves, self.holds, self.outages]
            .iter()
            .enumerate()
            .map(|(bit, on)| u64::from(*on) << bit)
            .sum()
    }
}
