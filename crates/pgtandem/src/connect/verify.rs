//! Checking a server's certificate as libpq does, where rustls alone would be stricter or looser.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use x509_cert::Certificate;
use x509_cert::der::asn1::{Ia5StringRef, OctetString, PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// For sslmode allow, prefer, and require without a root certificate: any certificate will do.
///
/// The handshake's signature is checked all the same. Without it somebody between could show the real server's
/// certificate and so defeat channel binding.
#[derive(Debug)]
pub(super) struct CheckNothing {
    provider: Arc<CryptoProvider>,
}

impl CheckNothing {
    pub fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider }
    }
}

impl ServerCertVerifier for CheckNothing {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms).or_else(|error| {
            match error {
                Error::InvalidCertificate(CertificateError::BadSignature) => Err(error),
                // webpki reads no X.509 version 1 certificates, which `openssl x509 -req` makes without extensions.
                error => match public_key(certificate) {
                    Some(key) => verify_tls13_signature_with_raw_key(message, &key, signature, algorithms),
                    None => Err(error),
                },
            }
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn public_key(certificate: &CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'static>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    parsed.tbs_certificate.subject_public_key_info.to_der().ok().map(SubjectPublicKeyInfoDer::from)
}

/// For verify-ca (the chain) and verify-full (the chain and the name).
#[derive(Debug)]
pub(super) struct CheckServer {
    chain: Arc<WebPkiServerVerifier>,
    signatures: CheckNothing,
    trusted: Vec<CertificateDer<'static>>,
    check_name: bool,
}

impl CheckServer {
    pub fn new(
        chain: Arc<WebPkiServerVerifier>,
        trusted: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
        check_name: bool,
    ) -> Self {
        Self { chain, signatures: CheckNothing::new(provider), trusted, check_name }
    }

    /// A self-signed server certificate that is itself the root file: webpki refuses it as a server's
    /// certificate, OpenSSL and so libpq take it.
    fn is_trusted_itself(&self, certificate: &CertificateDer<'_>) -> bool {
        self.trusted.iter().any(|trusted| trusted == certificate)
    }
}

impl ServerCertVerifier for CheckServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let Err(Error::InvalidCertificate(fault)) = verdict else {
            return verdict;
        };
        match fault {
            // webpki looks at the name last: all else is in order.
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
                if !self.check_name || common_name_fits(end_entity, server_name) =>
            {
                return Ok(ServerCertVerified::assertion());
            }
            CertificateError::Other(_) | CertificateError::UnknownIssuer if self.is_trusted_itself(end_entity) => {
                check_dates(end_entity, now)?;
                if self.check_name {
                    check_names(end_entity, server_name)?;
                }
                return Ok(ServerCertVerified::assertion());
            }
            _ => {}
        }
        Err(Error::InvalidCertificate(fault))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_verify_schemes()
    }
}

fn check_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let parsed = parse(certificate)?;
    let validity = parsed.tbs_certificate.validity;
    let now = now.as_secs();
    if now > validity.not_after.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired.into());
    }
    if now < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet.into());
    }
    Ok(())
}

fn check_names(certificate: &CertificateDer<'_>, wanted: &ServerName<'_>) -> Result<(), Error> {
    let names = Names::of(&parse(certificate)?);
    if names.fit(wanted) { Ok(()) } else { Err(names.mismatch(wanted)) }
}

fn parse(certificate: &CertificateDer<'_>) -> Result<Certificate, Error> {
    Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

/// libpq falls back to the subject's common name where a certificate has no alternative names.
fn common_name_fits(certificate: &CertificateDer<'_>, wanted: &ServerName<'_>) -> bool {
    parse(certificate).is_ok_and(|parsed| {
        let names = Names::of(&parsed);
        names.dns.is_empty() && names.addresses.is_empty() && names.fit(wanted)
    })
}

/// What a certificate says its holder is called.
#[derive(Default)]
struct Names {
    dns: Vec<String>,
    addresses: Vec<IpAddr>,
    common: Option<String>,
}

impl Names {
    fn of(certificate: &Certificate) -> Self {
        let mut names = Self::default();
        if let Ok(Some((_, alternative))) = certificate.tbs_certificate.get::<SubjectAltName>() {
            for name in alternative.0 {
                match name {
                    GeneralName::DnsName(name) => names.dns.push(name.to_string()),
                    GeneralName::IpAddress(address) => names.addresses.extend(ip_address(&address)),
                    _ => {}
                }
            }
        }
        let subject = &certificate.tbs_certificate.subject;
        let attributes = subject.0.iter().flat_map(|set| set.0.iter());
        names.common = attributes.filter(|attribute| attribute.oid == COMMON_NAME).find_map(|attribute| {
            let value = &attribute.value;
            value
                .decode_as::<Utf8StringRef<'_>>()
                .map(|text| text.to_string())
                .or_else(|_| value.decode_as::<PrintableStringRef<'_>>().map(|text| text.to_string()))
                .or_else(|_| value.decode_as::<Ia5StringRef<'_>>().map(|text| text.to_string()))
                .or_else(|_| value.decode_as::<TeletexStringRef<'_>>().map(|text| text.to_string()))
                .ok()
        });
        names
    }

    fn fit(&self, wanted: &ServerName<'_>) -> bool {
        let only_common = self.dns.is_empty() && self.addresses.is_empty();
        let common = self.common.as_deref().filter(|_| only_common);
        match wanted {
            ServerName::IpAddress(address) => {
                let address = IpAddr::from(*address);
                self.addresses.contains(&address) || common == Some(address.to_string().as_str())
            }
            ServerName::DnsName(host) => {
                let host = host.as_ref();
                self.dns.iter().map(String::as_str).chain(common).any(|pattern| matches(pattern, host))
            }
            _ => false,
        }
    }

    fn mismatch(&self, wanted: &ServerName<'_>) -> Error {
        let addresses = self.addresses.iter().map(IpAddr::to_string);
        CertificateError::NotValidForNameContext {
            expected: wanted.to_owned(),
            presented: self.dns.iter().cloned().chain(addresses).chain(self.common.clone()).collect(),
        }
        .into()
    }
}

fn ip_address(octets: &OctetString) -> Option<IpAddr> {
    let octets = octets.as_bytes();
    let four = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// A wildcard stands for exactly one label, the leftmost.
fn matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern.eq_ignore_ascii_case(host),
        Some(domain) => {
            host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_wildcard_stands_for_one_label() {
        assert!(matches("db1.example", "DB1.example"));
        assert!(matches("*.example", "db1.example"));
        assert!(!matches("*.example", "a.db1.example"));
        assert!(!matches("*.example", "example"));
        assert!(!matches("*.example", ".example"));
    }
}
