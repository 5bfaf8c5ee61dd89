//! Whether what was found signs an image as required. In: signatures, digests, a requirement; out: nothing, or why none of
//! them counts. Pure, but for the clock by which the library refuses times to come.
//!
//! Signatures, certificates, logs and timestamps are verified by `sigstore-verify`; what is here is what it leaves to who
//! calls it: which statements are signatures, and whose.

use std::collections::BTreeSet;

use ed25519_dalek::{Signature, VerifyingKey, pkcs8::DecodePublicKey};
use sha2::{Digest, Sha512};
use sigstore_verify::{
    Error,
    crypto::{KeyAlgorithm, verify_signature, verify_signature_prehashed},
    types::{
        Artifact, Bundle, DerPublicKey, DsseEnvelope, HashAlgorithm, MediaType, Sha256Hash, SignatureBytes,
        SignatureContent, Statement, bundle::VerificationMaterialContent,
    },
};

use super::{
    requirement::{Keyless, SignatureRequirement},
    simple::SimpleSignature,
};

/// What a statement says that is a signature. Others, signed by the same key, may say anything: that the image is bad.
pub(super) const STATEMENT: &str = "https://sigstore.dev/cosign/sign/v1";

/// A signature that a registry has for an image; nothing of it is verified.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// cosign's older format.
    Simple(SimpleSignature),
    /// A Sigstore bundle, JSON.
    Bundle(Vec<u8>),
    /// What should be one of these, and cannot be read.
    Unreadable,
}

/// Why a signature does not count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(super) enum Refused {
    #[error("by somebody else, or changed after it was signed")]
    OtherSigner,
    #[error("by {0}")]
    OtherIdentity(String),
    #[error("of another image")]
    OtherImage,
    #[error("of another statement about it")]
    OtherStatement,
    #[error("not readable")]
    Unreadable,
    #[error("not proven: {0}")]
    Unproven(String),
}

/// Whether one of the signatures is what is required, for one of these digests.
pub(super) fn judge(
    requirement: &SignatureRequirement,
    digests: &[&str],
    found: &[Found],
) -> Result<(), BTreeSet<Refused>> {
    let mut refused = BTreeSet::new();
    for signature in found {
        let verdict = match signature {
            Found::Simple(simple) => simple.verify(requirement, digests),
            Found::Bundle(json) => bundle(requirement, digests, json),
            Found::Unreadable => Err(Refused::Unreadable),
        };
        match verdict {
            Ok(()) => return Ok(()),
            Err(why) => refused.insert(why),
        };
    }
    Err(refused)
}

fn bundle(requirement: &SignatureRequirement, digests: &[&str], json: &[u8]) -> Result<(), Refused> {
    let text = std::str::from_utf8(json).map_err(|_| Refused::Unreadable)?;
    let mut bundle = Bundle::from_json(text).map_err(|_| Refused::Unreadable)?;
    if let SignatureContent::DsseEnvelope(envelope) = &bundle.content
        && statement(envelope)?.predicate_type != STATEMENT
    {
        return Err(Refused::OtherStatement);
    }
    // cosign puts chains into bundles of the version that has none: they are read as of the one before.
    let chain =
        matches!(bundle.verification_material.content, VerificationMaterialContent::X509CertificateChain { .. });
    if chain && bundle.media_type == MediaType::Bundle0_3 {
        bundle.media_type = MediaType::Bundle0_2;
    }
    let mut refused = Refused::OtherSigner;
    for digest in digests {
        let digest = Sha256Hash::from_hex(digest.trim_start_matches("sha256:")).map_err(|_| Refused::Unreadable)?;
        let verdict = match (bundle.signing_certificate(), requirement.keyless()) {
            (Some(_), Some(required)) => keyless(required, &bundle, digest),
            (Some(_), None) => Err(Refused::OtherSigner),
            (None, _) => by_key(requirement, &bundle.content, digest),
        };
        match verdict {
            Ok(()) => return Ok(()),
            Err(why) => refused = why,
        }
    }
    Err(refused)
}

/// A key is trusted as it is, so a log or a timestamp beside its signature proves nothing more, and there is no root to verify
/// them by. `sigstore_verify::Verifier` demands one of them all the same, which `cosign sign --key` need not leave: here
/// it only parses and computes.
fn by_key(requirement: &SignatureRequirement, content: &SignatureContent, digest: Sha256Hash) -> Result<(), Refused> {
    let keys = requirement.keys();
    match content {
        SignatureContent::DsseEnvelope(envelope) => {
            if !keys.iter().any(|key| has_signed(key, &envelope.pae(), &envelope.signature.sig)) {
                return Err(Refused::OtherSigner);
            }
            if statement(envelope)?.matches_sha256(&digest) { Ok(()) } else { Err(Refused::OtherImage) }
        }
        SignatureContent::MessageSignature(message) => {
            let signed = |key| {
                let scheme = KeyAlgorithm::from_spki(key)?.resolve_signing_scheme(HashAlgorithm::Sha2256)?;
                verify_signature_prehashed(key, digest.as_bytes(), &message.signature, scheme)
            };
            if keys.iter().any(|key| signed(key).is_ok()) { Ok(()) } else { Err(Refused::OtherSigner) }
        }
        _ => Err(Refused::Unreadable),
    }
}

/// Whether this key has signed that. cosign's older format hashes by SHA-256, whatever the key's usual hash is.
pub(super) fn has_signed(key: &DerPublicKey, data: &[u8], signature: &SignatureBytes) -> bool {
    let Ok(algorithm) = KeyAlgorithm::from_spki(key) else { return false };
    let sha256 = algorithm.resolve_signing_scheme(HashAlgorithm::Sha2256).ok();
    let mut schemes = sha256.into_iter().chain([algorithm.default_signing_scheme()]);
    schemes.any(|scheme| verify_signature(key, data, signature, scheme).is_ok())
        || algorithm == KeyAlgorithm::Ed25519 && has_signed_hash(key, data, signature).is_some()
}

/// In bundles cosign signs by Ed25519ph, which the library does not have: the hash in place of the data.
fn has_signed_hash(key: &DerPublicKey, data: &[u8], signature: &SignatureBytes) -> Option<()> {
    let key = VerifyingKey::from_public_key_der(key.as_bytes()).ok()?;
    let signature = Signature::from_slice(signature.as_bytes()).ok()?;
    key.verify_prehashed_strict(Sha512::new_with_prefix(data), None, &signature).ok()
}

fn statement(envelope: &DsseEnvelope) -> Result<Statement, Refused> {
    if envelope.payload_type != "application/vnd.in-toto+json" {
        return Err(Refused::OtherStatement);
    }
    serde_json::from_slice(envelope.payload.as_bytes()).map_err(|_| Refused::Unreadable)
}

/// Whether a certificate's signature is over that, and the certificate one of those that are required.
pub(super) fn keyless<'a>(required: &Keyless, bundle: &Bundle, signed: impl Into<Artifact<'a>>) -> Result<(), Refused> {
    let verified = required.verifier.verify(signed, bundle, &required.policy()).map_err(|error| match error {
        Error::SignatureInvalid(_) => Refused::OtherSigner,
        Error::ArtifactMismatch(_) => Refused::OtherImage,
        other => Refused::Unproven(shorten(&other.to_string())),
    })?;
    let subject = verified.identity().map(|name| name.as_str()).unwrap_or_default();
    let issuer = verified.issuer().unwrap_or_default();
    if required.has(issuer, subject) {
        return Ok(());
    }
    Err(Refused::OtherIdentity(shorten(&format!("{subject} of {issuer}"))))
}

/// A stranger's text, fit for a sentence.
fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
