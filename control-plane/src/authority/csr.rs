//! Which public key does a certificate request prove to hold?

use rcgen::{
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData as _,
    SubjectPublicKeyInfo,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

/// Largest request, in bytes.
pub const CSR_BYTES_MAX: usize = 16 * 1024;

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCsr {
    /// Larger than 16 KiB.
    #[error("the request has {0} bytes, more than 16 KiB")]
    TooLarge(usize),
    /// Not PKCS #10 in DER, or bytes follow it.
    #[error("the request is not PKCS #10 in DER")]
    Malformed,
    /// The request is not signed by the key that it names.
    #[error("the request's signature is wrong")]
    Signature,
    /// RSA, or a curve that the mesh does not use.
    #[error("the request's key is neither P-256, P-384 nor Ed25519")]
    Algorithm,
}

/// Takes the public key out of a request, and nothing else: names and extensions that it asks for
/// are not looked at (SECURITY S9).
///
/// # Errors
/// The request does not parse, is not signed by its own key, or the key is of another kind.
pub fn public_key(der: &[u8]) -> Result<SubjectPublicKeyInfo, InvalidCsr> {
    if der.len() > CSR_BYTES_MAX {
        return Err(InvalidCsr::TooLarge(der.len()));
    }
    let (rest, csr) = X509CertificationRequest::from_der(der).map_err(|_| InvalidCsr::Malformed)?;
    if !rest.is_empty() {
        return Err(InvalidCsr::Malformed);
    }
    let key = SubjectPublicKeyInfo::from_der(csr.certification_request_info.subject_pki.raw)
        .map_err(|_| InvalidCsr::Algorithm)?;
    let allowed = [
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &PKCS_ED25519,
    ];
    if !allowed.contains(&key.algorithm()) {
        return Err(InvalidCsr::Algorithm);
    }
    csr.verify_signature().map_err(|_| InvalidCsr::Signature)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair};

    fn request(key: &KeyPair) -> Vec<u8> {
        let params = CertificateParams::new(["evil.example".to_owned()]).unwrap();
        params.serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn the_three_kinds_of_key_are_taken() {
        for algorithm in [
            &PKCS_ECDSA_P256_SHA256,
            &PKCS_ECDSA_P384_SHA384,
            &PKCS_ED25519,
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let taken = public_key(&request(&key)).unwrap();
            assert_eq!(taken.der_bytes(), key.public_key_raw());
        }
    }

    #[test]
    fn other_keys_are_refused() {
        for algorithm in [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_ECDSA_P521_SHA512] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(public_key(&request(&key)), Err(InvalidCsr::Algorithm));
        }
    }

    #[test]
    fn a_changed_request_is_refused() {
        let mut der = request(&KeyPair::generate().unwrap());
        assert_eq!(
            public_key(&[&der[..], b"x"].concat()),
            Err(InvalidCsr::Malformed)
        );
        assert_eq!(
            public_key(&der[..der.len() - 1]),
            Err(InvalidCsr::Malformed)
        );
        assert_eq!(
            public_key(&vec![0; CSR_BYTES_MAX + 1]),
            Err(InvalidCsr::TooLarge(16_385))
        );
        let last = der.len() - 1;
        der[last] ^= 1;
        assert_eq!(public_key(&der), Err(InvalidCsr::Signature));
    }

    #[test]
    fn a_request_for_somebody_elses_key_is_refused() {
        let mine = request(&KeyPair::generate().unwrap());
        let theirs = KeyPair::generate().unwrap();
        let own = public_key(&mine).unwrap();
        let at = mine
            .windows(own.der_bytes().len())
            .position(|w| w == own.der_bytes())
            .unwrap();
        let mut forged = mine.clone();
        forged[at..at + own.der_bytes().len()].copy_from_slice(theirs.public_key_raw());
        assert_eq!(public_key(&forged), Err(InvalidCsr::Signature));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn no_flip_panics_or_changes_the_key(at: prop::sample::Index, by in 1..=255u8) {
            let key = KeyPair::generate().unwrap();
            let mut der = request(&key);
            let at = at.index(der.len());
            der[at] ^= by;
            // What the signature does not cover (how it is wrapped) may pass; the key is covered.
            if let Ok(taken) = public_key(&der) {
                prop_assert_eq!(taken.der_bytes(), key.public_key_raw());
            }
        }
    }
}
