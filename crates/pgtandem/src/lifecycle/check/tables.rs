//! What a table must be on each node.

use crate::catalog::{Column, Persistence, TableKind, TableShape, TriggerFiring};
use crate::config::{Capture, Ids, Table};
use crate::lifecycle::{NodeSurvey, Report};
use crate::sql::{Ident, list};

pub(super) fn judge(report: &mut Report, survey: &NodeSurvey, wanted: &Table, capture: Capture) {
    let Some(table) = survey.table(&wanted.name) else {
        let own = wanted.naming(&survey.name).table.own();
        let what = match own == wanted.name {
            true => "there is no such table".to_owned(),
            false => format!("there is no table {}, as which it is to be known here", own.plain()),
        };
        report.fault("missing_table", what).on(&survey.name).of(&wanted.name).mend(
            "create it with the columns it has on the other nodes, or correct its name in pgtandem.toml, where `names` \
                 says what a node calls it otherwise",
        );
        return;
    };
    judge_shape(report, survey, table, wanted.ids, capture);
}

/// `init` asks this before there is a configuration.
pub(in crate::lifecycle) fn judge_shape_alone(report: &mut Report, survey: &NodeSurvey, table: &TableShape) {
    judge_shape(report, survey, table, Ids::Interleave, Capture::Wal);
}

fn judge_shape(report: &mut Report, survey: &NodeSurvey, table: &TableShape, ids: Ids, capture: Capture) {
    if !kind(report, survey, table) {
        return;
    }
    key(report, survey, table);
    rights(report, survey, table);
    triggers(report, survey, table);
    cascades(report, survey, table);
    if ids != Ids::Keep {
        sequences(report, survey, table);
    }
    if capture == Capture::Wal {
        large_values(report, survey, table);
    }
}

fn large_values(report: &mut Report, survey: &NodeSurvey, table: &TableShape) {
    if table.has_toast && table.has_virtual_column() {
        let what = "PostgreSQL refuses REPLICA IDENTITY FULL of a table with a virtual generated column, so large \
                    values that an update leaves alone are read from the table, which is slow, and may be newer ones";
        report
            .warning("virtual_column", what)
            .on(&survey.name)
            .of(&table.name)
            .mend("make the generated column a STORED one, if updates of rows with large values are many");
    } else if table.has_toast && !table.leaves.iter().all(|leaf| leaf.replica_identity.is_full()) {
        let what = "values may be stored out of line (TOAST): `up` sets REPLICA IDENTITY FULL, so that updates and \
                    deletes write the whole old row to the WAL";
        report.note("replica_identity", what).on(&survey.name).of(&table.name);
    }
}

/// False: looking further makes no sense.
fn kind(report: &mut Report, survey: &NodeSurvey, table: &TableShape) -> bool {
    let name = &table.name;
    let (what, remedy) = match (table.kind, table.persistence) {
        (TableKind::Other('v'), _) => ("it is a view", "link the tables it shows".to_owned()),
        (TableKind::Other('m'), _) => ("it is a materialized view", "link the tables it is made of".to_owned()),
        (TableKind::Other(_), _) => ("it is a foreign table", "link it where its rows are".to_owned()),
        (_, Persistence::Unlogged) => {
            ("it is unlogged: its changes are not in the WAL", format!("ALTER TABLE {name} SET LOGGED"))
        }
        (_, Persistence::Temporary) => ("it is temporary", "link a lasting table".to_owned()),
        _ if table.is_partition => ("it is a partition", "link the partitioned table it belongs to".to_owned()),
        _ if table.inherits => (
            "it takes part in table inheritance",
            "end it (ALTER TABLE … NO INHERIT …), or make it a partitioned table".to_owned(),
        ),
        _ => return true,
    };
    report.fault("kind", what).on(&survey.name).of(name).mend(remedy);
    false
}

fn key(report: &mut Report, survey: &NodeSurvey, table: &TableShape) {
    let (node, name) = (&survey.name, &table.name);
    if table.primary_key.is_empty() {
        let columns = match table.column(&Ident::new("id")) {
            Some(id) => id.name.to_string(),
            None => "…".to_owned(),
        };
        report
            .fault("primary_key", "it has no primary key")
            .on(node)
            .of(name)
            .mend(format!("ALTER TABLE {name} ADD PRIMARY KEY ({columns})"));
    }
    if let Some(constraint) = &table.deferrable_pk {
        let what = "its primary key is deferrable: once published, PostgreSQL would refuse the application's updates";
        let columns = list(&table.primary_key);
        report.fault("deferrable_key", what).on(node).of(name).mend(format!(
            "ALTER TABLE {name} DROP CONSTRAINT {constraint}, ADD PRIMARY KEY ({columns}) NOT DEFERRABLE"
        ));
    }
    for column in &table.columns {
        if table.is_key(&column.name) && is_spelled_in_ways_unknown(column) {
            let what = format!(
                "the key column {} is of the type {}, which writes equal values differently",
                column.name, column.type_text
            );
            report.fault("key_type", what).on(node).of(name).mend("make another column the primary key");
        }
        if table.is_key(&column.name) && !column.deterministic {
            let what = format!(
                "the key column {} has a nondeterministic collation: which keys it takes for equal cannot be told \
                 outside the server",
                column.name
            );
            report.fault("collation", what).on(node).of(name).mend(format!(
                "ALTER TABLE {name} ALTER COLUMN {} TYPE {} COLLATE \"default\" (or citext)",
                column.name, column.type_text
            ));
        }
    }
}

/// Types of which two texts can mean the same value, in a way that only the server knows.
fn is_spelled_in_ways_unknown(column: &Column) -> bool {
    let name = column.base_type.as_str();
    let (element, is_array) = name.strip_suffix("[]").map_or((name, false), |element| (element, true));
    let in_arrays = ["numeric", "real", "double precision", "character"];
    column.type_kind == 'c'
        || ["interval", "jsonb", "numrange", "nummultirange"].contains(&element)
        || is_array && (in_arrays.contains(&element) || element.ends_with("citext"))
}

fn rights(report: &mut Report, survey: &NodeSurvey, table: &TableShape) {
    let (node, name, role) = (&survey.name, &table.name, &survey.role);
    let rights = role.tables.get(&table.relid).copied().unwrap_or_default();
    let us = Ident::new(role.name.as_str());
    if !role.superuser && !rights.owner {
        let owner = Ident::new(table.owner.as_str());
        report
            .fault("ownership", format!("the role {} does not own it, as capturing its changes demands", role.name))
            .on(node)
            .of(name)
            .mend(match table.owner_is_superuser {
                true => format!("ALTER TABLE {name} OWNER TO {us}"),
                false => format!("GRANT {owner} TO {us}, or ALTER TABLE {name} OWNER TO {us}"),
            });
    }
    if !(rights.read && rights.write && rights.truncate) {
        report
            .fault("table_rights", format!("the role {} may not read and write it", role.name))
            .on(node)
            .of(name)
            .mend(format!("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {name} TO {us}"));
    }
    if !rights.schema_usage {
        report
            .fault("schema_rights", format!("the role {} may not use the schema {}", role.name, name.schema))
            .on(node)
            .of(name)
            .mend(format!("GRANT USAGE ON SCHEMA {} TO {us}", name.schema));
    }
    let applies = table.row_security && (table.row_security_forced || !rights.owner);
    if applies && !role.bypass_row_security {
        report
            .fault("row_security", "row security hides rows from us")
            .on(node)
            .of(name)
            .mend(format!("ALTER ROLE {us} BYPASSRLS, or ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY"));
    }
}

fn triggers(report: &mut Report, survey: &NodeSurvey, table: &TableShape) {
    let (node, name) = (&survey.name, &table.name);
    for trigger in &table.triggers {
        match trigger.firing {
            TriggerFiring::Disabled => {}
            TriggerFiring::Always | TriggerFiring::Replica => {
                report
                    .warning("trigger_always", format!("the trigger {} fires for delivered rows too", trigger.name))
                    .on(node)
                    .of(name)
                    .mend(format!("if that is not meant: ALTER TABLE {name} ENABLE TRIGGER {}", trigger.name));
            }
            TriggerFiring::Origin if survey.role.may_set_replication_role => {}
            TriggerFiring::Origin => {
                let grant = match survey.server.major() {
                    15.. => format!(
                        "GRANT SET ON PARAMETER session_replication_role TO {}",
                        Ident::new(survey.role.name.as_str())
                    ),
                    _ => "connect as a superuser".to_owned(),
                };
                report
                    .fault("trigger", format!("the trigger {} would fire again for delivered rows", trigger.name))
                    .on(node)
                    .of(name)
                    .mend(format!("{grant}, or ALTER TABLE {name} DISABLE TRIGGER {}", trigger.name));
            }
        }
    }
}

fn cascades(report: &mut Report, survey: &NodeSurvey, table: &TableShape) {
    if survey.role.may_set_replication_role {
        return;
    }
    for key in table.foreign_keys_in.iter().filter(|key| key.on_delete.writes() || key.on_update.writes()) {
        let child = key.table.plain();
        let grant = "allow us to set session_replication_role";
        let is_linked = survey.tables.iter().any(|other| other.name == key.table);
        report
            .warning("cascade", format!("a delivered delete or key change acts on {child} too, through {}", key.name))
            .on(&survey.name)
            .of(&table.name)
            .mend(if is_linked { grant.to_owned() } else { format!("{grant}, and link {child} too") });
    }
}

fn sequences(report: &mut Report, survey: &NodeSurvey, table: &TableShape) {
    let (node, name) = (&survey.name, &table.name);
    for sequence in survey.key_sequences(table) {
        if !sequence.is_ours_to_alter && !survey.role.superuser {
            let us = Ident::new(survey.role.name.as_str());
            report
                .fault("sequence_rights", format!("the sequence {} belongs to another role", sequence.name))
                .on(node)
                .of(name)
                .mend(format!("ALTER SEQUENCE {} OWNER TO {us}, or write ids = \"keep\" for the table", sequence.name));
        }
        if sequence.options.increment < 0 {
            report
                .fault("sequence", format!("the sequence {} counts downwards", sequence.name))
                .on(node)
                .of(name)
                .mend("write ids = \"keep\" for the table, and keep the nodes' ids apart yourself");
        }
        let left = sequence.options.max.saturating_sub(sequence.last_value);
        if left < sequence.options.max / 8 {
            let what = format!("the sequence {} has {left} values left, which the nodes will share", sequence.name);
            report.warning("sequence", what).on(node).of(name).mend(format!(
                "ALTER TABLE {name} ALTER COLUMN {} TYPE bigint; ALTER SEQUENCE {} AS bigint",
                sequence.column, sequence.name
            ));
        }
    }
}
