use super::*;

fn environment() -> Environment {
    Environment::empty().with_os_user("app")
}

fn parse(text: &str) -> Result<Config, ConfigFaults> {
    Config::parse(Path::new(DEFAULT_FILE), text, &environment())
}

/// What the user sees.
fn report(text: &str) -> String {
    match parse(text) {
        Ok(config) => panic!("no faults found: {config:?}"),
        Err(faults) => faults.render(false),
    }
}

const NODES: &str = r#"
[nodes.new]
url = "postgres://app@db1.example/new_app"
[nodes.legacy]
url = "host=db2.example dbname=legacy_app"
"#;

fn with_nodes(rest: &str) -> String {
    format!("{NODES}{rest}")
}

#[test]
fn a_config_as_documented() {
    let config = parse(&with_nodes(
        r#"
[[tables]]
name = "products"
[[tables]]
name = "shop.orders"
resolve = "prefer:legacy"
ids = "keep"
merge = "newest"
merge_by = "changed"
[hub]
silence_timeout_s = 10
keep_conflicts_mib = 1_00
"#,
    ))
    .expect("no faults");
    let nodes: Vec<String> = config.nodes.iter().map(|node| format!("{}: {}", node.name, node.endpoint)).collect();
    assert_eq!(nodes, ["new: new_app on db1.example:5432 as app", "legacy: legacy_app on db2.example:5432 as app"]);
    assert_eq!(
        config.tables,
        [
            Table {
                name: QualifiedName::new("public", "products"),
                namings: BTreeMap::new(),
                resolve: Resolve::Newest,
                ids: Ids::Interleave,
                merge: Merge::Refuse,
                merge_by: MERGE_BY.into(),
                matching: None,
                line: 8
            },
            Table {
                name: QualifiedName::new("shop", "orders"),
                namings: BTreeMap::new(),
                resolve: Resolve::Prefer("legacy".to_owned()),
                ids: Ids::Keep,
                merge: Merge::Newest,
                merge_by: "changed".into(),
                matching: None,
                line: 10
            },
        ]
    );
    let hub =
        HubSettings { silence_timeout: Duration::from_secs(10), keep_conflicts_mib: 100, ..HubSettings::default() };
    assert_eq!(config.hub, hub);
}

#[test]
fn nodes_keep_the_order_of_the_file() {
    let mut text = String::new();
    for name in ["zeta", "beta", "alpha", "omega"] {
        text.push_str(&format!("[nodes.{name}]\nurl = \"postgres://h/{name}\"\n"));
    }
    text.push_str("[[tables]]\nname = \"t\"\n");
    let config = parse(&text).expect("no faults");
    let names: Vec<&str> = config.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["zeta", "beta", "alpha", "omega"]);
    assert_eq!(config.nodes[2].line, 5);
}

#[test]
fn all_faults_in_one_report() {
    insta::assert_snapshot!(report(
        r#"
[nodes.new]
url = "postgres://app:s3cret@db1.example/new_app?sslmod=require&conect_timeout=3"
[nodes.Legacy]
url = "${LEGACY_URL}"
user = "app"

[[tables]]
nmae = "products"
[[tables]]
name = "orders"
reslove = "newest"
[[tables]]
name = "public.orders"
resolve = "prefer:gnu"
ids = "sometimes"
[[tables]]
name = "Customers"
resolve = "oldest"

[hub]
silence_timeout_s = "30 s"
colour = true
[hubb]
"#
    ));
}

#[test]
fn faults_of_a_merge() {
    insta::assert_snapshot!(report(&with_nodes(
        r#"
[[tables]]
name = "a"
merge = "prefer:newt"
[[tables]]
name = "b"
merge = "oldest"
[[tables]]
name = "c"
merge = "only-missing"
merge_by = "changed_at"
"#
    )));
}

#[test]
fn passwords_are_never_shown() {
    let text = r#"
[nodes.a]
url = "postgres://app:s3cr/et@db1/x"
[nodes.b]
url = "postgres://app:s3cr@et@db1/x"
[nodes.c]
url = "host=db1 password='s3cr et user=x"
[nodes.d]
url = "host=db1 password=s3cr et"
[nodes.e]
url = "postgres://db1:54x32/x?password=s3cret&nothing=1"
[nodes.f]
url = "postgres://app:s3cr%et@db1/x"
[nodes.g]
url = "${PW_URL}"
[nodes.h]
url = "postgres://app:${PW}@db1:54x32/x"
password = "s3cret"
[[tables]]
name = "t"
"#;
    let environment = environment().with("PW_URL", "postgres://app:s3cr/et@db1/x").with("PW", "s3cr:et@");
    let faults = Config::parse(Path::new(DEFAULT_FILE), text, &environment).expect_err("faults");
    let report = faults.render(false);
    assert!(!format!("{faults:?}").contains("s3cr"), "{faults:?}");
    insta::assert_snapshot!(&report);
    assert!(!report.contains("s3cr"), "{report}");
}

#[test]
fn what_is_not_toml() {
    insta::assert_snapshot!(report("[nodes.new]\nurl = postgres://app:s3cret@db1/x\n[[tables]\n"));
}

#[test]
fn too_few_nodes_and_no_tables() {
    insta::assert_snapshot!(report("[nodes.only]\nurl = \"postgres://db1/x\"\n"));
}

#[test]
fn an_empty_file() {
    insta::assert_snapshot!(report(""));
}

#[test]
fn values_of_the_wrong_kind() {
    insta::assert_snapshot!(report("nodes = 3\ntables = \"products\"\nhub = [1]\n"));
}

#[test]
fn entries_of_the_wrong_kind() {
    insta::assert_snapshot!(report(
        r#"
tables = ["products", { name = 7 }]
hub.id_slots = 2
nodes.a = "postgres://db1/x"
nodes.b.url = 5
nodes.c = {}
nodes.d.url = ""
"#
    ));
}

#[test]
fn two_nodes_that_are_one_database() {
    insta::assert_snapshot!(report(
        r#"
[nodes.a]
url = "postgres://db1.example/shop"
[nodes.b]
url = "host=db1.example port=5432 dbname=shop user=other"
[[tables]]
name = "t"
"#
    ));
}

#[test]
fn more_nodes_than_id_slots() {
    let nodes: String = (1..=5).map(|n| format!("[nodes.n{n}]\nurl = \"postgres://h{n}/x\"\n")).collect();
    insta::assert_snapshot!(report(&format!("{nodes}[[tables]]\nname = \"t\"\n")));
    parse(&format!("{nodes}[[tables]]\nname = \"t\"\n[hub]\nid_slots = 8\n")).expect("they fit");
}

#[test]
fn no_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let faults = Config::load(&directory.path().join(DEFAULT_FILE), &environment()).expect_err("no file");
    let report = faults.render(false).replace(&directory.path().display().to_string(), "DIR");
    insta::assert_snapshot!(report);
}

#[test]
fn the_file_is_located_by_option_then_variable_then_name() {
    let set = environment().with("PGTANDEM_CONFIG", "from/variable.toml");
    assert_eq!(Config::locate(Some(Path::new("from/option.toml")), &set), Path::new("from/option.toml"));
    assert_eq!(Config::locate(None, &set), Path::new("from/variable.toml"));
    assert_eq!(Config::locate(None, &environment()), Path::new("pgtandem.toml"));
}

#[test]
fn variables_are_put_in_and_can_be_escaped() {
    let environment = environment().with("HOST", "db9.example").with("URL", "postgres://db1/x").with("EMPTY", "");
    let text = r#"
[nodes.a]
url = "${URL}"
[nodes.b]
url = "host=${HOST} dbname='a$${b}${EMPTY}$'"
[[tables]]
name = "t"
"#;
    let config = Config::parse(Path::new("x.toml"), text, &environment).expect("no faults");
    assert_eq!(config.nodes[0].endpoint.to_string(), "x on db1:5432 as app");
    assert_eq!(config.nodes[1].endpoint.to_string(), "a${b}$ on db9.example:5432 as app");
}

#[test]
fn colour_only_when_asked_for() {
    let faults = parse("").expect_err("faults");
    assert!(!faults.to_string().contains('\x1b'));
    assert!(faults.render(true).contains("\x1b[1;31merror:"));
}

#[test]
fn of_a_parameter_given_twice_the_last_one_counts_and_is_pointed_at() {
    let report = report(
        "[nodes.new]\nurl = \"host=db1 port=5432 dbname=a port=70000\"\n[nodes.legacy]\nurl = \"host=db2\"\n\
         [[tables]]\nname = \"products\"\n",
    );
    let caret = report.lines().skip_while(|line| !line.contains("70000")).nth(1).unwrap();
    let line = report.lines().find(|line| line.contains("70000")).unwrap();
    assert_eq!(caret.find('^'), line.rfind("port"), "{report}");
}

#[test]
fn matching_as_documented() {
    let config = parse(&with_nodes(
        r#"
[[tables]]
name = "products"
match = ["sku", "shop"]
renumber = "legacy"
references = ["orders.product_id", "notes.notable_id where notable_type = 'Product'"]
dismiss = "logs.product_id"
write_pause = "1500ms"
[hub]
confirm_after_days = 3
"#,
    ))
    .expect("no faults");
    let matching = config.tables[0].matching.as_ref().expect("it is given");
    assert_eq!(matching.columns, ["sku".into(), "shop".into()]);
    assert_eq!(matching.renumber.as_deref(), Some("legacy"));
    let references: Vec<String> = matching.references.iter().map(ToString::to_string).collect();
    assert_eq!(references, ["orders.product_id", "notes.notable_id where notable_type = 'Product'"]);
    assert_eq!(matching.dismiss.len(), 1);
    assert_eq!(matching.write_pause, Some(Duration::from_millis(1500)));
    assert_eq!(config.hub.confirm_after_days, 3);
}

#[test]
fn faults_of_matching() {
    insta::assert_snapshot!(report(&with_nodes(
        r#"
[[tables]]
name = "a"
match = []
renumber = "newt"
references = ["orders", 7]
write_pause = "2 hours"
[[tables]]
name = "b"
dismiss = ["a.b_id"]
"#
    )));
}

#[test]
fn what_nodes_call_otherwise() {
    let config = parse(&with_nodes(
        r#"
[[tables]]
name = "products"
names = { legacy = "shop.legacy_products" }
[tables.columns.legacy]
name = "title"
"Price" = "PriceCents"
[[tables]]
name = "orders"
columns = { new = { a = "b", b = "a" } }
[[tables]]
name = "legacy_products"
"#,
    ))
    .expect("no faults");
    let [products, orders, other] = &config.tables[..] else { panic!("{:?}", config.tables) };
    assert_eq!(products.naming("legacy").table.to_string(), r#""shop"."legacy_products""#);
    assert_eq!(products.naming("legacy").table.plain(), "products");
    assert_eq!(products.naming("legacy").in_words(), "shop.legacy_products (PriceCents for Price, title for name)");
    assert_eq!(products.naming("new"), Naming::plain(products.name.clone()));
    assert_eq!(orders.naming("new").in_words(), "orders (a for b, b for a)");
    assert_eq!(other.naming("legacy").in_words(), "legacy_products");
}

#[test]
fn faults_of_other_names() {
    insta::assert_snapshot!(report(&with_nodes(
        r#"
[[tables]]
name = "a"
names = { lagacy = "b", legacy = "Things" }
columns = { legacy = { name = "title", label = "title" }, newt = { x = "y" } }
[[tables]]
name = "b"
names = "legacy_b"
columns = { new = "title", legacy = { name = 1, "" = "x" } }
[[tables]]
name = "c"
names = { legacy = "d" }
[[tables]]
name = "d"
"#
    )));
}
