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
