//! The operator's keys: made, read and renewed. In: what the Secret holds, the time; out: what it should hold. No IO.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use podless_artifact::seal::{SealError, SealKey};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, GetRandomFailed, aws_lc_rs::default_provider},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

const CA_KEY: &str = "ca.key";
const CA_CERT: &str = "ca.crt";
const SEAL_KEY: &str = "seal.key";
const TLS_KEY: &str = "tls.key";
const TLS_CERT: &str = "tls.crt";

/// Clocks differ between nodes.
const BACKDATED: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const CA_DAYS: u32 = 3650;
const TLS_DAYS: u32 = 365;
/// A certificate that ends sooner is made anew at start.
const RENEW_DAYS: u32 = 60;

/// All of the operator's keys, PEM.
pub struct Keys {
    ca_key: String,
    /// Certificate authority of the link: what shims trust.
    pub ca_cert: String,
    seal_key: String,
    /// Key of the link's server.
    pub tls_key: String,
    /// Certificate of the link's server.
    pub tls_cert: String,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Something is missing: new keys would cut off every shim, so nobody makes them unasked.
    #[error("{0} is missing: restore the Secret, or delete it to have new keys made and then restart the shims")]
    Missing(&'static str),
    /// A key or certificate cannot be made or read.
    #[error("{0}: restore the Secret, or delete it to have new keys made and then restart the shims")]
    Certificate(#[from] rcgen::Error),
    /// The seal key cannot be read.
    #[error("seal.key: {0}")]
    Seal(#[from] SealError),
    /// The system gives no random bytes.
    #[error("no random bytes from the system")]
    Random,
}

impl From<GetRandomFailed> for KeyError {
    fn from(_: GetRandomFailed) -> Self {
        Self::Random
    }
}

impl Keys {
    /// All new.
    pub fn generate(dns_name: &str, now: SystemTime) -> Result<Self, KeyError> {
        let key = KeyPair::generate()?;
        let ca_key = key.serialize_pem();
        let ca_cert = CertifiedIssuer::self_signed(ca_params(now), key)?.pem();
        let mut seed = [0; 32];
        default_provider().secure_random.fill(&mut seed)?;
        let seal_key = SealKey::from_random(seed).to_pem()?.to_string();
        let mut keys = Self { ca_key, ca_cert, seal_key, tls_key: String::new(), tls_cert: String::new() };
        keys.renew(dns_name, now)?;
        Ok(keys)
    }

    /// Reads a Secret's data.
    pub fn read(mut data: BTreeMap<String, String>) -> Result<Self, KeyError> {
        let mut take = |name: &'static str| data.remove(name).ok_or(KeyError::Missing(name));
        let keys = Self {
            ca_key: take(CA_KEY)?,
            ca_cert: take(CA_CERT)?,
            seal_key: take(SEAL_KEY)?,
            tls_key: take(TLS_KEY).unwrap_or_default(),
            tls_cert: take(TLS_CERT).unwrap_or_default(),
        };
        keys.seal_key()?;
        Ok(keys)
    }

    /// The Secret's data.
    pub fn data(&self) -> BTreeMap<String, String> {
        let Self { ca_key, ca_cert, seal_key, tls_key, tls_cert } = self;
        let all =
            [(CA_KEY, ca_key), (CA_CERT, ca_cert), (SEAL_KEY, seal_key), (TLS_KEY, tls_key), (TLS_CERT, tls_cert)];
        all.into_iter().map(|(name, value)| (name.to_owned(), value.clone())).collect()
    }

    /// The key that seals artifacts and signs assignments.
    pub fn seal_key(&self) -> Result<SealKey, KeyError> {
        Ok(SealKey::from_pem(&self.seal_key)?)
    }

    /// Whether the server's certificate is one that shims take, for some time to come.
    pub fn is_fresh(&self, dns_name: &str, now: SystemTime) -> bool {
        self.verify(dns_name, now + RENEW_DAYS * DAY).is_some() && KeyPair::from_pem(&self.tls_key).is_ok()
    }

    fn verify(&self, dns_name: &str, at: SystemTime) -> Option<()> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_cert.as_bytes()).ok()?).ok()?;
        let provider: Arc<CryptoProvider> = Arc::new(default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
        let cert = CertificateDer::from_pem_slice(self.tls_cert.as_bytes()).ok()?;
        let name = ServerName::try_from(dns_name).ok()?;
        let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).ok()?);
        verifier.verify_server_cert(&cert, &[], &name, &[], at).ok().map(|_| ())
    }

    /// A new key and certificate for the server, by the same authority.
    pub fn renew(&mut self, dns_name: &str, now: SystemTime) -> Result<(), KeyError> {
        let issuer = Issuer::new(ca_params(now), KeyPair::from_pem(&self.ca_key)?);
        let mut params = CertificateParams::new([dns_name.to_owned()])?;
        params.distinguished_name = name(dns_name);
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + TLS_DAYS * DAY).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        self.tls_cert = params.signed_by(&key, &issuer)?.pem();
        self.tls_key = key.serialize_pem();
        Ok(())
    }
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn ca_params(now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("podless link");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + CA_DAYS * DAY).into();
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "podless-link.podless.svc";

    #[test]
    fn keys_survive_the_secret_and_the_certificate_is_for_the_name() {
        let now = SystemTime::now();
        let keys = Keys::generate(NAME, now).expect("keys");
        let again = Keys::read(keys.data()).expect("its own data");
        assert!(again.is_fresh(NAME, now));
        assert!(!again.is_fresh("podless-link.other.svc", now), "another name");
        let (one, other) = (keys.seal_key().expect("a key"), again.seal_key().expect("a key"));
        assert_eq!(one.sign(b"c", b"m"), other.sign(b"c", b"m"));
    }

    #[test]
    fn a_certificate_that_ends_soon_is_renewed_by_the_same_authority() {
        let now = SystemTime::now();
        let mut keys = Keys::generate(NAME, now).expect("keys");
        let later = now + 310 * DAY;
        assert!(!keys.is_fresh(NAME, later));
        let authority = keys.ca_cert.clone();
        keys.renew(NAME, later).expect("renewed");
        assert!(keys.is_fresh(NAME, later));
        assert_eq!(keys.ca_cert, authority);
    }

    #[test]
    fn what_is_broken_is_told_and_not_replaced() {
        let keys = Keys::generate(NAME, SystemTime::now()).expect("keys");
        for missing in [CA_KEY, CA_CERT, SEAL_KEY] {
            let mut data = keys.data();
            data.remove(missing);
            assert!(matches!(Keys::read(data), Err(KeyError::Missing(name)) if name == missing));
        }
        let mut data = keys.data();
        data.remove(TLS_CERT);
        assert!(!Keys::read(data).expect("can be made anew").is_fresh(NAME, SystemTime::now()));
    }
}
