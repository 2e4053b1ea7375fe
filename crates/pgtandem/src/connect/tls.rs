//! sslmode and its companions, and the rustls configuration they amount to.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::Environment;
use super::endpoint::{Host, Place, choose};
use super::error::ConnectFault;
use super::params::{ParameterFault, Parameters};
use super::verify::{CheckNothing, CheckServer};

/// `sslmode`, with libpq's meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    Disable,
    /// Plain first, TLS if the server insists.
    Allow,
    /// TLS first, plain if that does not work.
    Prefer,
    /// TLS or nothing; the server's certificate is not checked unless there is a root certificate.
    Require,
    /// TLS, with a certificate from a trusted authority.
    VerifyCa,
    /// And that certificate is for this host name.
    VerifyFull,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    pub mode: TlsMode,
    roots: Roots,
    revocation_list: Option<PathBuf>,
    /// Certificate and key of the client.
    identity: Option<Identity>,
    server_name_indication: bool,
    versions: Vec<Version>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Roots {
    /// Nothing to check against.
    None,
    File(PathBuf),
    /// What the operating system trusts.
    System,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    certificate: PathBuf,
    key: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    Tls10,
    Tls11,
    Tls12,
    Tls13,
}

impl TlsSettings {
    pub(super) fn resolve(
        parameters: &Parameters,
        environment: &Environment,
        hosts: &[Host],
        faults: &mut Vec<ParameterFault>,
    ) -> Self {
        let directory = environment.home().map(|home| home.join(".postgresql"));
        let in_home = |name: &str| directory.as_ref().map(|d| d.join(name)).filter(|path| path.exists());
        let given = |name: &str| parameters.get(name).map(PathBuf::from);

        let roots = match parameters.get("sslrootcert") {
            Some("system") => Roots::System,
            Some(file) => Roots::File(PathBuf::from(file)),
            None => in_home("root.crt").map_or(Roots::None, Roots::File),
        };
        let mode = mode(parameters, environment, &roots, faults);
        check_verification(mode, &roots, hosts, directory.as_deref(), faults);
        let identity = match parameters.get("sslcertmode") {
            Some("disable") => None,
            _ => given("sslcert").or_else(|| in_home("postgresql.crt")).and_then(|certificate| {
                let key = given("sslkey").or_else(|| directory.as_ref().map(|d| d.join("postgresql.key")))?;
                Some(Identity { certificate, key })
            }),
        };
        Self {
            mode,
            roots,
            revocation_list: given("sslcrl").or_else(|| in_home("root.crl")),
            identity,
            server_name_indication: choose(parameters, "sslsni", true, &[("0", false), ("1", true)], faults),
            versions: versions(parameters, faults),
        }
    }

    /// Whether the server has to prove that it is trusted.
    pub fn verifies(&self) -> bool {
        match self.mode {
            TlsMode::Disable | TlsMode::Allow | TlsMode::Prefer => false,
            TlsMode::Require => self.roots != Roots::None,
            TlsMode::VerifyCa | TlsMode::VerifyFull => true,
        }
    }

    /// Reads the certificates and keys as they are now.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, ConnectFault> {
        let provider = Arc::new(ring::default_provider());
        let versions: Vec<&'static SupportedProtocolVersion> = self
            .versions
            .iter()
            .filter_map(|version| match version {
                Version::Tls10 | Version::Tls11 => None,
                Version::Tls12 => Some(&version::TLS12),
                Version::Tls13 => Some(&version::TLS13),
            })
            .collect();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(|error| ConnectFault::TlsFailed { detail: error.to_string() })?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(provider)?);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = identity.read()?;
                builder.with_client_auth_cert(chain, key).map_err(|error| ConnectFault::ClientCertificate {
                    file: identity.certificate.clone(),
                    detail: format!("does not go with the key {}: {error}", identity.key.display()),
                })?
            }
        };
        config.enable_sni = self.server_name_indication;
        Ok(Arc::new(config))
    }

    fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, ConnectFault> {
        if !self.verifies() {
            return Ok(Arc::new(CheckNothing::new(provider)));
        }
        let (roots, origin) = self.root_certificates()?;
        let mut store = RootCertStore::empty();
        let (usable, _) = store.add_parsable_certificates(roots.iter().cloned());
        if usable == 0 {
            return Err(ConnectFault::RootCertificate {
                file: origin,
                detail: "holds no certificate that can be used".to_owned(),
            });
        }
        let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider));
        if let Some(file) = &self.revocation_list {
            let unreadable = |detail: String| ConnectFault::RootCertificate { file: file.clone(), detail };
            let lists = CertificateRevocationListDer::pem_file_iter(file)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| unreadable(format!("is not a readable revocation list: {error}")))?;
            builder = builder.with_crls(lists).allow_unknown_revocation_status();
        }
        let chain = builder
            .build()
            .map_err(|error| ConnectFault::RootCertificate { file: origin, detail: error.to_string() })?;
        Ok(Arc::new(CheckServer::new(chain, roots, provider, self.mode == TlsMode::VerifyFull)))
    }

    fn root_certificates(&self) -> Result<(Vec<CertificateDer<'static>>, PathBuf), ConnectFault> {
        match &self.roots {
            Roots::System => {
                let found = rustls_native_certs::load_native_certs();
                Ok((found.certs, PathBuf::from("the system's certificate store")))
            }
            Roots::File(file) => {
                let certificates = read_certificates(file)
                    .map_err(|detail| ConnectFault::RootCertificate { file: file.clone(), detail })?;
                Ok((certificates, file.clone()))
            }
            Roots::None => Err(ConnectFault::RootCertificate {
                file: PathBuf::from("~/.postgresql/root.crt"),
                detail: "does not exist".to_owned(),
            }),
        }
    }
}

impl Identity {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), ConnectFault> {
        let fault = |file: &Path, detail: String| ConnectFault::ClientCertificate { file: file.to_owned(), detail };
        let chain = read_certificates(&self.certificate).map_err(|detail| fault(&self.certificate, detail))?;
        let pem = read_private(&self.key).map_err(|detail| fault(&self.key, detail))?;
        if pem.contains("ENCRYPTED") {
            let detail = "is encrypted, which is not supported; decrypt it with \
                          `openssl pkey -in client.key -out plain.key`";
            return Err(fault(&self.key, detail.to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| fault(&self.key, format!("holds no private key in PEM format: {error}")))?;
        Ok((chain, key))
    }
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if certificates.is_empty() {
        return Err("holds no certificate in PEM format".to_owned());
    }
    Ok(certificates)
}

/// Reads a key that nobody else may read; root may own it for a group, as libpq allows.
fn read_private(file: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let mut open = File::open(file).map_err(unreadable)?;
    let metadata = open.metadata().map_err(unreadable)?;
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.permissions().mode() & forbidden != 0 {
        return Err("may be read by others; run `chmod 600` on it".to_owned());
    }
    let mut pem = String::new();
    open.read_to_string(&mut pem).map_err(unreadable)?;
    Ok(pem)
}

fn mode(
    parameters: &Parameters,
    environment: &Environment,
    roots: &Roots,
    faults: &mut Vec<ParameterFault>,
) -> TlsMode {
    let requires = environment.get("PGREQUIRESSL").is_some_and(|value| value.starts_with('1'));
    let default = match roots {
        Roots::System => TlsMode::VerifyFull,
        Roots::None | Roots::File(_) if requires => TlsMode::Require,
        Roots::None | Roots::File(_) => TlsMode::Prefer,
    };
    let mode = choose(
        parameters,
        "sslmode",
        default,
        &[
            ("disable", TlsMode::Disable),
            ("allow", TlsMode::Allow),
            ("prefer", TlsMode::Prefer),
            ("require", TlsMode::Require),
            ("verify-ca", TlsMode::VerifyCa),
            ("verify-full", TlsMode::VerifyFull),
        ],
        faults,
    );
    if *roots == Roots::System && mode != TlsMode::VerifyFull {
        faults.push(ParameterFault::of(
            "sslmode",
            "sslrootcert=system trusts every public authority, which is too weak for this sslmode",
            "use sslmode=verify-full, or give your own authority's certificate as sslrootcert",
        ));
    }
    mode
}

fn check_verification(
    mode: TlsMode,
    roots: &Roots,
    hosts: &[Host],
    directory: Option<&Path>,
    faults: &mut Vec<ParameterFault>,
) {
    if !matches!(mode, TlsMode::VerifyCa | TlsMode::VerifyFull) {
        return;
    }
    let is_tcp = |host: &&Host| matches!(host.place, Place::Tcp { .. });
    if *roots == Roots::None && hosts.iter().any(|host| is_tcp(&host)) {
        let default = directory.map_or("~/.postgresql".into(), |d| d.display().to_string());
        faults.push(ParameterFault::of(
            "sslmode",
            "this sslmode checks the server's certificate, but there is no root certificate to check it against",
            format!("give sslrootcert=FILE, or sslrootcert=system, or put the file at {default}/root.crt"),
        ));
    }
    let nameless = |host: &Host| matches!(host.place, Place::Tcp { name: None, .. });
    if mode == TlsMode::VerifyFull && hosts.iter().any(nameless) {
        faults.push(ParameterFault::of(
            "hostaddr",
            "sslmode=verify-full checks the host's name, but only hostaddr is given",
            "give the name as `host` beside hostaddr, or use sslmode=verify-ca",
        ));
    }
}

fn versions(parameters: &Parameters, faults: &mut Vec<ParameterFault>) -> Vec<Version> {
    const NAMES: [(&str, Version); 4] = [
        ("TLSv1", Version::Tls10),
        ("TLSv1.1", Version::Tls11),
        ("TLSv1.2", Version::Tls12),
        ("TLSv1.3", Version::Tls13),
    ];
    let lowest = choose(parameters, "ssl_min_protocol_version", Version::Tls12, &NAMES, faults);
    let highest = choose(parameters, "ssl_max_protocol_version", Version::Tls13, &NAMES, faults);
    let versions: Vec<Version> =
        [Version::Tls12, Version::Tls13].into_iter().filter(|v| (lowest..=highest).contains(v)).collect();
    if versions.is_empty() {
        faults.push(ParameterFault::of(
            "ssl_max_protocol_version",
            "the TLS versions asked for leave none that is supported",
            "allow TLSv1.2 or TLSv1.3",
        ));
    }
    versions
}

/// The name for SNI and certificates: the host's name, else its address.
pub(super) fn server_name(name: Option<&str>, address: IpAddr) -> String {
    match name {
        // A trailing dot is no part of the name in a certificate.
        Some(name) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            let usable = rustls_pki_types::ServerName::try_from(name).is_ok();
            if usable { name.to_owned() } else { address.to_string() }
        }
        None => address.to_string(),
    }
}
