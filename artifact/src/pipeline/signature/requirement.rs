//! Whose signature an image must have. In: the texts of a policy; out: keys and identities, ready to verify with. Pure.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use regex::{Regex, RegexBuilder};
use sha2::{Digest, Sha256};
use sigstore_verify::{
    VerificationPolicy, Verifier,
    crypto::{VerificationKey, validate_raw_public_key},
    trust_root::TrustedRoot,
    types::DerPublicKey,
};

/// Most bytes of a compiled pattern.
const PATTERN_BYTES: usize = 256 << 10;

/// Whose signature an image must have: any one of these keys and identities will do.
#[derive(Clone)]
pub struct SignatureRequirement(Arc<Parsed>);

struct Parsed {
    asked_by: String,
    /// Digest of all the texts.
    id: [u8; 32],
    keys: Vec<DerPublicKey>,
    keyless: Option<Keyless>,
}

/// Who may sign without a key of their own, as a policy writes it.
#[derive(Clone, Copy, Debug)]
pub struct KeylessText<'a> {
    /// Any one of these.
    pub identities: &'a [IdentityText<'a>],
    /// The authorities and logs that vouch for them: JSON as of `cosign trusted-root create`.
    pub trust_root: &'a str,
}

/// One who may sign, as a policy writes it.
#[derive(Clone, Copy, Debug)]
pub struct IdentityText<'a> {
    /// Who has logged them in: the OIDC issuer, a URL.
    pub issuer: &'a str,
    /// Who they are: an e-mail address, or the URI of a workflow.
    pub subject: SubjectText<'a>,
}

/// A subject, as a policy writes it.
#[derive(Clone, Copy, Debug)]
pub enum SubjectText<'a> {
    /// This one.
    Exact(&'a str),
    /// All whose whole text this regular expression matches.
    Pattern(&'a str),
}

/// Why the texts are no requirement; each starts with the field that it is about.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequirementError {
    /// Nobody could sign.
    #[error("signatures: names neither a key nor an identity: add one, or nothing could ever be signed as required")]
    Empty,
    /// Not one key that can be used.
    #[error("keys[{index}]: {why}: give one public key in PEM, as in the file cosign.pub")]
    Key {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        why: String,
    },
    /// Not a trust root.
    #[error("keyless.trustRoot: {0}: give the JSON that `cosign trusted-root create` writes")]
    TrustRoot(String),
    /// Not an identity.
    #[error("keyless.identities[{index}]: {why}")]
    Identity {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// Identities, and who vouches for them.
pub(super) struct Keyless {
    identities: Vec<Identity>,
    pub(super) verifier: Verifier,
    /// The trust root has transparency logs: a signature must be in one.
    logged: bool,
    /// The trust root has certificate logs: a certificate must be in one.
    certificates_logged: bool,
}

struct Identity {
    issuer: String,
    subject: Subject,
}

enum Subject {
    Exact(String),
    Pattern(Regex),
}

impl SignatureRequirement {
    /// Reads a policy's texts: `asked_by` is how a sentence names the policy, such as `WasmPolicy "prod"`; each of `keys`
    /// is one public key in PEM (ECDSA P-256 or P-384, Ed25519, RSA of 2048 bits or more).
    pub fn parse(
        asked_by: impl Into<String>,
        keys: &[&str],
        keyless: Option<KeylessText<'_>>,
    ) -> Result<Self, RequirementError> {
        if keys.is_empty() && keyless.is_none_or(|keyless| keyless.identities.is_empty()) {
            return Err(RequirementError::Empty);
        }
        let id = fingerprint(keys, keyless);
        let keys = keys
            .iter()
            .enumerate()
            .map(|(index, pem)| public_key(pem).map_err(|why| RequirementError::Key { index, why }));
        Ok(Self(Arc::new(Parsed {
            asked_by: asked_by.into(),
            id,
            keys: keys.collect::<Result<_, _>>()?,
            keyless: keyless.map(Keyless::parse).transpose()?,
        })))
    }

    /// Who requires it, as a sentence names it.
    pub fn asked_by(&self) -> &str {
        &self.0.asked_by
    }

    /// What tells it from another requirement, whoever asks.
    pub(super) fn id(&self) -> [u8; 32] {
        self.0.id
    }

    pub(super) fn keys(&self) -> &[DerPublicKey] {
        &self.0.keys
    }

    pub(super) fn keyless(&self) -> Option<&Keyless> {
        self.0.keyless.as_ref()
    }
}

impl PartialEq for SignatureRequirement {
    fn eq(&self, other: &Self) -> bool {
        (&self.0.asked_by, self.0.id) == (&other.0.asked_by, other.0.id)
    }
}

impl Eq for SignatureRequirement {}

impl Hash for SignatureRequirement {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.0.asked_by, self.0.id).hash(state);
    }
}

impl fmt::Debug for SignatureRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignatureRequirement({} {})", self.0.asked_by, hex::encode(&self.0.id[..6]))
    }
}

impl Keyless {
    fn parse(text: KeylessText<'_>) -> Result<Self, RequirementError> {
        let unusable = |error: &dyn fmt::Display| RequirementError::TrustRoot(error.to_string());
        let root = TrustedRoot::from_json(text.trust_root).map_err(|error| unusable(&error))?;
        let verifier = Verifier::new(&root).map_err(|error| unusable(&error))?;
        if root.certificate_authorities.is_empty() {
            return Err(RequirementError::TrustRoot("it has no certificate authority".to_owned()));
        }
        let identities = text.identities.iter().enumerate().map(|(index, identity)| {
            Identity::parse(*identity).map_err(|why| RequirementError::Identity { index, why })
        });
        Ok(Self {
            identities: identities.collect::<Result<_, _>>()?,
            verifier,
            logged: !root.tlogs.is_empty(),
            certificates_logged: !root.ctlogs.is_empty(),
        })
    }

    /// Whether one of the identities is this one.
    pub(super) fn has(&self, issuer: &str, subject: &str) -> bool {
        self.identities.iter().any(|identity| {
            identity.issuer == issuer
                && match &identity.subject {
                    Subject::Exact(exact) => exact == subject,
                    Subject::Pattern(pattern) => pattern.is_match(subject),
                }
        })
    }

    /// What the trust root can vouch for is demanded. A private one may do without logs, with an authority for timestamps
    /// instead. Whose signature it is, is compared afterwards.
    pub(super) fn policy(&self) -> VerificationPolicy {
        let policy = VerificationPolicy::any_identity();
        let policy = if self.logged { policy } else { policy.skip_tlog_unsafe() };
        if self.certificates_logged { policy } else { policy.skip_sct() }
    }
}

impl Identity {
    fn parse(text: IdentityText<'_>) -> Result<Self, String> {
        if text.issuer.is_empty() {
            return Err("issuer is empty: anybody may call themselves what they like at some issuer".to_owned());
        }
        let subject = match text.subject {
            SubjectText::Exact("") | SubjectText::Pattern("") => {
                return Err("names no subject: give subject or subjectRegex".to_owned());
            }
            SubjectText::Exact(exact) => Subject::Exact(exact.to_owned()),
            // A pattern that would match in the middle is a trap: `example.com` is a part of `example.com.evil.org`.
            SubjectText::Pattern(pattern) => Subject::Pattern(
                RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(PATTERN_BYTES).build().map_err(|error| {
                    let error = error.to_string();
                    format!("subjectRegex is no regular expression: {}", error.lines().last().unwrap_or_default())
                })?,
            ),
        };
        Ok(Self { issuer: text.issuer.to_owned(), subject })
    }
}

fn public_key(pem: &str) -> Result<DerPublicKey, String> {
    if pem.matches("-----BEGIN ").count() > 1 {
        return Err("holds more than one block of PEM".to_owned());
    }
    let key = DerPublicKey::from_pem(pem).map_err(|_| "holds no block `PUBLIC KEY` of PEM".to_owned())?;
    let checked = VerificationKey::from_spki(&key).map_err(|error| error.to_string())?;
    validate_raw_public_key(checked.scheme(), checked.as_bytes()).map_err(|error| error.to_string())?;
    Ok(key)
}

/// A digest of all texts, each with its length and kind before it.
fn fingerprint(keys: &[&str], keyless: Option<KeylessText<'_>>) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |kind: u8, text: &str| {
        hash.update([kind]);
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    keys.iter().for_each(|key| add(0, key));
    if let Some(keyless) = keyless {
        add(1, keyless.trust_root);
        for identity in keyless.identities {
            add(2, identity.issuer);
            match identity.subject {
                SubjectText::Exact(subject) => add(3, subject),
                SubjectText::Pattern(subject) => add(4, subject),
            }
        }
    }
    hash.finalize().into()
}
