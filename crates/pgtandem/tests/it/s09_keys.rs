//! S09: keys of all kinds, and names of all kinds.

use crate::support::{PATIENCE, Pair, Setup, wait_until};

/// 63 bytes.
const LONG: &str = "a_name_as_long_as_postgresql_allows_with_ümläuts_in_it_63_byt";

#[test]
fn s09_composite_text_and_uuid_keys() {
    let pair = Pair::with(
        Setup::shared()
            .table("composite", "CREATE TABLE composite (n int, a text, b text, c date, PRIMARY KEY (b, a, c))")
            .table("texts", "CREATE TABLE texts (k text PRIMARY KEY, n int)")
            .table("uuids", "CREATE TABLE uuids (k uuid PRIMARY KEY DEFAULT gen_random_uuid(), n int)")
            .table("bytes", "CREATE TABLE bytes (k bytea PRIMARY KEY, n int)")
            .table("stamps", "CREATE TABLE stamps (k timestamptz, r int4range, PRIMARY KEY (k, r), n int)")
            .table("only_key", "CREATE TABLE only_key (a int, b text, PRIMARY KEY (a, b))"),
    );
    let _hub = pair.linked();
    let inserts = "INSERT INTO composite SELECT i, x, y, d FROM generate_series(1, 3) i, unnest(ARRAY['', ',', 'a,', 'ab']) x,
            unnest(ARRAY['', 'b', '\"', E'\\\\']) y, unnest(ARRAY['2024-01-01', 'infinity', '0001-01-01 BC']::date[]) d
            ON CONFLICT DO NOTHING;
        INSERT INTO texts VALUES ('', 1), (' ', 2), ('a', 3), ('a ', 4), ('A', 5), ('NULL', 6), ('ä', 7), (E'a\\u0308', 8), (E'\\t', 9);
        INSERT INTO uuids (n) SELECT i FROM generate_series(1, 20) i;
        INSERT INTO bytes VALUES ('\\x', 1), ('\\x00', 2), ('\\x0000', 3), ('\\x5c', 4);
        INSERT INTO stamps VALUES ('infinity', 'empty', 1), ('2024-01-01', '[1,5)', 2), ('2024-01-01', '(,)', 3);
        INSERT INTO only_key SELECT i, i::text FROM generate_series(1, 20) i";
    pair["new"].sql(inserts);
    pair.quiesce();
    for node in pair.nodes() {
        node.sql("UPDATE composite SET n = n + 1; UPDATE texts SET n = n * 2; UPDATE uuids SET n = -n; UPDATE bytes SET n = 0;
             UPDATE stamps SET n = n + 10; UPDATE texts SET k = k || 'x' WHERE k LIKE 'a%';
             UPDATE only_key SET b = b || '!' WHERE a < 5;
             DELETE FROM composite WHERE a = ''; DELETE FROM bytes WHERE k = '\\x00'; DELETE FROM only_key WHERE a = 9");
        pair.quiesce();
    }
    assert_eq!(pair["new"].sql("SELECT count(*) FROM texts"), "9");
    assert_eq!(pair["new"].sql("SELECT count(*) FROM pgtandem.decision"), "0");
}

/// Nothing may come of writing a key differently: no second row, no conflict lost.
fn one_row_however_it_is_spelled(kind: &str, spellings: [&str; 3]) {
    let create = format!(
        "CREATE EXTENSION citext; CREATE DOMAIN amount AS numeric; CREATE TABLE things (k {kind} PRIMARY KEY, n int, who text)"
    );
    let pair = Pair::with(Setup::shared().table("things", &create));
    let hub = pair.linked();
    let [one, two, three] = spellings;
    pair["new"].sql(&format!("INSERT INTO things VALUES ({one}, 1, 'new')"));
    pair.quiesce();
    pair["legacy"].sql(&format!("UPDATE things SET k = {two}, n = 2"));
    pair.quiesce();
    assert_eq!(pair["new"].sql("SELECT k::text FROM things"), pair["new"].sql(&format!("SELECT {two}::{kind}::text")));
    pair["new"].sql(&format!("UPDATE things SET n = 3 WHERE k = {three}"));
    pair.quiesce();
    pair["legacy"].sql(&format!("DELETE FROM things WHERE k = {three}"));
    pair.quiesce();
    assert_eq!(pair["new"].sql("SELECT count(*) FROM things"), "0");
    // Inserted on both sides at once, differently spelled: one key, one conflict, one row.
    hub.kill9();
    pair.apart();
    pair["new"].sql(&format!("INSERT INTO things VALUES ({one}, 1, 'new')"));
    pair["legacy"].sql(&format!("INSERT INTO things VALUES ({two}, 2, 'legacy')"));
    let _hub = pair.hub();
    pair.settle();
    assert_eq!(pair["new"].sql("SELECT count(*), min(who) FROM things"), "1|legacy");
    assert_eq!(pair["new"].sql("SELECT kind FROM pgtandem.decision"), "insert/insert");
}

#[test]
fn s09_numeric_keys() {
    one_row_however_it_is_spelled("numeric", ["1.0", "1.00", "1"]);
}

#[test]
fn s09_float_keys() {
    one_row_however_it_is_spelled("double precision", ["'0'", "'-0'", "0.0"]);
}

#[test]
fn s09_blank_padded_keys() {
    one_row_however_it_is_spelled("char(5)", ["'a'", "'a  '", "'a '"]);
}

#[test]
fn s09_case_insensitive_keys() {
    one_row_however_it_is_spelled("citext", ["'Größe'", "'GRÖßE'", "'größe'"]);
    one_row_however_it_is_spelled("citext", ["'Key'", "'KEY'", "'key'"]);
}

#[test]
fn s09_keys_of_a_domain() {
    one_row_however_it_is_spelled("amount", ["1.0", "1.00", "1"]);
}

#[test]
fn s09_check_refuses_a_key_whose_equality_only_the_server_knows() {
    let pair = Pair::with(
        Setup::shared()
            .table("things", "CREATE TABLE things (k interval PRIMARY KEY)")
            .table("more", "CREATE TABLE more (k numeric[] PRIMARY KEY)"),
    );
    let said = pair.pgtandem(["check"]).exits(1);
    assert_eq!(said.stdout.matches("writes equal values differently").count(), 4, "{}", said.stdout);
}

#[test]
fn s09_check_refuses_a_nondeterministic_key() {
    let create = "CREATE COLLATION anycase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE TABLE things (k text COLLATE anycase PRIMARY KEY, n int)";
    let pair = Pair::with(Setup::shared().table("things", create));
    let said = pair.pgtandem(["check"]).exits(1);
    assert!(said.stdout.contains("nondeterministic"), "{}{}", said.stdout, said.stderr);
}

#[test]
fn s09_names_that_need_quoting() {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let names = ["Mixed Case", "quo\"te", "select", "täble.x", "semi;colon--", LONG];
    assert_eq!(LONG.len(), 63);
    let mut setup = Setup::shared();
    for (number, name) in names.iter().enumerate() {
        let table = format!("\"My Schema\".{}", quoted(name));
        let schema = if number == 0 { "CREATE SCHEMA \"My Schema\";" } else { "" };
        let create = format!(
            "{schema} CREATE TABLE {table} ({key} int PRIMARY KEY, {column} text UNIQUE, \"Order\" text DEFAULT 'x')",
            key = quoted(&name.chars().rev().collect::<String>()),
            column = quoted(&format!("{}!", &name.chars().take(20).collect::<String>())),
        );
        setup = setup.table(&table, &create);
    }
    let pair = Pair::with(setup);
    let _hub = pair.linked();
    for (node, other) in [("new", "legacy"), ("legacy", "new")] {
        for name in names {
            let table = format!("\"My Schema\".{}", quoted(name));
            pair[node].sql(&format!("INSERT INTO {table} SELECT i, i::text FROM generate_series(1, 5) i"));
            pair[node].sql(&format!("UPDATE {table} SET \"Order\" = 'y' WHERE true"));
            wait_until(&format!("{name} arrives"), PATIENCE, || {
                pair[other].sql(&format!("SELECT count(*) FROM {table} WHERE \"Order\" = 'y'")) == "5"
            });
            pair[other].sql(&format!("TRUNCATE {table}"));
        }
        pair.quiesce();
    }
}
