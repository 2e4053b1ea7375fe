//! S02: every built-in type, and types we know nothing of, with the values that get lost elsewhere.

use crate::support::{PATIENCE, Pair, Setup, wait_until};

const TYPES: &str = r#"
    CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION cube; CREATE EXTENSION ltree;
    CREATE TYPE mood AS ENUM ('sad', 'it''s "fine"', 'a,b', 'größer');
    CREATE TYPE address AS (street text, number int, moods mood[]);
    CREATE DOMAIN positive AS numeric(12, 3) CHECK (VALUE > 0);
    CREATE DOMAIN home AS address CHECK ((VALUE).number > 0)"#;

/// A column's type and values for it, as SQL writes them.
const COLUMNS: &[(&str, &[&str])] = &[
    ("smallint", &["-32768", "32767"]),
    ("integer", &["-2147483648", "2147483647"]),
    ("bigint", &["-9223372036854775808", "9223372036854775807"]),
    ("numeric", &["'NaN'", "'Infinity'", "'-Infinity'", "10::numeric ^ 1000 + 0.1", "-1e-300"]),
    ("numeric(10, 2)", &["12345678.90", "-0.01", "'NaN'"]),
    ("real", &["'NaN'", "'-Infinity'", "0.1", "1.17549435e-38", "'-0'"]),
    ("double precision", &["'NaN'", "'Infinity'", "0.1::float8 + 0.2::float8", "5e-324", "1.7976931348623157e308"]),
    ("money", &["-92233720368547758.08", "1234567.89"]),
    ("text", &["''", "E'tab\\t newline\\n back\\\\slash'", "'{}\"''NULL'", "'äöü 漢字 🙂'", "repeat('x', 20000)"]),
    ("varchar(20)", &["'trailing  '", "'NULL'"]),
    ("char(10)", &["'a'", "''"]),
    ("\"char\"", &["'x'", "''", "'\\377'"]),
    ("name", &["'Some Name'", "repeat('n', 63)"]),
    ("bytea", &["'\\x'", "'\\x00ff5c27'", "decode(repeat('ab00', 9000), 'hex')"]),
    ("boolean", &["true", "false"]),
    ("date", &["'4713-01-01 BC'", "'infinity'", "'-infinity'", "'5874897-12-31'"]),
    ("time", &["'24:00'", "'00:00:00.000001'"]),
    ("time(0)", &["'12:34:56'"]),
    ("timetz", &["'23:59:60+15:59'", "'00:00-15:59'"]),
    ("timestamp", &["'4713-11-24 BC'", "'infinity'", "'294276-12-31 23:59:59.999999'"]),
    ("timestamptz", &["'-infinity'", "'0044-03-15 12:00 BC'", "'2024-10-27 02:30:00.123456 Europe/Berlin'"]),
    ("interval", &["'-178000000 years'", "'1 mon -2 days +03:04:05.678901'", "'0'"]),
    ("interval day to second(3)", &["'-1 day 00:00:00.001'"]),
    ("uuid", &["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"]),
    ("json", &["'{\"a\" :  1, \"a\": null}'", "'[1e400, \"\\u0041\"]'", "'null'"]),
    ("jsonb", &["'{\"a\": [1.50, \"\\u00e4\", null, {}]}'", "'null'", "'\"\"'"]),
    ("jsonpath", &["'$.a[*] ? (@ > 1)'"]),
    (
        "xml",
        &[
            "'<a b=\"c\">d&amp;</a>'",
            "xmlparse(content 'text <b/> more')",
            "xmlparse(document '<?xml version=\"1.0\"?><r/>')",
        ],
    ),
    ("inet", &["'192.168.0.1/24'", "'::ffff:1.2.3.4'", "'10.0.0.1'"]),
    ("cidr", &["'10.1.0.0/16'", "'2001:db8::/32'"]),
    ("macaddr", &["'08:00:2b:01:02:03'"]),
    ("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
    ("bit(5)", &["B'10101'", "B'00000'"]),
    ("varbit(10)", &["B''", "B'1010101010'"]),
    ("bit(3)[]", &["'{101,000}'"]),
    ("point", &["'(0.1,-0)'", "'(NaN,Infinity)'"]),
    ("line", &["'{1,2,3}'"]),
    ("lseg", &["'[(1,2),(3,4.5)]'"]),
    ("box", &["'(1,2),(3,4)'"]),
    ("box[]", &["'{(1,1),(0,0);(2,2),(1,1)}'"]),
    ("path", &["'[(0,0),(1,1)]'", "'((0,0),(1,1))'"]),
    ("polygon", &["'((0,0),(1,1),(1,0))'"]),
    ("circle", &["'<(1,2),0.3>'"]),
    ("tsvector", &["'''it''''s'':1A,3 fat:2B'", "''"]),
    ("tsquery", &["'fat & !(rat | cat:*A) <-> dog'", "''"]),
    ("int4range", &["'empty'", "'[1,5)'", "'(,)'"]),
    ("int8range", &["'[,9223372036854775807)'"]),
    ("numrange", &["'(1.0,2.00]'", "'[-Infinity,NaN]'"]),
    ("tsrange", &["'[\"2024-01-01 BC\",infinity)'"]),
    ("tstzrange", &["'(2024-01-01 00:00+02,)'"]),
    ("daterange", &["'[infinity,]'", "'[2024-01-01,2024-12-31]'"]),
    ("int4multirange", &["'{}'", "'{[1,3),[7,9)}'"]),
    ("nummultirange", &["'{(,1.5],[2.0,)}'"]),
    ("datemultirange[]", &["ARRAY['{[2024-01-01,2024-01-05)}'::datemultirange, '{}']"]),
    ("oid", &["4294967295"]),
    ("regclass", &["'everything'", "'pg_class'", "'-'"]),
    ("regtype", &["'mood'", "'int4[]'", "'character varying'"]),
    ("regproc", &["'now'"]),
    ("xid8", &["'18446744073709551615'"]),
    ("tid", &["'(1,2)'"]),
    ("pg_lsn", &["'FFFFFFFF/FFFFFFFF'"]),
    ("pg_snapshot", &["'10:20:10,14,15'"]),
    ("int2vector", &["'1 2 3'", "''"]),
    ("int[]", &["'{}'", "'{NULL,1,-1}'", "'[-2:0]={1,2,3}'", "'{{1,2},{3,4}}'", "'{{{1},{NULL}}}'"]),
    ("text[]", &["ARRAY['', NULL, 'NULL', 'a\"b', 'c\\d', '{e}', ' f ', 'g,h']", "'{}'"]),
    ("bytea[]", &["ARRAY['\\x00'::bytea, '\\x5c']"]),
    ("timestamptz[]", &["'{infinity,0001-01-01 00:00:00+00 BC}'"]),
    ("json[]", &["ARRAY['{\"a\": \"b,c\"}'::json, 'null']"]),
    ("mood", &["'sad'", "'it''s \"fine\"'", "'größer'"]),
    ("mood[]", &["'{sad,\"a,b\",NULL}'", "'{}'"]),
    ("positive", &["0.001", "999999999.999"]),
    ("positive[]", &["'{1.000,2.5}'"]),
    ("address", &["ROW('a \"b\", (c)', 1, '{sad}')", "ROW(NULL, NULL, NULL)", "ROW('', 0, '{}')"]),
    ("address[]", &["ARRAY[ROW('x', 1, NULL)::address, NULL, ROW(',', 2, '{\"a,b\"}')::address]"]),
    ("home", &["ROW('x', 1, NULL)"]),
    ("hstore", &["'a=>1, b=>NULL, \"\"=>\"\"'", "''"]),
    ("citext", &["'MiXed'"]),
    ("cube", &["'(1, 2),(3.5, 4)'"]),
    ("ltree[]", &["ARRAY['a.b'::ltree, 'Top']"]),
];

const ROWS: usize = 6;

fn create_table() -> String {
    let columns = COLUMNS.iter().enumerate().map(|(at, (kind, _))| format!(", c{at} {kind}"));
    format!("CREATE TABLE everything (id int PRIMARY KEY{})", columns.collect::<String>())
}

/// `ROWS` rows; a column without so many values has NULLs.
fn insert_rows(first_id: usize) -> String {
    let row = |at: usize| {
        let values = COLUMNS.iter().map(|(_, values)| format!(", {}", values.get(at).unwrap_or(&"NULL")));
        format!("INSERT INTO everything VALUES ({}{})", first_id + at, values.collect::<String>())
    };
    (0..ROWS).map(row).collect::<Vec<_>>().join(";\n")
}

/// Every column of one row takes the value of the same column of another.
fn move_values(first_id: usize) -> String {
    let names: Vec<String> = (0..COLUMNS.len()).map(|at| format!("c{at}")).collect();
    let names = names.join(", ");
    format!(
        "UPDATE everything AS t SET ({names}) = (SELECT {names} FROM everything AS o
             WHERE o.id = {first_id} + (t.id - {first_id} + 1) % {ROWS})
         WHERE t.id >= {first_id} AND t.id < {first_id} + {ROWS}"
    )
}

#[test]
fn s02_every_type_arrives_as_it_was() {
    let pair = Pair::with(Setup::shared().linking("everything"));
    for node in pair.nodes() {
        node.sql(TYPES);
        node.sql(&create_table());
    }
    pair.link();
    // What the server's owner prefers must not matter.
    let legacy = &pair["legacy"];
    for setting in [
        "DateStyle = 'SQL, DMY'",
        "IntervalStyle = 'iso_8601'",
        "bytea_output = 'escape'",
        "extra_float_digits = -15",
        "TimeZone = 'Asia/Kathmandu'",
        "search_path = 'elsewhere'",
        "xmloption = 'document'",
        "standard_conforming_strings = off",
        "default_transaction_isolation = 'serializable'",
        "statement_timeout = '100ms'",
    ] {
        legacy.sql(&format!("ALTER DATABASE {} SET {setting}", legacy.database()));
    }
    let plain = |sql: &str| {
        let session = legacy.session();
        session
            .run(
                "SET statement_timeout = 0; SET search_path = public; SET DateStyle = ISO;
                 SET IntervalStyle = postgres; SET bytea_output = hex; SET extra_float_digits = 3;
                 SET TimeZone = UTC; SET xmloption = content; SET standard_conforming_strings = on",
            )
            .unwrap();
        session.run(sql).unwrap_or_else(|e| panic!("{e}"))
    };
    let _hub = pair.hub();
    let new = pair["new"].session();
    let same = |count: usize| {
        let all = "SELECT t::text FROM everything AS t ORDER BY id";
        wait_until("all values are on both sides", PATIENCE, || {
            let (here, there) =
                (new.run(format!("SET TimeZone = UTC; SET extra_float_digits = 3; {all}")).unwrap(), plain(all));
            here == there && new.run("SELECT count(*) FROM everything").unwrap() == count.to_string()
        });
    };
    pair["new"].sql(&insert_rows(10));
    same(ROWS);
    plain(&insert_rows(20));
    same(ROWS * 2);
    for _ in 0..2 {
        plain(&move_values(10));
        same(ROWS * 2);
        pair["new"].sql(&move_values(20));
        same(ROWS * 2);
    }
    assert_eq!(pair["new"].sql("SELECT count(*) FROM pgtandem.held WHERE released IS NULL"), "0");
}
