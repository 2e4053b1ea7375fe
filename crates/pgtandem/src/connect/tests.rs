use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::passfile::Found;
use super::*;

fn environment() -> Environment {
    Environment::empty().with_os_user("os_user")
}

fn endpoint(text: &str) -> Endpoint {
    endpoint_in(text, &environment())
}

fn endpoint_in(text: &str, environment: &Environment) -> Endpoint {
    Endpoint::resolve(text, environment).unwrap_or_else(|faults| panic!("{text}: {faults}"))
}

/// The faults of a string, one per line.
fn faults(text: &str) -> String {
    match Endpoint::resolve(text, &environment()) {
        Ok(endpoint) => panic!("{text}: no fault in {endpoint}"),
        Err(faults) => faults.to_string(),
    }
}

fn password(endpoint: &Endpoint) -> Option<String> {
    endpoint.password_for(&endpoint.hosts[0]).map(|secret| secret.expose().to_owned())
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).expect("writable");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our file");
}

/// The examples of libpq's documentation, and what is near them.
const URLS: &[(&str, &str)] = &[
    ("postgresql://", "os_user on /var/run/postgresql:5432 as os_user"),
    ("postgresql://localhost", "os_user on localhost:5432 as os_user"),
    ("postgresql://localhost:5433", "os_user on localhost:5433 as os_user"),
    ("postgresql://localhost/mydb", "mydb on localhost:5432 as os_user"),
    ("postgresql://user@localhost", "user on localhost:5432 as user"),
    ("postgresql://user:secret@localhost", "user on localhost:5432 as user"),
    (
        "postgresql://other@localhost/otherdb?connect_timeout=10&application_name=myapp",
        "otherdb on localhost:5432 as other",
    ),
    (
        "postgresql://host1:123,host2:456/somedb?target_session_attrs=any&application_name=myapp",
        "somedb on host1:123,host2:456 as os_user",
    ),
    ("postgresql:///mydb?host=localhost&port=5433", "mydb on localhost:5433 as os_user"),
    ("postgresql://[2001:db8::1234]/database", "database on [2001:db8::1234]:5432 as os_user"),
    ("postgresql://[::1]:5433,h2:1/database", "database on [::1]:5433,h2:1 as os_user"),
    ("postgresql://%2Fvar%2Flib%2Fpostgresql/dbname", "dbname on /var/lib/postgresql:5432 as os_user"),
    ("postgres://us%40er:p%2Fw@h/d%20b", "d b on h:5432 as us@er"),
    ("  postgres://h1,h2:7/x  ", "x on h1:5432,h2:7 as os_user"),
];

#[test]
fn urls_as_libpq_documents_them() {
    for (url, shown) in URLS {
        assert_eq!(endpoint(url).to_string(), *shown, "{url}");
    }
    assert_eq!(password(&endpoint("postgres://u:p%2F%3A%40w@h/d")).as_deref(), Some("p/:@w"));
    assert_eq!(password(&endpoint("postgres://u:p?w@h/d")).as_deref(), Some("p?w"));
    assert_eq!(password(&endpoint("postgres://u@h/d?password=a%26b")).as_deref(), Some("a&b"));
    assert_eq!(endpoint("postgres://h/d?ssl=true").tls.mode, TlsMode::Require);
}

#[test]
fn keyword_strings_as_libpq_documents_them() {
    for (text, shown) in [
        ("", "os_user on /var/run/postgresql:5432 as os_user"),
        ("host=localhost port=5433 dbname=mydb connect_timeout=10", "mydb on localhost:5433 as os_user"),
        ("host = localhost  user='a b' dbname = 'it''", "fault"),
        (r"host = localhost  user='a b' dbname='it\'s \\'", r"it's \ on localhost:5432 as a b"),
        (r"host=/tmp dbname=a\ b user=''", "a b on /tmp:5432 as os_user"),
        ("host=a host=b", "os_user on b:5432 as os_user"),
        ("host=a,b,c port=1,,3", "os_user on a:1,b:5432,c:3 as os_user"),
        ("host=a,b port=7", "os_user on a:7,b:7 as os_user"),
    ] {
        if shown == "fault" {
            faults(text);
        } else {
            assert_eq!(endpoint(text).to_string(), shown, "{text}");
        }
    }
    assert_eq!(password(&endpoint("password = 'two words'")).as_deref(), Some("two words"));
    let both = endpoint("host=db.example hostaddr=192.0.2.7");
    let address = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)));
    assert_eq!(both.hosts[0].place, Place::Tcp { name: Some("db.example".to_owned()), address });
}

#[test]
fn faults_name_the_parameter_and_the_remedy() {
    let all: Vec<String> = [
        "host=h sslmod=require colour=red",
        "host=h sslmode=full",
        "host=h sslmode=verify-full",
        "hostaddr=192.0.2.7 sslmode=verify-full sslrootcert=/ca.pem",
        "host=h sslrootcert=system sslmode=require",
        "host=h sslkey=/k sslpassword=s3cret",
        "host=h requirepeer=postgres replication=database gssencmode=require sslnegotiation=direct",
        "host=h require_auth=scram-sha-256 min_protocol_version=3.2",
        "host=a,b port=1,2,3",
        "host=a port=65536",
        "host=a port=x connect_timeout=soon tcp_user_timeout=1.5",
        "hostaddr=db.example",
        "host=@abstract",
        "host=a channel_binding=maybe target_session_attrs=master",
        "host=a ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
        "host=a ssl_max_protocol_version=TLSv1.1",
        "just words",
        "host",
        "= 3",
        "host='open",
        "mysql://h/d",
        "postgres://h/d?x",
        "postgres://[::1/d",
        "postgres://[::1]x/d",
        "postgres://h/%zz",
        "postgres://h/%00",
        "postgres://a:b:c/d",
        "service=nowhere",
    ]
    .iter()
    .map(|text| format!("{text}\n    {}", faults(text).replace('\n', "\n    ")))
    .collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn the_string_beats_the_service_beats_the_environment() {
    let home = tempfile::tempdir().expect("a directory");
    write(
        &home.path().join(".pg_service.conf"),
        "# services\n[other]\nhost=wrong\n\n[shop]\nhost=from_service\nport=1111\nport=1112\ndbname=service_db\n\n[last]\nhost=wrong\n",
        0o644,
    );
    let environment = environment()
        .with_home(home.path())
        .with("PGHOST", "from_environment")
        .with("PGPORT", "2222")
        .with("PGUSER", "environment_user")
        .with("PGCONNECT_TIMEOUT", "30")
        .with("PGSSLMODE", "");
    let shown = |text: &str| endpoint_in(text, &environment).to_string();
    assert_eq!(shown(""), "environment_user on from_environment:2222 as environment_user");
    assert_eq!(shown("service=shop"), "service_db on from_service:1111 as environment_user");
    assert_eq!(shown("postgres://from_url/x?service=shop"), "x on from_url:1111 as environment_user");
    assert_eq!(shown("service=shop port=3333 user=u"), "service_db on from_service:3333 as u");
    assert_eq!(endpoint_in("", &environment).connect_timeout, Some(Duration::from_secs(30)));
    let environment = environment.with("PGSERVICE", "shop");
    assert_eq!(endpoint_in("user=u", &environment).to_string(), "service_db on from_service:1111 as u");
}

#[test]
fn service_files_are_sought_as_libpq_does() {
    let home = tempfile::tempdir().expect("a directory");
    let system = tempfile::tempdir().expect("a directory");
    let own = home.path().join("own.conf");
    write(&own, "[a]\nhost=own\n", 0o644);
    write(
        &system.path().join("pg_service.conf"),
        "[a]\nhost=system\n[b]\nhost=system\nsslmod=x\n[c]\nhost = h\n[d]\nno\n[e]\nservice=a\n",
        0o644,
    );
    let environment = environment()
        .with_home(home.path())
        .with("PGSERVICEFILE", own.display().to_string())
        .with("PGSYSCONFDIR", system.path().display().to_string());
    assert_eq!(endpoint_in("service=a", &environment).hosts[0].to_string(), "own:5432");
    let faults: Vec<String> = ["b", "c", "d", "e", "none"]
        .iter()
        .map(|name| Endpoint::resolve(&format!("service={name}"), &environment).expect_err(name).to_string())
        .collect();
    let report = faults
        .join("\n")
        .replace(&home.path().display().to_string(), "HOME")
        .replace(&system.path().display().to_string(), "SYSTEM");
    insta::assert_snapshot!(report);
}

#[test]
fn password_files_as_libpq_reads_them() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join(".pgpass");
    let text = "# comment\n\
                db1:5432:shop:app:first\n\
                db1:*:*:app:wild:with:colons\n\
                db2:5432:a\\:b:u\\\\v:es\\:ca\\\\ped\n\
                localhost:*:*:*:socket\n\
                /srv/sockets:5432:*:*:other socket\n\
                192.0.2.7:*:*:*:by address\r\n\
                short:line\n";
    write(&file, text, 0o600);
    let environment = environment().with_home(home.path());
    let found = |text: &str| password(&endpoint_in(text, &environment));
    assert_eq!(found("host=db1 dbname=shop user=app").as_deref(), Some("first"));
    assert_eq!(found("host=db1 dbname=x user=app port=99").as_deref(), Some("wild:with:colons"));
    assert_eq!(found(r"host=db2 dbname=a:b user=u\\v").as_deref(), Some(r"es:ca\ped"));
    assert_eq!(found("dbname=x").as_deref(), Some("socket"));
    assert_eq!(found("host=/var/run/postgresql").as_deref(), Some("socket"));
    assert_eq!(found("host=/srv/sockets").as_deref(), Some("other socket"));
    assert_eq!(found("hostaddr=192.0.2.7").as_deref(), Some("by address"));
    assert_eq!(found("host=db3 hostaddr=192.0.2.7"), None);
    assert_eq!(found("host=db1 user=app password=given").as_deref(), Some("given"));

    let elsewhere = home.path().join("elsewhere");
    write(&elsewhere, "*:*:*:*:from elsewhere\n", 0o600);
    let named = format!("host=db1 passfile={}", elsewhere.display());
    assert_eq!(found(&named).as_deref(), Some("from elsewhere"));
    let variable = environment.clone().with("PGPASSFILE", elsewhere.display().to_string());
    assert_eq!(password(&endpoint_in("host=db1", &variable)).as_deref(), Some("from elsewhere"));
}

#[test]
fn a_password_file_others_may_read_is_ignored_and_renewed_ones_are_read() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join(".pgpass");
    let endpoint = endpoint_in("host=db1", &environment().with_home(home.path()));
    assert_eq!(endpoint.password(&endpoint.hosts[0]), Found::NoFile);
    write(&file, "*:*:*:*:old\n", 0o640);
    assert!(matches!(endpoint.password(&endpoint.hosts[0]), Found::Ignored { .. }));
    write(&file, "*:*:*:*:new\n", 0o600);
    assert_eq!(password(&endpoint).as_deref(), Some("new"));
    write(&file, "other:*:*:*:new\n", 0o600);
    assert_eq!(endpoint.password(&endpoint.hosts[0]), Found::NoEntry);
}

#[test]
fn without_a_host_the_directory_with_the_socket_is_taken() {
    let (first, second) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    write(&second.path().join(".s.PGSQL.5433"), "", 0o600);
    let directories: Vec<PathBuf> = vec![first.path().into(), second.path().into()];
    let environment = environment().with_socket_directories(directories);
    let place = |text: &str| endpoint_in(text, &environment).hosts[0].place.clone();
    assert_eq!(place("port=5433"), Place::Unix(second.path().into()));
    assert_eq!(place("port=5432"), Place::Unix(first.path().into()));
}

#[test]
fn sslmode_with_and_without_roots() {
    let home = tempfile::tempdir().expect("a directory");
    let environment = environment().with_home(home.path());
    let require = endpoint_in("host=h sslmode=require", &environment);
    assert!(!require.tls.verifies());
    assert_eq!(endpoint_in("host=h", &environment).tls.mode, TlsMode::Prefer);
    assert_eq!(endpoint_in("host=h sslrootcert=system", &environment).tls.mode, TlsMode::VerifyFull);
    let old = environment.clone().with("PGREQUIRESSL", "1");
    assert_eq!(endpoint_in("host=h", &old).tls.mode, TlsMode::Require);
    assert_eq!(endpoint_in("host=h sslmode=disable", &old).tls.mode, TlsMode::Disable);

    fs::create_dir(home.path().join(".postgresql")).expect("writable");
    write(&home.path().join(".postgresql/root.crt"), "", 0o644);
    assert!(endpoint_in("host=h sslmode=require", &environment).tls.verifies());
    assert!(!endpoint_in("host=h sslmode=prefer", &environment).tls.verifies());
    assert!(endpoint_in("host=h sslmode=verify-ca", &environment).tls.verifies());
}

#[test]
fn timeouts_and_keepalives() {
    let default = endpoint("host=h");
    assert_eq!(default.connect_timeout, Some(Duration::from_secs(10)));
    assert_eq!(default.keepalives.map(|keepalives| keepalives.idle), Some(Duration::from_secs(60)));
    let chosen = endpoint(
        "host=h connect_timeout=1 keepalives_idle=5 keepalives_interval=2 keepalives_count=3 tcp_user_timeout=1500",
    );
    assert_eq!(chosen.connect_timeout, Some(Duration::from_secs(2)));
    let keepalives =
        Keepalives { idle: Duration::from_secs(5), interval: Some(Duration::from_secs(2)), count: Some(3) };
    assert_eq!(chosen.keepalives, Some(keepalives));
    assert_eq!(chosen.tcp_user_timeout, Some(Duration::from_millis(1500)));
    let none = endpoint("host=h connect_timeout=0 keepalives=0");
    assert_eq!((none.connect_timeout, none.keepalives), (None, None));
}

#[test]
fn passwords_do_not_show() {
    let endpoint = endpoint("postgres://app:s3cret@db1.example/new_app?sslmode=require");
    assert_eq!(endpoint.to_string(), "new_app on db1.example:5432 as app");
    assert!(!format!("{endpoint:?}").contains("s3cret"));
    assert!(!format!("{:?}", environment().with("PGPASSWORD", "s3cret")).contains("s3cret"));
}

#[test]
fn endpoints_of_one_database_are_recognised() {
    let one = endpoint("postgres://a@h1,h2/d");
    assert!(one.leads_to_same_database(&endpoint("host=h2 user=b dbname=d")));
    assert!(!one.leads_to_same_database(&endpoint("host=h2 port=5433 dbname=d")));
    assert!(!one.leads_to_same_database(&endpoint("host=h2 dbname=e")));
}

/// A retry that is decided wrongly either hammers a server or gives up a link.
#[test]
fn every_fault_says_whether_to_retry_and_what_to_do() {
    let server = |sqlstate: &str| ConnectFault::Server { sqlstate: sqlstate.to_owned(), message: String::new() };
    assert_eq!(server("57P01").retry(), Retry::Soon);
    assert_eq!(server("42704").retry(), Retry::Never);
    assert_eq!(server("0P000").retry(), Retry::AfterPerson);
    let message = || "m".to_owned();
    let wrong = || ConnectFault::PasswordWrong { message: message(), pass_file: None };
    let refused = || ConnectFault::Refused { address: message() };
    assert_eq!(wrong().retry(), Retry::AfterPerson);
    assert_eq!(refused().retry(), Retry::Soon);
    let hosts = ConnectFault::EveryHost(vec![("a".to_owned(), wrong()), ("b".to_owned(), refused())]);
    assert_eq!(hosts.retry(), Retry::Soon);
    assert!(hosts.remedy().contains(&wrong().remedy()) && hosts.remedy().contains(&refused().remedy()));
    assert_eq!(hosts.to_string(), "a: m; b: nothing accepts connections at m");
}
