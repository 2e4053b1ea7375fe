//! A blocking SQL session for one thread.

use pgtandem::cluster::Cluster;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{Client, Config, NoTls, Row, Statement};

pub struct Sql {
    runtime: Runtime,
    client: Client,
    name: String,
}

impl Sql {
    pub fn connect(cluster: &Cluster, database: &str) -> Sql {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut config = Config::new();
        config.host_path(cluster.dir()).port(cluster.port()).user(cluster.superuser()).dbname(database);
        config.application_name("bench");
        let name = format!("{} ({database})", cluster.name());
        let client = runtime.block_on(async {
            let (client, connection) = config.connect(NoTls).await.unwrap_or_else(|e| panic!("{name}: {e}"));
            // What ends the connection shows as the error of the next statement.
            tokio::spawn(async { drop(connection.await) });
            client
        });
        Sql { runtime, client, name }
    }

    #[track_caller]
    pub fn run(&self, text: &str) {
        if let Err(error) = self.runtime.block_on(self.client.batch_execute(text)) {
            panic!("{}: {error:?}\n{text}", self.name);
        }
    }

    #[track_caller]
    pub fn prepare(&self, text: &str) -> Statement {
        match self.runtime.block_on(self.client.prepare(text)) {
            Ok(statement) => statement,
            Err(error) => panic!("{}: {error:?}\n{text}", self.name),
        }
    }

    #[track_caller]
    pub fn query(&self, statement: &Statement, parameters: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        match self.runtime.block_on(self.client.query(statement, parameters)) {
            Ok(rows) => rows,
            Err(error) => panic!("{}: {error:?}", self.name),
        }
    }

    /// The first field of the first row; `None`: no row.
    #[track_caller]
    pub fn field<T: for<'a> FromSql<'a>>(&self, text: &str) -> Option<T> {
        let statement = self.prepare(text);
        self.query(&statement, &[]).first().map(|row| row.get(0))
    }
}
