//! S40, S41, S43: `up` with trigger capture, killed at any point and repeated, and `down`, which leaves no trace.

use crate::support::{Pair, Setup, killed_after};

const PRODUCTS: &str = "CREATE TABLE products (id bigserial PRIMARY KEY, name text);
    INSERT INTO products (name) SELECT 'p' || i FROM generate_series(1, 500) i WHERE current_database() ~ 'new'";
const PARTS: &str = "CREATE TABLE parts (id int, kind int, note text, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
    CREATE TABLE parts_2 (note text, kind int NOT NULL, id int NOT NULL); ALTER TABLE parts ATTACH PARTITION parts_2 DEFAULT";

fn pair() -> Pair {
    Pair::with(Setup::shared().table("products", PRODUCTS).table("parts", PARTS))
}

fn traces(pair: &Pair) -> Vec<String> {
    let query = "SELECT c.oid::regclass, relkind, relhasrules, relreplident, s.* FROM pg_class c
                     LEFT JOIN pg_sequence s ON seqrelid = c.oid WHERE relnamespace = 'public'::regnamespace ORDER BY 1;
                 SELECT nspname FROM pg_namespace WHERE nspname = 'pgtandem';
                 SELECT tgname, tgrelid::regclass FROM pg_trigger WHERE NOT tgisinternal;
                 SELECT count(*) FROM pg_proc WHERE prosrc ~ 'pgtandem'; SELECT count(*) FROM pg_depend";
    pair.nodes().iter().map(|node| node.sql(query)).collect()
}

#[test]
fn s41_up_killed_at_any_point_can_be_repeated_and_down_leaves_no_trace() {
    let mut steps = 0;
    loop {
        let pair = pair();
        let before = traces(&pair);
        let Some(step) = killed_after(pair.command(["up", "--yes"]), steps) else { break };
        // The applications go on.
        pair["new"].sql("INSERT INTO products (name) VALUES ('after the kill')");
        let hub = pair.linked();
        pair["new"]
            .sql("INSERT INTO parts VALUES (1, 1, 'a'), (2, 2, 'b'); UPDATE products SET name = 'x' WHERE id = 7");
        pair.quiesce();
        pair["legacy"].sql("UPDATE parts SET note = 'c'; UPDATE parts SET kind = 2 WHERE kind = 1");
        pair.settle();
        assert_eq!(pair["legacy"].sql("SELECT count(*) FROM products"), "501", "killed at {step}");
        assert_eq!(
            pair["new"].sql("SELECT count(*) FROM parts WHERE kind = 2 AND note = 'c'"),
            "2",
            "killed at {step}"
        );
        drop(hub);
        let said = pair.pgtandem(["down", "--yes"]).ok();
        assert!(said.contains("legacy: nothing left."), "{said}");
        assert_eq!(traces(&pair), before, "killed at {step}");
        steps += 1;
    }
    assert!(steps > 12, "only {steps} steps were seen");
}

/// The kind of capture is part of the link.
#[test]
fn s40_another_capture_is_refused_while_a_node_is_linked() {
    let pair = pair();
    pair.link();
    let text = std::fs::read_to_string(pair.config()).unwrap();
    std::fs::write(pair.config(), text.replace("\"trigger\"", "\"wal\"")).unwrap();
    let check = pair.pgtandem(["check"]);
    assert!(check.code != 0 && check.stdout.contains("it is linked with capture = \"trigger\""), "{}", check.stdout);
}

#[test]
fn s41_triggers_that_are_gone_are_missed() {
    let pair = pair();
    pair.link();
    pair["legacy"].sql(
        "DROP TRIGGER \"0_pgtandem_insert\" ON products; DROP TRIGGER \"0_pgtandem_update\" ON products;
        DROP TRIGGER \"0_pgtandem_update_key\" ON products; DROP TRIGGER \"0_pgtandem_delete\" ON products;
        DROP TRIGGER \"0_pgtandem_truncate\" ON products",
    );
    let check = pair.pgtandem(["check"]);
    assert!(check.stdout.contains("has lost the triggers"), "{}", check.stdout);
}
