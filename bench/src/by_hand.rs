//! What people write who want this without a product: row triggers that write through a foreign table, both ways. They
//! carry inserts and updates, and each insert also draws an id from the other side's sequence, through a view over
//! `nextval`, so that the next one there does not take the same.

use pgtandem::cluster::Cluster;

use crate::pair::{Pair, Way};
use crate::sql::Sql;

/// What postgres_fdw calls its sessions tells a row that comes from the other side from one of the application's.
const TRIGGERS: &str = "
    CREATE VIEW products_next_id AS SELECT nextval('products_id_seq') AS id;
    CREATE FOREIGN TABLE other_products_next_id (id bigint) SERVER other OPTIONS (table_name 'products_next_id');
    CREATE FOREIGN TABLE other_products (id bigint NOT NULL, name text, description text, price numeric(10,2),
        created_at timestamptz, updated_at timestamptz) SERVER other OPTIONS (table_name 'products');
    CREATE FUNCTION send_insert() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM id FROM other_products_next_id;
        INSERT INTO other_products (id, name, description, price, created_at, updated_at)
            VALUES (NEW.id, NEW.name, NEW.description, NEW.price, NEW.created_at, NEW.updated_at);
        RETURN NEW;
    END $$;
    CREATE FUNCTION send_update() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE other_products SET name = NEW.name, description = NEW.description, price = NEW.price,
            created_at = NEW.created_at, updated_at = NEW.updated_at WHERE id = NEW.id;
        RETURN NEW;
    END $$;
    CREATE TRIGGER send_insert AFTER INSERT ON products FOR EACH ROW
        WHEN (current_setting('application_name') <> 'postgres_fdw') EXECUTE FUNCTION send_insert();
    CREATE TRIGGER send_update AFTER UPDATE ON products FOR EACH ROW
        WHEN (current_setting('application_name') <> 'postgres_fdw') EXECUTE FUNCTION send_update()";

/// Installs them on both sides.
pub fn link(pair: &Pair, database: &str) {
    for (here, there) in [(&pair.source, &pair.target), (&pair.target, &pair.source)] {
        Sql::connect(here, database).run(&format!("{}; {TRIGGERS}", server(pair, there, database)));
    }
}

fn server(pair: &Pair, there: &Cluster, database: &str) -> String {
    let host = match pair.way {
        Way::Socket => there.dir().display().to_string(),
        Way::Tcp => "127.0.0.1".to_owned(),
    };
    format!(
        "CREATE EXTENSION postgres_fdw; \
         CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{host}', port '{}', dbname '{database}'); \
         CREATE USER MAPPING FOR CURRENT_USER SERVER other OPTIONS (user '{}', password '{}')",
        there.port(),
        there.superuser(),
        there.password()
    )
}
