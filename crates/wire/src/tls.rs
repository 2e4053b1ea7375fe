//! The `tls-server-end-point` channel binding of RFC 5929: a hash of the server's certificate.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::asn1::{AnyRef, ContextSpecific, ObjectIdentifier};
use x509_cert::der::oid::db::rfc5912::{
    ECDSA_WITH_SHA_224, ECDSA_WITH_SHA_256, ECDSA_WITH_SHA_384, ECDSA_WITH_SHA_512, ID_RSASSA_PSS, ID_SHA_1,
    ID_SHA_224, ID_SHA_256, ID_SHA_384, ID_SHA_512, SHA_1_WITH_RSA_ENCRYPTION, SHA_224_WITH_RSA_ENCRYPTION,
    SHA_256_WITH_RSA_ENCRYPTION, SHA_384_WITH_RSA_ENCRYPTION, SHA_512_WITH_RSA_ENCRYPTION,
};
use x509_cert::der::{Decode, SliceReader, TagNumber};
use x509_cert::spki::AlgorithmIdentifierRef;

const MD5_WITH_RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.4");
const ECDSA_WITH_SHA_1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.1");

/// The channel binding data for a server certificate (DER): its hash by the algorithm it is signed
/// with, where MD5 and SHA-1 count as SHA-256. `None` for signatures that name no hash, such as
/// Ed25519: then there is no binding.
pub fn end_point_digest(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let algorithm = &parsed.signature_algorithm;
    let hash = match algorithm.oid {
        ID_RSASSA_PSS => pss_hash(algorithm.parameters.as_ref().map(AnyRef::from)?)?,
        signature => hash_of_signature(signature)?,
    };
    match hash {
        ID_SHA_224 => Some(Sha224::digest(certificate).to_vec()),
        ID_SHA_256 => Some(Sha256::digest(certificate).to_vec()),
        ID_SHA_384 => Some(Sha384::digest(certificate).to_vec()),
        ID_SHA_512 => Some(Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}

fn hash_of_signature(signature: ObjectIdentifier) -> Option<ObjectIdentifier> {
    match signature {
        MD5_WITH_RSA_ENCRYPTION
        | ECDSA_WITH_SHA_1
        | SHA_1_WITH_RSA_ENCRYPTION
        | SHA_256_WITH_RSA_ENCRYPTION
        | ECDSA_WITH_SHA_256 => Some(ID_SHA_256),
        SHA_224_WITH_RSA_ENCRYPTION | ECDSA_WITH_SHA_224 => Some(ID_SHA_224),
        SHA_384_WITH_RSA_ENCRYPTION | ECDSA_WITH_SHA_384 => Some(ID_SHA_384),
        SHA_512_WITH_RSA_ENCRYPTION | ECDSA_WITH_SHA_512 => Some(ID_SHA_512),
        _ => None,
    }
}

/// RSASSA-PSS names its hash in its parameters, in field 0; SHA-1 when that is left out.
fn pss_hash(parameters: AnyRef<'_>) -> Option<ObjectIdentifier> {
    let mut fields = SliceReader::new(parameters.value()).ok()?;
    let hash = ContextSpecific::<AlgorithmIdentifierRef<'_>>::decode_explicit(&mut fields, TagNumber::N0)
        .ok()?
        .map_or(ID_SHA_1, |field| field.value.oid);
    Some(if hash == ID_SHA_1 { ID_SHA_256 } else { hash })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_one_of_the_signature() {
        let rsa_sha512 = include_bytes!("../tests/certificates/rsa_sha512.der");
        let pss_sha384 = include_bytes!("../tests/certificates/rsa_pss_sha384.der");
        assert_eq!(end_point_digest(rsa_sha512), Some(Sha512::digest(rsa_sha512).to_vec()));
        assert_eq!(end_point_digest(pss_sha384), Some(Sha384::digest(pss_sha384).to_vec()));
    }

    #[test]
    fn sha1_counts_as_sha256() {
        let plain: &[u8] = include_bytes!("../tests/certificates/rsa_sha1.der");
        let pss = include_bytes!("../tests/certificates/rsa_pss_sha1.der");
        for certificate in [plain, pss] {
            let expected = Sha256::digest(certificate).to_vec();
            assert_eq!(end_point_digest(certificate), Some(expected));
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_hash() {
        assert_eq!(end_point_digest(b""), None);
        assert_eq!(end_point_digest(b"0\x80\xff"), None);
    }
}
