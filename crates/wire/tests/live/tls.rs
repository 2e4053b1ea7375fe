//! TLS, and SCRAM bound to the server's certificate.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, KeyPair, SignatureAlgorithm};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use wire::{ChannelBinding, ConnectOptions, Error, Lsn, Message, PgOutputOptions, ReplicationClient, Tls, TlsConfig};

use crate::changes::message;
use crate::cluster::{Cluster, PATIENCE, until};

const HBA: &str = "local all all trust
hostssl all scram all scram-sha-256
hostssl all trusted all trust
hostssl all holder all cert
hostnossl all plain_only all trust
";

const ROLES: &str = "
SET password_encryption = 'scram-sha-256';
CREATE ROLE scram LOGIN REPLICATION PASSWORD 'secret';
CREATE ROLE trusted LOGIN REPLICATION;
CREATE ROLE holder LOGIN REPLICATION;
CREATE ROLE plain_only LOGIN REPLICATION;
";

struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

fn identity(name: &str, algorithm: &'static SignatureAlgorithm) -> Identity {
    let key = KeyPair::generate_for(algorithm).expect("key");
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("name");
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.self_signed(&key).expect("certificate");
    Identity { certificate, key }
}

/// Trusts `root` and nothing else; shows `client`'s certificate.
fn config(root: &CertificateDer<'static>, client: Option<&Identity>) -> TlsConfig {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).expect("root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some(identity) => builder
            .with_client_auth_cert(
                vec![identity.certificate.der().clone()],
                PrivateKeyDer::try_from(identity.key.serialize_der()).expect("key"),
            )
            .expect("client certificate"),
    };
    TlsConfig { config: Arc::new(config), server_name: ServerName::try_from("localhost").expect("name") }
}

async fn cluster(server: &Identity, client: &Identity) -> Cluster {
    let settings =
        [("ssl", "on"), ("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key"), ("ssl_ca_file", "client.crt")];
    let cluster = Cluster::prepare(&settings, HBA, |data| {
        for (file, text) in [
            ("server.crt", server.certificate.pem()),
            ("server.key", server.key.serialize_pem()),
            ("client.crt", client.certificate.pem()),
        ] {
            fs::write(data.join(file), text).expect(file);
        }
    })
    .await;
    cluster.sql().await.batch_execute(ROLES).await.expect("roles");
    cluster
}

async fn refused(options: &ConnectOptions) -> Error {
    match ReplicationClient::connect(options).await {
        Ok(_) => panic!("{} got in", options.user),
        Err(error) => error,
    }
}

#[tokio::test]
async fn tls_and_channel_binding() {
    let server = identity("localhost", &rcgen::PKCS_ECDSA_P384_SHA384);
    let holder = identity("holder", &rcgen::PKCS_ECDSA_P256_SHA256);
    let cluster = cluster(&server, &holder).await;
    let trusted = config(server.certificate.der(), None);

    for binding in [ChannelBinding::Require, ChannelBinding::Prefer, ChannelBinding::Disable] {
        let mut options = cluster.tcp_options("scram", Some("secret"), Tls::Require(trusted.clone()));
        options.channel_binding = binding;
        let mut client = ReplicationClient::connect(&options).await.expect("connection");
        assert!(client.is_tls());
        client.identify_system().await.expect("identity");
        options.password = Some("wrong".into());
        assert!(matches!(refused(&options).await, Error::WrongPassword(_)));
    }

    // Binding needs SCRAM.
    let mut options = cluster.tcp_options("trusted", None, Tls::Require(trusted.clone()));
    ReplicationClient::connect(&options).await.expect("connection");
    options.channel_binding = ChannelBinding::Require;
    assert!(matches!(refused(&options).await, Error::ChannelBinding { .. }));

    // A certificate of somebody else, or for another name.
    let stranger = config(holder.certificate.der(), None);
    let options = cluster.tcp_options("trusted", None, Tls::Require(stranger));
    assert!(matches!(refused(&options).await, Error::Tls(_)));
    let mut misnamed = trusted.clone();
    misnamed.server_name = ServerName::try_from("elsewhere").expect("name");
    let options = cluster.tcp_options("trusted", None, Tls::Require(misnamed));
    assert!(matches!(refused(&options).await, Error::Tls(_)));

    // A client certificate, and none where one is needed.
    let with_certificate = config(server.certificate.der(), Some(&holder));
    let options = cluster.tcp_options("holder", None, Tls::Require(with_certificate));
    ReplicationClient::connect(&options).await.expect("connection");
    let options = cluster.tcp_options("holder", None, Tls::Require(trusted.clone()));
    assert!(matches!(refused(&options).await, Error::HbaRejected(_)));

    // Both ways of making do.
    let options = cluster.tcp_options("plain_only", None, Tls::Prefer(trusted.clone()));
    let mut client = ReplicationClient::connect(&options).await.expect("plain after TLS");
    assert!(!client.is_tls());
    let options = cluster.tcp_options("trusted", None, Tls::Allow(trusted.clone()));
    let mut client = ReplicationClient::connect(&options).await.expect("TLS after plain");
    assert!(client.is_tls());
    let options = cluster.tcp_options("plain_only", None, Tls::Require(trusted));
    assert!(matches!(refused(&options).await, Error::HbaRejected(_)));
}

/// Reading and sending at the same time, over one TLS session.
#[tokio::test]
async fn a_stream_over_tls() {
    const ROWS: usize = 50_000;
    let server = identity("localhost", &rcgen::PKCS_ECDSA_P256_SHA256);
    let cluster = cluster(&server, &server).await;
    let sql = cluster.sql().await;
    sql.batch_execute("CREATE TABLE t (id int PRIMARY KEY, pad text); CREATE PUBLICATION pub FOR TABLE t")
        .await
        .expect("schema");
    let tls = Tls::Require(config(server.certificate.der(), None));
    let mut options = cluster.tcp_options("scram", Some("secret"), tls);
    // A status for every few records read.
    options.status_interval = Duration::from_millis(1);
    let mut client = ReplicationClient::connect(&options).await.expect("connection");
    client.create_slot("s", false, false).await.expect("slot");
    let rows = format!("INSERT INTO t SELECT i, repeat('x', 300) FROM generate_series(1, {ROWS}) i");
    sql.batch_execute(&rows).await.expect("rows");
    let started = client.start("s", Lsn::NONE, &PgOutputOptions::new(["pub"])).await;
    let (mut stream, feedback) = started.expect("stream");
    let mut inserts = 0;
    let end = loop {
        match message(&mut stream).await {
            Message::Insert { .. } => inserts += 1,
            Message::Commit { end_lsn, .. } => break end_lsn,
            _ => {}
        }
    };
    assert_eq!(inserts, ROWS);
    feedback.set(end, end);
    stream.stop(PATIENCE).await.expect("good end");
    let confirmed = format!("SELECT confirmed_flush_lsn = '{end}' AND NOT active FROM pg_replication_slots");
    until(&sql, &confirmed).await;
}

#[tokio::test]
async fn a_signature_without_a_hash_cannot_be_bound_to() {
    let authority_key = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("names");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).expect("certificate");
    let issuer = rcgen::Issuer::new(params, authority_key);
    let key = KeyPair::generate().expect("key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("name");
    let certificate = params.signed_by(&key, &issuer).expect("certificate");
    let server = Identity { certificate, key };

    let cluster = cluster(&server, &server).await;
    let tls = Tls::Require(config(authority.der(), None));
    let mut options = cluster.tcp_options("scram", Some("secret"), tls);
    ReplicationClient::connect(&options).await.expect("connection");
    options.channel_binding = ChannelBinding::Require;
    assert!(matches!(refused(&options).await, Error::ChannelBinding { .. }));
}

#[tokio::test]
async fn a_server_without_tls() {
    let cluster = Cluster::start(&[]).await;
    let server = identity("localhost", &rcgen::PKCS_ECDSA_P256_SHA256);
    let trusted = config(server.certificate.der(), None);
    let options = cluster.tcp_options("postgres", None, Tls::Require(trusted.clone()));
    assert!(matches!(refused(&options).await, Error::TlsRefused));
    let options = cluster.tcp_options("postgres", None, Tls::Prefer(trusted));
    let mut client = ReplicationClient::connect(&options).await.expect("plain");
    assert!(!client.is_tls());
}
