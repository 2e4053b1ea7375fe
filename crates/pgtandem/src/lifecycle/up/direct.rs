//! Steps of direct mode.

use super::Work;
use crate::config::{Config, DirectSettings};
use crate::lifecycle::LifecycleError;
use crate::lifecycle::direct::{
    endpoint_of, foreign_columns, foreign_table, inbox_server, inbox_server_options, probe_server,
    probe_server_options, tables_server, tables_server_options, wait_ms,
};
use crate::lifecycle::error::On;
use crate::link;
use crate::sql::{self, DirectTable, Ident};

const OUR_SCHEMA: &str = "pgtandem";

impl Work<'_> {
    /// Extensions that are not there yet are made in our schema, and go with it.
    pub(super) async fn make_direct_peer(
        &mut self,
        config: &Config,
        node: usize,
        peer: usize,
    ) -> Result<(), LifecycleError> {
        let peer_name = self.plan.identities[peer].name.clone();
        let DirectSettings { wait } = config.direct.unwrap_or_default();
        let Some(endpoint) = endpoint_of(config, &peer_name) else { return Ok(()) };
        let is_replica = self.surveys[peer].role.may_set_replication_role;
        let extensions = self.surveys[node].extensions.clone();
        let (tables, inbox) = (tables_server(&peer_name), inbox_server(&peer_name));
        let dblink = Ident::new(extensions.dblink.clone().unwrap_or_else(|| OUR_SCHEMA.to_owned()));
        let user = endpoint.user_options();
        let own_name = self.plan.identities[node].name.clone();
        let probe = probe_server(&own_name, self.surveys[node].server.major());
        let probe = probe.and_then(|server| Some((server, endpoint_of(config, &own_name)?)));
        let wait_ms = wait_ms(wait);
        let node = &mut self.nodes[node];
        let name = node.name.clone();
        let work = async {
            let transaction = node.session.client.transaction().await?;
            if extensions.dblink.is_none() {
                transaction.batch_execute("CREATE EXTENSION dblink SCHEMA pgtandem").await?;
            }
            if !extensions.postgres_fdw {
                transaction.batch_execute("CREATE EXTENSION postgres_fdw SCHEMA pgtandem").await?;
            }
            let servers = [
                (&tables, tables_server_options(endpoint, wait)),
                (&inbox, inbox_server_options(endpoint, wait, is_replica)),
            ];
            for (server, options) in servers {
                transaction.batch_execute(&sql::create_server(server, &options)).await?;
                transaction.batch_execute(&sql::create_user_mapping(server, &user)).await?;
            }
            if let Some((server, own)) = &probe {
                transaction.batch_execute(&sql::create_server(server, &probe_server_options(own))).await?;
                transaction.batch_execute(&sql::create_user_mapping(server, &own.user_options())).await?;
            }
            let own = probe.as_ref().map(|(server, _)| server);
            link::install_direct(&transaction, &dblink, &peer_name, &inbox, own, wait_ms).await?;
            transaction.commit().await
        };
        work.await.on(&name, "making what leads to the peer")
    }

    pub(super) async fn change_wait(&mut self, node: usize, statements: &[String]) -> Result<(), LifecycleError> {
        let node = &mut self.nodes[node];
        let name = node.name.clone();
        let work = async {
            let transaction = node.session.client.transaction().await?;
            transaction.batch_execute(&statements.join("; ")).await?;
            transaction.commit().await
        };
        work.await.on(&name, "changing how long the peer is waited for")
    }

    pub(super) async fn make_direct_table(
        &mut self,
        node: usize,
        peer: usize,
        table: &DirectTable,
    ) -> Result<(), LifecycleError> {
        let peer_name = self.plan.identities[peer].name.clone();
        let foreign = foreign_table(&peer_name, &table.name);
        let there = self.surveys[peer].table(&table.name);
        let theirs = there.map(|there| (there.name.clone(), foreign_columns(&self.surveys[node], there)));
        let node = &mut self.nodes[node];
        let name = node.name.clone();
        let work = async {
            let transaction = node.session.client.transaction().await?;
            for statement in table.create() {
                transaction.batch_execute(&statement).await?;
            }
            const THERE: &str = "SELECT pg_catalog.to_regclass($1::text) IS NOT NULL";
            let there: bool = transaction.query_one(THERE, &[&foreign.to_string()]).await?.get(0);
            if let (false, Some((their_name, columns))) = (there, theirs) {
                let server = tables_server(&peer_name);
                transaction.batch_execute(&sql::create_foreign_table(&foreign, &server, &their_name, &columns)).await?;
            }
            transaction.commit().await
        };
        work.await.on(&name, "making what a table's changes arrive at")
    }
}
