//! Reaching real servers: passwords, refusals, lists of hosts, settings, and what errors mean.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::sync::LazyLock;

use pgtandem::cluster::{Cluster, ClusterOptions};
use pgtandem::connect::{ConnectError, ConnectFault, Endpoint, Environment, FaultClass, Retry, Session};

/// One server for all tests of this file; each makes its own roles and databases.
static SERVER: LazyLock<Cluster> = LazyLock::new(|| {
    let options = ClusterOptions::new("connect").and_then(|options| {
        Cluster::start(
            options
                .without_fsync()
                .setting("deadlock_timeout", "100ms")
                .hba_line("host all outsider 127.0.0.1/32 reject"),
        )
    });
    options.unwrap_or_else(|e| panic!("{e}"))
});

fn environment() -> Environment {
    Environment::empty().with_os_user("postgres")
}

fn endpoint(text: &str) -> Endpoint {
    endpoint_in(text, &environment())
}

fn endpoint_in(text: &str, environment: &Environment) -> Endpoint {
    Endpoint::resolve(text, environment).unwrap_or_else(|faults| panic!("{text}: {faults}"))
}

/// Through the socket, where everybody is let in.
fn local(parameters: &str) -> Endpoint {
    endpoint(&format!("host={} port={} {parameters}", SERVER.dir().display(), SERVER.port()))
}

/// Over TCP, where a password is needed.
fn tcp(parameters: &str) -> String {
    format!("host=127.0.0.1 port={} {parameters}", SERVER.port())
}

fn role(name: &str, rest: &str) {
    SERVER.psql("postgres", &format!("CREATE ROLE {name} LOGIN {rest}")).unwrap();
}

async fn open(endpoint: &Endpoint) -> Session {
    endpoint.connect("pgtandem test", &[]).await.unwrap_or_else(|e| panic!("{e}; {}", e.remedy()))
}

async fn refused(endpoint: &Endpoint) -> ConnectError {
    match endpoint.connect("pgtandem test", &[]).await {
        Ok(_) => panic!("connected to {endpoint}"),
        Err(error) => error,
    }
}

async fn text(session: &Session, query: &str) -> String {
    session.client.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_password_from_the_url_the_variable_or_the_file() {
    role("reader", "PASSWORD 'p@ss/w:rd'");
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".pgpass");
    fs::write(&file, format!("127.0.0.1:{}:postgres:reader:p@ss/w\\:rd\n", SERVER.port())).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();

    let url = format!("postgres://reader:p%40ss%2Fw%3Ard@127.0.0.1:{}/postgres", SERVER.port());
    assert_eq!(text(&open(&endpoint(&url)).await, "SELECT current_user::text").await, "reader");
    let variable = environment().with("PGPASSWORD", "p@ss/w:rd");
    open(&endpoint_in(&tcp("user=reader dbname=postgres"), &variable)).await;
    let in_home = environment().with_home(home.path());
    let from_file = endpoint_in(&tcp("user=reader dbname=postgres"), &in_home);
    open(&from_file).await;

    // The file is read at each connection: here it becomes unusable, and is named.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let error = refused(&from_file).await;
    assert!(matches!(error.fault, ConnectFault::PasswordMissing { .. }), "{error:?}");
    assert!(error.to_string().contains(".pgpass was ignored"), "{error}");
    assert_eq!(error.retry(), Retry::AfterPerson);
}

#[tokio::test]
async fn a_wrong_or_missing_password() {
    role("forgetful", "PASSWORD 'right'");
    let error = refused(&endpoint(&tcp("user=forgetful password=wrong dbname=postgres"))).await;
    assert!(matches!(error.fault, ConnectFault::PasswordWrong { .. }), "{error:?}");
    assert_eq!(error.retry(), Retry::AfterPerson);
    assert!(!format!("{error} {error:?}").contains("wrong "), "{error:?}");
    let error = refused(&endpoint(&tcp("user=forgetful dbname=postgres"))).await;
    assert!(matches!(error.fault, ConnectFault::PasswordMissing { .. }), "{error:?}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn every_refusal_has_its_own_fault() {
    role("outsider", "PASSWORD 'x'");
    role("crowded", "CONNECTION LIMIT 0");
    role("unwelcome", "");
    SERVER.create_database("private").unwrap();
    SERVER.psql("postgres", "REVOKE CONNECT ON DATABASE private FROM public").unwrap();

    let fault = |endpoint: Endpoint| async move { refused(&endpoint).await.fault };
    let outsider = fault(endpoint(&tcp("user=outsider password=x dbname=postgres"))).await;
    assert!(matches!(outsider, ConnectFault::NotAdmitted { .. }), "{outsider:?}");
    let unknown_role = fault(local("user=nobody_at_all dbname=postgres")).await;
    assert!(matches!(unknown_role, ConnectFault::NotAdmitted { .. }), "{unknown_role:?}");
    let database = fault(local("user=postgres dbname=not_there")).await;
    assert!(matches!(database, ConnectFault::DatabaseMissing { .. }), "{database:?}");
    let crowded = fault(local("user=crowded dbname=postgres")).await;
    assert!(matches!(crowded, ConnectFault::TooManyConnections { .. }), "{crowded:?}");
    assert_eq!(crowded.retry(), Retry::Soon);
    let privilege = fault(local("user=unwelcome dbname=private")).await;
    assert!(matches!(privilege, ConnectFault::NoConnectPrivilege { .. }), "{privilege:?}");
    let setting = local("user=postgres dbname=postgres options='-c no_such_setting=1'");
    let setting = fault(setting).await;
    assert!(matches!(&setting, ConnectFault::Server { sqlstate, .. } if sqlstate == "42704"), "{setting:?}");
    assert_eq!(setting.retry(), Retry::Never);
    let tls = fault(endpoint(&tcp("user=postgres sslmode=require"))).await;
    assert!(matches!(tls, ConnectFault::TlsNotOffered), "{tls:?}");
}

#[tokio::test]
async fn servers_that_are_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap().port();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let fault = |text: String| async move { refused(&endpoint(&text)).await.fault };

    let gone = fault(format!("host=127.0.0.1 port={closed}")).await;
    assert!(matches!(gone, ConnectFault::Refused { .. }), "{gone:?}");
    let name = fault("host=no-such-host.invalid".to_owned()).await;
    assert!(matches!(name, ConnectFault::HostNotFound { .. }), "{name:?}");
    let late = fault(format!("host=127.0.0.1 port={silent} connect_timeout=2")).await;
    assert!(matches!(late, ConnectFault::TimedOut { .. }), "{late:?}");
    let socket = fault(format!("host={} port=1", SERVER.dir().display())).await;
    assert!(matches!(socket, ConnectFault::SocketMissing { .. }), "{socket:?}");
    for fault in [gone, name, late, socket] {
        assert_eq!(fault.retry(), Retry::Soon, "{fault}");
    }
}

#[tokio::test]
async fn something_else_listens_there() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = refused(&endpoint(&format!("host=127.0.0.1 port={port} sslmode=disable"))).await;
    assert!(matches!(error.fault, ConnectFault::Protocol { .. } | ConnectFault::Broken { .. }), "{error:?}");
}

#[tokio::test]
async fn a_list_of_hosts_is_tried_in_turn() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let directory = SERVER.dir().display();
    let port = SERVER.port();
    let list = format!("host=127.0.0.1,{directory} port={closed},{port} user=postgres");
    let session = open(&endpoint(&list)).await;
    assert_eq!(session.host, endpoint(&list).hosts[1]);
    open(&endpoint(&list).at(&session.host)).await;
    open(&endpoint(&format!("{list} target_session_attrs=primary load_balance_hosts=random"))).await;
    open(&endpoint(&format!("{list} target_session_attrs=prefer-standby"))).await;
    for wanted in ["standby", "read-only"] {
        let error = refused(&endpoint(&format!("{list} target_session_attrs={wanted}"))).await;
        assert!(matches!(&error.fault, ConnectFault::EveryHost(faults) if faults.len() == 2), "{error:?}");
        assert!(error.is_transient(), "{error}");
    }
    let read_only = format!("{list} target_session_attrs=read-only options='-c default_transaction_read_only=on'");
    open(&endpoint(&read_only)).await;
}

#[tokio::test]
async fn settings_hold_from_the_start_and_survive_a_reset() {
    let endpoint = local("user=postgres dbname=postgres options='-c work_mem=7MB' application_name=ignored");
    let settings = [("search_path", ""), ("DateStyle", "ISO, YMD"), ("application.note", r"a \ b 'c'")];
    let session = endpoint.connect("pgtandem hub", &settings).await.unwrap();
    session.client.batch_execute("SET work_mem = '9MB'; SET search_path = x; RESET ALL").await.unwrap();
    for (name, value) in [("work_mem", "7MB"), ("application_name", "pgtandem hub")].iter().chain(&settings) {
        assert_eq!(text(&session, &format!("SELECT current_setting('{name}')")).await, *value);
    }
}

#[tokio::test]
async fn notifications_arrive_and_the_task_says_why_it_ended() {
    let mut session = open(&local("user=postgres dbname=postgres")).await;
    let pid: i32 = session.client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    session.client.batch_execute("LISTEN pgtandem").await.unwrap();
    SERVER.psql("postgres", "NOTIFY pgtandem, 'changed'").unwrap();
    let notification = session.notifications.recv().await.unwrap();
    assert_eq!((notification.channel(), notification.payload()), ("pgtandem", "changed"));
    // Where nobody listens to the notifications, nothing breaks.
    drop(session.notifications);
    SERVER.psql("postgres", "NOTIFY pgtandem, 'changed'").unwrap();
    session.client.batch_execute("SELECT 1").await.unwrap();

    SERVER.psql("postgres", &format!("SELECT pg_terminate_backend({pid})")).unwrap();
    let why = session.task.await.unwrap().expect_err("it was terminated");
    assert_eq!(why.code().map(|code| code.code()), Some("57P01"));
    let after = session.client.batch_execute("SELECT 1").await.expect_err("it is gone");
    assert_eq!(FaultClass::of(&after), FaultClass::Retry);
}

/// A table with a check and a trigger that raises the SQLSTATE in `kind`.
const FAULTS: &str = "
    CREATE TABLE t (id int PRIMARY KEY, n int CHECK (n > 0), kind text);
    INSERT INTO t VALUES (1, 1, 'a');
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'not like this' USING ERRCODE = NEW.kind; END $$;
    CREATE TRIGGER refuse BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION refuse()";

async fn class(session: &Session, statement: &str) -> FaultClass {
    let error = session.client.batch_execute(statement).await.expect_err(statement);
    FaultClass::of(&error)
}

#[tokio::test]
async fn s35_errors_of_a_real_server_are_classified() {
    SERVER.create_database("faults").unwrap();
    SERVER.psql("faults", FAULTS).unwrap();
    let session = open(&local("user=postgres dbname=faults")).await;
    let unknown = FaultClass::Unknown("42601".to_owned());
    for (statement, expected) in [
        ("INSERT INTO t VALUES (1, 1)", FaultClass::RowRejected),
        ("INSERT INTO t VALUES (2, -1)", FaultClass::RowRejected),
        ("INSERT INTO t VALUES (2, 99999999999)", FaultClass::RowRejected),
        ("UPDATE t SET kind = 'P0001'", FaultClass::RowRejected),
        ("UPDATE t SET kind = 'SHOP1'", FaultClass::RowRejected),
        ("UPDATE t SET kind = '40001'", FaultClass::Retry),
        ("UPDATE t SET kind = 'PT001'", FaultClass::Deposed),
        ("INSERT INTO t (id, gone) VALUES (2, 1)", FaultClass::ShapeChanged),
        ("INSERT INTO gone VALUES (2, 1)", FaultClass::ShapeChanged),
        ("INSERT INTO t VALUES (2, true)", FaultClass::ShapeChanged),
        ("INSERT INTO t VALUES (2", unknown),
    ] {
        assert_eq!(class(&session, statement).await, expected, "{statement}");
    }
}

#[tokio::test]
async fn s35_a_lock_a_missing_grant_and_a_stale_plan() {
    SERVER.create_database("locks").unwrap();
    SERVER.psql("locks", FAULTS).unwrap();
    role("stranger", "");
    let session = open(&local("user=postgres dbname=locks")).await;
    let other = open(&local("user=postgres dbname=locks")).await;
    other.client.batch_execute("BEGIN; LOCK TABLE t IN SHARE MODE").await.unwrap();
    session.client.batch_execute("SET lock_timeout = '20ms'").await.unwrap();
    assert_eq!(class(&session, "INSERT INTO t VALUES (3, 3)").await, FaultClass::Retry);
    other.client.batch_execute("ROLLBACK").await.unwrap();

    let stranger = open(&local("user=stranger dbname=locks")).await;
    assert_eq!(class(&stranger, "INSERT INTO t VALUES (2, 1)").await, FaultClass::NotAllowed);

    let plan = session.client.prepare("SELECT * FROM t").await.unwrap();
    session.client.batch_execute("ALTER TABLE t ADD COLUMN more int").await.unwrap();
    let error = session.client.query(&plan, &[]).await.expect_err("the plan is stale");
    assert_eq!(FaultClass::of(&error), FaultClass::ShapeChanged);
}
