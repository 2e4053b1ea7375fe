//! S33: a node is not the one that its peers know: restored from a backup, cloned, or promoted with loss. It is
//! recognised and refused, and settled on request.

use std::process::Command;

use pgtandem::cluster::{Cluster, Stop};

use crate::support::{Fleet, Hub, PATIENCE, Pair, Setup, Trio, back_up, restore, wait_until};

const ITEMS: &str =
    "CREATE TABLE items (id bigserial PRIMARY KEY, what text, updated_at timestamptz NOT NULL DEFAULT now())";
const ROWS: &str = "SELECT string_agg(id || ' ' || what, ', ' ORDER BY id) FROM items";

fn linked<const N: usize>() -> (Fleet<N>, Hub) {
    let fleet = Fleet::with(Setup::default().table("items", ITEMS));
    fleet["new"].sql("INSERT INTO items (what) SELECT 'old' FROM generate_series(1, 4)");
    let hub = fleet.linked();
    fleet.settle();
    (fleet, hub)
}

/// What happens on both sides between the backup and its return.
fn life_goes_on<const N: usize>(fleet: &Fleet<N>) {
    fleet["new"].sql("UPDATE items SET what = 'new', updated_at = now() WHERE id = 1");
    fleet["legacy"].sql("UPDATE items SET what = 'legacy', updated_at = now() WHERE id = 2");
    fleet["legacy"].sql("INSERT INTO items (what) VALUES ('made on legacy')");
    fleet.settle();
}

fn is_refused<const N: usize>(fleet: &Fleet<N>, why: &str) {
    let run = fleet.pgtandem(["run"]).exits(3).stderr;
    assert!(run.contains(why) && run.contains("pgtandem rejoin legacy"), "{run}");
    let status = fleet.pgtandem(["status"]).exits(1).stdout;
    assert!(status.contains("pgtandem rejoin legacy"), "{status}");
}

/// And whatever either side writes arrives, under an id that nobody else has.
fn goes_on<const N: usize>(fleet: &Fleet<N>) {
    let hub = fleet.hub();
    hub.wait_for_log("working");
    for node in fleet.nodes() {
        node.sql("INSERT INTO items (what) SELECT 'after' FROM generate_series(1, 20)");
        node.sql("UPDATE items SET what = what || '!' WHERE id = 3");
        fleet.settle();
    }
    assert_eq!(fleet["new"].sql("SELECT what FROM items WHERE id = 3"), format!("old{}", "!".repeat(N)));
    assert_eq!(fleet["new"].sql("SELECT count(*) FROM items WHERE what = 'after'"), (20 * N).to_string());
    fleet.pgtandem(["status"]).ok();
}

#[test]
fn s33_a_restored_data_directory_is_recognised_and_becomes_what_its_peers_are() {
    let (pair, hub): (Pair, _) = linked();
    hub.terminate();
    let backup = back_up(&pair["legacy"]);
    let hub = pair.hub();
    life_goes_on(&pair);
    pair["new"].sql("DELETE FROM items WHERE id = 4");
    pair.settle();
    let before = pair["new"].sql(ROWS);
    hub.terminate();
    restore(&pair["legacy"], &backup);
    is_refused(&pair, "set back to an earlier state");
    // Much is written: its WAL is ahead of what its peers have seen, and it is recognised all the same.
    pair["legacy"].sql("CREATE TABLE elsewhere AS SELECT repeat('x', 100) FROM generate_series(1, 100000)");
    is_refused(&pair, "set back to an earlier state");
    pair.pgtandem(["rejoin", "legacy", "--prefer", "new", "--yes"]).ok();
    assert_eq!((pair["new"].sql(ROWS), pair["legacy"].sql(ROWS)), (before.clone(), before));
    goes_on(&pair);
}

#[test]
fn s33_one_of_three_is_set_back_and_becomes_what_the_others_are() {
    let (trio, hub): (Trio, _) = linked();
    hub.terminate();
    let backup = back_up(&trio["legacy"]);
    let hub = trio.hub();
    life_goes_on(&trio);
    trio["third"].sql("DELETE FROM items WHERE id = 4; INSERT INTO items (what) VALUES ('made on third')");
    trio.settle();
    let before = trio["new"].sql(ROWS);
    // What third has written last is on its way to nobody when the hub ends.
    hub.terminate();
    trio["third"].sql("INSERT INTO items (id, what) VALUES (1000, 'waits')");
    restore(&trio["legacy"], &backup);
    is_refused(&trio, "set back to an earlier state");
    trio.pgtandem(["rejoin", "legacy", "--prefer", "new", "--yes"]).ok();
    trio.equal("items");
    assert_eq!(trio["legacy"].sql(ROWS), format!("{before}, 1000 waits"));
    goes_on(&trio);
}

#[test]
fn s33_a_node_that_is_set_back_while_the_hub_works_ends_it() {
    let (pair, hub): (Pair, _) = linked();
    hub.terminate();
    let backup = back_up(&pair["legacy"]);
    let hub = pair.hub();
    life_goes_on(&pair);
    wait_until("the peer knows of it", PATIENCE, || {
        pair["new"].sql("SELECT count(*) FROM pgtandem.pulse WHERE beat > 1") == "2"
    });
    restore(&pair["legacy"], &backup);
    assert_eq!(hub.wait().code(), Some(3), "{}", hub.log());
    assert!(hub.log().contains("pgtandem rejoin legacy"), "{}", hub.log());
    // By the policy: the newer row stands, and what only one side has is given to the other.
    pair["legacy"].sql("INSERT INTO items (what) VALUES ('in the dark')");
    pair.pgtandem(["rejoin", "legacy", "--yes"]).ok();
    pair.equal("items");
    assert!(pair["legacy"].sql(ROWS).contains("1 new, 2 legacy, 3 old"), "{}", pair["legacy"].sql(ROWS));
    goes_on(&pair);
}

#[test]
fn s33_a_clone_on_another_server_is_recognised_and_settled() {
    let (pair, hub): (Pair, _) = linked();
    let legacy = &pair["legacy"];
    let dump = legacy.cluster.dir().join("dump");
    let tool = |cluster: &Cluster, name: &str, args: &[&str]| {
        let program = cluster.bin().program(name);
        let done = Command::new(&program).args(args).output().unwrap();
        assert!(done.status.success(), "{program:?} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let url = legacy.cluster.url(legacy.database());
    tool(&legacy.cluster, "pg_dump", &["-Fc", "-f", dump.to_str().unwrap(), &url]);
    life_goes_on(&pair);
    hub.terminate();
    // The same place, another server: nothing of the old one is left but the dump.
    let other = Pair::start();
    let server = &other["new"].cluster;
    server.create_database("clone").unwrap();
    tool(server, "pg_restore", &["-d", &server.url("clone"), dump.to_str().unwrap()]);
    let config = std::fs::read_to_string(pair.config()).unwrap();
    std::fs::write(pair.config(), config.replace(&url, &server.url("clone"))).unwrap();

    is_refused(&pair, "not the database that was linked");
    pair.pgtandem(["rejoin", "legacy", "--prefer", "new", "--yes"]).ok();
    assert_eq!(server.psql("clone", ROWS).unwrap(), pair["new"].sql(ROWS));
    let hub = pair.hub();
    server.psql("clone", "INSERT INTO items (what) VALUES ('after')").unwrap();
    pair["new"].sql("UPDATE items SET what = 'after, too' WHERE id = 3");
    wait_until("both have it all", PATIENCE, || {
        let rows = pair["new"].sql(ROWS);
        rows.contains("3 after, too") && rows.ends_with("after") && rows == server.psql("clone", ROWS).unwrap()
    });
    assert!(hub.is_running());
}

#[test]
fn s33_a_standby_that_was_promoted_with_loss_is_recognised_and_settled() {
    let (pair, hub): (Pair, _) = linked();
    let legacy = &pair["legacy"];
    let standby = legacy.cluster.dir().join("standby");
    let url = legacy.cluster.url("postgres");
    let backup = legacy.cluster.bin().program("pg_basebackup");
    let mut command = Command::new(backup);
    command.args(["-X", "stream", "-c", "fast", "-d", &url, "-D", standby.to_str().unwrap()]);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    life_goes_on(&pair);
    hub.terminate();
    // The standby takes the place of the server: what came after the backup never reached it.
    legacy.cluster.stop(Stop::Immediate).unwrap();
    let data = legacy.cluster.data_dir();
    let owner = Command::new("chown").args(["-R", "--reference"]).args([&data, &standby]).status().unwrap();
    assert!(owner.success());
    std::fs::rename(&data, legacy.cluster.dir().join("lost")).unwrap();
    std::fs::rename(&standby, &data).unwrap();
    std::fs::write(data.join("standby.signal"), "").unwrap();
    legacy.cluster.start_again().unwrap();
    legacy.sql("SELECT pg_promote()");
    is_refused(&pair, "set back to an earlier state");
    legacy.sql("INSERT INTO items (id, what) VALUES (1000, 'after the promotion')");
    pair.pgtandem(["rejoin", "legacy", "--yes"]).ok();
    pair.equal("items");
    let rows = pair["new"].sql(ROWS);
    assert!(rows.contains("1 new, 2 legacy") && rows.contains("1000 after the promotion"), "{rows}");
    goes_on(&pair);
}
