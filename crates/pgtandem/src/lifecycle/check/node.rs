//! What a node must be and allow, whatever its tables.

use crate::config::Capture;
use crate::lifecycle::{NodeSurvey, Report};
use crate::link::{Installed, TableState};
use crate::sql::Ident;

const OLDEST: i32 = 14;
const NEWEST: i32 = 18;

/// `wanted`: what the configuration says of the capture, if it says anything.
pub(super) fn judge(report: &mut Report, survey: &NodeSurvey, capture: Capture, wanted: Option<Capture>) {
    server(report, survey);
    if capture == Capture::Wal {
        decoding(report, survey);
        capacity(report, survey);
        wal_disk(report, survey);
    } else if wanted.is_none() && survey.link.is_none() {
        let what = format!("wal_level is {}: changes will be captured by triggers", survey.server.wal_level);
        report.note("capture", what).on(&survey.name).mend(
            "to read them from the WAL, which costs the application less: ALTER SYSTEM SET wal_level = 'logical'; \
             then restart the server",
        );
    }
    connections(report, survey);
    privileges(report, survey, capture);
    installed(report, survey, capture);
    if let (Some(wanted), Some(_)) = (wanted, &survey.link)
        && wanted != capture
    {
        let what = format!("it is linked with capture = \"{capture}\", and the configuration says \"{wanted}\"");
        report.fault("capture", what).on(&survey.name).mend(format!(
            "to change it: `pgtandem down --node {}`, then `pgtandem up`, which compares the tables again",
            survey.name
        ));
    }
}

fn server(report: &mut Report, survey: &NodeSurvey) {
    let (node, server) = (&survey.name, &survey.server);
    if server.major() < OLDEST {
        report
            .fault("version", format!("PostgreSQL {} is too old", server.version))
            .on(node)
            .mend(format!("upgrade the server to PostgreSQL {OLDEST} or later"));
    } else if server.major() > NEWEST {
        let what = format!("PostgreSQL {} is newer than any pgtandem was tried on", server.version);
        report.warning("version", what).on(node).mend("see whether there is a newer pgtandem");
    }
    if server.in_recovery {
        report
            .fault("standby", "this server is a standby: it takes no writes")
            .on(node)
            .mend("connect to the primary (target_session_attrs=primary, with all hosts in the url)");
    }
}

fn decoding(report: &mut Report, survey: &NodeSurvey) {
    let (node, server) = (&survey.name, &survey.server);
    if server.wal_level != "logical" {
        report.fault("wal_level", format!("wal_level is {}", server.wal_level)).on(node).mend(format!(
            "ALTER SYSTEM SET wal_level = 'logical'; then restart the server; if that cannot be: capture = \"trigger\" \
                 in [nodes.{node}]"
        ));
    }
    if let Some(plugins) = &server.output_plugin_libraries {
        let mut trusted = plugins.split(',').map(|plugin| plugin.trim().trim_matches('"'));
        if !trusted.any(|plugin| plugin == "pgoutput" || plugin == "*") {
            report
                .fault("output_plugin", format!("output_plugin_libraries leaves pgoutput out: {plugins}"))
                .on(node)
                .mend("add it: ALTER SYSTEM SET output_plugin_libraries = 'pgoutput', …; SELECT pg_reload_conf()");
        }
    }
}

fn capacity(report: &mut Report, survey: &NodeSurvey) {
    let (node, server) = (&survey.name, &survey.server);
    // One for good and one while rows are copied; what we have already counts.
    let ours = i64::from(survey.slot.is_some());
    let (max, used) = (server.max_replication_slots, server.slots_used);
    if max - used + ours < 2 {
        let what =
            format!("{used} of {max} replication slots are taken; pgtandem needs one, and another while `up` copies");
        report
            .fault("replication_slots", what)
            .on(node)
            .mend(format!("ALTER SYSTEM SET max_replication_slots = {}; then restart the server", used - ours + 2));
    }
    let active = i64::from(survey.slot.as_ref().is_some_and(|slot| !slot.readers.is_empty()));
    let (max, used) = (server.max_wal_senders, server.senders_used);
    if max - used + active < 2 {
        let what = format!("{used} of {max} WAL senders are taken; pgtandem needs one, and another while `up` copies");
        report
            .fault("wal_senders", what)
            .on(node)
            .mend(format!("ALTER SYSTEM SET max_wal_senders = {}; then restart the server", used - active + 2));
    }
}

fn connections(report: &mut Report, survey: &NodeSurvey) {
    let (node, server) = (&survey.name, &survey.server);
    const NEEDED: i64 = 10;
    let (max, used) = (server.max_connections, server.connections_used);
    if max - used < NEEDED {
        report
            .warning("connections", format!("{used} of {max} connections are taken"))
            .on(node)
            .mend(format!("leave about {NEEDED} for pgtandem, or raise max_connections and restart the server"));
    }
}

fn wal_disk(report: &mut Report, survey: &NodeSurvey) {
    const BOUND: &str = "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf()";
    const SMALL: u64 = 1 << 30;
    match survey.server.max_slot_wal_keep_size {
        None => {
            let what = "WAL is kept without bound while pgtandem does not run: the disk may fill";
            report.note("wal_disk", what).on(&survey.name).mend(format!("to bound it: {BOUND}"));
        }
        Some(limit) if limit < SMALL => {
            let what = format!("the slot is lost when pgtandem is {} MiB behind (max_slot_wal_keep_size)", limit >> 20);
            report.warning("wal_disk", what).on(&survey.name).mend(BOUND);
        }
        Some(_) => {}
    }
}

fn privileges(report: &mut Report, survey: &NodeSurvey, capture: Capture) {
    let (node, role) = (&survey.name, &survey.role);
    let name = Ident::new(role.name.as_str());
    if capture == Capture::Wal && !role.replication {
        report
            .fault("replication_right", format!("the role {} may not open replication connections", role.name))
            .on(node)
            .mend(format!("ALTER ROLE {name} REPLICATION"));
    }
    if !role.may_create_in_database {
        let database = Ident::new(survey.server.database.as_str());
        report
            .fault("create_right", format!("the role {} may not create schemas and publications", role.name))
            .on(node)
            .mend(format!("GRANT CREATE ON DATABASE {database} TO {name}"));
    }
    if !role.may_set_replication_role {
        let remedy = match survey.server.major() {
            15.. => format!("GRANT SET ON PARAMETER session_replication_role TO {name}"),
            _ => "connect as a superuser (PostgreSQL 14 cannot grant this right), or live with it".to_owned(),
        };
        let what = format!(
            "the role {} may not set session_replication_role: foreign keys and triggers take delivered rows for the \
             application's own",
            role.name
        );
        report.warning("replication_role", what).on(node).mend(remedy);
    }
}

fn installed(report: &mut Report, survey: &NodeSurvey, capture: Capture) {
    let node = &survey.name;
    if survey.installed == Installed::Foreign {
        report
            .fault("schema", "there is a schema \"pgtandem\" that pgtandem did not make")
            .on(node)
            .mend("ALTER SCHEMA pgtandem RENAME TO …");
    }
    let Some(link) = &survey.link else {
        if survey.publication.is_some() {
            report
                .fault("publication", "there is a publication \"pgtandem\" that belongs to no link")
                .on(node)
                .mend("DROP PUBLICATION pgtandem");
        }
        return;
    };
    if let Some(other) = link.node.other_version() {
        // Of what else it keeps nothing was read.
        report.fault("schema", other.what).on(node).mend(other.remedy);
        return;
    }
    if link.node.name != *node {
        report
            .fault("node_name", format!("this database is linked under the name {:?}", link.node.name))
            .on(node)
            .mend(format!("write [nodes.{}] into pgtandem.toml, or take the link down first", link.node.name));
    }
    if link.rejoining {
        let what = format!("`pgtandem rejoin {node}` was begun and has not ended");
        report.note("rejoining", what).on(node).mend(format!("run `pgtandem rejoin {node}` again"));
        return;
    }
    let again = format!("run `pgtandem rejoin {node}`, which compares the tables and settles what differs");
    // The slot is made after the schema, so while `up` is unfinished it may be missing.
    let live = link.tables.iter().any(|table| table.state == TableState::Live);
    if link.node.system_identifier != survey.server.system_identifier
        || link.node.database_oid != survey.server.database_oid
    {
        let what = "this database is a copy (restored, cloned, or upgraded) of the one that was linked";
        report.fault("incarnation", what).on(node).mend(again);
    } else if capture == Capture::Trigger {
        if survey.link.as_ref().is_some_and(|link| {
            let mut live = link.tables.iter().filter(|table| table.state == TableState::Live);
            live.any(|table| {
                survey.tables.iter().any(|s| s.relid == table.relid) && !link.captured.contains(&table.relid)
            })
        }) {
            let what =
                "a linked table has lost the triggers that capture its changes: what was changed since is unknown";
            report.fault("triggers_gone", what).on(node).mend(again);
        }
    } else if live && survey.slot.is_none() {
        let what = format!("the replication slot {} is gone: what was changed since is unknown", link.node.slot);
        report.fault("slot", what).on(node).mend(again);
    } else if survey.slot.as_ref().is_some_and(|slot| slot.wal_status.as_deref() == Some("lost")) {
        let what = format!("the replication slot {} was invalidated: WAL it needed is gone", link.node.slot);
        report.fault("slot", what).on(node).mend(again);
    }
}
