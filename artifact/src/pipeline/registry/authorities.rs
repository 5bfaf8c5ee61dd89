//! Certificate authorities of a bundle: PEM in, certificates out, or which block is none. Pure.

use reqwest::Certificate;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

const BEGIN: &str = "-----BEGIN ";
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// Certificate authorities to trust beside the system's.
#[derive(Clone, Debug, Default)]
pub struct Authorities(pub(super) Vec<Certificate>);

/// Why a bundle cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthoritiesError {
    /// No block of PEM.
    #[error("no certificate is in it: it must hold PEM, with lines {CERTIFICATE}")]
    None,
    /// A block of something else.
    #[error("block {block} begins with {begin:?}: only certificates belong there, which begin with {CERTIFICATE}")]
    Other {
        /// Which, from 1.
        block: usize,
        /// Its first line.
        begin: String,
    },
    /// A certificate that does not parse.
    #[error("block {block} is no certificate: {why}")]
    Broken {
        /// Which, from 1.
        block: usize,
        /// What is wrong.
        why: String,
    },
}

impl Authorities {
    /// Reads a bundle: one certificate at least, and nothing else but comments.
    pub fn parse(bundle: &[u8]) -> Result<Self, AuthoritiesError> {
        let text = String::from_utf8_lossy(bundle);
        let mut certificates = vec![];
        for (at, _) in text.match_indices(BEGIN) {
            let (block, number) = (&text[at..], certificates.len() + 1);
            let begin = block.lines().next().unwrap_or_default();
            if begin.trim_end() != CERTIFICATE {
                // A key would be a secret; its first line is none.
                return Err(AuthoritiesError::Other { block: number, begin: begin.chars().take(60).collect() });
            }
            let broken = |why: String| AuthoritiesError::Broken { block: number, why };
            let der = CertificateDer::from_pem_slice(block.as_bytes()).map_err(|error| broken(error.to_string()))?;
            RootCertStore::empty().add(der.clone()).map_err(|error| broken(error.to_string()))?;
            certificates.push(Certificate::from_der(&der).map_err(|error| broken(error.to_string()))?);
        }
        if certificates.is_empty() { Err(AuthoritiesError::None) } else { Ok(Self(certificates)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> String {
        let key = rcgen::KeyPair::generate().expect("a key");
        rcgen::CertificateParams::default().self_signed(&key).expect("a certificate").pem()
    }

    #[test]
    fn every_block_must_be_a_certificate() {
        let (one, two) = (authority(), authority());
        let read = |bundle: &str| Authorities::parse(bundle.as_bytes()).map(|found| found.0.len());
        assert_eq!(read(&format!("# ours\n{one}\n# theirs\r\n{two}")), Ok(2));
        assert_eq!(read(""), Err(AuthoritiesError::None));
        assert_eq!(read("no PEM"), Err(AuthoritiesError::None));
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let begin = "-----BEGIN PRIVATE KEY-----".to_owned();
        assert_eq!(read(&format!("{one}{key}")), Err(AuthoritiesError::Other { block: 2, begin }));
        let torn = &two[..two.len() - 40];
        assert!(matches!(read(&format!("{one}{torn}")), Err(AuthoritiesError::Broken { block: 2, .. })));
        let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(read(&format!("{one}{two}{not_der}")), Err(AuthoritiesError::Broken { block: 3, .. })));
    }
}
