//! S10: the application's triggers do not fire a second time; row security hides nothing.

use crate::support::{PATIENCE, Pair, Setup, wait_until};

const PRODUCTS: &str = "CREATE TABLE products (id int PRIMARY KEY, name text, updates int NOT NULL DEFAULT 0)";
/// As an application has them: one that changes the row, one that writes another table.
const TRIGGERS: &str = "
    CREATE TABLE seen (id int, what text);
    CREATE FUNCTION count_update() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN NEW.updates := OLD.updates + 1; RETURN NEW; END';
    CREATE FUNCTION write_audit() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN INSERT INTO audit (what) VALUES (TG_OP || ' ' || coalesce(NEW.id, OLD.id)); RETURN NULL; END$$;
    CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO public.seen VALUES (NEW.id, TG_OP); RETURN NULL; END';
    CREATE TRIGGER a_count BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION count_update();
    CREATE TRIGGER b_audit AFTER INSERT OR UPDATE OR DELETE ON products FOR EACH ROW EXECUTE FUNCTION write_audit()";

#[test]
fn s10_triggers_fire_once() {
    let pair = Pair::with(
        Setup::shared()
            .table("products", PRODUCTS)
            .table("audit", "CREATE TABLE audit (id bigserial PRIMARY KEY, what text)"),
    );
    for node in pair.nodes() {
        node.sql(TRIGGERS);
    }
    pair["legacy"].sql(
        "CREATE TRIGGER c_always AFTER INSERT ON products FOR EACH ROW EXECUTE FUNCTION see();
         ALTER TABLE products ENABLE ALWAYS TRIGGER c_always",
    );
    let _hub = pair.linked();
    pair["new"].sql("INSERT INTO products VALUES (1, 'chair'), (2, 'desk')");
    pair.quiesce();
    pair["new"].sql("UPDATE products SET name = 'stool' WHERE id = 1");
    pair.quiesce();
    pair["legacy"].sql("UPDATE products SET name = 'bench' WHERE id = 1; DELETE FROM products WHERE id = 2");
    pair.settle();
    assert_eq!(pair["legacy"].sql("SELECT name, updates FROM products"), "bench|2");
    assert_eq!(
        pair["new"].sql("SELECT what FROM audit ORDER BY what"),
        "DELETE 2\nINSERT 1\nINSERT 2\nUPDATE 1\nUPDATE 1"
    );
    assert_eq!(pair["legacy"].sql("SELECT id FROM seen ORDER BY id"), "1\n2", "ENABLE ALWAYS fires");
}

#[test]
fn s10_a_trigger_that_always_fires_and_keeps_rows_out_is_found_out() {
    let pair = Pair::with(Setup::shared().table("products", PRODUCTS));
    pair["legacy"].sql(
        "CREATE FUNCTION no_secrets() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN RETURN CASE WHEN coalesce(NEW.name, OLD.name) = 'secret' THEN NULL ELSE coalesce(NEW, OLD) END; END$$;
         CREATE TRIGGER no_secrets BEFORE INSERT OR DELETE ON products FOR EACH ROW EXECUTE FUNCTION no_secrets();
         ALTER TABLE products ENABLE ALWAYS TRIGGER no_secrets",
    );
    let _hub = pair.linked();
    pair["new"].sql("INSERT INTO products VALUES (1, 'chair'), (2, 'secret'), (3, 'desk')");
    let legacy = &pair["legacy"];
    wait_until("the other rows arrive", PATIENCE, || legacy.sql("SELECT id FROM products ORDER BY id") == "1\n3");
    let held = "SELECT key ->> 'id', reason LIKE '%trigger%' FROM pgtandem.held WHERE released IS NULL";
    wait_until("the row is held", PATIENCE, || legacy.sql(held) == "2|t");
    legacy.sql("ALTER TABLE products DISABLE TRIGGER no_secrets");
    pair.quiesce();
}

#[test]
fn s10_row_security_hides_nothing() {
    let pair = Pair::with(Setup::shared().role("REPLICATION BYPASSRLS").table("products", PRODUCTS));
    for node in pair.nodes() {
        node.sql(
            "ALTER TABLE products ENABLE ROW LEVEL SECURITY; ALTER TABLE products FORCE ROW LEVEL SECURITY;
             CREATE POLICY few ON products USING (id < 10) WITH CHECK (id < 5)",
        );
    }
    let _hub = pair.linked();
    pair["new"].sql("INSERT INTO products SELECT i, 'x' FROM generate_series(1, 20) i");
    pair.quiesce();
    pair["legacy"].sql("UPDATE products SET name = 'y'; DELETE FROM products WHERE id = 15");
    pair.quiesce();
    assert_eq!(pair["new"].sql("SELECT count(*) FROM products WHERE name = 'y'"), "19");
}
