//! TLS: who trusts whom, under which name, until when; and client certificates.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use pgtandem::cluster::{Cluster, ClusterOptions, Stop};
use pgtandem::connect::{ConnectError, ConnectFault, Endpoint, Environment, Retry, Session};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams,
};

/// A certificate authority of ours.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
struct Holder {
    pem: String,
    key: String,
}

fn parameters(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).unwrap();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut parameters = parameters(name, &[]);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(parameters, key) }
    }

    fn sign(&self, parameters: &CertificateParams) -> Holder {
        let key = KeyPair::generate().unwrap();
        let pem = parameters.signed_by(&key, &self.issuer).unwrap().pem();
        Holder { pem, key: key.serialize_pem() }
    }
}

/// A server with TLS, and the files its clients use.
struct TlsServer {
    cluster: Cluster,
    files: tempfile::TempDir,
}

impl TlsServer {
    fn start(name: &str, certificate: &Holder, client_authority: &Authority) -> Self {
        let options = ClusterOptions::new(name)
            .unwrap()
            .without_fsync()
            .hba_line("hostssl all certified 127.0.0.1/32 cert")
            .hba_line("hostssl all only_tls 127.0.0.1/32 trust")
            .hba_line("hostnossl all only_tls 127.0.0.1/32 reject")
            .hba_line("hostssl all only_plain 127.0.0.1/32 reject")
            .hba_line("hostnossl all only_plain 127.0.0.1/32 trust");
        let cluster = Cluster::start(options).unwrap_or_else(|e| panic!("{e}"));
        cluster.write_file("server.crt", &certificate.pem).unwrap();
        cluster.write_file("server.key", &certificate.key).unwrap();
        cluster.write_file("clients.crt", &client_authority.pem).unwrap();
        cluster.psql("postgres", "ALTER SYSTEM SET ssl_ca_file = 'clients.crt'").unwrap();
        cluster.psql("postgres", "ALTER SYSTEM SET ssl = on").unwrap();
        for role in ["certified", "only_tls", "only_plain"] {
            cluster.psql("postgres", &format!("CREATE ROLE {role} LOGIN")).unwrap();
        }
        cluster.psql("postgres", "CREATE ROLE app LOGIN REPLICATION PASSWORD 'secret'").unwrap();
        cluster.stop(Stop::Fast).unwrap();
        cluster.start_again().unwrap();
        Self { cluster, files: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.files.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn endpoint(&self, parameters: &str) -> Endpoint {
        let text = format!("port={} dbname=postgres {parameters}", self.cluster.port());
        let environment = Environment::empty().with_home(self.files.path());
        Endpoint::resolve(&text, &environment).unwrap_or_else(|faults| panic!("{text}: {faults}"))
    }

    async fn open(&self, parameters: &str) -> Session {
        let endpoint = self.endpoint(parameters);
        endpoint.connect("pgtandem test", &[]).await.unwrap_or_else(|e| panic!("{e}; {}", e.remedy()))
    }

    async fn refused(&self, parameters: &str) -> ConnectError {
        match self.endpoint(parameters).connect("pgtandem test", &[]).await {
            Ok(_) => panic!("connected with {parameters}"),
            Err(error) => error,
        }
    }
}

async fn encrypted(session: &Session) -> bool {
    let query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    session.client.query_one(query, &[]).await.unwrap().get(0)
}

struct Well {
    server: TlsServer,
    authority: Authority,
    ca: String,
}

/// A server whose certificate is in order, for localhost.
static WELL: LazyLock<Well> = LazyLock::new(|| {
    let authority = Authority::new("authority");
    let mut server = parameters("server", &["localhost"]);
    server.serial_number = Some(77.into());
    let certificate = authority.sign(&server);
    let server = TlsServer::start("tls", &certificate, &authority);
    let ca = path(&server.file("ca.crt", &authority.pem));
    Well { server, authority, ca }
});

fn path(path: &Path) -> String {
    path.display().to_string()
}

#[tokio::test]
async fn verify_full_with_scram_and_channel_binding() {
    let Well { server, ca, .. } = &*WELL;
    for mode in ["verify-full", "verify-ca", "require"] {
        let session = server
            .open(&format!(
                "host=localhost user=app password=secret sslmode={mode} sslrootcert={ca} channel_binding=require"
            ))
            .await;
        assert!(encrypted(&session).await, "{mode}");
    }
    let unchecked =
        server.open("host=localhost user=app password=secret sslmode=require channel_binding=require").await;
    assert!(encrypted(&unchecked).await);
    // The default of libpq, and of ours.
    assert!(encrypted(&server.open("host=localhost user=app password=secret").await).await);
    for version in ["TLSv1.2", "TLSv1.3"] {
        let only = format!("ssl_min_protocol_version={version} ssl_max_protocol_version={version}");
        server.open(&format!("host=localhost user=app password=secret sslmode=require {only}")).await;
    }
    let plain = server.refused("host=localhost user=app password=secret sslmode=disable channel_binding=require").await;
    assert!(matches!(plain.fault, ConnectFault::Authentication { .. }), "{plain:?}");
    let wrong =
        server.refused(&format!("host=localhost user=app password=no sslmode=verify-full sslrootcert={ca}")).await;
    assert!(matches!(wrong.fault, ConnectFault::PasswordWrong { .. }), "{wrong:?}");
}

#[tokio::test]
async fn the_name_counts_for_verify_full_only() {
    let Well { server, ca, .. } = &*WELL;
    let other = format!("host=db1.example hostaddr=127.0.0.1 user=app password=secret sslrootcert={ca}");
    let error = server.refused(&format!("{other} sslmode=verify-full")).await;
    assert!(
        matches!(&error.fault, ConnectFault::CertificateNameMismatch { expected, presented }
            if expected == "db1.example" && presented.contains("localhost")),
        "{error:?}"
    );
    assert_eq!(error.retry(), Retry::AfterPerson);
    server.open(&format!("{other} sslmode=verify-ca")).await;
    // The certificate has no address among its names.
    let address =
        server.refused(&format!("host=127.0.0.1 user=app password=secret sslmode=verify-full sslrootcert={ca}")).await;
    assert!(matches!(address.fault, ConnectFault::CertificateNameMismatch { .. }), "{address:?}");
}

#[tokio::test]
async fn a_stranger_s_certificate_is_not_trusted() {
    let Well { server, .. } = &*WELL;
    let other = path(&server.file("other.crt", &Authority::new("somebody else").pem));
    let all = format!("host=localhost user=app password=secret sslrootcert={other}");
    for mode in ["verify-full", "verify-ca", "require"] {
        let error = server.refused(&format!("{all} sslmode={mode}")).await;
        assert!(matches!(error.fault, ConnectFault::CertificateNotTrusted { .. }), "{mode}: {error:?}");
    }
    server.open(&format!("{all} sslmode=prefer")).await;
    let system = server.refused("host=localhost user=app password=secret sslrootcert=system").await;
    assert!(
        matches!(system.fault, ConnectFault::CertificateNotTrusted { .. } | ConnectFault::RootCertificate { .. }),
        "{system:?}"
    );
    for (name, text) in
        [("empty.crt", ""), ("broken.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")]
    {
        let file = path(&server.file(name, text));
        let error = server.refused(&format!("host=localhost user=app sslmode=verify-ca sslrootcert={file}")).await;
        assert!(matches!(error.fault, ConnectFault::RootCertificate { .. }), "{error:?}");
    }
    let missing = server.refused("host=localhost user=app sslmode=verify-ca sslrootcert=/not/there.crt").await;
    assert!(matches!(missing.fault, ConnectFault::RootCertificate { .. }), "{missing:?}");
}

#[tokio::test]
async fn a_client_certificate_is_enough_where_the_server_says_so() {
    let Well { server, authority, ca } = &*WELL;
    let client = authority.sign(&parameters("certified", &[]));
    let (certificate, key) =
        (path(&server.file("client.crt", &client.pem)), path(&server.file("client.key", &client.key)));
    let base = format!("host=localhost user=certified sslmode=verify-full sslrootcert={ca}");
    server.open(&format!("{base} sslcert={certificate} sslkey={key}")).await;

    let none = server.refused(&base).await;
    assert!(matches!(none.fault, ConnectFault::NotAdmitted { .. }), "{none:?}");
    let stranger = Authority::new("somebody else").sign(&parameters("certified", &[]));
    let (other, other_key) =
        (path(&server.file("other_client.crt", &stranger.pem)), path(&server.file("other_client.key", &stranger.key)));
    let unknown = server.refused(&format!("{base} sslcert={other} sslkey={other_key}")).await;
    assert!(matches!(unknown.fault, ConnectFault::TlsFailed { .. } | ConnectFault::NotAdmitted { .. }), "{unknown:?}");

    let fault = |certificate: &str, key: &str| {
        let text = format!("{base} sslcert={certificate} sslkey={key}");
        async move { server.refused(&text).await }
    };
    let open_to_all = server.file("open.key", &client.key);
    fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o644)).unwrap();
    let encrypted =
        path(&server.file(
            "encrypted.key",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        ));
    for error in [
        fault(&certificate, &path(&open_to_all)).await,
        fault(&certificate, "/not/there.key").await,
        fault("/not/there.crt", &key).await,
        fault(&certificate, &other_key).await,
        fault(&certificate, &certificate).await,
        fault(&certificate, &encrypted).await,
    ] {
        assert!(matches!(error.fault, ConnectFault::ClientCertificate { .. }), "{error:?}");
        assert_eq!(error.retry(), Retry::AfterPerson);
        println!("{error}");
    }
}

#[tokio::test]
async fn certificates_in_the_home_directory_are_found() {
    let Well { server, authority, .. } = &*WELL;
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join(".postgresql");
    fs::create_dir(&directory).unwrap();
    let client = authority.sign(&parameters("certified", &[]));
    for (name, text) in [("root.crt", &authority.pem), ("postgresql.crt", &client.pem), ("postgresql.key", &client.key)]
    {
        fs::write(directory.join(name), text).unwrap();
        fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let environment = Environment::empty()
        .with_home(home.path())
        .with("PGHOST", "localhost")
        .with("PGPORT", server.cluster.port().to_string())
        .with("PGSSLMODE", "verify-full")
        .with("PGUSER", "certified")
        .with("PGDATABASE", "postgres");
    let session = Endpoint::resolve("", &environment).unwrap().connect("pgtandem test", &[]).await.unwrap();
    assert!(encrypted(&session).await);
}

#[tokio::test]
async fn prefer_and_allow_take_the_other_way_when_one_is_closed() {
    let Well { server, .. } = &*WELL;
    for (user, mode, tls) in [
        ("only_plain", "prefer", false),
        ("only_plain", "allow", false),
        ("only_tls", "prefer", true),
        ("only_tls", "allow", true),
    ] {
        let session = server.open(&format!("host=127.0.0.1 user={user} sslmode={mode}")).await;
        assert_eq!(encrypted(&session).await, tls, "{user} {mode}");
    }
    for (user, mode) in [("only_plain", "require"), ("only_tls", "disable"), ("nobody_at_all", "prefer")] {
        let error = server.refused(&format!("host=127.0.0.1 user={user} sslmode={mode}")).await;
        assert!(
            matches!(error.fault, ConnectFault::NotAdmitted { .. } | ConnectFault::PasswordMissing { .. }),
            "{user} {mode}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_revoked_certificate() {
    let Well { server, authority, ca } = &*WELL;
    let base = format!("host=localhost user=app password=secret sslmode=verify-full sslrootcert={ca}");
    let date = |year| rcgen::date_time_ymd(year, 1, 1);
    for (serial, name) in [(77, "ours.crl"), (78, "other.crl")] {
        let revoked = RevokedCertParams {
            serial_number: u64::into(serial),
            revocation_time: date(2020),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date(2020),
            next_update: date(2100),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&authority.issuer).unwrap().pem().unwrap();
        let file = path(&server.file(name, &list));
        let outcome = server.endpoint(&format!("{base} sslcrl={file}")).connect("pgtandem test", &[]).await;
        match outcome.map_err(|error| error.fault) {
            Ok(_) => assert_eq!(serial, 78),
            Err(ConnectFault::CertificateNotTrusted { .. }) => assert_eq!(serial, 77),
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_certificate_out_of_date() {
    let authority = Authority::new("authority");
    let mut expired = parameters("server", &["localhost"]);
    expired.not_after = rcgen::date_time_ymd(2001, 1, 1);
    expired.not_before = rcgen::date_time_ymd(2000, 1, 1);
    let server = TlsServer::start("expired", &authority.sign(&expired), &authority);
    let ca = path(&server.file("ca.crt", &authority.pem));
    let error =
        server.refused(&format!("host=localhost user=app password=secret sslmode=verify-ca sslrootcert={ca}")).await;
    assert!(matches!(error.fault, ConnectFault::CertificateExpired { .. }), "{error:?}");
}

/// What `openssl req -x509` makes by default: its own authority, and no alternative name.
#[tokio::test]
async fn a_self_signed_certificate_given_as_root() {
    let mut own = parameters("localhost", &[]);
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = Holder { pem: own.self_signed(&key).unwrap().pem(), key: key.serialize_pem() };
    let server = TlsServer::start("self_signed", &certificate, &Authority::new("clients"));
    let ca = path(&server.file("ca.crt", &certificate.pem));
    let base = format!("user=app password=secret sslrootcert={ca} channel_binding=require");
    server.open(&format!("{base} host=localhost sslmode=verify-full")).await;
    server.open(&format!("{base} host=db1.example hostaddr=127.0.0.1 sslmode=verify-ca")).await;
    let error = server.refused(&format!("{base} host=db1.example hostaddr=127.0.0.1 sslmode=verify-full")).await;
    assert!(matches!(error.fault, ConnectFault::CertificateNameMismatch { .. }), "{error:?}");
}

#[tokio::test]
async fn the_replication_connection_follows_the_same_rules() {
    let Well { server, ca, .. } = &*WELL;
    let connect = |parameters: String| async move {
        let endpoint = server.endpoint(&parameters);
        let host = &endpoint.hosts[0];
        let settings = [("DateStyle", "ISO, YMD")];
        let options = endpoint.replication_options(host, "pgtandem test", &settings)?;
        endpoint.connect_replication(host, &options).await
    };
    let checked = format!("user=app sslmode=verify-full sslrootcert={ca}");
    let bound = format!("host=localhost {checked} password=secret channel_binding=require");
    let mut client = connect(bound).await.unwrap_or_else(|e| panic!("{e}"));
    assert!(client.is_tls());
    assert_eq!(client.parameter("DateStyle"), Some("ISO, YMD"));
    assert_eq!(client.identify_system().await.unwrap().database, "postgres");
    let directory = server.cluster.dir().display();
    let local = format!("host={directory} user=app options='-c IntervalStyle=iso_8601'");
    let client = connect(local).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(client.parameter("IntervalStyle"), Some("iso_8601"));

    let fault = |parameters: String| async move {
        match connect(parameters).await {
            Ok(_) => panic!("connected"),
            Err(error) => error.fault,
        }
    };
    let name = fault(format!("host=db1.example hostaddr=127.0.0.1 {checked} password=secret")).await;
    assert!(matches!(name, ConnectFault::CertificateNameMismatch { .. }), "{name:?}");
    let password = fault(format!("host=localhost {checked} password=wrong")).await;
    assert!(matches!(password, ConnectFault::PasswordWrong { .. }), "{password:?}");
    let missing = fault(format!("host=localhost {checked}")).await;
    assert!(matches!(missing, ConnectFault::PasswordMissing { .. }), "{missing:?}");
    let plain = fault("host=127.0.0.1 user=only_tls sslmode=disable".to_owned()).await;
    assert!(matches!(plain, ConnectFault::NotAdmitted { .. }), "{plain:?}");
    let socket = fault("host=/nowhere user=app".to_owned()).await;
    assert!(matches!(socket, ConnectFault::SocketMissing { .. }), "{socket:?}");
    let unknown = fault("host=no-such-host.invalid user=app sslmode=disable".to_owned()).await;
    assert!(matches!(unknown, ConnectFault::HostNotFound { .. }), "{unknown:?}");
    let key = fault(format!("host=localhost {checked} sslcert=/not/there sslkey=/not/there")).await;
    assert!(matches!(key, ConnectFault::ClientCertificate { .. }), "{key:?}");
}

/// PostgreSQL's manual shows how to make such a certificate (`openssl x509 -req` without extensions). rustls refuses
/// to read it, libpq does not. Where nothing is verified, it must not be in the way.
#[tokio::test]
async fn a_certificate_of_x509_version_1() {
    let certificate = Holder {
        pem: include_str!("certificates/version1.crt").to_owned(),
        key: include_str!("certificates/version1.key").to_owned(),
    };
    let server = TlsServer::start("version1", &certificate, &Authority::new("clients"));
    let base = "host=localhost user=app password=secret channel_binding=require";
    assert!(encrypted(&server.open(&format!("{base} sslmode=require")).await).await);
    let ca = path(&server.file("ca.crt", &certificate.pem));
    let trusted = format!("{base} sslmode=verify-full sslrootcert={ca}");
    match server.endpoint(&trusted).connect("pgtandem test", &[]).await {
        Ok(session) => assert!(encrypted(&session).await),
        Err(error) => panic!("{error}; {}", error.remedy()),
    }
}
