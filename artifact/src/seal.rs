//! The seal: who may put machine code into a shim. In: the facts of an artifact; out: those facts signed. No IO.
//!
//! A seal is Ed25519 over a context string and the exact bytes of the JSON that is sent along, so both sides agree
//! on what was signed without agreeing on a canonical encoding.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{
    Signature, Signer, SigningKey, VerifyingKey,
    pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, spki::der::zeroize::Zeroizing},
};
use podless_engine::Flavour;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const SEAL_CONTEXT: &[u8] = b"podless seal v3\0";

/// What is true of an artifact.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Seal {
    /// Digest of the component that was compiled, as in `sha256:…`.
    pub component: String,
    /// SHA-256 of the machine code, lower-case hex.
    pub code_sha256: String,
    /// Size of the machine code in bytes.
    pub code_size: u64,
    /// Engine fingerprint under which it runs.
    pub fingerprint: String,
    /// The version of Wasmtime that made it.
    pub wasmtime: String,
    /// What the machine code is for, as in `x86-64-v3`.
    pub target: String,
    /// The HTTP interface that it exports.
    pub http: HttpWorld,
    /// Which of the engines of that fingerprint runs it.
    pub flavour: Flavour,
    /// When it was compiled, as in `2026-01-31T12:00:00Z`.
    pub made_at: String,
}

impl Seal {
    /// Whether the other is of the same code: compiled once more, a component becomes the same.
    pub fn is_same_code(&self, other: &Self) -> bool {
        Self { made_at: other.made_at.clone(), ..self.clone() } == *other
    }
}

/// The HTTP interface that a component exports.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, Hash)]
pub enum HttpWorld {
    /// `wasi:http/incoming-handler@0.2`
    #[serde(rename = "wasi:http@0.2")]
    P2,
    /// `wasi:http/handler@0.3`
    #[serde(rename = "wasi:http@0.3")]
    P3,
}

/// A seal with its signature: what travels with the machine code.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// The exact JSON text of the [`Seal`] that was signed.
    seal: String,
    /// The signature, base64.
    signature: String,
    /// Name of the key that signed, for who has it.
    #[serde(skip)]
    sealer: String,
}

impl Sealed {
    /// Name of the key that sealed this, in the process that did; empty of what was read.
    pub fn sealer(&self) -> &str {
        &self.sealer
    }
}

/// Why a seal or a key was refused.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The signature was made by no key that is trusted, or over other bytes.
    #[error("the signature is not by a trusted key")]
    Untrusted,
    /// The bytes are not a seal.
    #[error("not a seal: {0}")]
    Malformed(String),
    /// The text is not a key.
    #[error("not an Ed25519 key in PEM: {0}")]
    Key(String),
}

/// The operator's private key. It never leaves the operator's process but for its Secret.
pub struct SealKey(SigningKey);

impl SealKey {
    /// A new key from 32 random bytes.
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&bytes))
    }

    /// Reads a PKCS #8 PEM.
    pub fn from_pem(pem: &str) -> Result<Self, SealError> {
        SigningKey::from_pkcs8_pem(pem).map(Self).map_err(|e| SealError::Key(e.to_string()))
    }

    /// The key as PKCS #8 PEM, wiped when dropped.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, SealError> {
        self.0.to_pkcs8_pem(Default::default()).map_err(|e| SealError::Key(e.to_string()))
    }

    /// The public half as PEM: what `podless-trust` publishes.
    pub fn public_pem(&self) -> Result<String, SealError> {
        self.0.verifying_key().to_public_key_pem(Default::default()).map_err(|e| SealError::Key(e.to_string()))
    }

    /// A name for the key: of its public half.
    pub fn name(&self) -> String {
        hex::encode(&Sha256::digest(self.0.verifying_key().as_bytes())[..8])
    }

    /// Signs the facts of an artifact.
    pub fn seal(&self, seal: &Seal) -> Result<Sealed, SealError> {
        let seal = serde_json::to_string(seal).map_err(|e| SealError::Malformed(e.to_string()))?;
        let signature = BASE64.encode(self.sign(SEAL_CONTEXT, seal.as_bytes()));
        Ok(Sealed { seal, signature, sealer: self.name() })
    }

    /// Signs a message under a context that tells what it is.
    pub fn sign(&self, context: &[u8], message: &[u8]) -> [u8; 64] {
        self.0.sign(&[context, message].concat()).to_bytes()
    }
}

/// The public keys whose seals are taken: more than one while a key is being rotated.
#[derive(Clone, Debug)]
pub struct TrustedKeys(Vec<VerifyingKey>);

impl TrustedKeys {
    /// Reads one or more public keys, PEM blocks one after another.
    pub fn from_pem(pem: &str) -> Result<Self, SealError> {
        const END: &str = "-----END PUBLIC KEY-----";
        let keys = pem
            .split_inclusive(END)
            .filter(|block| block.contains(END))
            .map(|block| VerifyingKey::from_public_key_pem(block.trim()).map_err(|e| SealError::Key(e.to_string())))
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(SealError::Key("no PUBLIC KEY block".to_owned()));
        }
        Ok(Self(keys))
    }

    /// Checks the signature, and only then reads the seal.
    pub fn open(&self, sealed: &Sealed) -> Result<Seal, SealError> {
        let signature = BASE64.decode(&sealed.signature).map_err(|e| SealError::Malformed(e.to_string()))?;
        self.verify(SEAL_CONTEXT, sealed.seal.as_bytes(), &signature)?;
        serde_json::from_str(&sealed.seal).map_err(|e| SealError::Malformed(e.to_string()))
    }

    /// Checks a signature that [`SealKey::sign`] made under this context.
    pub fn verify(&self, context: &[u8], message: &[u8], signature: &[u8]) -> Result<(), SealError> {
        let signature = Signature::from_slice(signature).map_err(|e| SealError::Malformed(e.to_string()))?;
        let message = [context, message].concat();
        if self.0.iter().any(|key| key.verify_strict(&message, &signature).is_ok()) {
            Ok(())
        } else {
            Err(SealError::Untrusted)
        }
    }
}

/// Name of what a shim trusts: of the bundles of authorities and of seal keys, PEM.
pub fn trust_name(authorities: &str, seals: &str) -> String {
    let mut hash = Sha256::new();
    hash.update((authorities.len() as u64).to_le_bytes());
    hash.update(authorities);
    hash.update(seals);
    hex::encode(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seal() -> Seal {
        Seal {
            component: "sha256:c0".into(),
            code_sha256: "c1".into(),
            code_size: 7,
            fingerprint: "f".into(),
            wasmtime: "1.2.3".into(),
            target: "t".into(),
            http: HttpWorld::P2,
            flavour: Flavour::P2,
            made_at: "2026-01-31T12:00:00Z".into(),
        }
    }

    fn trust(keys: &[&SealKey]) -> TrustedKeys {
        let pem: String = keys.iter().map(|key| key.public_pem().expect("a key has a PEM")).collect();
        TrustedKeys::from_pem(&pem).expect("its own PEM is read")
    }

    #[test]
    fn any_trusted_key_opens_and_no_other() {
        let (old, new, foreign) =
            (SealKey::from_random([1; 32]), SealKey::from_random([2; 32]), SealKey::from_random([3; 32]));
        let trusted = trust(&[&old, &new]);
        for key in [&old, &new] {
            assert_eq!(trusted.open(&key.seal(&seal()).expect("sealed")).expect("opened"), seal());
        }
        let stranger = foreign.seal(&seal()).expect("sealed");
        assert!(matches!(trusted.open(&stranger), Err(SealError::Untrusted)));
    }

    #[test]
    fn a_changed_seal_or_another_context_is_refused() {
        let key = SealKey::from_random([1; 32]);
        let mut sealed = key.seal(&seal()).expect("sealed");
        let signature = key.sign(b"something else\0", sealed.seal.as_bytes());
        assert!(matches!(
            trust(&[&key]).verify(SEAL_CONTEXT, sealed.seal.as_bytes(), &signature),
            Err(SealError::Untrusted)
        ));
        sealed.seal = sealed.seal.replace("sha256:c0", "sha256:c9");
        assert!(matches!(trust(&[&key]).open(&sealed), Err(SealError::Untrusted)));
    }

    #[test]
    fn the_same_code_is_known_whenever_it_was_compiled() {
        let later = Seal { made_at: "2026-02-01T12:00:00Z".into(), ..seal() };
        assert!(seal().is_same_code(&later));
        assert!(!seal().is_same_code(&Seal { target: "another".into(), ..later }));
    }

    #[test]
    fn keys_survive_their_pem() {
        let key = SealKey::from_random([9; 32]);
        let again = SealKey::from_pem(&key.to_pem().expect("PEM")).expect("read");
        assert_eq!(key.sign(b"a", b"b"), again.sign(b"a", b"b"));
        assert!(SealKey::from_pem("nonsense").is_err());
        assert!(TrustedKeys::from_pem("").is_err());
    }

    /// An envelope as it comes: opened only when what it says is what was sealed.
    fn open_strange(text: &str) {
        let key = SealKey::from_random([1; 32]);
        if let Ok(sealed) = serde_json::from_str::<Sealed>(text)
            && let Ok(opened) = trust(&[&key]).open(&sealed)
        {
            assert_eq!(opened, seal(), "{text}");
        }
    }

    #[test]
    fn fuzz_of_the_corpus() {
        for text in [
            "",
            "{}",
            "null",
            r#"{"seal":"","signature":""}"#,
            r#"{"seal":"{}","signature":"AAAA"}"#,
            // A signature of zeros, which a careless check takes for one by a key of zeros.
            &format!(r#"{{"seal":"{{}}","signature":"{}=="}}"#, "A".repeat(86)),
            r#"{"seal":1,"signature":null}"#,
        ] {
            open_strange(text);
            let sealed = serde_json::from_str::<Sealed>(text);
            assert!(sealed.is_err() || trust(&[&SealKey::from_random([1; 32])]).open(&sealed.expect("one")).is_err());
        }
    }

    proptest! {
        #[test]
        fn fuzz_of_any_envelope(seal in any::<String>(), signature in proptest::collection::vec(any::<u8>(), 0..100)) {
            let sealed = Sealed { seal, signature: BASE64.encode(signature), sealer: String::new() };
            prop_assert!(trust(&[&SealKey::from_random([1; 32])]).open(&sealed).is_err());
        }

        #[test]
        fn fuzz_of_an_envelope_that_was_changed(at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>()) {
            let sealed = SealKey::from_random([1; 32]).seal(&seal()).expect("sealed");
            let mut bytes = serde_json::to_vec(&sealed).expect("JSON");
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] = with }
            open_strange(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn fuzz_of_what_we_sealed_by_mistake(text in any::<String>()) {
            let key = SealKey::from_random([1; 32]);
            let signature = BASE64.encode(key.sign(SEAL_CONTEXT, text.as_bytes()));
            let opened = trust(&[&key]).open(&Sealed { seal: text, signature, sealer: String::new() });
            prop_assert!(matches!(opened, Err(SealError::Malformed(_))));
        }
    }
}
