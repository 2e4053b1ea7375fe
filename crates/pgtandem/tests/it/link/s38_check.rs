//! All faults in one report, each with what mends it.

use super::{PRODUCTS, Scene, servers};
use pgtandem::cluster::{Cluster, ClusterOptions};

#[test]
fn s38_every_table_fault_in_one_report() {
    let scene = Scene::new(
        "s38_tables",
        2,
        "
        CREATE TABLE unkeyed (id int);
        CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE);
        CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
        CREATE VIEW shown AS SELECT 1 AS id;
        CREATE TABLE numbered (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY);
        CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child () INHERITS (parent);",
    );
    scene.on(0, "CREATE TABLE only_here (id int PRIMARY KEY); CREATE TABLE typed (id int PRIMARY KEY, v date);
                 CREATE TABLE keyed (a int, b int, PRIMARY KEY (a)); CREATE TABLE wide (id int PRIMARY KEY, v int NOT NULL)");
    scene.on(
        1,
        "CREATE TABLE typed (id int PRIMARY KEY, v timestamp);
                 CREATE TABLE keyed (a int, b int, PRIMARY KEY (a, b)); CREATE TABLE wide (id int PRIMARY KEY)",
    );
    scene.configure(&[
        "unkeyed",
        "deferred",
        "unlogged",
        "shown",
        "numbered",
        "parent",
        "only_here",
        "typed",
        "keyed",
        "wide",
    ]);
    let found = scene.check_codes();
    for (code, node, table) in [
        ("primary_key", "new", "unkeyed"),
        ("primary_key", "legacy", "unkeyed"),
        ("deferrable_key", "new", "deferred"),
        ("kind", "new", "unlogged"),
        ("kind", "legacy", "shown"),
        ("kind", "new", "parent"),
        ("missing_table", "legacy", "only_here"),
        ("type_differs", "legacy", "typed"),
        ("key_differs", "legacy", "keyed"),
        ("column_missing", "new", "wide"),
    ] {
        let wanted = (code.to_owned(), node.to_owned(), table.to_owned());
        assert!(found.contains(&wanted), "{wanted:?} is not in {found:#?}");
    }
    assert_eq!(scene.run(&["check"]).code, 1);
    // A program that asks for a plan gets JSON, whatever there is to say.
    let plan = scene.run(&["plan", "--json"]);
    assert_eq!(plan.code, 1, "{}", plan.all());
    let report: serde_json::Value = serde_json::from_str(&plan.stdout).unwrap_or_else(|_| panic!("{}", plan.all()));
    assert_eq!((&report["passed"], report["steps"].is_null()), (&false.into(), true));
    let up = scene.run(&["up", "--yes"]);
    assert_eq!(up.code, 1, "{}", up.all());
    assert_eq!(scene.on(0, "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgtandem'"), "0");
}

#[test]
fn s38_nodes_that_cannot_be_reached_are_all_named() {
    let scene = Scene::new("s38_reach", 2, PRODUCTS);
    let wrong = servers()[0].url_as("postgres", "wrong", &scene.database);
    let away = "host=127.0.0.1 port=1 user=nobody dbname=gone".to_owned();
    scene.configure_with(&[wrong, away], &["products"]);
    let found = scene.check_codes();
    let nodes: Vec<&str> = found
        .iter()
        .map(|(code, node, _)| {
            assert_eq!(code, "connection");
            node.as_str()
        })
        .collect();
    assert_eq!(nodes, ["new", "legacy"]);
    let text = scene.run(&["check"]).stdout;
    assert!(text.contains("password authentication failed"), "{text}");
    assert!(!text.contains("wrong@"), "{text}");
}

#[test]
fn s38_a_server_that_is_not_ready() {
    let scene = Scene::new("s38_server", 2, PRODUCTS);
    let options = ClusterOptions::new("bare").unwrap().without_fsync();
    let bare = Cluster::start(
        options.setting("wal_level", "replica").setting("max_replication_slots", "0").setting("max_wal_senders", "0"),
    )
    .unwrap();
    bare.psql("postgres", PRODUCTS).unwrap();
    scene.configure_with(&[bare.socket_url("postgres"), scene.url(1)], &["products"]);
    let codes: Vec<String> = scene.check_codes().into_iter().map(|(code, _, _)| code).collect();
    assert_eq!(codes, [""; 0], "triggers capture its changes");
    scene.read_from_wal("new");
    let codes: Vec<String> = scene.check_codes().into_iter().map(|(code, _, _)| code).collect();
    assert_eq!(codes, ["wal_level", "replication_slots", "wal_senders"]);
}

/// Of all kinds, on all nodes: whoever mends one after the other need not run it more than once.
#[test]
fn s38_everything_at_once_in_one_report() {
    let scene = Scene::new("s38_all", 3, PRODUCTS);
    let options = ClusterOptions::new("bare").unwrap().without_fsync().setting("wal_level", "replica");
    let bare = Cluster::start(options.setting("max_replication_slots", "1").setting("max_wal_senders", "1")).unwrap();
    bare.psql(
        "postgres",
        "CREATE ROLE \"s38 all\" LOGIN PASSWORD 'secret'; CREATE TABLE products (id bigint PRIMARY KEY DEFERRABLE);
         CREATE TABLE unkeyed (id int)",
    )
    .unwrap();
    let certificate = scene.dir.path().join("root.crt");
    std::fs::write(&certificate, "no certificate").unwrap();
    let wrong_password = servers()[1].url_as("postgres", "wrong", &scene.database);
    let wrong_certificate =
        format!("{}?sslmode=verify-full&sslrootcert={}", servers()[2].url(&scene.database), certificate.display());
    scene.configure_with(
        &[bare.url_as("s38 all", "secret", "postgres"), wrong_password, wrong_certificate],
        &["products", "unkeyed"],
    );
    scene.read_from_wal("new");
    let found = scene.check_codes();
    for (code, node, table) in [
        ("wal_level", "new", "-"),
        ("replication_slots", "new", "-"),
        ("wal_senders", "new", "-"),
        ("replication_right", "new", "-"),
        ("create_right", "new", "-"),
        ("deferrable_key", "new", "products"),
        ("ownership", "new", "products"),
        ("table_rights", "new", "products"),
        ("primary_key", "new", "unkeyed"),
        ("connection", "legacy", "-"),
        ("connection", "third", "-"),
    ] {
        let wanted = (code.to_owned(), node.to_owned(), table.to_owned());
        assert!(found.contains(&wanted), "{wanted:?} is not in {found:#?}");
    }
    let text = scene.run(&["check"]).all();
    for said in ["password authentication failed", "root.crt", "ALTER SYSTEM SET wal_level = 'logical'", "DEFERRABLE"] {
        assert!(text.contains(said), "{said} is not in\n{text}");
    }
    assert!(!text.contains("secret") && !text.contains("wrong@"), "{text}");
}

#[test]
fn s38_the_same_database_twice() {
    let scene = Scene::new("s38_same", 2, PRODUCTS);
    // Spelled in two ways, which only the servers' answers tell to be one.
    scene.configure_with(&[scene.url(0), servers()[0].url(&scene.database)], &["products"]);
    assert_eq!(scene.check_codes()[0].0, "same_database");
}

#[test]
fn s38_what_the_report_says_mends_it() {
    let scene = Scene::new(
        "s38_mended",
        2,
        &format!(
            "{PRODUCTS}; CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
         CREATE TRIGGER touch BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION touch();"
        ),
    );
    let major = servers()[0].psql("postgres", "SELECT current_setting('server_version_num')::int / 10000").unwrap();
    let role = "s38 app";
    for server in &servers()[..2] {
        server.psql("postgres", &format!("CREATE ROLE \"{role}\" LOGIN PASSWORD 'secret'")).unwrap();
    }
    let urls = [0, 1].map(|node| servers()[node].url_as(role, "secret", &scene.database));
    scene.configure_with(&urls, &["products"]);
    let codes: Vec<String> =
        scene.check_codes().into_iter().filter(|(_, node, _)| node == "new").map(|(code, _, _)| code).collect();
    for code in ["replication_right", "create_right", "trigger", "ownership", "table_rights", "sequence_rights"] {
        assert!(codes.iter().any(|found| found == code), "{code} is not in {codes:?}");
    }
    // The tables are a superuser's: nobody is to be made one for pgtandem.
    let text = scene.run(&["check"]).stdout;
    assert!(text.contains("→ ALTER TABLE \"public\".\"products\" OWNER TO \"s38 app\""), "{text}");
    assert!(!text.contains("GRANT \"postgres\""), "{text}");
    // What it says for each, except that 14 cannot grant the right to silence triggers.
    let quoted = format!("\"{role}\"");
    scene.everywhere(&format!(
        "ALTER ROLE {quoted} REPLICATION; GRANT CREATE ON DATABASE {} TO {quoted}; ALTER TABLE products OWNER TO {quoted}",
        scene.database
    ));
    match major.as_str() {
        "14" => scene.everywhere("ALTER TABLE products DISABLE TRIGGER touch"),
        _ => scene.everywhere(&format!("GRANT SET ON PARAMETER session_replication_role TO {quoted}")),
    };
    assert_eq!(scene.check_codes(), []);
    scene.on(0, "INSERT INTO products (name) VALUES ('p')");
    scene.must(&["up", "--yes"]);
    assert_eq!(scene.on(1, "SELECT count(*) FROM products"), "1");
    scene.must(&["down", "--yes"]);
}

/// Pasted as they stand.
#[test]
fn s38_the_statements_of_the_report_mend_a_table() {
    let scene =
        Scene::new("s38_statements", 2, "CREATE TABLE things (id int CONSTRAINT \"the Key\" PRIMARY KEY DEFERRABLE)");
    scene.on(0, "ALTER TABLE things ADD COLUMN \"when\" date");
    scene.on(1, "ALTER TABLE things ADD COLUMN \"when\" text; INSERT INTO things VALUES (1, '2025-01-01')");
    scene.configure(&["things"]);
    let ended = scene.run(&["check", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let faults: Vec<_> = findings.iter().filter(|finding| finding["severity"] == "fault").collect();
    assert_eq!(faults.len(), 3, "{}", ended.all());
    for fault in faults {
        let node = if fault["node"] == "new" { 0 } else { 1 };
        scene.on(node, fault["remedy"].as_str().unwrap());
    }
    scene.must(&["check"]);
}

#[test]
fn s38_init_writes_what_can_be_linked_and_why_not() {
    let scene = Scene::new(
        "s38_init",
        2,
        &format!(
            "{PRODUCTS}; CREATE TABLE unkeyed (id int); CREATE TABLE \"Mixed Case\" (id uuid PRIMARY KEY);
         CREATE TABLE schema_migrations (version varchar PRIMARY KEY)"
        ),
    );
    scene.on(0, "CREATE TABLE only_here (id int PRIMARY KEY)");
    let nodes = [format!("new={}", scene.url(0)), format!("legacy={}", scene.url(1))];
    let arguments = ["init", &nodes[0], &nodes[1]];
    scene.must(&arguments);
    let text = std::fs::read_to_string(scene.config_file()).unwrap();
    assert!(text.contains("\n[[tables]]\nname = \"products\"\n"), "{text}");
    assert!(text.contains("Mixed Case"), "{text}");
    assert!(text.contains("#   new: it has no primary key\n"), "{text}");
    assert!(text.contains("# schema_migrations is left out:"), "{text}");
    assert!(!text.contains("only_here"), "{text}");
    assert_eq!(scene.must(&["check"]).code, 0);
    let again = scene.run(&arguments);
    assert_eq!(again.code, 2, "{}", again.all());
    assert!(again.stderr.contains("--force"), "{}", again.stderr);
}
