//! Filled tables that differ become one.

use super::Scene;

const PRODUCTS: &str = "CREATE TABLE products (id bigserial PRIMARY KEY, sku text UNIQUE, name text, price numeric,
                                               updated_at timestamp NOT NULL DEFAULT now())";
const ROWS: &str = "SELECT string_agg(concat_ws(':', id, name, trim_scale(price)), ' ' ORDER BY id) FROM products";
const DECISIONS: &str = "SELECT key ->> 'id', winner_row ->> 'name', loser_row ->> 'name', kind, policy, why
                         FROM pgtandem.decision ORDER BY (key ->> 'id')::int";

/// 1 only on new, 2 only on legacy, 3 newer on new, 4 newer on legacy, 5 as new on both but different, 6 equal.
fn shop(test: &str, merge: &str) -> Scene {
    let scene = Scene::new(test, 2, PRODUCTS);
    let insert = "INSERT INTO products (id, name, price, updated_at) VALUES";
    scene.on(
        0,
        &format!(
            "{insert} (1, 'one', 1, '2024-01-01'), (3, 'three new', 1, '2024-02-02'), (4, 'four new', 1, '2024-01-01'),
                      (5, 'five new', 1, '2024-01-01'), (6, 'six', 1.0, '2024-01-01')"
        ),
    );
    scene.on(
        1,
        &format!(
            "{insert} (2, 'two', 1, '2024-01-01'), (3, 'three old', 1, '2024-01-01'), (4, 'four old', 1, '2024-02-02'),
                      (5, 'five old', 1, '2024-01-01'), (6, 'six', 1.00, '2024-01-01')"
        ),
    );
    scene.configure(&[&format!("name = \"products\"\n{merge}")]);
    scene
}

#[test]
fn s40_merge_the_newest_row_wins() {
    let scene = shop("s40_merge_newest", "merge = \"newest\"");
    let versions = scene.everywhere("SELECT xmin, ctid FROM products WHERE id = 6");
    let plan = scene.must(&["plan"]).stdout;
    assert!(plan.contains("all nodes: merge products on new, legacy: newest by updated_at"), "{plan}");
    let ended = scene.must(&["up", "--yes"]);
    let counts = "products: 1 rows copied to new, 1 to legacy; 1 overwritten on new, 2 on legacy";
    assert!(ended.stderr.contains(counts), "{}", ended.stderr);
    let all = "1:one:1 2:two:1 3:three new:1 4:four old:1 5:five new:1 6:six:1";
    assert_eq!(scene.everywhere(ROWS), [all, all]);
    assert_eq!(scene.everywhere("SELECT xmin, ctid FROM products WHERE id = 6"), versions, "equal rows stay untouched");
    assert_eq!(
        scene.on(0, DECISIONS),
        "4|four old|four new|merge|merge = newest by updated_at|updated_at is 2024-02-02 00:00:00 on legacy and \
         2024-01-01 00:00:00 on new"
    );
    assert_eq!(
        scene.on(1, DECISIONS),
        "3|three new|three old|merge|merge = newest by updated_at|updated_at is 2024-02-02 00:00:00 on new and \
         2024-01-01 00:00:00 on legacy\n\
         5|five new|five old|merge|merge = newest by updated_at|updated_at is 2024-01-01 00:00:00 on both: new stands \
         before legacy in the configuration"
    );
    assert_eq!(scene.everywhere("SELECT count(*) FROM pgtandem.held"), ["0", "0"]);
    let again = scene.must(&["up", "--yes"]);
    assert_eq!(again.stdout, "nothing to do: the nodes are as the configuration asks\n");
}

#[test]
fn s40_merge_a_preferred_node_wins() {
    let scene = shop("s40_merge_prefer", "merge = \"prefer:legacy\"");
    scene.must(&["up", "--yes"]);
    let all = "1:one:1 2:two:1 3:three old:1 4:four old:1 5:five old:1 6:six:1";
    assert_eq!(scene.everywhere(ROWS), [all, all]);
    assert_eq!(scene.everywhere("SELECT count(*) FROM pgtandem.decision"), ["3", "0"]);
}

#[test]
fn s40_merge_only_missing_overwrites_nothing() {
    let scene = shop("s40_merge_missing", "merge = \"only-missing\"");
    let before = (scene.everywhere(ROWS), scene.traces(0), scene.traces(1));
    let ended = scene.run(&["up", "--yes"]);
    assert_eq!(ended.code, 1, "{}", ended.all());
    let says = "1 only on new, 1 only on legacy, 3 on both but different; merge = \"only-missing\" leaves 3 of them";
    assert!(ended.stderr.contains(says), "{}", ended.stderr);
    assert!(ended.stderr.contains("merge = \"newest\""), "{}", ended.stderr);
    assert_eq!((scene.everywhere(ROWS), scene.traces(0), scene.traces(1)), before, "nothing was changed");
    scene.everywhere("DELETE FROM products WHERE id BETWEEN 3 AND 5");
    scene.must(&["up", "--yes"]);
    assert_eq!(scene.everywhere(ROWS), ["1:one:1 2:two:1 6:six:1"; 2]);
    assert_eq!(scene.everywhere("SELECT count(*) FROM pgtandem.decision"), ["0", "0"]);
}

#[test]
fn s40_merge_is_refused_without_being_asked_for() {
    let scene = shop("s40_merge_refuse", "");
    let before = [scene.traces(0), scene.traces(1)];
    let ended = scene.run(&["up", "--yes"]);
    assert_eq!(ended.code, 1, "{}", ended.all());
    assert!(ended.stderr.contains("[[tables]]\n  name = \"products\"\n  merge = \"newest\""), "{}", ended.stderr);
    assert_eq!([scene.traces(0), scene.traces(1)], before);
}

#[test]
fn s40_merge_null_is_older_than_anything() {
    let scene = Scene::new("s40_merge_null", 2, "CREATE TABLE t (id int PRIMARY KEY, v text, n numeric)");
    // As texts 9 would be more than 10.
    scene.on(0, "INSERT INTO t VALUES (1, 'a', NULL), (2, 'a', 9), (3, 'a', NULL), (4, 'a', 10)");
    scene.on(1, "ALTER TABLE t ALTER n TYPE int USING n::int");
    scene.on(1, "INSERT INTO t VALUES (1, 'b', -1), (2, 'b', 10), (3, 'b', NULL), (4, 'b', 10), (5, 'b', 7)");
    scene.configure(&["name = \"t\"\nmerge = \"newest\"\nmerge_by = \"n\""]);
    scene.must(&["up", "--yes"]);
    let all = "SELECT string_agg(id || v || coalesce(trim_scale(n::numeric)::text, '-'), ' ' ORDER BY id) FROM t";
    assert_eq!(scene.everywhere(all), ["1b-1 2b10 3a- 4a10 5b7"; 2]);
}

#[test]
fn s40_merge_three_nodes_one_of_them_empty() {
    if crate::CAPTURE == "direct" {
        return;
    }
    for (test, third) in [("s40_merge_three", "(1, 'c', 3), (3, 'c', 3), (4, 'c', 1)"), ("s40_merge_empty", "")] {
        let scene = Scene::new(test, 3, "CREATE TABLE t (id int PRIMARY KEY, v text, updated_at int)");
        scene.on(0, "INSERT INTO t VALUES (1, 'a', 1), (2, 'a', 2), (5, 'same', 1)");
        scene.on(1, "INSERT INTO t VALUES (1, 'b', 2), (2, 'b', 1), (4, 'b', 2), (5, 'same', 1)");
        let (with_third, without) = ("1c3 2a2 3c3 4b2 5same1", "1b2 2a2 4b2 5same1");
        if !third.is_empty() {
            scene.on(2, &format!("INSERT INTO t VALUES {third}"));
        }
        scene.configure(&["name = \"t\"\nmerge = \"newest\""]);
        scene.must(&["up", "--yes"]);
        let all = "SELECT string_agg(id || v || updated_at, ' ' ORDER BY id) FROM t";
        let wanted = if third.is_empty() { without } else { with_third };
        assert_eq!(scene.everywhere(all), [wanted; 3], "{test}");
        assert_eq!(
            scene.everywhere("SELECT start_position > '0/0', state FROM pgtandem.linked_table"),
            ["t|live"; 3],
            "{test}"
        );
    }
}

#[test]
fn s40_merge_unique_values_that_clash_are_refused() {
    let scene = shop("s40_merge_clash", "merge = \"newest\"");
    scene.on(0, "UPDATE products SET sku = 'A-1' WHERE id = 1");
    scene.on(1, "UPDATE products SET sku = 'A-1' WHERE id = 2");
    let before = [scene.traces(0), scene.traces(1)];
    let ended = scene.run(&["up", "--yes"]);
    assert_eq!(ended.code, 1, "{}", ended.all());
    assert!(ended.stderr.contains("cannot be in one table (1 pair)"), "{}", ended.stderr);
    assert!(ended.stderr.contains("sku = A-1: 1 on new and 2 on legacy"), "{}", ended.stderr);
    assert_eq!([scene.traces(0), scene.traces(1)], before);
    scene.on(1, "UPDATE products SET sku = 'A-2' WHERE id = 2");
    scene.must(&["up", "--yes"]);
}

#[test]
fn s40_merge_large_values_and_odd_types_travel_whole() {
    let sql = "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY, tenant text, PRIMARY KEY (tenant, id), big text,
                               j jsonb, b bytea, twice int GENERATED ALWAYS AS (id * 2) STORED, updated_at timestamptz)";
    let scene = Scene::new("s40_merge_large", 2, sql);
    scene.on(1, "ALTER TABLE t ADD COLUMN extra text DEFAULT 'mine'");
    let insert = "INSERT INTO t (id, tenant, big, j, b, updated_at) OVERRIDING SYSTEM VALUE SELECT i, 'x''\"', ";
    scene.on(
        0,
        &format!(
            "{insert} repeat('n', 5000) || i, '{{\"a\": 1.0}}', '\\x00ff', 'infinity' FROM generate_series(1, 2500) i"
        ),
    );
    scene.on(1, &format!("{insert} repeat('o', 5000) || i, NULL, '\\x01', now() FROM generate_series(2000, 4000) i"));
    scene.configure(&["name = \"t\"\nmerge = \"newest\""]);
    scene.must(&["up", "--yes"]);
    let all =
        "SELECT count(*), sum(hashtext(t.*::text)) FROM (SELECT id, tenant, big, j, b, twice, updated_at FROM t) t";
    let rows = scene.everywhere(all);
    assert_eq!(rows[0], rows[1]);
    assert!(rows[0].starts_with("4000|"), "{rows:?}");
    assert_eq!(scene.on(1, "SELECT DISTINCT extra FROM t"), "mine");
    assert_eq!(scene.on(1, "SELECT count(*), min(length(loser_row ->> 'big')) FROM pgtandem.decision"), "501|5004");
    // Nothing of it travels: every row is marked as ours.
    if crate::CAPTURE != "wal" {
        assert_eq!(scene.on(1, "SELECT count(*) FROM pgtandem.outbox"), "0");
        return;
    }
    let slot = scene.on(1, "SELECT slot FROM pgtandem.node");
    let marks = format!(
        "SELECT count(*) > 1 FROM pg_logical_slot_peek_binary_changes('{slot}', NULL, NULL, 'proto_version', '1',
         'publication_names', 'pgtandem', 'messages', 'true') c, pgtandem.node n
         WHERE position(convert_to(n.secret::text || ' 0', 'UTF8') IN data) > 0"
    );
    assert_eq!(scene.on(1, &marks), "t");
}

#[test]
fn s38_merge_by_a_column_that_tells_nothing_is_a_fault() {
    let scene = Scene::new("s38_merge_by", 2, "CREATE TABLE t (id int PRIMARY KEY, flag boolean, at timestamp)");
    let codes = |by: &str| {
        scene.configure(&[&format!("name = \"t\"\nmerge = \"newest\"\n{by}")]);
        scene.check_codes()
    };
    let fault = |node: &str| ("merge_column".to_owned(), node.to_owned(), "t".to_owned());
    assert_eq!(codes(""), [fault("new"), fault("legacy")]);
    assert_eq!(codes("merge_by = \"flag\""), [fault("-")]);
    assert_eq!(codes("merge_by = \"at\""), []);
    let warns = || scene.run(&["check"]).stdout.contains("has no time zone");
    assert!(!warns());
    scene.on(1, "ALTER DATABASE s38_merge_by SET timezone = 'Europe/Berlin'");
    assert!(warns());
    scene.everywhere("ALTER TABLE t ALTER at TYPE timestamptz");
    assert!(!warns());
}

#[test]
fn s43_merge_then_down_leaves_no_trace() {
    let scene = shop("s43_merge_down", "merge = \"newest\"");
    let before = [scene.traces(0), scene.traces(1)];
    scene.must(&["up", "--yes"]);
    scene.must(&["down", "--yes"]);
    assert_eq!([scene.traces(0), scene.traces(1)], before);
}
