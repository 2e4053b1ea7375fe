//! Passwords and refusals, without TLS.

use std::time::Duration;

use wire::{ChannelBinding, ConnectOptions, Error, Lsn, PgOutputOptions, ReplicationClient, Tls};

use crate::cluster::Cluster;

const HBA: &str = "local all all trust
host all scram all scram-sha-256
host all md5 all md5
host all clear all password
host all plain_role all trust
host all ghost all trust
host all barred all reject
";

const ROLES: &str = "
SET password_encryption = 'scram-sha-256';
CREATE ROLE scram LOGIN REPLICATION PASSWORD 'päss\u{AD}word';
CREATE ROLE clear LOGIN REPLICATION PASSWORD 'secret';
SET password_encryption = 'md5';
CREATE ROLE md5 LOGIN REPLICATION PASSWORD 'secret';
CREATE ROLE plain_role LOGIN;
CREATE ROLE barred LOGIN REPLICATION;
CREATE ROLE stranger LOGIN REPLICATION;
";

async fn refused(options: &ConnectOptions) -> Error {
    match ReplicationClient::connect(options).await {
        Ok(_) => panic!("{} got in", options.user),
        Err(error) => error,
    }
}

#[tokio::test]
async fn each_refusal_has_its_own_error() {
    let cluster = Cluster::prepare(&[], HBA, |_| {}).await;
    cluster.sql().await.batch_execute(ROLES).await.expect("roles");
    let options = |user: &str, password| cluster.tcp_options(user, password, Tls::Disable);

    // SASLprep makes nothing of the soft hyphen, on both sides.
    for (user, password) in [("scram", "pässword"), ("md5", "secret"), ("clear", "secret")] {
        let mut client = ReplicationClient::connect(&options(user, Some(password)))
            .await
            .unwrap_or_else(|error| panic!("{user}: {error}"));
        client.identify_system().await.expect("identity");
        assert!(!client.is_tls());

        let error = refused(&options(user, Some("wrong"))).await;
        assert!(matches!(error, Error::WrongPassword(_)), "{user}: {error}");
        let error = refused(&options(user, None)).await;
        assert!(matches!(error, Error::PasswordMissing { .. }), "{user}: {error}");

        let mut bound = options(user, Some(password));
        bound.channel_binding = ChannelBinding::Require;
        let error = refused(&bound).await;
        assert!(matches!(error, Error::ChannelBinding { .. }), "{user}: {error}");
    }
    for user in ["stranger", "barred"] {
        let error = refused(&options(user, None)).await;
        assert!(matches!(error, Error::HbaRejected(_)), "{user}: {error}");
    }
    let error = refused(&options("ghost", None)).await;
    assert!(matches!(error, Error::UserRefused(_)), "{error}");
    let error = refused(&options("plain_role", None)).await;
    assert!(matches!(error, Error::Server(_)), "{error}");
    assert_eq!(error.code(), Some("42501"));

    let mut nowhere = options("scram", None);
    nowhere.database = "nowhere".to_owned();
    nowhere.password = Some("pässword".into());
    assert_eq!(refused(&nowhere).await.code(), Some("3D000"));
}

#[tokio::test]
async fn errors_of_commands_keep_their_fields() {
    let cluster = Cluster::start(&[]).await;
    let mut options = cluster.options();
    options.settings = vec![("DateStyle".into(), "German".into()), ("application_name".into(), "over".into())];
    let mut client = ReplicationClient::connect(&options).await.expect("connection");
    assert_eq!(client.parameter("DateStyle"), Some("German, DMY"));
    assert!(client.server_major() >= 14);

    let error = client.create_slot("Bad Name", false, false).await.expect_err("bad name");
    let server = error.server().expect("the server's own words");
    assert_eq!((server.severity.as_str(), server.code.as_str()), ("ERROR", "42602"));
    assert!(server.hint.is_some(), "{server:?}");

    // The connection is as good as before.
    client.create_slot("s", true, false).await.expect("slot");
    let error = client.create_slot("s", true, false).await.expect_err("twice");
    assert_eq!(error.code(), Some("42710"));
    let start = client.start("missing", Lsn::NONE, &PgOutputOptions::new(["pub"])).await;
    assert_eq!(start.err().expect("no slot").code(), Some("42704"));
}

#[tokio::test]
async fn nobody_there_is_not_the_same_as_nobody_answers() {
    let cluster = Cluster::start(&[]).await;
    let mut options = cluster.tcp_options("postgres", None, Tls::Disable);
    options.port = crate::cluster::free_port();
    assert!(matches!(refused(&options).await, Error::Connect { .. }));

    // A listener that never answers: the kernel takes the connection all the same.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listener");
    options.port = listener.local_addr().expect("address").port();
    options.connect_timeout = Duration::from_millis(200);
    assert!(matches!(refused(&options).await, Error::ConnectTimeout { .. }));
}
