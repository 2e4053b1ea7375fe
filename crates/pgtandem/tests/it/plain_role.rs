//! A role that is no superuser: it may replicate, and owns the tables. With and without the right to switch off
//! triggers and foreign keys in its sessions.

use crate::support::{PATIENCE, Pair, Setup, wait_until};

fn family(rights: bool) -> Pair {
    let pair = Pair::with(
        Setup::shared()
            .role(if crate::CAPTURE == "wal" { "REPLICATION" } else { "" })
            .table("parents", "CREATE TABLE parents (id int PRIMARY KEY, name text, place int UNIQUE, big text)")
            .table(
                "children",
                "CREATE TABLE children (id int PRIMARY KEY, name text,
                     parent int REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE)",
            )
            .table("tree", "CREATE TABLE tree (id int PRIMARY KEY, above int REFERENCES tree)"),
    );
    if rights {
        for node in pair.nodes() {
            let version: u32 = node.sql("SELECT current_setting('server_version_num')").parse().unwrap();
            // Before 15 only superusers may.
            if version >= 150_000 {
                node.sql(&format!("GRANT SET ON PARAMETER session_replication_role TO {}", node.role()));
            }
        }
    }
    pair
}

fn works_both_ways(pair: &Pair) {
    for (here, there) in [("new", "legacy"), ("legacy", "new")] {
        let session = pair[here].own_session();
        let run = |sql: &str| session.run(sql).unwrap_or_else(|e| panic!("{e}"));
        run("INSERT INTO parents SELECT i, 'p' || i, i, repeat('big', 3000) FROM generate_series(100, 1, -1) i;
             INSERT INTO children SELECT i, 'c', (i + 1) / 2 FROM generate_series(1, 200) i;
             INSERT INTO tree VALUES (9, NULL), (5, 9), (7, 5), (1, 7)");
        pair.quiesce();
        run("UPDATE parents SET place = place + 1; UPDATE parents SET name = 'x' WHERE id = 3");
        pair.quiesce();
        run("UPDATE parents SET id = 1000, name = 'moved' WHERE id = 1");
        pair.quiesce();
        assert_eq!(pair[there].sql("SELECT count(*) FROM children WHERE parent = 1000"), "2");
        // Given to another parent before their own goes; the others go with theirs.
        run("BEGIN; UPDATE children SET parent = 5 WHERE parent = 4; DELETE FROM parents WHERE id IN (4, 6); COMMIT");
        pair.quiesce();
        assert_eq!(pair[there].sql("SELECT count(*) FROM children"), "198");
        run("UPDATE tree SET above = 9 WHERE id = 1; DELETE FROM tree WHERE id = 7");
        pair.quiesce();
        run(
            "BEGIN; INSERT INTO tree SELECT i, CASE WHEN i < 3000 THEN i + 1 END FROM generate_series(1001, 3000) i; COMMIT",
        );
        pair.quiesce();
        run("DELETE FROM parents WHERE id = 10; TRUNCATE tree");
        pair.quiesce();
        run("TRUNCATE parents, children");
        pair.settle();
    }
    for node in pair.nodes() {
        assert_eq!(node.sql("SELECT key, reason FROM pgtandem.held WHERE released IS NULL"), "", "{}", node.name());
    }
}

#[test]
fn plain_role_with_the_right_to_set_session_replication_role() {
    let pair = family(true);
    let _hub = pair.linked();
    works_both_ways(&pair);
}

#[test]
fn plain_role_without_the_right_to_set_session_replication_role() {
    let pair = family(false);
    let _hub = pair.linked();
    works_both_ways(&pair);
}

/// The cascade would delete it in a transaction that capture takes for ours: nobody would ever know.
#[test]
fn plain_role_a_delivered_delete_does_not_take_a_child_with_it_that_only_this_node_has() {
    let pair = family(false);
    let hub = pair.linked();
    pair["new"].own_session().run("INSERT INTO parents (id) VALUES (1), (2)").unwrap();
    pair.quiesce();
    hub.kill9();
    pair["new"].sql("DELETE FROM parents WHERE id = 1; INSERT INTO parents (id) VALUES (3)");
    pair["legacy"].sql("INSERT INTO children VALUES (10, 'only here', 1), (11, 'c', 2)");
    let _hub = pair.hub();
    for node in pair.nodes() {
        wait_until("what can go on goes on", PATIENCE, || {
            node.sql("SELECT count(*) FROM parents WHERE id = 3") == "1"
                && node.sql("SELECT count(*) FROM children WHERE id = 11") == "1"
                && node.sql("SELECT count(*) FROM pgtandem.held WHERE released IS NULL") == "1"
        });
    }
    assert_eq!(pair["legacy"].sql("SELECT name FROM children WHERE id = 10"), "only here");
    let reason = pair["legacy"].sql("SELECT reason FROM pgtandem.held");
    assert!(reason.contains("children"), "{reason}");
    // A person settles it: the child gets another parent.
    pair["legacy"].sql("UPDATE children SET parent = 2 WHERE id = 10");
    pair.settle();
    assert_eq!(pair["new"].sql("SELECT id, parent FROM children ORDER BY id"), "10|2\n11|2");
    assert_eq!(pair["new"].sql("SELECT id FROM parents ORDER BY id"), "2\n3");
}

#[test]
fn plain_role_check_refuses_triggers_that_would_fire_again() {
    let pair =
        Pair::with(Setup::shared().role("REPLICATION").table("things", "CREATE TABLE things (id int PRIMARY KEY)"));
    pair["legacy"].sql(
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER app BEFORE INSERT ON things FOR EACH ROW EXECUTE FUNCTION nothing()",
    );
    let said = pair.pgtandem(["check"]).exits(1);
    assert!(said.stdout.contains("would fire again"), "{}{}", said.stdout, said.stderr);
}

/// Exactly the statements of docs/roles.md: a role that owns nothing and is a member of the role that does.
#[test]
fn plain_role_with_the_grants_of_the_documentation() {
    let create = "CREATE TABLE things (id bigserial PRIMARY KEY, name text)";
    let pair = Pair::with(Setup::shared().linking("things"));
    let mut config = std::fs::read_to_string(pair.config()).unwrap();
    for node in pair.nodes() {
        let database = node.database();
        let (owner, role) = (format!("owner_{database}"), format!("pgtandem_{database}"));
        node.sql(&format!("CREATE ROLE {owner}; CREATE ROLE app_{database} LOGIN; GRANT {owner} TO app_{database}"));
        node.sql(&format!("GRANT ALL ON SCHEMA public TO {owner}; SET ROLE {owner}; {create}"));
        node.sql(&format!("CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'secret'"));
        node.sql(&format!("GRANT {owner} TO {role}; GRANT CREATE ON DATABASE {database} TO {role}"));
        let version: u32 = node.sql("SELECT current_setting('server_version_num')").parse().unwrap();
        if version >= 150_000 {
            node.sql(&format!("GRANT SET ON PARAMETER session_replication_role TO {role}"));
        }
        config = config.replace(&node.url(), &node.cluster.url_as(&role, "secret", database));
    }
    std::fs::write(pair.config(), &config).unwrap();
    pair.pgtandem(["check"]).ok();
    pair["new"].sql("INSERT INTO things (name) SELECT 'old' FROM generate_series(1, 100)");
    let hub = pair.linked();
    for node in pair.nodes() {
        node.sql("INSERT INTO things (name) SELECT 'by ' || current_database() FROM generate_series(1, 20)");
        node.sql("UPDATE things SET name = 'changed' WHERE id % 7 = 0; DELETE FROM things WHERE id % 11 = 0");
        pair.settle();
    }
    hub.terminate();
    pair.pgtandem(["down", "--yes"]).ok();
    for node in pair.nodes() {
        assert_eq!(node.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgtandem'"), "0");
    }
}
