//! A plan for people, and as SQL.

use super::direct::{foreign_table, inbox_server, tables_server};
use super::identity::Identity;
use super::interleave::Interleaving;
use super::plan::{Plan, Rows, Step};
use crate::config::{Capture, Merge};
use crate::link::{PUBLICATION, SCHEMA_SQL, direct_sql, outbox_sql, renamed_columns};
use crate::sql::{self, Ident, Literal, Naming, QualifiedName};

impl Plan {
    fn name(&self, node: usize) -> &str {
        &self.identities[node].name
    }

    /// The node a step is about, if it is about one.
    pub fn node_of(&self, step: &Step) -> Option<&str> {
        let node = match step {
            Step::Unlink { node, .. }
            | Step::Install { node, .. }
            | Step::AddPeer { node, .. }
            | Step::SlotCount { node }
            | Step::ReplicaIdentity { node, .. }
            | Step::Publish { node, .. }
            | Step::CreateSlot { node }
            | Step::Capture { node, .. }
            | Step::Register { node, .. }
            | Step::RetireTrigger { node, .. }
            | Step::Mirror { node, .. }
            | Step::EndMirror { node, .. }
            | Step::DirectPeer { node, .. }
            | Step::DirectWait { node, .. }
            | Step::DirectTable { node, .. }
            | Step::Policy { node, .. } => *node,
            Step::Interleave(_) | Step::Renumber { .. } | Step::Fill { .. } => return None,
        };
        Some(self.name(node))
    }

    /// One line, without the node's name.
    pub fn describe(&self, step: &Step) -> String {
        match step {
            Step::Unlink { table, .. } => {
                format!("take {} out of the link, and restore its replica identity and sequences", table.plain())
            }
            Step::Install { capture: Capture::Wal, .. } => "make the schema pgtandem".to_owned(),
            Step::Install { capture: Capture::Trigger, .. } => "make the schema pgtandem, with an outbox".to_owned(),
            Step::AddPeer { peer, .. } => format!("make the node {} known", self.name(*peer)),
            Step::SlotCount { .. } => format!("keep ids apart for {} nodes", self.slot_count),
            Step::ReplicaIdentity { table, from, to, .. } => {
                format!("set the replica identity of {} to {} (it is {})", table.plain(), to.sql(), from.sql())
            }
            Step::Publish { create, tables, .. } => {
                let names: Vec<String> = tables.iter().map(QualifiedName::plain).collect();
                match create {
                    true => format!("make the publication {PUBLICATION} of {}", names.join(", ")),
                    false => format!("add {} to the publication {PUBLICATION}", names.join(", ")),
                }
            }
            Step::CreateSlot { node } => format!("make the replication slot {}", shown_slot(&self.identities[*node])),
            Step::Capture { table, .. } => {
                format!("make the triggers on {} that write its changes into the outbox", table.plain())
            }
            Step::RetireTrigger { table, trigger, .. } => {
                format!("disable the trigger {trigger} on {}, which writes to the other database", table.plain())
            }
            Step::DirectPeer { peer, .. } => {
                format!("make foreign servers that lead to {}, and what its transactions arrive at", self.name(*peer))
            }
            Step::DirectWait { peer, from_ms, to_ms, .. } => {
                format!("let a COMMIT wait for {} no longer than {to_ms} ms (it is {from_ms})", self.name(*peer))
            }
            Step::DirectTable { peer, table, .. } => format!(
                "deliver {} to {} at COMMIT, and make its table there the foreign table {}",
                table.name.plain(),
                self.name(*peer),
                foreign_table(self.name(*peer), &table.name).plain()
            ),
            Step::Register { table, naming, .. } => {
                let called = match *naming == Naming::plain(table.name.clone()) {
                    true => String::new(),
                    false => format!("here {}; ", naming.in_words()),
                };
                format!("list {} ({called}conflicts: {}, ids: {})", table.name.plain(), table.resolve, table.ids)
            }
            Step::Policy { table, .. } => {
                format!("change {} to conflicts: {}, ids: {}", table.name.plain(), table.resolve, table.ids)
            }
            Step::Mirror { table, columns, .. } => {
                let columns: Vec<&str> = columns.iter().map(|(column, _)| column.as_str()).collect();
                format!("move the sequence of {} ({}) past whatever arrives", table.plain(), columns.join(", "))
            }
            Step::EndMirror { table, .. } => {
                format!("no longer move the sequence of {} past what arrives", table.plain())
            }
            Step::Interleave(interleaving) => self.describe_interleaving(interleaving),
            Step::Renumber { table, node, against, matching, .. } => {
                let columns: Vec<&str> = matching.columns.iter().map(Ident::as_str).collect();
                let (here, there, columns) = (self.name(*node), self.name(*against), columns.join(", "));
                match matching.renumber {
                    Some(_) => format!(
                        "renumber {} on {here}: rows with the same {columns} get the id they have on {there}, others \
                         whose id is taken there a new one, and what refers to them follows",
                        table.plain()
                    ),
                    None => format!(
                        "look whether ids of {} mean the same on {there} and {here}, by {columns}",
                        table.plain()
                    ),
                }
            }
            Step::Fill { table, rows, .. } => self.describe_rows(table, rows),
        }
    }

    fn describe_interleaving(&self, interleaving: &Interleaving) -> String {
        let (table, column) = (interleaving.table.plain(), interleaving.column.as_str());
        if interleaving.pattern.slots == 1 {
            let nodes: Vec<&str> = interleaving.sequences.iter().map(|entry| self.name(entry.node)).collect();
            return format!("let the ids of {table} ({column}) go on at the same number on {}", nodes.join(" and "));
        }
        let residues = interleaving.sequences.iter().map(|entry| match interleaving.pattern.examples(entry.number) {
            Some(examples) => format!("{}: {examples}", self.name(entry.node)),
            None => self.name(entry.node).to_owned(),
        });
        format!("interleave the ids of {table} ({column}): {}", residues.collect::<Vec<_>>().join("; "))
    }

    fn interleaving_sql(&self, interleaving: &Interleaving) -> Vec<(String, String)> {
        let statements = interleaving.sequences.iter().filter_map(|entry| {
            let options = entry.options(interleaving.pattern)?;
            let statement = options.alter(&entry.sequence.name, None);
            let above = "RESTART WITH /* its first value above every id on any node */";
            Some((self.name(entry.node).to_owned(), format!("{statement} {above};")))
        });
        statements.collect()
    }

    fn describe_rows(&self, table: &QualifiedName, rows: &Rows) -> String {
        let names = |nodes: &[usize]| nodes.iter().map(|node| self.name(*node)).collect::<Vec<_>>().join(", ");
        let table = table.plain();
        match rows {
            Rows::NoneYet => format!("link {table}: it is empty everywhere"),
            Rows::Copy { from, to } => {
                format!("copy {table} from {} to {}", self.name(*from), names(to))
            }
            Rows::Compare { nodes, copy_to, merge, by } => {
                let on = names(nodes);
                let copied = match copy_to.as_slice() {
                    [] => String::new(),
                    to => format!(", and copy it to {}", names(to)),
                };
                match merge {
                    Merge::Refuse if copy_to.is_empty() => {
                        format!("compare {table} on {on}: it is linked if its rows are equal")
                    }
                    Merge::Refuse => {
                        format!("compare {table} on {on}: if its rows are equal, copy them to {}", names(copy_to))
                    }
                    Merge::Newest => format!("merge {table} on {on}: newest by {}{copied}", by.as_str()),
                    Merge::Prefer(node) => format!("merge {table} on {on}: rows of {node} are preferred{copied}"),
                    Merge::OnlyMissing => {
                        format!("merge {table} on {on}: only rows that are missing, if no others differ{copied}")
                    }
                }
            }
        }
    }

    /// What a step runs, for reading before consenting: `(node, SQL)`. Values that are only known when it runs
    /// (positions, the ids to go on from) stand as comments.
    pub fn sql(&self, step: &Step) -> Vec<(String, String)> {
        let one = |node: &usize, sql: String| vec![(self.name(*node).to_owned(), sql)];
        match step {
            Step::Unlink { node, id, table } => one(
                node,
                format!(
                    "ALTER PUBLICATION {} DROP TABLE {table};\nDELETE FROM pgtandem.linked_table WHERE id = {id};\n\
                     -- replica identity and sequences: as saved in pgtandem.restore",
                    Ident::new(PUBLICATION)
                ),
            ),
            Step::Install { node, capture } => one(node, self.install_sql(*node, *capture)),
            Step::AddPeer { node, peer } => one(node, peer_sql(&self.identities[*peer])),
            Step::SlotCount { node } => {
                one(node, format!("UPDATE pgtandem.node SET slot_count = {};", self.slot_count))
            }
            Step::ReplicaIdentity { node, table, to, .. } => {
                one(node, format!("{};", sql::alter_replica_identity(table, &to.sql())))
            }
            Step::Publish { node, create, generated, tables } => {
                let publication = Ident::new(PUBLICATION);
                let statement = match create {
                    true => sql::create_publication(&publication, tables, *generated),
                    false => sql::add_to_publication(&publication, tables),
                };
                one(node, format!("{statement};"))
            }
            Step::CreateSlot { node } => one(
                node,
                format!(
                    "SELECT pg_create_logical_replication_slot({}, 'pgoutput');",
                    Literal(&shown_slot(&self.identities[*node]))
                ),
            ),
            Step::Capture { node, table, capture } => {
                one(node, format!("{};", sql::create_capture(table, capture).join(";\n")))
            }
            Step::RetireTrigger { node, table, trigger } => {
                one(node, format!("{};", sql::disable_trigger(table, trigger)))
            }
            Step::DirectPeer { node, peer } => one(node, direct_peer_sql(self.name(*peer))),
            Step::DirectWait { node, statements, .. } => one(node, format!("{};", statements.join(";\n"))),
            Step::DirectTable { node, table, .. } => one(node, format!("{};", table.create().join(";\n"))),
            Step::Register { node, id, table, naming, columns } => one(node, register_sql(*id, table, naming, columns)),
            Step::Policy { node, id, table } => one(
                node,
                format!(
                    "UPDATE pgtandem.linked_table SET resolve = {}, ids = {} WHERE id = {id};",
                    Literal(&table.resolve.to_string()),
                    Literal(&table.ids.to_string())
                ),
            ),
            Step::Mirror { node, id, table, columns } => {
                one(node, format!("{};", sql::create_mirror(table, *id, columns).join(";\n")))
            }
            Step::EndMirror { node, id, table } => one(node, format!("{};", sql::drop_mirror(table, *id).join(";\n"))),
            Step::Interleave(interleaving) => self.interleaving_sql(interleaving),
            Step::Renumber { table, node, .. } => one(
                node,
                format!(
                    "-- in transactions of at most 1,000 rows, in one statement with all that refers to them:\n\
                     UPDATE {} SET … /* the key */; INSERT INTO pgtandem.renumbered …;",
                    self.called(*node, table)
                ),
            ),
            Step::Fill { id, table, rows } => self.fill_sql(*id, table, rows),
        }
    }

    /// A table as the node calls it.
    fn called<'t>(&'t self, node: usize, table: &'t QualifiedName) -> &'t QualifiedName {
        let naming = self.namings[node].iter().find(|naming| naming.table == *table);
        naming.map_or(table, |naming| &naming.table)
    }

    fn install_sql(&self, node: usize, capture: Capture) -> String {
        let outbox = match capture {
            Capture::Wal => String::new(),
            Capture::Trigger => format!("\n{}", outbox_sql().trim_end()),
        };
        let peers: Vec<String> = self.identities.iter().map(peer_sql).collect();
        let identity = &self.identities[node];
        format!(
            "{}{outbox}\n-- INSERT INTO pgtandem.node: number {}, name {}, incarnation, slot, secret, this server's and \
             database's identity\n{}\n-- INSERT INTO pgtandem.restore: a fingerprint of the catalog as it was before",
            SCHEMA_SQL.trim_end(),
            identity.number,
            Literal(&identity.name),
            peers.join("\n")
        )
    }

    fn fill_sql(&self, id: i32, table: &QualifiedName, rows: &Rows) -> Vec<(String, String)> {
        let (sources, targets): (&[usize], &[usize]) = match rows {
            Rows::NoneYet => (&[], &[]),
            Rows::Copy { from, to } => (std::slice::from_ref(from), to),
            Rows::Compare { nodes, copy_to, .. } => (nodes, copy_to),
        };
        let mut all = Vec::new();
        for node in sources {
            all.push((
                self.name(*node).to_owned(),
                format!("-- in a snapshot: COPY (SELECT … FROM {}) TO STDOUT;", self.called(*node, table)),
            ));
        }
        for node in targets {
            let table = self.called(*node, table);
            all.push((self.name(*node).to_owned(), format!("COPY {table} (…) FROM STDIN;")));
        }
        let live = format!("UPDATE pgtandem.linked_table SET state = 'live', linked_at = now() WHERE id = {id};");
        all.extend(self.identities.iter().map(|identity| (identity.name.clone(), live.clone())));
        all
    }
}

/// The incarnation of a node that is not in the link yet is drawn when it joins.
fn shown_slot(identity: &Identity) -> String {
    let slot = identity.slot();
    match identity.is_new {
        true => format!("{}…", &slot[..slot.len() - 8]),
        false => slot,
    }
}

fn peer_sql(peer: &Identity) -> String {
    let (number, name) = (peer.number, Literal(&peer.name));
    match peer.is_new {
        true => format!(
            "INSERT INTO pgtandem.peer (number, name, incarnation) VALUES ({number}, {name}, gen_random_uuid());"
        ),
        false => format!(
            "INSERT INTO pgtandem.peer (number, name, incarnation) VALUES ({number}, {name}, '{}');",
            peer.incarnation
        ),
    }
}

/// Passwords are not shown.
fn direct_peer_sql(peer: &str) -> String {
    let (tables, inbox) = (tables_server(peer), inbox_server(peer));
    format!(
        "CREATE EXTENSION IF NOT EXISTS dblink; CREATE EXTENSION IF NOT EXISTS postgres_fdw;\n\
         CREATE SERVER {tables} FOREIGN DATA WRAPPER postgres_fdw OPTIONS (/* the url */);\n\
         CREATE SERVER {inbox} FOREIGN DATA WRAPPER postgres_fdw OPTIONS (/* the url, and timeouts */);\n\
         CREATE USER MAPPING FOR CURRENT_USER SERVER {tables} OPTIONS (/* user and password */);\n\
         CREATE USER MAPPING FOR CURRENT_USER SERVER {inbox} OPTIONS (/* user and password */);\n{}",
        direct_sql(&Ident::new("pgtandem")).trim_end()
    )
}

fn register_sql(id: i32, table: &crate::config::Table, naming: &Naming, columns: &[String]) -> String {
    let columns: Vec<String> = columns.iter().map(|column| Literal(column).to_string()).collect();
    format!(
        "INSERT INTO pgtandem.linked_table (id, schema_name, table_name, own_schema, own_name, own_columns, relid, resolve, \
         ids, columns, start_position, state)\n\
         VALUES ({id}, {}, {}, {}, {}, {}, {}::regclass, {}, {}, ARRAY[{}], '0/0', 'linking');",
        Literal(table.name.schema.as_str()),
        Literal(table.name.name.as_str()),
        Literal(naming.table.schema.own_str()),
        Literal(naming.table.name.own_str()),
        Literal(&renamed_columns(naming).to_string()),
        Literal(&naming.table.to_string()),
        Literal(&table.resolve.to_string()),
        Literal(&table.ids.to_string()),
        columns.join(", "),
    )
}
