//! What direct mode asks for, and triggers by which somebody has linked the tables already.

use crate::config::{Config, Ids, Table};
use crate::connect::Endpoint;
use crate::lifecycle::direct::endpoint_of;
use crate::lifecycle::{NodeSurvey, OpenNode, Report};
use crate::sql::Ident;
use tokio_postgres::Error;

/// Every row would go twice.
pub(super) fn sync_triggers(report: &mut Report, config: &Config, survey: &NodeSurvey, table: &Table) {
    for trigger in survey.table(&table.name).into_iter().flat_map(|table| table.own_sync_triggers()) {
        let what = format!("the trigger {} writes to another database by itself", trigger.name);
        let finding = match config.replace_triggers {
            true => report.note("sync_trigger", format!("{what}: `up` disables it, and `down` enables it again")),
            false => report.fault("sync_trigger", format!("{what}: rows would go twice")),
        };
        finding.on(&survey.name).of(&table.name).mend(format!(
            "`pgtandem up --replace-triggers`, or ALTER TABLE {} DISABLE TRIGGER {}",
            table.name, trigger.name
        ));
    }
}

/// Of tables whose nodes draw the same numbers, whatever is asked of the nodes.
pub(super) fn mirrors(report: &mut Report, config: &Config, surveys: &[NodeSurvey]) {
    for table in config.tables.iter().filter(|table| table.ids == Ids::Mirror) {
        let what = "ids = \"mirror\": two inserts at one moment, or while one side is away, can get the same id; one of the \
                    rows then loses, and is kept with the conflict";
        let remedy = "with ids = \"interleave\" that cannot happen";
        report.warning("mirror", what).of(&table.name).mend(remedy);
        for survey in surveys {
            let Some(shape) = survey.table(&table.name) else { continue };
            for sequence in survey.key_sequences(shape).iter().filter(|sequence| sequence.options.cache > 1) {
                let what = format!(
                    "sessions take {} ids of {} ahead: they will be old ones",
                    sequence.options.cache, sequence.name
                );
                report
                    .warning("mirror_cache", what)
                    .on(&survey.name)
                    .of(&table.name)
                    .mend(format!("ALTER SEQUENCE {} CACHE 1", sequence.name));
            }
        }
    }
}

pub(super) fn judge(report: &mut Report, config: &Config, survey: &NodeSurvey) {
    let linked = survey.link.as_ref().filter(|link| link.node.other_version().is_none());
    let is_linked_direct = linked.map(|link| link.direct.is_some());
    // An interrupted `up` goes on: the mode is part of the link once a table is in it.
    let has_tables = linked.is_some_and(|link| !link.tables.is_empty());
    if has_tables && is_linked_direct.is_some_and(|direct| direct != config.direct.is_some()) {
        let mode = if config.direct.is_some() { "stream" } else { "direct" };
        report
            .fault("mode", format!("it is linked in {mode} mode, and the configuration says otherwise"))
            .on(&survey.name)
            .mend("to change it: `pgtandem down`, then `pgtandem up`, which compares the tables again");
    }
    if config.direct.is_none() {
        return;
    }
    extensions(report, survey);
    let peers = config.nodes.iter().filter(|node| node.name != survey.name);
    for endpoint in peers.filter_map(|peer| endpoint_of(config, &peer.name)) {
        passwords(report, survey, endpoint);
    }
    for table in config.tables.iter().filter_map(|table| survey.table(&table.name)) {
        for leaf in table.leaves.iter().filter(|leaf| leaf.is_reordered) {
            let what = format!(
                "its partition {} has its columns in another order: what is written there is not delivered directly, but by \
                 the hub, and later changes of the table wait behind it",
                leaf.name.plain()
            );
            report.note("partition_order", what).on(&survey.name).of(&table.name);
        }
    }
}

fn extensions(report: &mut Report, survey: &NodeSurvey) {
    let (found, node) = (&survey.extensions, &survey.name);
    let us = Ident::new(survey.role.name.as_str());
    for (name, is_there, is_available) in [
        ("dblink", found.dblink.is_some(), found.dblink_available),
        ("postgres_fdw", found.postgres_fdw, found.postgres_fdw_available),
    ] {
        if is_there || (is_available && survey.role.superuser) {
            continue;
        }
        let finding = match is_available {
            true => report
                .fault("extension", format!("the extension {name} is needed, and only a superuser may make it"))
                .mend(format!("as a superuser, in this database: CREATE EXTENSION {name}")),
            false => report
                .fault("extension", format!("the extension {name} is needed, and this server does not have it"))
                .mend("install the server's contrib package (Debian: it is part of postgresql-NN)"),
        };
        finding.on(node);
    }
    if found.postgres_fdw && !found.may_use_wrapper {
        report
            .fault("wrapper_right", format!("the role {} may not make foreign servers", survey.role.name))
            .on(node)
            .mend(format!("GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO {us}"));
    }
}

fn passwords(report: &mut Report, survey: &NodeSurvey, endpoint: &Endpoint) {
    let has_password = endpoint.user_options().iter().any(|(name, _)| *name == "password");
    let node = &survey.name;
    if has_password {
        let what = format!("the password for {endpoint} will stand in this database, where superusers can read it");
        report.note("password", what).on(node);
    } else if !survey.role.superuser {
        let what = format!(
            "dblink lets the role {} connect only with a password, and there is none for {endpoint}",
            survey.role.name
        );
        report.fault("password", what).on(node).mend("give one: in the url, in direct_url, or in ~/.pgpass");
    }
}

/// Whether the node's own server reaches the peer: the way its transactions will go. Nothing of it stays.
pub(super) async fn try_peer(report: &mut Report, config: &Config, node: &OpenNode, survey: &NodeSurvey) {
    let is_possible = survey.extensions.dblink.is_some()
        || (survey.role.superuser && survey.extensions.dblink_available && !survey.server.in_recovery);
    if config.direct.is_none() || !is_possible {
        return;
    }
    // Itself as well, where a session of its own is sent ahead.
    let tried = config.nodes.iter().filter(|to| to.name != node.name || survey.server.major() >= 16);
    for peer in tried {
        try_one(report, config, node, survey, &peer.name).await;
    }
}

async fn try_one(report: &mut Report, config: &Config, node: &OpenNode, survey: &NodeSurvey, peer: &str) {
    let Some(endpoint) = endpoint_of(config, peer) else { return };
    let Err(error) = connect_from(node, survey, endpoint).await else { return };
    let why = error.as_db_error().map_or_else(
        || error.to_string(),
        |error| [Some(error.message()), error.detail()].into_iter().flatten().collect::<Vec<_>>().join(": "),
    );
    report.fault("peer", format!("its server does not reach {peer} ({endpoint}): {}", why.trim())).on(&node.name).mend(
        format!(
            "let it in there, or say how it is reached from here: direct_url = \"postgres://…\" below [nodes.{peer}]"
        ),
    );
}

async fn connect_from(node: &OpenNode, survey: &NodeSurvey, endpoint: &Endpoint) -> Result<(), Error> {
    let mut options = endpoint.server_options();
    options.extend(endpoint.user_options());
    options.push(("connect_timeout", "5".to_owned()));
    let quoted = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
    let options = options.iter().map(|(name, value)| format!("{name}='{}'", quoted(value)));
    let conninfo = options.collect::<Vec<_>>().join(" ");
    let client = node.client();
    let tried = async {
        client.batch_execute("BEGIN").await?;
        if survey.extensions.dblink.is_none() {
            client.batch_execute("CREATE SCHEMA pgtandem_check; CREATE EXTENSION dblink SCHEMA pgtandem_check").await?;
        }
        let schema = Ident::new(survey.extensions.dblink.as_deref().unwrap_or("pgtandem_check"));
        client.query(&format!("SELECT {schema}.dblink_connect('pgtandem check', $1)"), &[&conninfo]).await?;
        client.query(&format!("SELECT {schema}.dblink_disconnect('pgtandem check')"), &[]).await
    };
    let tried = tried.await.map(drop);
    drop(client.batch_execute("ROLLBACK").await);
    tried
}
