//! Direct mode: what `plan` adds for it.

use super::error::On;
use super::plan::{Planner, Step};
use super::{LifecycleError, NodeSurvey, OpenNode};
use crate::catalog::{Column, TableKind, TableShape};
use crate::config::{Config, Ids, Table};
use crate::connect::{Endpoint, ForeignOptions};
use crate::link;
use crate::sql::{self, ArrivingColumn, DirectTable, Ident, QualifiedName};
use std::time::Duration;

/// The foreign server by which applications can read and write the peer's tables.
pub fn tables_server(peer: &str) -> Ident {
    Ident::truncated(&format!("pgtandem_{peer}"))
}

/// The one by which transactions are delivered.
pub fn inbox_server(peer: &str) -> Ident {
    Ident::truncated(&format!("pgtandem_{peer}_inbox"))
}

/// The one by which a session of this server looks ahead whether the peer answers; needed where dblink would wait for a
/// frozen one without end.
pub fn probe_server(own: &str, major: i32) -> Option<Ident> {
    (major >= 16).then(|| Ident::truncated(&format!("pgtandem_{own}_probe")))
}

/// The peer's table as it stands beside ours.
pub fn foreign_table(peer: &str, table: &QualifiedName) -> QualifiedName {
    QualifiedName::new(table.schema.clone(), Ident::truncated(&format!("{peer}_{}", table.name.as_str())))
}

/// How this node's server reaches the peer.
pub(super) fn endpoint_of<'a>(config: &'a Config, peer: &str) -> Option<&'a Endpoint> {
    config.node(peer).map(|node| node.direct_endpoint.as_ref().unwrap_or(&node.endpoint))
}

pub(super) fn wait_ms(wait: Duration) -> i32 {
    i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)
}

fn seconds(of: Duration) -> u64 {
    of.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}

/// For a row there. Below a server's `deadlock_timeout`: the victim of a deadlock is what arrives, never the application.
fn lock_timeout(wait: Duration) -> u128 {
    (wait.as_millis() / 4).clamp(50, 400)
}

/// Nothing waits there for longer than an application waits here.
fn common_options(endpoint: &Endpoint, wait: Duration) -> ForeignOptions {
    let mut options = endpoint.server_options();
    options.push(("connect_timeout", seconds(wait).max(2).to_string()));
    options.push(("tcp_user_timeout", (wait.as_millis().max(1000) * 2).to_string()));
    options
}

pub(super) fn tables_server_options(endpoint: &Endpoint, wait: Duration) -> ForeignOptions {
    let mut options = common_options(endpoint, wait);
    let given = endpoint.options.as_ref().map(|given| format!("{given} ")).unwrap_or_default();
    options.push(("options", format!("{given}-c lock_timeout={}", wait.as_millis() / 2)));
    options.push(("application_name", "pgtandem foreign table".to_owned()));
    options
}

/// `is_replica`: our session there may keep triggers and foreign keys from acting on what arrives.
pub(super) fn inbox_server_options(endpoint: &Endpoint, wait: Duration, is_replica: bool) -> ForeignOptions {
    let mut options = common_options(endpoint, wait);
    let mut settings: Vec<String> = [
        "DateStyle=ISO,MDY",
        "IntervalStyle=postgres",
        "TimeZone=UTC",
        "extra_float_digits=3",
        "bytea_output=hex",
        "lc_monetary=C",
        "xmloption=content",
        "standard_conforming_strings=on",
        "search_path=pg_catalog,pg_temp",
        r"default_transaction_isolation=read\ committed",
        "default_transaction_read_only=off",
        "idle_in_transaction_session_timeout=0",
        "row_security=off",
        "jit=off",
        // Planning takes longer than what is planned.
        "plan_cache_mode=force_generic_plan",
        // What was answered must not be forgotten.
        "synchronous_commit=on",
    ]
    .map(str::to_owned)
    .into();
    settings.push(format!("lock_timeout={}", lock_timeout(wait)));
    settings.push(format!("statement_timeout={}", wait.as_millis() * 9 / 10));
    if is_replica {
        settings.push("session_replication_role=replica".to_owned());
    }
    let settings: Vec<String> = settings.iter().map(|setting| format!("-c {setting}")).collect();
    let given = endpoint.options.as_ref().map(|given| format!("{given} ")).unwrap_or_default();
    options.push(("options", format!("{given}{}", settings.join(" "))));
    options.push(("application_name", "pgtandem direct".to_owned()));
    options
}

/// A session whose asker has gone ends, too.
pub(super) fn probe_server_options(endpoint: &Endpoint) -> ForeignOptions {
    let mut options = common_options(endpoint, Duration::from_secs(2));
    options.push(("options", "-c client_connection_check_interval=1000".to_owned()));
    options.push(("application_name", "pgtandem probe".to_owned()));
    options
}

impl Planner<'_> {
    fn peer_of(&self, node: usize) -> Option<usize> {
        (self.config.direct.is_some() && self.surveys.len() == 2).then(|| 1 - node)
    }

    fn direct_of(&self, node: usize) -> Option<&crate::link::DirectFacts> {
        self.surveys[node].link.as_ref()?.direct.as_ref()
    }

    pub(super) fn direct_peers(&mut self) {
        for node in 0..self.surveys.len() {
            let Some(peer) = self.peer_of(node) else { continue };
            match self.direct_of(node).map(|direct| direct.wait_ms) {
                None => self.steps.push(Step::DirectPeer { node, peer }),
                Some(from_ms) if from_ms != self.wait_ms() => {
                    let statements = self.wait_statements(node, peer);
                    self.steps.push(Step::DirectWait { node, peer, from_ms, to_ms: self.wait_ms(), statements });
                }
                Some(_) => {}
            }
        }
    }

    fn wait_ms(&self) -> i32 {
        wait_ms(self.config.direct.unwrap_or_default().wait)
    }

    /// What of the ways to the peer depends on how long it is waited for.
    fn wait_statements(&self, node: usize, peer: usize) -> Vec<String> {
        let (wait, peer_name) = (self.config.direct.unwrap_or_default().wait, &self.surveys[peer].name);
        let Some(endpoint) = endpoint_of(self.config, peer_name) else { return Vec::new() };
        let is_replica = self.surveys[peer].role.may_set_replication_role;
        let inbox = self.direct_of(node).map_or_else(|| inbox_server(peer_name), |direct| Ident::new(&*direct.server));
        let timed = |options: ForeignOptions| {
            let timed = |name: &str| ["connect_timeout", "tcp_user_timeout", "options"].contains(&name);
            options.into_iter().filter(|(name, _)| timed(name)).collect::<Vec<_>>()
        };
        vec![
            sql::alter_server(&tables_server(peer_name), &timed(tables_server_options(endpoint, wait))),
            sql::alter_server(&inbox, &timed(inbox_server_options(endpoint, wait, is_replica))),
            format!("UPDATE pgtandem.direct SET wait_ms = {}", wait_ms(wait)),
        ]
    }

    /// Before rows are copied: they count, too.
    pub(super) fn mirror(&mut self, table: &Table) {
        let id = self.table_id(table);
        for (node, survey) in self.surveys.iter().enumerate() {
            let Some(shape) = survey.table(&table.name) else { continue };
            let is_mirrored = self.direct_of(node).is_some_and(|direct| direct.mirrored.contains(&id));
            let wants = table.ids == Ids::Mirror;
            let (columns, table) = (mirrored_columns(survey, shape), shape.name.clone());
            if is_mirrored && !wants {
                self.steps.push(Step::EndMirror { node, id, table });
            } else if wants && !is_mirrored && !columns.is_empty() {
                self.steps.push(Step::Mirror { node, id, table, columns });
            }
        }
    }

    /// Last: nothing goes directly before the tables are one.
    pub(super) fn direct_tables(&mut self) {
        for node in 0..self.surveys.len() {
            let Some(peer) = self.peer_of(node) else { continue };
            for table in &self.config.tables {
                let id = self.table_id(table);
                if self.is_made(id, node, peer, table) && self.is_made(id, peer, node, table) {
                    continue;
                }
                if let Some(table) = self.direct_table(id, node, peer, table) {
                    self.steps.push(Step::DirectTable { node, peer, table });
                }
            }
        }
    }

    /// Both sides take what the other one's table is now. If one does not, both are made anew.
    fn is_made(&self, id: i32, node: usize, peer: usize, table: &Table) -> bool {
        let made = self.direct_of(node).and_then(|direct| direct.tables.iter().find(|made| made.id == id));
        let (here, there) = (self.surveys[node].table(&table.name), self.surveys[peer].table(&table.name));
        let (Some(made), Some(here), Some(there)) = (made, here, there) else { return false };
        let arriving = there.columns.iter().map(|column| arriving(here, column).name.own());
        made.fits && arriving.eq(made.arriving.iter().map(|name| Ident::new(name.as_str())))
    }

    fn direct_table(&self, id: i32, node: usize, peer: usize, table: &Table) -> Option<DirectTable> {
        let (here, there) = (self.surveys[node].table(&table.name)?, self.surveys[peer].table(&table.name)?);
        let names = |of: &[crate::catalog::ForeignKey]| of.iter().map(|key| key.referenced.clone()).collect::<Vec<_>>();
        let mut tied = names(&here.foreign_keys_out);
        tied.extend(here.foreign_keys_in.iter().map(|key| key.table.clone()));
        let tied = self.config.tables.iter().filter(|other| other.name != table.name && tied.contains(&other.name));
        let related = tied.map(|other| self.table_id(other)).collect();
        Some(direct_table(id, here, there, related))
    }
}

/// Those of whole numbers that a sequence makes.
fn mirrored_columns(survey: &NodeSurvey, shape: &TableShape) -> Vec<(Ident, u32)> {
    const WHOLE: [&str; 4] = ["smallint", "integer", "bigint", "numeric"];
    let sequences = survey.key_sequences(shape).into_iter();
    let is_whole = |column: &Ident| shape.column(column).is_some_and(|column| WHOLE.contains(&&*column.base_type));
    let whole = sequences.filter(|sequence| is_whole(&sequence.column));
    whole.map(|sequence| (sequence.column.clone(), sequence.oid)).collect()
}

/// `here`, as changes of `there` arrive at it.
pub fn direct_table(id: i32, here: &TableShape, there: &TableShape, related: Vec<i32>) -> DirectTable {
    let equals = |name: &Ident| here.column(name).map_or_else(|| "=".to_owned(), |column| column.equals.clone());
    let kept = here.primary_key.iter().filter(|name| !here.partitioned_by.contains(name)).cloned();
    DirectTable {
        id,
        name: here.name.clone(),
        columns: there.columns.iter().map(|column| arriving(here, column)).collect(),
        key: here.primary_key.iter().map(|name| (name.clone(), equals(name))).collect(),
        own_columns: here.written_columns().map(|column| column.name.clone()).collect(),
        related,
        kept_in_moves: (here.kind == TableKind::Partitioned).then(|| kept.collect()),
    }
}

/// A column of the peer's table, by the name of ours that it stands for.
fn arriving(here: &TableShape, column: &Column) -> ArrivingColumn {
    let ours = here.column(&column.name);
    let is_taken = here.columns.iter().any(|ours| ours.name.own_str() == column.name.as_str());
    let name = match ours {
        Some(ours) => ours.name.clone(),
        None if is_taken => Ident::truncated(&format!("{} of the peer", column.name.as_str())),
        None => Ident::truncated(column.name.as_str()),
    };
    ArrivingColumn {
        name,
        type_here: ours.map(|ours| ours.type_text.clone()),
        is_written: column.generated.is_none() && ours.is_some_and(|ours| ours.generated.is_none()),
    }
}

/// Columns of the foreign table: the peer's, with its types where they are there everywhere.
pub(super) fn foreign_columns(here: &NodeSurvey, there: &TableShape) -> Vec<(Ident, String)> {
    let type_of = |column: &Column| {
        let ours = here.table(&there.name).and_then(|table| table.column(&column.name));
        match ours {
            Some(ours) => ours.type_text.clone(),
            None if column.is_builtin() => column.type_text.clone(),
            None => "text".to_owned(),
        }
    };
    there.columns.iter().map(|column| (column.name.clone(), type_of(column))).collect()
}

/// Takes a table's part away on one node; nothing goes directly any more. May be repeated.
pub(super) async fn remove_table(node: &OpenNode, id: i32, table: &QualifiedName) -> Result<(), LifecycleError> {
    let work = async {
        let Some(direct) = link::read_direct(node.client()).await? else { return Ok(()) };
        let foreign = foreign_table(&direct.peer, table);
        node.client().batch_execute(&sql::drop_direct_table(id)).await?;
        node.client().batch_execute(&format!("DROP FUNCTION IF EXISTS pgtandem.mirror_{id}()")).await?;
        let theirs = read_foreign_tables(node, &tables_server(&direct.peer)).await?;
        match theirs.contains(&foreign.own()) {
            true => node.client().batch_execute(&sql::drop_foreign_table(&foreign)).await,
            false => Ok(()),
        }
    };
    work.await.on(&node.name, "taking a table out of direct mode")
}

/// Takes all away that is not in our schema. May be repeated.
pub(super) async fn remove(node: &OpenNode) -> Result<(), LifecycleError> {
    let work = async {
        let Some(direct) = link::read_direct(node.client()).await? else { return Ok(()) };
        let server = tables_server(&direct.peer);
        for table in read_foreign_tables(node, &server).await? {
            node.client().batch_execute(&sql::drop_foreign_table(&table)).await?;
        }
        for server in [Some(server), Some(Ident::new(direct.server)), direct.own.map(Ident::new)].into_iter().flatten()
        {
            node.client().batch_execute(&sql::drop_server(&server)).await?;
        }
        Ok(())
    };
    work.await.on(&node.name, "removing what leads to the peer")
}

async fn read_foreign_tables(node: &OpenNode, server: &Ident) -> Result<Vec<QualifiedName>, tokio_postgres::Error> {
    const QUERY: &str = "
        SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_foreign_table f
        JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver
        JOIN pg_catalog.pg_class c ON c.oid = f.ftrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE s.srvname = $1";
    let rows = node.client().query(QUERY, &[&server.as_str()]).await?;
    Ok(rows.iter().map(|row| QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1))).collect())
}
