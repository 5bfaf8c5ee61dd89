//! The operator's keys: made, read, renewed and changed. In: what the Secret holds, the time; out: what it should hold.
//! No IO.
//!
//! A key that shims must trust is changed in three steps, with time for them to learn of each: the next one is announced
//! beside it, then takes its place, then the old one is forgotten. What is half done stands in the Secret, so that any
//! replica can go on with it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use podless_artifact::seal::{SealError, SealKey, TrustedKeys, trust_name};
use rcgen::KeyPair;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, GetRandomFailed, aws_lc_rs::default_provider},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use super::make;

const DAY: Duration = Duration::from_secs(86_400);
/// The authority lives for three years: it and the seal key are changed after two.
const CHANGE_AFTER: Duration = Duration::from_secs(730 * 86_400);
/// The certificate lives for a year: it is made anew in its last third.
const TLS_LAST_DAYS: u32 = 122;

/// A key that shims trust by its public half.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trusted {
    /// Its private half, PEM.
    pub(super) key: String,
    /// What is published of it, PEM.
    pub(super) public: String,
}

/// One of the two, with the one that comes next or the one that went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Series {
    now: Trusted,
    next: Option<Trusted>,
    /// The public half of the one before.
    before: Option<String>,
}

impl Series {
    /// Everything that shims are to trust, PEM blocks one after another.
    fn bundle(&self) -> String {
        let all = [Some(&self.now.public), self.next.as_ref().map(|n| &n.public), self.before.as_ref()];
        let blocks: Vec<_> = all.into_iter().flatten().map(|pem| pem.trim()).collect();
        blocks.join("\n") + "\n"
    }

    fn promote(&mut self) -> bool {
        let Some(next) = self.next.take() else { return false };
        self.before = Some(std::mem::replace(&mut self.now, next).public);
        true
    }
}

/// All of the operator's keys, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    ca: Series,
    seal: Series,
    /// Key of the link's server.
    pub tls_key: String,
    /// Certificate of the link's server.
    pub tls_cert: String,
    /// When authority and seal key were made, in seconds since 1970.
    made: u64,
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

fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Keys {
    /// All new.
    pub fn generate(dns_name: &str, now: SystemTime) -> Result<Self, KeyError> {
        let series = |now| Series { now, ..Series::default() };
        let (ca, seal) = (series(make::authority(now)?), series(make::seal()?));
        let mut keys = Self { ca, seal, tls_key: String::new(), tls_cert: String::new(), made: seconds(now) };
        keys.renew(dns_name, now)?;
        Ok(keys)
    }

    /// Reads a Secret's data. What has no age is old.
    pub fn read(mut data: BTreeMap<String, String>) -> Result<Self, KeyError> {
        let made = data.remove("made").and_then(|made| made.parse().ok()).unwrap_or(0);
        let next = |key: Option<String>, public: Option<String>| Some(Trusted { key: key?, public: public? });
        let next_ca = next(data.remove("next.ca.key"), data.remove("next.ca.crt"));
        let next_seal = data.remove("next.seal.key").map(trusted_seal).transpose()?;
        let (ca_before, seal_before) = (data.remove("previous.ca.crt"), data.remove("previous.seal.pub"));
        let mut take = |name: &'static str| data.remove(name).ok_or(KeyError::Missing(name));
        Ok(Self {
            ca: Series {
                now: Trusted { key: take("ca.key")?, public: take("ca.crt")? },
                next: next_ca,
                before: ca_before,
            },
            seal: Series { now: trusted_seal(take("seal.key")?)?, next: next_seal, before: seal_before },
            tls_key: take("tls.key").unwrap_or_default(),
            tls_cert: take("tls.crt").unwrap_or_default(),
            made,
        })
    }

    /// The Secret's data; `None` for what must not be in it.
    pub fn data(&self) -> BTreeMap<&'static str, Option<String>> {
        let Self { ca, seal, tls_key, tls_cert, made } = self;
        let some = |text: &String| Some(text.clone());
        BTreeMap::from([
            ("ca.key", some(&ca.now.key)),
            ("ca.crt", some(&ca.now.public)),
            ("next.ca.key", ca.next.as_ref().map(|next| next.key.clone())),
            ("next.ca.crt", ca.next.as_ref().map(|next| next.public.clone())),
            ("previous.ca.crt", ca.before.clone()),
            ("seal.key", some(&seal.now.key)),
            ("next.seal.key", seal.next.as_ref().map(|next| next.key.clone())),
            ("previous.seal.pub", seal.before.clone()),
            ("tls.key", some(tls_key)),
            ("tls.crt", some(tls_cert)),
            ("made", Some(made.to_string())),
        ])
    }

    /// Authorities of the link that shims are to trust, PEM.
    pub fn authorities(&self) -> String {
        self.ca.bundle()
    }

    /// Name of what shims are to trust: of both bundles.
    pub fn trust(&self) -> String {
        trust_name(&self.authorities(), &self.seals())
    }

    /// Public seal keys that shims are to trust, PEM.
    pub fn seals(&self) -> String {
        self.seal.bundle()
    }

    /// The same, to verify with.
    pub fn trusted_seals(&self) -> Result<TrustedKeys, KeyError> {
        Ok(TrustedKeys::from_pem(&self.seals())?)
    }

    /// The key that seals artifacts and signs assignments.
    pub fn seal_key(&self) -> Result<SealKey, KeyError> {
        Ok(SealKey::from_pem(&self.seal.now.key)?)
    }

    /// Whether the server's certificate is one that shims take, for some time to come.
    pub fn is_fresh(&self, dns_name: &str, now: SystemTime) -> bool {
        self.verify(dns_name, now + TLS_LAST_DAYS * DAY).is_some() && KeyPair::from_pem(&self.tls_key).is_ok()
    }

    fn verify(&self, dns_name: &str, at: SystemTime) -> Option<()> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.now.public.as_bytes()).ok()?).ok()?;
        let provider: Arc<CryptoProvider> = Arc::new(default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
        let cert = CertificateDer::from_pem_slice(self.tls_cert.as_bytes()).ok()?;
        let name = ServerName::try_from(dns_name).ok()?;
        let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).ok()?);
        verifier.verify_server_cert(&cert, &[], &name, &[], at).ok().map(|_| ())
    }

    /// A new key and certificate for the server, by the same authority.
    pub fn renew(&mut self, dns_name: &str, now: SystemTime) -> Result<(), KeyError> {
        (self.tls_key, self.tls_cert) = make::certificate(&self.ca.now.key, dns_name, now)?;
        Ok(())
    }

    /// Whether authority and seal key are old enough to be changed.
    pub fn is_old(&self, now: SystemTime) -> bool {
        seconds(now).saturating_sub(self.made) >= CHANGE_AFTER.as_secs()
    }

    /// Whether a change is under way: something is announced, or an old key is still trusted.
    pub fn is_changing(&self) -> bool {
        self.changes(true, false) || self.changes(false, true)
    }

    /// Whether each of these has a change under way.
    pub(super) fn changes(&self, ca: bool, seal: bool) -> bool {
        let changing = |series: &Series| series.next.is_some() || series.before.is_some();
        (!ca || changing(&self.ca)) && (!seal || changing(&self.seal))
    }

    /// First step: what comes next, to be trusted beside what is.
    pub fn announce(&mut self, ca: bool, seal: bool, now: SystemTime) -> Result<(), KeyError> {
        if ca {
            self.ca.next = Some(make::authority(now)?);
        }
        if seal {
            self.seal.next = Some(make::seal()?);
        }
        Ok(())
    }

    /// Second and third step, when shims have had their time: what was announced takes its place; what went before is
    /// forgotten. Answers what is new: authority, seal.
    pub fn advance(&mut self, dns_name: &str, now: SystemTime) -> Result<(bool, bool), KeyError> {
        (self.ca.before, self.seal.before) = (None, None);
        let (ca, seal) = (self.ca.promote(), self.seal.promote());
        if ca {
            self.renew(dns_name, now)?;
        }
        if ca || seal {
            self.made = seconds(now);
        }
        Ok((ca, seal))
    }
}

fn trusted_seal(key: String) -> Result<Trusted, KeyError> {
    Ok(Trusted { public: SealKey::from_pem(&key)?.public_pem()?, key })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "podless-link.podless.svc";

    fn data(keys: &Keys) -> BTreeMap<String, String> {
        keys.data().into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    fn read(keys: &Keys) -> Keys {
        Keys::read(data(keys)).expect("its own data")
    }

    #[test]
    fn keys_survive_the_secret_and_the_certificate_is_for_the_name() {
        let now = SystemTime::now();
        let keys = Keys::generate(NAME, now).expect("keys");
        let again = read(&keys);
        assert!(keys == again && again.is_fresh(NAME, now));
        assert!(!again.is_fresh("podless-link.other.svc", now), "another name");
        let (one, other) = (keys.seal_key().expect("a key"), again.seal_key().expect("a key"));
        assert_eq!(one.sign(b"c", b"m"), other.sign(b"c", b"m"));
    }

    #[test]
    fn a_certificate_is_renewed_in_its_last_third_by_the_same_authority() {
        let now = SystemTime::now();
        let mut keys = Keys::generate(NAME, now).expect("keys");
        assert!(keys.is_fresh(NAME, now + 240 * DAY));
        let later = now + 245 * DAY;
        assert!(!keys.is_fresh(NAME, later));
        let authority = keys.authorities();
        keys.renew(NAME, later).expect("renewed");
        assert!(keys.is_fresh(NAME, later));
        assert_eq!(keys.authorities(), authority);
    }

    #[test]
    fn what_is_broken_is_told_and_not_replaced() {
        let now = SystemTime::now();
        let keys = Keys::generate(NAME, now).expect("keys");
        for missing in ["ca.key", "ca.crt", "seal.key"] {
            let mut data = data(&keys);
            data.remove(missing);
            assert!(matches!(Keys::read(data), Err(KeyError::Missing(name)) if name == missing));
        }
        let mut data = data(&keys);
        data.remove("tls.crt");
        assert!(!Keys::read(data).expect("can be made anew").is_fresh(NAME, now));
    }

    #[test]
    fn at_every_step_of_a_change_shims_trust_what_is_used_and_what_comes_or_went() {
        let now = SystemTime::now();
        let mut keys = Keys::generate(NAME, now).expect("keys");
        let signed = |keys: &Keys| keys.seal_key().expect("a key").sign(b"c", b"m");
        let trusts = |keys: &Keys, signature: &[u8; 64]| {
            keys.trusted_seals().expect("keys").verify(b"c", b"m", signature).is_ok()
        };
        let certificates = |keys: &Keys| keys.authorities().matches("BEGIN CERTIFICATE").count();
        assert!(!keys.is_changing() && !keys.is_old(now + 729 * DAY) && keys.is_old(now + 730 * DAY));

        let (old_seal, old_tls) = (signed(&keys), keys.tls_cert.clone());
        let later = now + 731 * DAY;
        keys.announce(true, true, later).expect("announced");
        keys = read(&keys);
        assert!(keys.is_changing() && certificates(&keys) == 2);
        assert_eq!((signed(&keys), &keys.tls_cert), (old_seal, &old_tls), "announced, and not used");

        // Who leads now learns of it from the Secret.
        assert_eq!(keys.advance(NAME, later).expect("promoted"), (true, true));
        keys = read(&keys);
        let new_seal = signed(&keys);
        assert!(new_seal != old_seal && keys.tls_cert != old_tls && keys.is_fresh(NAME, later));
        assert!(trusts(&keys, &old_seal) && trusts(&keys, &new_seal) && certificates(&keys) == 2);
        assert!(keys.is_changing() && !keys.is_old(later));

        assert_eq!(keys.advance(NAME, later).expect("forgotten"), (false, false));
        keys = read(&keys);
        assert!(!trusts(&keys, &old_seal) && trusts(&keys, &new_seal) && certificates(&keys) == 1);
        assert!(!keys.is_changing() && data(&keys).len() == 6, "{:?}", data(&keys).keys());
    }

    #[test]
    fn one_of_the_two_changes_alone() {
        let now = SystemTime::now();
        let mut keys = Keys::generate(NAME, now).expect("keys");
        let (authorities, tls) = (keys.authorities(), keys.tls_cert.clone());
        keys.announce(false, true, now).expect("announced");
        assert_eq!(keys.advance(NAME, now).expect("promoted"), (false, true));
        assert_eq!((keys.authorities(), &keys.tls_cert), (authorities, &tls));
    }
}
