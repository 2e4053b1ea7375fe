//! S38, S40, S41, S43, S44 in direct mode: `check`, `up`, killed at any point and repeated, and `down`, which leaves no trace.

use std::fs;

use crate::s50_at_commit::nothing_waits;
use crate::support::{PRODUCTS, Pair, Setup, killed_after};

const FILLED: &str = "CREATE TABLE products (id bigserial PRIMARY KEY, name text);
    INSERT INTO products (name) SELECT 'p' || i FROM generate_series(1, 500) i WHERE current_database() ~ 'new'";

pub fn traces(pair: &Pair) -> Vec<String> {
    let query = "SELECT c.oid::regclass, relkind, relhasrules, relreplident, s.* FROM pg_class c
                     LEFT JOIN pg_sequence s ON seqrelid = c.oid WHERE relnamespace = 'public'::regnamespace ORDER BY 1;
                 SELECT nspname FROM pg_namespace WHERE nspname = 'pgtandem';
                 SELECT extname FROM pg_extension ORDER BY 1; SELECT srvname FROM pg_foreign_server ORDER BY 1;
                 SELECT count(*) FROM pg_user_mapping; SELECT count(*) FROM pg_foreign_table;
                 SELECT tgname, tgrelid::regclass, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1;
                 SELECT count(*) FROM pg_proc WHERE prosrc ~ 'pgtandem'; SELECT count(*) FROM pg_depend";
    pair.nodes().iter().map(|node| node.sql(query)).collect()
}

#[test]
fn s41_up_killed_at_any_point_can_be_repeated_and_down_leaves_no_trace() {
    let mut steps = 0;
    loop {
        let pair = Pair::with(Setup::shared().table("products", FILLED));
        let before = traces(&pair);
        let Some(step) = killed_after(pair.command(["up", "--yes"]), steps) else { break };
        // The applications go on.
        pair["new"].sql("INSERT INTO products (name) VALUES ('after the kill')");
        pair.link();
        pair.pgtandem(["run", "--once"]).ok();
        for (here, there) in [("new", "legacy"), ("legacy", "new")] {
            pair[here].sql(&format!("UPDATE products SET name = '{here}' WHERE id = 7"));
            assert_eq!(pair[there].sql("SELECT name FROM products WHERE id = 7"), here, "killed at {step}");
        }
        pair.equal("products");
        pair.nodes().iter().for_each(|node| assert_eq!(node.outbox_length(), "0"));
        assert_eq!(pair["legacy"].sql("SELECT count(*) FROM products"), "501", "killed at {step}");
        let said = pair.pgtandem(["down", "--yes"]).ok();
        assert!(said.contains("legacy: nothing left."), "{said}");
        assert_eq!(traces(&pair), before, "killed at {step}");
        steps += 1;
    }
    assert!(steps > 10, "only {steps} steps were seen");
}

#[test]
fn s42_up_twice_changes_nothing() {
    let pair = Pair::with(Setup::shared().table("products", FILLED));
    pair.link();
    let said = pair.pgtandem(["up", "--yes"]).ok();
    assert!(said.contains("nothing to do"), "{said}");
}

#[test]
fn s43_down_when_the_peer_is_gone_for_good() {
    let pair = Pair::with(Setup::default().table("products", PRODUCTS));
    let before = traces(&pair);
    pair.link();
    pair["new"].sql("INSERT INTO products (name) VALUES ('a')");
    pair["legacy"].cluster.stop(pgtandem::cluster::Stop::Immediate).unwrap();
    pair["new"].sql("UPDATE products SET name = 'b'");
    pair.pgtandem(["down", "--node", "legacy", "--yes"]).ok();
    let now = pair["new"].sql(
        "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgtandem'; SELECT count(*) FROM pg_foreign_server;
         SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal; SELECT count(*) FROM pg_extension",
    );
    assert_eq!(now, "0\n0\n0\n1");
    assert!(before[0].contains("plpgsql"));
    pair["new"].sql("UPDATE products SET name = 'c'");
}

/// What the application has made of the kind stays.
#[test]
fn s43_extensions_that_were_there_stay() {
    let pair = Pair::with(Setup::shared().table("products", FILLED));
    for node in pair.nodes() {
        node.sql("CREATE SCHEMA tools; CREATE EXTENSION dblink SCHEMA tools; CREATE EXTENSION postgres_fdw");
    }
    let before = traces(&pair);
    pair.link();
    pair["legacy"].sql("UPDATE products SET name = 'x' WHERE id = 1");
    assert_eq!(pair["new"].sql("SELECT name FROM products WHERE id = 1"), "x");
    let said = pair.pgtandem(["down", "--yes"]).ok();
    assert!(said.contains("legacy: nothing left."), "{said}");
    assert_eq!(traces(&pair), before);
}

#[test]
fn s44_a_table_joins_and_another_leaves() {
    let pair = Pair::with(
        Setup::shared()
            .table("products", FILLED)
            .table("notes", "CREATE TABLE notes (id int PRIMARY KEY, note text, product bigint REFERENCES products)"),
    );
    let text = fs::read_to_string(pair.config()).unwrap();
    let only_products = text.split("\n[[tables]]\nname = \"notes\"").next().unwrap();
    fs::write(pair.config(), only_products).unwrap();
    pair.link();
    pair["legacy"].sql("INSERT INTO notes VALUES (1, 'one', 1)");
    fs::write(pair.config(), &text).unwrap();
    pair.link();
    pair.pgtandem(["run", "--once"]).ok();
    pair["new"].sql(
        "BEGIN; INSERT INTO products (id, name) VALUES (9000, 'x'); INSERT INTO notes VALUES (2, 'two', 9000); COMMIT",
    );
    pair.equal("notes");
    pair.equal("products");
    nothing_waits(&pair["new"]);
    fs::write(pair.config(), text.replace("[[tables]]\nname = \"products\"\n", "")).unwrap();
    pair.link();
    pair["new"].sql("UPDATE notes SET note = 'three'; UPDATE products SET name = 'not any more' WHERE id = 1");
    pair.equal("notes");
    assert_eq!(pair["legacy"].sql("SELECT name FROM products WHERE id = 1"), "p1");
    assert_eq!(pair["new"].sql("SELECT count(*) FROM pg_foreign_table"), "1");
}

#[test]
fn s38_check_finds_what_direct_mode_lacks() {
    let pair = Pair::with(Setup::shared().table("products", FILLED));
    let text = fs::read_to_string(pair.config()).unwrap();
    let elsewhere = "[nodes.legacy]\ndirect_url = \"postgres://nobody:wrong@127.0.0.1:1/nothing\"\n";
    fs::write(pair.config(), text.replace("[nodes.legacy]\n", elsewhere)).unwrap();
    let said = pair.pgtandem(["check"]).exits(1).stdout;
    assert!(said.contains("its server does not reach legacy"), "{said}");
    assert!(said.contains("direct_url ="), "{said}");
    assert!(!said.contains("wrong"), "{said}");
    for (config, expected) in [
        (text.replace("mode = \"direct\"", "mode = \"both\""), "`both` is not a mode"),
        (text.replace("[nodes.new]\n", "[nodes.new]\ncapture = \"wal\"\n"), "direct mode captures by triggers"),
        (text.replace("mode = \"direct\"\n", "[direct]\nwait_ms = 5\n"), "not a whole number from 100 to 60000"),
        (text.replace("mode = \"direct\"\n", "[direct]\n"), "has no effect without mode"),
    ] {
        fs::write(pair.config(), config).unwrap();
        let said = pair.pgtandem(["check"]).exits(2).stderr;
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn s40_another_mode_is_refused_while_linked() {
    let pair = Pair::with(Setup::shared().table("products", FILLED));
    pair.link();
    let text = fs::read_to_string(pair.config()).unwrap();
    fs::write(pair.config(), text.replace("mode = \"direct\"", "mode = \"stream\"")).unwrap();
    let said = pair.pgtandem(["check"]).exits(1).stdout;
    assert!(said.contains("it is linked in direct mode"), "{said}");
}

/// How long a COMMIT waits is changed by `up`, on a link at work.
#[test]
fn s42_another_wait_takes_no_new_link() {
    let pair = Pair::with(Setup::shared().table("products", FILLED));
    pair.link();
    pair.write_config("[direct]\nwait_ms = 6000\n");
    let said = pair.pgtandem(["plan"]).ok();
    assert!(said.contains("let a COMMIT wait for legacy no longer than 6000 ms (it is 2000)"), "{said}");
    pair.link();
    for node in pair.nodes() {
        assert_eq!(node.sql("SELECT wait_ms FROM pgtandem.direct"), "6000");
        let options = node.sql("SELECT srvoptions FROM pg_foreign_server WHERE srvname ~ '_inbox$'");
        assert!(options.contains("lock_timeout=400") && options.contains("statement_timeout=5400"), "{options}");
        assert!(options.contains("tcp_user_timeout=12000"), "{options}");
        node.sql("UPDATE products SET name = name || '.' WHERE id = 1");
        nothing_waits(node);
    }
    assert!(pair.pgtandem(["up", "--yes"]).ok().contains("nothing to do"));
}

/// What this product's first user has: triggers that write through foreign tables.
const BY_HAND: &str = "CREATE EXTENSION postgres_fdw;
    CREATE SERVER other_server FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '@PORT@', dbname '@DB@');
    CREATE USER MAPPING FOR CURRENT_USER SERVER other_server OPTIONS (user '@USER@', password '@PW@');
    CREATE FOREIGN TABLE other_products (id bigint, name text) SERVER other_server OPTIONS (table_name 'products');
    CREATE FUNCTION send_product() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO other_products VALUES (NEW.id, NEW.name); RETURN NEW; END $$;
    CREATE TRIGGER send_product AFTER INSERT ON products FOR EACH ROW EXECUTE FUNCTION send_product();
    CREATE FUNCTION harmless() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
    CREATE TRIGGER harmless BEFORE INSERT ON products FOR EACH ROW EXECUTE FUNCTION harmless()";

#[test]
fn s50_triggers_made_by_hand_are_found_and_replaced() {
    let pair =
        Pair::with(Setup::shared().table("products", "CREATE TABLE products (id bigserial PRIMARY KEY, name text)"));
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql(
        &BY_HAND
            .replace("@PORT@", &legacy.cluster.port().to_string())
            .replace("@DB@", legacy.database())
            .replace("@USER@", legacy.cluster.superuser())
            .replace("@PW@", legacy.cluster.password()),
    );
    new.sql("INSERT INTO products (name) VALUES ('by hand')");
    assert_eq!(legacy.sql("SELECT name FROM products"), "by hand");
    let before = traces(&pair);
    let said = pair.pgtandem(["check"]).exits(1).stdout;
    assert!(
        said.contains("\"send_product\" writes to another database") && !said.contains("harmless\" writes"),
        "{said}"
    );
    pair.pgtandem(["up", "--yes"]).exits(1);
    pair.pgtandem(["up", "--yes", "--replace-triggers"]).ok();
    new.sql("INSERT INTO products (name) VALUES ('direct')");
    legacy.sql("DELETE FROM products WHERE name = 'by hand'");
    assert_eq!(legacy.sql("SELECT name FROM products"), "direct");
    pair.equal("products");
    nothing_waits(new);
    pair.pgtandem(["check"]).ok();
    let said = pair.pgtandem(["down", "--yes"]).ok();
    assert!(said.contains("new: nothing left."), "{said}");
    assert_eq!(traces(&pair), before);
}

/// Not a superuser: the extensions are there, and it has a password.
#[test]
fn s50_a_plain_role() {
    let pair = Pair::with(
        Setup::default().role("").table("products", "CREATE TABLE products (id bigserial PRIMARY KEY, name text)"),
    );
    let said = pair.pgtandem(["check"]).exits(1).stdout;
    assert!(said.contains("CREATE EXTENSION dblink"), "{said}");
    for node in pair.nodes() {
        node.sql(
            "CREATE SCHEMA tools; CREATE EXTENSION dblink SCHEMA tools; CREATE EXTENSION postgres_fdw SCHEMA tools",
        );
        let role = node.role();
        node.sql(&format!("GRANT USAGE ON SCHEMA tools TO {role}"));
    }
    let said = pair.pgtandem(["check"]).exits(1).stdout;
    assert!(said.contains("GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO"), "{said}");
    assert!(!said.contains("'secret'"), "{said}");
    for node in pair.nodes() {
        node.sql(&format!("GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO {}", node.role()));
    }
    // Somebody else writes, who has no right on our schema.
    for node in pair.nodes() {
        node.sql("CREATE ROLE clerk LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO clerk; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO clerk");
    }
    let said = pair.pgtandem(["plan", "--sql"]);
    assert!(!said.stdout.contains("'secret'"), "{}", said.stdout);
    pair.link();
    for (here, there) in [("new", "legacy"), ("legacy", "new")] {
        let session = pair[here].cluster.session_as("clerk", pair[here].database()).unwrap();
        session
            .run(format!("INSERT INTO products (name) VALUES ('{here}'); UPDATE products SET name = name || '.'"))
            .unwrap();
        assert_eq!(pair[here].sql("SELECT count(*) FROM pgtandem.queued"), "0");
        assert_eq!(
            pair[there].sql("SELECT count(*) FROM products WHERE name ~ '\\.$'"),
            pair[here].sql("SELECT count(*) FROM products")
        );
    }
    pair.equal("products");
    pair.pgtandem(["run", "--once"]).ok();
    let said = pair.pgtandem(["down", "--yes"]).ok();
    assert!(said.contains("new: nothing left."), "{said}");
}

/// S39: while the shapes differ changes wait; once both have the column, `up` lets them go directly again.
#[test]
fn s39_a_column_is_added_on_one_side_then_on_the_other() {
    let pair = Pair::with(Setup::shared().table("products", FILLED));
    pair.link();
    let (new, legacy) = (&pair["new"], &pair["legacy"]);
    new.sql("ALTER TABLE products ADD COLUMN colour text");
    new.sql("UPDATE products SET colour = 'red' WHERE id = 1");
    assert_eq!(new.sql("SELECT count(*) FROM pgtandem.queued"), "1");
    legacy.sql("ALTER TABLE products ADD COLUMN colour text");
    pair.link();
    pair.pgtandem(["run", "--once"]).ok();
    pair.equal("products");
    for (here, there) in [("new", "legacy"), ("legacy", "new")] {
        pair[here].sql(&format!("UPDATE products SET colour = '{here}' WHERE id = 1"));
        assert_eq!(pair[there].sql("SELECT colour FROM products WHERE id = 1"), here);
    }
    let said = pair.pgtandem(["up", "--yes"]).ok();
    assert!(said.contains("nothing to do"), "{said}");
}
