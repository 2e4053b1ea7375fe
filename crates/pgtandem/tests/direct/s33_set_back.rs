//! S33 in direct mode: a node that was set back in its place does not write over what it does not know of.

use crate::s50_at_commit::{linked, nothing_waits};
use crate::support::{PATIENCE, Setup, back_up, restore, wait_until};

const ROWS: &str = "SELECT string_agg(id || name || coalesce(price::text, ''), ',' ORDER BY id) FROM products";

#[test]
fn s33_a_node_that_was_set_back_sends_nothing() {
    for has_hub in [false, true] {
        let pair = linked(Setup::default());
        let (new, legacy) = (&pair["new"], &pair["legacy"]);
        legacy.sql("INSERT INTO products (id, name) VALUES (1, 'one')");
        let backup = back_up(legacy);
        legacy.sql("UPDATE products SET name = 'later'");
        assert_eq!(new.sql(ROWS), "1later");
        if has_hub {
            let hub = pair.hub();
            let beats = "SELECT count(*) FROM pgtandem.pulse WHERE beat > 1";
            wait_until("the peer knows of it", PATIENCE, || new.sql(beats) == "2");
            hub.terminate();
        } else {
            // What has just landed may have overtaken what is asked.
            new.sql("UPDATE pgtandem.receipt SET landed_at = landed_at - interval '2 minutes'");
        }
        restore(legacy, &backup);
        let session = legacy.session();
        session.run("UPDATE products SET price = 7").unwrap();
        let why = session.run("SHOW pgtandem.why_queued").unwrap();
        assert!(why.contains("set back"), "{why}");
        assert_eq!(new.sql(ROWS), "1later");
        if has_hub {
            let said = pair.pgtandem(["run", "--once"]).exits(3).stderr;
            assert!(said.contains("pgtandem rejoin legacy"), "{said}");
            pair.pgtandem(["rejoin", "legacy", "--prefer", "new", "--yes"]).ok();
            pair.pgtandem(["run", "--once"]).ok();
            session.run("UPDATE products SET price = 8").unwrap();
            assert_eq!(new.sql(ROWS), "1later8");
            nothing_waits(legacy);
            // The two agree again on what may go along.
            for (here, there, id) in [(legacy, new, 2), (new, legacy, 3)] {
                pair.apart();
                here.sql(&format!("INSERT INTO products (id, name) VALUES ({id}, 'waits')"));
                here.sql("SELECT setval('pgtandem.direct_closed_until', 0)");
                here.sql(&format!("INSERT INTO products (id, name) VALUES ({id} + 10, 'brings it')"));
                assert_eq!(there.sql(&format!("SELECT name FROM products WHERE id = {id}")), "waits");
            }
        }
    }
}
