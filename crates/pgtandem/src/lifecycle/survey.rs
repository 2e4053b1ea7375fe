//! Everything `check`, `plan`, `up` and `down` want to know of a node, read at once.

use super::LifecycleError;
use crate::catalog::{
    self, Extensions, RoleFacts, Sequence, ServerFacts, TableShape, read_extensions, read_role, read_sequences,
    read_server, read_tables,
};
use crate::config::{Capture, Config};
use crate::link::{self, DirectFacts, Held, Installed, LinkedTable, NodeRow, Peer, Restore, RestoreKind, TableState};
use crate::sql::{self, Ident, Naming, QualifiedName};
use std::collections::{BTreeSet, HashMap, HashSet};
use tokio_postgres::GenericClient;
use tokio_postgres::types::PgLsn;

#[derive(Debug, Clone)]
pub struct NodeSurvey {
    pub name: String,
    pub server: ServerFacts,
    pub role: RoleFacts,
    /// Those that exist of the tables asked for and of those that are linked already; these as they were linked.
    pub tables: Vec<TableShape>,
    /// Behind the columns of `tables`.
    pub sequences: Vec<Sequence>,
    pub installed: Installed,
    pub link: Option<LinkFacts>,
    pub publication: Option<catalog::Publication>,
    pub slot: Option<catalog::Slot>,
    /// Tables not live yet that hold rows already. One we may not read counts as empty; `check` tells.
    pub filled: BTreeSet<QualifiedName>,
    /// Now, to tell by how much the slot lags behind.
    pub position: Option<PgLsn>,
    /// Of an application's sessions, as far as the server and the database say; read only where it matters.
    pub time_zone: Option<String>,
    pub extensions: Extensions,
}

/// What the node knows of the link.
#[derive(Debug, Clone)]
pub struct LinkFacts {
    pub node: NodeRow,
    pub peers: Vec<Peer>,
    /// The highest number any node ever had, one that has left included.
    pub last_number: i16,
    pub tables: Vec<LinkedTable>,
    /// The highest id any table ever had here.
    pub last_table_id: i32,
    pub held: Vec<Held>,
    pub sequences_before: Vec<Restore>,
    pub identities_before: Vec<Restore>,
    pub copies: Vec<Restore>,
    /// Oids of the tables whose changes go into the outbox.
    pub captured: Vec<u32>,
    /// None: changes are streamed.
    pub direct: Option<DirectFacts>,
    /// It is being brought back: its slot and its triggers may be missing.
    pub rejoining: bool,
    /// The number of a peer that was away for long, if this node keeps, or knows of, keys that are to be settled with it.
    pub left_behind: Option<i16>,
}

impl LinkFacts {
    /// Of a link that another version of pgtandem made, which `check` refuses.
    fn unread(node: NodeRow) -> Self {
        Self {
            node,
            peers: Vec::new(),
            last_number: -1,
            tables: Vec::new(),
            last_table_id: 0,
            held: Vec::new(),
            sequences_before: Vec::new(),
            identities_before: Vec::new(),
            copies: Vec::new(),
            captured: Vec::new(),
            direct: None,
            rejoining: false,
            left_behind: None,
        }
    }
}

impl NodeSurvey {
    /// How the node's changes are, or will be, read: as it was linked, else as the configuration says, else from the
    /// WAL where the server writes enough into it.
    pub fn capture(&self, config: &Config) -> Capture {
        let installed = self.link.as_ref().map(|link| link.node.capture);
        let wanted = config.node(&self.name).and_then(|node| node.capture);
        if installed.is_none() && config.direct.is_some() {
            return Capture::Trigger;
        }
        let by_server = || if self.server.wal_level == "logical" { Capture::Wal } else { Capture::Trigger };
        installed.or(wanted).unwrap_or_else(by_server)
    }

    pub fn table(&self, name: &QualifiedName) -> Option<&TableShape> {
        self.tables.iter().find(|table| table.name == *name)
    }

    pub fn is_live(&self, name: &QualifiedName) -> bool {
        self.linked(name).is_some_and(|table| table.state == TableState::Live)
    }

    pub fn linked(&self, name: &QualifiedName) -> Option<&LinkedTable> {
        self.link.as_ref()?.tables.iter().find(|table| table.name == *name)
    }

    /// Sequences behind the table's key columns: of the primary key and of unique indexes.
    /// Others may hand out the same number on two nodes without harm.
    pub fn key_sequences(&self, table: &TableShape) -> Vec<&Sequence> {
        let unique: HashSet<&Ident> =
            table.unique_indexes.iter().flat_map(|index| index.columns.iter().flatten()).collect();
        self.sequences
            .iter()
            .filter(|sequence| sequence.relid == table.relid)
            .filter(|sequence| table.is_key(&sequence.column) || unique.contains(&sequence.column))
            .collect()
    }
}

/// Reads a node. `wanted`: what it calls the tables of the configuration.
pub async fn survey(client: &impl GenericClient, name: &str, wanted: &[Naming]) -> Result<NodeSurvey, LifecycleError> {
    let read = async {
        let installed = link::is_installed(client).await?;
        let link = match installed {
            Installed::Yes => read_link(client).await?,
            Installed::No | Installed::Foreign => None,
        };
        let linked = link.iter().flat_map(|link| &link.tables);
        let mut linked: HashMap<&QualifiedName, &Naming> = linked.map(|table| (&table.name, &table.naming)).collect();
        let as_linked = |naming: &Naming| linked.remove(&naming.table).unwrap_or(naming).clone();
        let mut namings: Vec<Naming> = wanted.iter().map(as_linked).collect();
        namings.extend(linked.into_values().cloned());

        let tables = read_tables(client, &namings).await?;
        let relids: Vec<u32> = tables.iter().map(|table| table.relid).collect();
        let live = |name: &QualifiedName| {
            let tables = link.iter().flat_map(|link| &link.tables);
            tables.into_iter().any(|table| table.name == *name && table.state == TableState::Live)
        };
        let unlinked: Vec<&TableShape> = tables.iter().filter(|table| !live(&table.name)).collect();
        let filled = read_filled(client, &unlinked).await?;
        let server = read_server(client).await?;
        let slot = match &link {
            Some(link) => catalog::read_slot(client, &link.node.slot).await?,
            None => None,
        };
        let position = match server.in_recovery {
            true => None,
            false => Some(client.query_one("SELECT pg_catalog.pg_current_wal_lsn()", &[]).await?.get(0)),
        };
        Ok::<_, tokio_postgres::Error>(NodeSurvey {
            name: name.to_owned(),
            role: read_role(client, &relids).await?,
            sequences: read_sequences(client, &tables).await?,
            publication: catalog::read_publication(client, link::PUBLICATION).await?,
            server,
            tables,
            installed,
            link,
            slot,
            filled,
            position,
            time_zone: None,
            extensions: read_extensions(client).await?,
        })
    };
    read.await.map_err(|error| LifecycleError::sql(name, "reading the catalog", error))
}

async fn read_filled(
    client: &impl GenericClient,
    tables: &[&TableShape],
) -> Result<BTreeSet<QualifiedName>, tokio_postgres::Error> {
    let mut filled = BTreeSet::new();
    for table in tables {
        match client.query_one(&sql::holds_rows(&table.name), &[]).await {
            Ok(row) if row.get(0) => drop(filled.insert(table.name.clone())),
            Ok(_) => {}
            // No right to read it, or row security in the way.
            Err(error) if error.as_db_error().is_some() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

async fn read_link(client: &impl GenericClient) -> Result<Option<LinkFacts>, tokio_postgres::Error> {
    let Some(node) = link::read_node(client).await? else {
        return Ok(None);
    };
    if node.other_version().is_some() {
        return Ok(Some(LinkFacts::unread(node)));
    }
    Ok(Some(LinkFacts {
        node,
        peers: link::read_peers(client).await?,
        last_number: link::read_last_number(client).await?.unwrap_or(-1),
        tables: link::read_linked_tables(client).await?,
        last_table_id: link::read_last_table_id(client).await?,
        held: link::list_held(client).await?,
        sequences_before: link::list_restore(client, RestoreKind::Sequence).await?,
        identities_before: link::list_restore(client, RestoreKind::ReplicaIdentity).await?,
        copies: link::list_restore(client, RestoreKind::Copy).await?,
        captured: link::read_captured(client).await?,
        direct: link::read_direct(client).await?,
        rejoining: link::read_restore(client, RestoreKind::Rejoin, "node").await?.is_some(),
        left_behind: link::read_left_behind(client).await?.map(|left| left.node),
    }))
}
