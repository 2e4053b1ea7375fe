//! Many rows that a node lacks, and what undoes their merge.

use super::Scene;

/// Keys of one integer, close together and far apart; a text, which no two servers need to sort alike; several columns, and
/// values of which equal ones are spelled differently.
const TABLES: &str = "
    CREATE TABLE close (id int PRIMARY KEY, name varchar(40), at timestamptz);
    CREATE TABLE apart (id bigint PRIMARY KEY, price numeric, data jsonb);
    CREATE TABLE texts (id text PRIMARY KEY, price numeric(10, 2), tags text[]);
    CREATE TABLE pairs (b text, a int, ratio float, flag boolean, PRIMARY KEY (a, b))";
const ALL: [&str; 4] = ["close", "apart", "texts", "pairs"];

/// Rows 1 to 6100 of each: those up to 100 are on both, of the others every second one, and of the last 1000 all are on new.
fn filled(test: &str) -> Scene {
    let scene = Scene::new(test, 2, TABLES);
    for node in [0, 1] {
        let some = format!(
            "generate_series(1, 6100) i WHERE i <= 100 OR i <= 5100 AND i % 2 = {node} OR i > 5100 AND {node} = 0"
        );
        scene.on(
            node,
            &format!(
                "INSERT INTO close SELECT i - 3000, 'row ' || i, timestamp '2024-01-01' + i * interval '1 min' FROM {some};
                 INSERT INTO apart SELECT i * 1000003::bigint, i * 1.10, jsonb_build_object('b', i, 'a', 1.0) FROM {some};
                 INSERT INTO texts SELECT 'ä\"''{{,' || i, i * 1.5, ARRAY['x', NULL, i::text] FROM {some};
                 INSERT INTO pairs SELECT i / 7 || '\\', i, i / 3.0, NULLIF(i % 3, 0) = 1 FROM {some}"
            ),
        );
    }
    let configured = ALL.map(|table| format!("name = \"{table}\"\nmerge = \"only-missing\""));
    scene.configure(&configured.each_ref().map(String::as_str));
    scene
}

fn rows(scene: &Scene) -> Vec<String> {
    let of = ALL.map(|table| format!("SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} t"));
    of.iter().flat_map(|query| scene.everywhere(query)).collect()
}

#[test]
fn s40_merge_of_many_rows_whatever_their_key_and_back() {
    let scene = filled("s40_merge_many");
    let before = rows(&scene);
    scene.must(&["up", "--yes", "--merge-only"]);
    for both in rows(&scene).chunks(2) {
        assert!(both[0] == both[1] && both[0].starts_with("6100|"), "{both:?}");
    }
    assert_eq!(scene.everywhere("SELECT count(*) FROM pgtandem.held"), ["0", "0"]);
    assert_eq!(
        scene.everywhere("SELECT table_id, copied FROM pgtandem.merge ORDER BY 1"),
        ["1|2500\n2|2500\n3|2500\n4|2500", "1|3500\n2|3500\n3|3500\n4|3500"]
    );
    let records = scene.on(1, "SELECT count(*) FROM pgtandem.merged_rows").parse::<u32>().unwrap();
    assert!(records < 50, "{records} records of 14,000 rows");
    let ended = scene.must(&["undo", "merge", "--yes"]);
    assert!(ended.stdout.contains("24000 rows deleted"), "{}", ended.all());
    assert_eq!(rows(&scene), before);
    assert_eq!(scene.everywhere("SELECT count(*) FROM pgtandem.merged_rows"), ["0", "0"]);
}

/// Equal is not enough: it is what the application wrote.
#[test]
fn s40_undo_merge_leaves_rows_that_are_only_spelled_anew() {
    let scene = filled("s40_undo_spelled");
    scene.must(&["up", "--yes", "--merge-only"]);
    scene.on(
        1,
        "UPDATE close SET name = 'mine' WHERE id = 6000 - 3000;
         UPDATE apart SET price = price + 0.000 WHERE id = 6000 * 1000003::bigint;
         UPDATE texts SET tags = ARRAY['x'] WHERE id LIKE '%,6000';
         UPDATE pairs SET ratio = ratio + 1 WHERE a = 6000;
         UPDATE pairs SET flag = flag WHERE a = 6001",
    );
    let ended = scene.run(&["undo", "merge", "--yes", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let left = json["undone"]["left"].as_array().unwrap().iter();
    let mut left: Vec<String> =
        left.map(|left| format!("{} {} {}", left["node"], left["table"], left["key"])).collect();
    left.sort();
    let of = |table: &str, key: serde_json::Value| format!("\"legacy\" \"{table}\" {key}");
    assert_eq!(
        left,
        [
            of("apart", serde_json::json!(["6000018000"])),
            of("close", serde_json::json!(["3000"])),
            of("pairs", serde_json::json!(["6000", "857\\"])),
            of("texts", serde_json::json!(["ä\"'{,6000"])),
        ]
    );
    assert_eq!(json["undone"]["deleted"], 24_000 - 4);
}

/// What an application has changed, though the column's collation takes it for the same.
#[test]
fn s40_undo_merge_leaves_rows_of_which_only_the_case_was_changed() {
    let anycase = "CREATE COLLATION anycase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
                   CREATE TABLE names (id int PRIMARY KEY, name text COLLATE anycase)";
    let scene = Scene::new("s40_undo_case", 2, anycase);
    scene.on(0, "INSERT INTO names SELECT i, 'name ' || i FROM generate_series(1, 10) i");
    scene.on(1, "INSERT INTO names VALUES (1, 'mine'), (2, 'mine')");
    scene.configure(&["name = \"names\"\nmerge = \"prefer:new\""]);
    scene.must(&["up", "--yes", "--merge-only"]);
    // One that was written over, and one that was inserted.
    scene.on(1, "UPDATE names SET name = upper(name) WHERE id IN (1, 5)");
    scene.run(&["undo", "merge", "--yes"]);
    assert_eq!(scene.on(1, "SELECT id, name FROM names ORDER BY id"), "1|NAME 1\n2|mine\n5|NAME 5");
}

/// The preferred node's row is copied, and not the one that it was found equal to.
#[test]
fn s40_undo_merge_takes_back_what_a_preferred_node_spells_otherwise() {
    let tables = "CREATE TABLE keyed (id int PRIMARY KEY, price numeric);
                  CREATE TABLE named (id text PRIMARY KEY, price numeric)";
    let scene = Scene::new("s40_undo_preferred", 3, tables);
    for (node, price) in [(0, "1.0"), (1, "1.00")] {
        scene.on(node, &format!("INSERT INTO keyed SELECT i, {price} FROM generate_series(1, 300) i"));
        scene.on(node, &format!("INSERT INTO named SELECT i, {price} FROM generate_series(1, 300) i"));
    }
    for table in ["keyed", "named"] {
        scene.on(2, &format!("INSERT INTO {table} VALUES (1000, 7)"));
    }
    scene.configure(
        &["keyed", "named"]
            .map(|table| format!("name = \"{table}\"\nmerge = \"prefer:legacy\""))
            .each_ref()
            .map(String::as_str),
    );
    scene.must(&["up", "--yes", "--merge-only"]);
    for table in ["keyed", "named"] {
        assert_eq!(scene.on(2, &format!("SELECT count(*), min(price::text) FROM {table} WHERE price = 1")), "300|1.00");
    }
    scene.must(&["undo", "merge", "--yes"]);
    assert_eq!(scene.everywhere("SELECT count(*) FROM keyed"), ["300", "300", "1"]);
    assert_eq!(scene.everywhere("SELECT count(*) FROM named"), ["300", "300", "1"]);
}

/// What comes out of a trigger, or of a domain, is what was written.
#[test]
fn s40_undo_merge_takes_back_what_was_made_of_rows_where_they_came_to() {
    let tables = "CREATE TABLE marked (id int PRIMARY KEY, name text); CREATE DOMAIN amount AS numeric;
                  CREATE TABLE sums (id int PRIMARY KEY, price amount)";
    let scene = Scene::new("s40_undo_made", 2, tables);
    scene.on(
        1,
        "CREATE FUNCTION mark() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.name := new.name || '!'; RETURN new; END $$;
         CREATE TRIGGER mark BEFORE INSERT ON marked FOR EACH ROW EXECUTE FUNCTION mark();
         INSERT INTO marked VALUES (5000, 'mine'); INSERT INTO sums VALUES (5000, 1);
         ALTER TABLE marked ENABLE ALWAYS TRIGGER mark;
         DROP DOMAIN amount CASCADE; CREATE DOMAIN amount AS numeric(10, 3); ALTER TABLE sums ADD price amount",
    );
    scene.on(
        0,
        "INSERT INTO marked SELECT i, 'row ' || i FROM generate_series(1, 2000) i;
         INSERT INTO sums SELECT i, i FROM generate_series(1, 2000) i",
    );
    scene.configure(
        &["marked", "sums"]
            .map(|table| format!("name = \"{table}\"\nmerge = \"only-missing\""))
            .each_ref()
            .map(String::as_str),
    );
    scene.must(&["up", "--yes", "--merge-only"]);
    assert_eq!(scene.on(1, "SELECT name FROM marked WHERE id = 7"), "row 7!");
    assert_eq!(scene.on(1, "SELECT price FROM sums WHERE id = 7"), "7.000");
    // Only what was changed since stays.
    scene.on(1, "UPDATE marked SET name = 'row 8' WHERE id = 8; UPDATE sums SET price = 9 WHERE id = 8");
    scene.run(&["undo", "merge", "--yes"]);
    assert_eq!(scene.on(1, "SELECT id FROM marked ORDER BY id"), "8\n5000");
    assert_eq!(scene.on(1, "SELECT id FROM sums ORDER BY id"), "8\n5000");
}

/// The first and the last key that a type has, more rows than are compared at once, and servers that do not know, or know
/// wrongly, how many there are.
#[test]
fn s40_merge_of_keys_from_one_end_of_their_type_to_the_other() {
    let tables = ["whole", "ends", "counted", "grown"];
    let scene = Scene::new(
        "s40_merge_ends",
        2,
        "CREATE TABLE whole (id smallint PRIMARY KEY, name text); CREATE TABLE ends (id bigint PRIMARY KEY, name text);
         CREATE TABLE counted (id int PRIMARY KEY, name text); CREATE TABLE grown (id int PRIMARY KEY, name text)",
    );
    for node in [0, 1] {
        let half = |first: i32, last: i32| format!("generate_series({first}, {last}) i WHERE i & 1 = {node}");
        scene.on(
            node,
            &format!(
                "INSERT INTO whole SELECT i, 'row ' || i FROM {};
                 INSERT INTO ends SELECT i, 'row' FROM {};
                 INSERT INTO ends SELECT '-9223372036854775808'::bigint + {node}, 'first';
                 INSERT INTO ends SELECT 9223372036854775807 - {node}, 'last';
                 INSERT INTO counted SELECT i - 40000, 'row ' || i FROM {}; ANALYZE counted;
                 INSERT INTO grown SELECT i, 'row ' || i FROM {}; ANALYZE grown;
                 INSERT INTO grown SELECT i, 'row ' || i FROM {}",
                half(-32_768, 32_767),
                half(-1000, 1000),
                half(1, 200_000),
                half(1, 1000),
                half(1001, 150_000)
            ),
        );
    }
    let configured = tables.map(|table| format!("name = \"{table}\"\nmerge = \"only-missing\""));
    scene.configure(&configured.each_ref().map(String::as_str));
    scene.must(&["up", "--yes", "--merge-only"]);
    for (table, rows, lowest, highest) in [
        ("whole", 65_536, i64::from(i16::MIN), i64::from(i16::MAX)),
        ("ends", 2005, i64::MIN, i64::MAX),
        ("counted", 200_000, -39_999, 160_000),
        ("grown", 150_000, 1, 150_000),
    ] {
        let found = scene.everywhere(&format!("SELECT count(*), min(id), max(id) FROM {table}"));
        assert_eq!(found, vec![format!("{rows}|{lowest}|{highest}"); 2], "{table}");
    }
}
