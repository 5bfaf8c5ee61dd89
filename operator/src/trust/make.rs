//! New keys and certificates. In: names and the time; out: PEM. No IO but for random bytes.

use std::time::{Duration, SystemTime};

use podless_artifact::seal::SealKey;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs::default_provider;

use super::keys::{KeyError, Trusted};

/// Clocks differ between nodes.
const BACKDATED: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const CA_DAYS: u32 = 1095;
const TLS_DAYS: u32 = 365;

/// A new authority of the link.
pub(super) fn authority(now: SystemTime) -> Result<Trusted, KeyError> {
    let key = KeyPair::generate()?;
    let private = key.serialize_pem();
    Ok(Trusted { public: CertifiedIssuer::self_signed(ca_params(now), key)?.pem(), key: private })
}

/// A new seal key.
pub(super) fn seal() -> Result<Trusted, KeyError> {
    let mut seed = [0; 32];
    default_provider().secure_random.fill(&mut seed)?;
    let key = SealKey::from_random(seed);
    Ok(Trusted { public: key.public_pem()?, key: key.to_pem()?.to_string() })
}

/// A new key and certificate for the link's server, by the authority with this key.
pub(super) fn certificate(ca_key: &str, dns_name: &str, now: SystemTime) -> Result<(String, String), KeyError> {
    let issuer = Issuer::new(ca_params(now), KeyPair::from_pem(ca_key)?);
    let mut params = CertificateParams::new([dns_name.to_owned()])?;
    params.distinguished_name = name(dns_name);
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + TLS_DAYS * DAY).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    Ok((key.serialize_pem(), params.signed_by(&key, &issuer)?.pem()))
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
