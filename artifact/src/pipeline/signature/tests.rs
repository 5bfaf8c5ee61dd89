//! Signatures that the real cosign has made, see `tests/signatures/README.md`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sigstore_verify::trust_root::SIGSTORE_PRODUCTION_TRUSTED_ROOT;

use super::{
    judge::{Found, Refused, judge},
    requirement::{IdentityText, KeylessText, RequirementError, SignatureRequirement, SubjectText},
    simple::SimpleSignature,
};

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../../../tests/signatures/", $name))
    };
}

const DIGEST: &str = "sha256:b5fde1fe6ee533deff2c295241be56cb305b16cfacc43c5a3daeee82f5900a68";
const OTHER_DIGEST: &str = "sha256:f24c017b25949b5b2d39a9a114b57b5e953df249ee89c0d13a54f845e2bd87c1";
const PAYLOAD: &str = fixture!("simple-payload.json");
const ROOT: &str = fixture!("trusted-root.json");
const ISSUER: &str = "https://accounts.example.com";
const SUBJECT: &str = "release@example.com";
const KEYS: [(&str, &str, &str); 4] = [
    ("p256", fixture!("p256.pub"), fixture!("bundle-p256.json")),
    ("p384", fixture!("p384.pub"), fixture!("bundle-p384.json")),
    ("ed25519", fixture!("ed25519.pub"), fixture!("bundle-ed25519.json")),
    ("rsa", fixture!("rsa.pub"), fixture!("bundle-rsa.json")),
];
const OTHER_KEY: &str = fixture!("other.pub");

fn bundle(json: &str) -> Found {
    Found::Bundle(json.as_bytes().to_vec())
}

/// The older format, by this one of the signers.
fn simple(by: &str, payload: &str) -> Found {
    let mut all: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_str(fixture!("simple-annotations.json")).expect("annotations");
    Found::Simple(SimpleSignature { payload: payload.into(), annotations: all.remove(by).expect("signer") })
}

fn by_keys(keys: &[&str]) -> SignatureRequirement {
    SignatureRequirement::parse("a policy", keys, None).expect("keys")
}

fn keyless(issuer: &str, subject: SubjectText<'_>, trust_root: &str) -> SignatureRequirement {
    let identities = &[IdentityText { issuer, subject }];
    SignatureRequirement::parse("a policy", &[], Some(KeylessText { identities, trust_root })).expect("identity")
}

/// `None` when it counts.
fn refused(requirement: &SignatureRequirement, digest: &str, found: Found) -> Option<Refused> {
    judge(requirement, &[digest], &[found]).err().and_then(|mut why| why.pop_first())
}

fn changed(json: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut value: Value = serde_json::from_str(json).expect("JSON");
    change(&mut value);
    value.to_string()
}

#[test]
fn each_kind_of_key_in_both_formats() {
    for (name, key, json) in KEYS {
        let (right, wrong) = (by_keys(&[OTHER_KEY, key]), by_keys(&[OTHER_KEY]));
        for found in [bundle(json), simple(name, PAYLOAD)] {
            assert_eq!(refused(&right, DIGEST, found.clone()), None, "{name}");
            assert_eq!(refused(&wrong, DIGEST, found.clone()), Some(Refused::OtherSigner), "{name}");
            assert_eq!(refused(&right, OTHER_DIGEST, found), Some(Refused::OtherImage), "{name}");
        }
    }
}

#[test]
fn an_index_or_the_manifest_that_it_leads_to() {
    let (_, key, json) = KEYS[0];
    assert!(judge(&by_keys(&[key]), &[OTHER_DIGEST, DIGEST], &[bundle(json)]).is_ok());
    assert!(judge(&by_keys(&[key]), &[DIGEST, OTHER_DIGEST], &[simple("p256", PAYLOAD)]).is_ok());
}

#[test]
fn one_that_counts_among_others_is_enough() {
    let found = [Found::Unreadable, bundle(KEYS[1].2), bundle("{}"), bundle(KEYS[0].2)];
    assert!(judge(&by_keys(&[KEYS[0].1]), &[DIGEST], &found).is_ok());
    let why = judge(&by_keys(&[OTHER_KEY]), &[DIGEST], &found).expect_err("nobody");
    assert_eq!(why.into_iter().collect::<Vec<_>>(), [Refused::OtherSigner, Refused::Unreadable]);
    let nothing = judge(&by_keys(&[OTHER_KEY]), &[DIGEST], &[]).expect_err("nothing");
    assert!(nothing.is_empty());
}

#[test]
fn what_was_changed_after_it_was_signed() {
    let (_, key, json) = KEYS[0];
    let other = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{ "digest": { "sha256": OTHER_DIGEST.trim_start_matches("sha256:") } }],
            "predicateType": "https://sigstore.dev/cosign/sign/v1",
            "predicate": {},
        })
        .to_string(),
    );
    let forged = changed(json, |bundle| bundle["dsseEnvelope"]["payload"] = other.into());
    assert_eq!(refused(&by_keys(&[key]), OTHER_DIGEST, bundle(&forged)), Some(Refused::OtherSigner));
    let forged = PAYLOAD.replace(DIGEST, OTHER_DIGEST);
    assert_eq!(refused(&by_keys(&[key]), OTHER_DIGEST, simple("p256", &forged)), Some(Refused::OtherSigner));
}

#[test]
fn what_else_the_same_key_has_signed_is_no_signature() {
    let attestation = bundle(fixture!("bundle-attestation.json"));
    assert_eq!(refused(&by_keys(&[KEYS[0].1]), DIGEST, attestation), Some(Refused::OtherStatement));
}

#[test]
fn an_identity_in_both_formats() {
    for found in [bundle(fixture!("bundle-keyless.json")), simple("keyless", PAYLOAD)] {
        let verdict = |issuer, subject| refused(&keyless(issuer, subject, ROOT), DIGEST, found.clone());
        assert_eq!(verdict(ISSUER, SubjectText::Exact(SUBJECT)), None);
        assert_eq!(verdict(ISSUER, SubjectText::Pattern(r"[a-z]+@example\.com")), None);
        for (issuer, subject) in [
            (ISSUER, SubjectText::Exact("someone@example.com")),
            (ISSUER, SubjectText::Pattern("release@example")),
            (ISSUER, SubjectText::Pattern("a|elease@example.com")),
            ("https://accounts.example.org", SubjectText::Exact(SUBJECT)),
        ] {
            assert!(matches!(verdict(issuer, subject), Some(Refused::OtherIdentity(_))), "{issuer} {subject:?}");
        }
        let exact = keyless(ISSUER, SubjectText::Exact(SUBJECT), ROOT);
        assert_eq!(refused(&exact, OTHER_DIGEST, found.clone()), Some(Refused::OtherImage));
        // Who asks for a key is not served by a certificate.
        assert_eq!(refused(&by_keys(&[KEYS[0].1]), DIGEST, found.clone()), Some(Refused::OtherSigner));
    }
}

/// The authority, or the service that has said when, was no longer (or not yet) to be trusted when the signature was made.
#[test]
fn a_trust_root_that_had_expired() {
    let window = |field: &str, window: Value| changed(ROOT, |root| root[field][0]["validFor"] = window);
    let before = json!({ "start": "2020-01-01T00:00:00Z", "end": "2021-01-01T00:00:00Z" });
    let after = json!({ "start": "2090-01-01T00:00:00Z" });
    for root in [
        window("certificateAuthorities", before.clone()),
        window("certificateAuthorities", after.clone()),
        window("timestampAuthorities", before),
        window("timestampAuthorities", after),
        changed(ROOT, |root| root["timestampAuthorities"] = json!([])),
    ] {
        for found in [bundle(fixture!("bundle-keyless.json")), simple("keyless", PAYLOAD)] {
            let verdict = refused(&keyless(ISSUER, SubjectText::Exact(SUBJECT), &root), DIGEST, found);
            assert!(matches!(verdict, Some(Refused::Unproven(_))), "{verdict:?} {root}");
        }
    }
}

/// A trust root that has logs demands that they have the signature and its certificate.
#[test]
fn what_the_logs_of_a_trust_root_do_not_have() {
    let public: Value = serde_json::from_str(SIGSTORE_PRODUCTION_TRUSTED_ROOT).expect("root");
    for logs in ["tlogs", "ctlogs"] {
        let root = changed(ROOT, |root| root[logs] = public[logs].clone());
        for found in [bundle(fixture!("bundle-keyless.json")), simple("keyless", PAYLOAD)] {
            let verdict = refused(&keyless(ISSUER, SubjectText::Exact(SUBJECT), &root), DIGEST, found);
            assert!(matches!(verdict, Some(Refused::Unproven(_))), "{logs}: {verdict:?}");
        }
    }
}

#[test]
fn the_public_sigstore() {
    const WORKFLOW: &str = "https://github.com/trailofbits/rfc8785.py/.github/workflows/release.yml@refs/tags/v0.1.2";
    const GITHUB: &str = "https://token.actions.githubusercontent.com";
    let json = fixture!("bundle-public.json");
    let digest = "sha256:c4e92e9ecc828bef2aa7dba1de8ac983511f7532a0df11c770d39099a25cf201";
    let required = keyless(GITHUB, SubjectText::Exact(WORKFLOW), SIGSTORE_PRODUCTION_TRUSTED_ROOT);
    assert_eq!(refused(&required, digest, bundle(json)), None);
    assert_eq!(refused(&required, DIGEST, bundle(json)), Some(Refused::OtherImage));
    let other = keyless(GITHUB, SubjectText::Exact(SUBJECT), SIGSTORE_PRODUCTION_TRUSTED_ROOT);
    assert!(matches!(refused(&other, digest, bundle(json)), Some(Refused::OtherIdentity(_))));
    let unlogged = changed(json, |bundle| bundle["verificationMaterial"]["tlogEntries"] = json!([]));
    assert!(matches!(refused(&required, digest, bundle(&unlogged)), Some(Refused::Unproven(_))));
}

#[test]
fn garbage_is_refused_and_nothing_else() {
    let required = by_keys(&[KEYS[0].1]);
    for json in ["", "[]", "{}", "null", "\u{0}", r#"{"mediaType":"x"}"#, &"[".repeat(100_000)] {
        assert_eq!(refused(&required, DIGEST, bundle(json)), Some(Refused::Unreadable), "{json:.20}");
        assert_eq!(refused(&required, DIGEST, simple("p256", json)), Some(Refused::Unreadable), "{json:.20}");
    }
    let unsigned = SimpleSignature { payload: PAYLOAD.into(), annotations: BTreeMap::new() };
    assert_eq!(refused(&required, DIGEST, Found::Simple(unsigned)), Some(Refused::Unreadable));
}

#[test]
fn requirements_that_cannot_be_meant_so() {
    let parse = |keys: &[&str], identities: &[IdentityText<'_>], trust_root: &str| {
        let keyless = (!identities.is_empty()).then_some(KeylessText { identities, trust_root });
        SignatureRequirement::parse("a policy", keys, keyless).expect_err("not one").to_string()
    };
    let someone = |issuer, subject| [IdentityText { issuer, subject }];
    let good = KEYS[0].1;
    let two = format!("{good}{OTHER_KEY}");
    let private = "-----BEGIN PRIVATE KEY-----\nYWJjZA==\n-----END PRIVATE KEY-----\n";
    for (error, says) in [
        (parse(&[], &[], ""), "neither a key nor an identity"),
        (parse(&[good, "no PEM"], &[], ""), "keys[1]"),
        (parse(&[private], &[], ""), "keys[0]"),
        (parse(&[&two], &[], ""), "more than one"),
        (parse(&[], &someone(ISSUER, SubjectText::Exact(SUBJECT)), "{}"), "keyless.trustRoot"),
        (parse(&[], &someone(ISSUER, SubjectText::Exact(SUBJECT)), r#"{"mediaType":"x"}"#), "no certificate authority"),
        (parse(&[], &someone("", SubjectText::Exact(SUBJECT)), ROOT), "keyless.identities[0]"),
        (parse(&[], &someone(ISSUER, SubjectText::Exact("")), ROOT), "names no subject"),
        (parse(&[], &someone(ISSUER, SubjectText::Pattern("(")), ROOT), "subjectRegex"),
        (parse(&[], &someone(ISSUER, SubjectText::Pattern(r"(\w{500}){500}")), ROOT), "subjectRegex"),
    ] {
        assert!(error.contains(says), "{says}: {error}");
    }
    let nobody = KeylessText { identities: &[], trust_root: ROOT };
    let error = SignatureRequirement::parse("a policy", &[], Some(nobody)).expect_err("nobody");
    assert_eq!(error, RequirementError::Empty);
}

#[test]
fn requirements_are_the_same_when_their_texts_are() {
    let (one, other) = (by_keys(&[KEYS[0].1]), by_keys(&[KEYS[1].1]));
    assert_eq!(one, by_keys(&[KEYS[0].1]));
    assert_ne!(one, other);
    assert_ne!(by_keys(&[KEYS[0].1, KEYS[1].1]), one);
    let exact = keyless(ISSUER, SubjectText::Exact(SUBJECT), ROOT);
    assert_ne!(exact, keyless(ISSUER, SubjectText::Pattern(SUBJECT), ROOT));
    assert_ne!(exact.id(), keyless(SUBJECT, SubjectText::Exact(ISSUER), ROOT).id());
}
