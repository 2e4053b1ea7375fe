//! The helpers of the scenarios do what they say; a test is worth as much as its helpers.

use std::time::{Duration, Instant};

use pgtandem::cluster::Session;

use crate::support::{PATIENCE, PRODUCTS, Pair, Proxy, Setup, wait_until};

#[test]
fn equal_and_quiesce_notice_one_row() {
    let pair = Pair::with(Setup::default().table("products", PRODUCTS));
    let row = "INSERT INTO products VALUES (1, 'chair', NULL, 5, '2025-01-01', '2025-01-01')";
    pair["new"].sql(row);
    let report = pair.differs_in("SELECT name, price FROM products").unwrap();
    assert!(report.contains("only on new: chair|5"), "{report}");
    let failure = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pair.quiesce_within(Duration::from_millis(50));
    }));
    let message = *failure.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("only on new: {\"id\": 1, \"name\": \"chair\""), "{message}");
    pair[1].sql(row);
    pair.equal("products");
    pair.quiesce();
}

#[test]
fn the_config_names_nodes_and_tables() {
    let pair = Pair::with(Setup::default().proxied().config("# head").table("products", PRODUCTS));
    let text = std::fs::read_to_string(pair.config()).unwrap();
    let port = pair["legacy"].proxy.as_ref().unwrap().port();
    assert!(text.starts_with("# head\n[nodes.new]\nurl = \"postgres://postgres:"), "{text}");
    assert!(text.contains(&format!("@127.0.0.1:{port}/legacy_app\"")), "{text}");
    assert!(text.ends_with("\n[[tables]]\nname = \"products\"\n"), "{text}");
    let connected = Session::with_config("legacy", pair["legacy"].url().parse().unwrap());
    let database = connected.unwrap().run("SELECT current_database()");
    assert_eq!(database.unwrap(), "legacy_app");
}

#[test]
fn a_proxy_cuts_stalls_slows_and_refuses() {
    let pair = Pair::with(Setup::default().proxied());
    let node = &pair["new"];
    let proxy: &Proxy = node.proxy.as_ref().unwrap();
    let connect = || Session::with_config("new", node.url().parse().unwrap());

    let session = connect().unwrap();
    proxy.stall();
    let mut pending = session.send("SELECT 1");
    // It would have been here by then; and the server has not even seen it.
    node.sql("SELECT pg_sleep(0.2)");
    assert!(!pending.is_done());
    proxy.clear();
    assert_eq!(pending.wait().unwrap(), "1");

    proxy.slow(Duration::from_millis(50));
    let began = Instant::now();
    session.run("SELECT 1").unwrap();
    assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
    proxy.clear();

    proxy.cut();
    assert!(session.run("SELECT 1").is_err());
    connect().unwrap().run("SELECT 1").unwrap();

    proxy.refuse();
    assert!(connect().is_err());
    proxy.clear();
    connect().unwrap();
    let ours = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'
                AND pid <> pg_backend_pid()";
    wait_until("the server notices", PATIENCE, || node.sql(ours) == "0");
}
