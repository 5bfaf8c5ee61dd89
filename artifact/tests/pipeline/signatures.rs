//! Where signatures are looked for, and what becomes of a build without the right one. They are those that the real cosign
//! has made, see `tests/signatures/README.md`; the registry is one that serves what each test says.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use podless_artifact::{Grants, Rejection, SignatureRequirement, Wanted};
use serde_json::{Value, json};

use crate::{
    hostile::{digest, serve},
    support::{Fixture, wanted},
};

const MANIFEST: &[u8] = include_bytes!("../signatures/manifest.json");
const COMPONENT: &[u8] = b"component";
const BUNDLE: &[u8] = include_bytes!("../signatures/bundle-p256.json");
const PAYLOAD: &[u8] = include_bytes!("../signatures/simple-payload.json");
const ANNOTATIONS: &str = include_str!("../signatures/simple-annotations.json");
const KEY: &str = include_str!("../signatures/p256.pub");
const OTHER_KEY: &str = include_str!("../signatures/other.pub");
const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// What comes after the signature: the component of these tests is none.
const PASSED: &str = "NotWebAssembly";

/// What a registry has, by the end of its path.
#[derive(Clone)]
struct Content(HashMap<String, Vec<u8>>);

impl Content {
    /// An image, and nothing that signs it.
    fn unsigned() -> Self {
        Self(HashMap::new()).with("manifests/1", MANIFEST).blob(COMPONENT)
    }

    fn with(mut self, path: &str, body: &[u8]) -> Self {
        self.0.insert(path.to_owned(), body.to_owned());
        self
    }

    fn blob(self, body: &[u8]) -> Self {
        self.with(&format!("blobs/{}", digest(body)), body)
    }

    /// cosign's bundle, as a referrer in the list at this path.
    fn bundle(self, list: &str) -> Self {
        let manifest = json!({"schemaVersion": 2, "artifactType": BUNDLE_TYPE,
            "layers": [{"mediaType": BUNDLE_TYPE, "digest": digest(BUNDLE), "size": BUNDLE.len()}]});
        let manifest = manifest.to_string().into_bytes();
        let referrer = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": BUNDLE_TYPE,
            "digest": digest(&manifest), "size": manifest.len()});
        self.with(list, json!({"schemaVersion": 2, "manifests": [referrer]}).to_string().as_bytes())
            .with(&format!("manifests/{}", digest(&manifest)), &manifest)
            .blob(BUNDLE)
    }

    /// cosign's older format, for the image of this digest, so often.
    fn simple(self, of: &str, times: usize) -> Self {
        let annotations: Value = serde_json::from_str(ANNOTATIONS).expect("JSON");
        let layer = json!({"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": digest(PAYLOAD),
            "size": PAYLOAD.len(), "annotations": annotations["p256"]});
        let manifest = json!({"schemaVersion": 2, "layers": vec![layer; times]}).to_string();
        self.with(&format!("manifests/{}.sig", of.replace(':', "-")), manifest.as_bytes()).blob(PAYLOAD)
    }

    fn answer(&self, path: &str) -> Response {
        let found = self.0.iter().find(|(name, _)| path.ends_with(&format!("/{name}")));
        found.map_or(StatusCode::NOT_FOUND.into_response(), |(_, body)| body.clone().into_response())
    }

    async fn serve(self) -> String {
        serve(move |path, _, _| self.answer(path)).await
    }
}

fn required(key: &str) -> [SignatureRequirement; 1] {
    [SignatureRequirement::parse("WasmPolicy \"release\"", &[key], None).expect("a key")]
}

async fn outcome(fixture: &Fixture, host: &str, required: &[SignatureRequirement]) -> Rejection {
    let image = format!("{host}/hello:1");
    let wanted = Wanted { signatures: required, ..wanted(&image, Grants::default()) };
    fixture.pipeline.build(wanted, |_| ()).await.expect_err("a component that is none")
}

async fn reason(content: Content, key: &str) -> &'static str {
    let host = content.serve().await;
    outcome(&Fixture::new(&host), &host, &required(key)).await.reason()
}

#[tokio::test]
async fn a_signature_is_found_wherever_cosign_puts_it() {
    let of = digest(MANIFEST);
    let by_tag = Content::unsigned().bundle(&format!("manifests/{}", of.replace(':', "-")));
    let nothing = json!({"schemaVersion": 2, "manifests": []}).to_string();
    for content in [
        Content::unsigned().bundle(&format!("referrers/{of}")),
        // Older than the registry's API for referrers, or pushed through another registry.
        by_tag.clone().with(&format!("referrers/{of}"), nothing.as_bytes()),
        by_tag.clone().with(&format!("referrers/{of}"), &vec![b' '; 2 << 20]),
        by_tag,
        Content::unsigned().simple(&of, 1),
    ] {
        assert_eq!(reason(content.clone(), KEY).await, PASSED);
        assert_eq!(reason(content, OTHER_KEY).await, "SignatureInvalid");
    }
}

#[tokio::test]
async fn nothing_is_pulled_of_what_nobody_has_signed() {
    let pulled = Arc::new(AtomicBool::new(false));
    let host = serve({
        let pulled = pulled.clone();
        move |path, _, _| {
            pulled.fetch_or(path.contains("/blobs/"), Ordering::Relaxed);
            Content::unsigned().answer(path)
        }
    })
    .await;
    let fixture = Fixture::new(&host);
    let rejection = outcome(&fixture, &host, &required(KEY)).await;
    let sentence = rejection.to_string();
    assert_eq!(rejection.reason(), "SignatureMissing", "{sentence}");
    let what_to_do = format!("cosign sign --key … {host}/hello@{}", digest(MANIFEST));
    assert!(sentence.contains(&what_to_do) && sentence.contains("WasmPolicy \"release\""), "{sentence}");
    assert!(rejection.is_transient(), "it may yet be signed");
    assert!(!pulled.load(Ordering::Relaxed));
    assert_eq!(outcome(&fixture, &host, &[]).await.reason(), PASSED, "nobody requires a signature");
}

#[tokio::test]
async fn each_requirement_needs_one_of_its_own() {
    let host = Content::unsigned().simple(&digest(MANIFEST), 1).serve().await;
    let both = [required(KEY), required(OTHER_KEY)].concat();
    assert_eq!(outcome(&Fixture::new(&host), &host, &both).await.reason(), "SignatureInvalid");
}

#[tokio::test]
async fn the_signature_of_another_image_signs_nothing() {
    let other = [MANIFEST, b"\n"].concat();
    let content = Content::unsigned().with("manifests/1", &other).simple(&digest(&other), 1);
    let host = content.serve().await;
    let rejection = outcome(&Fixture::new(&host), &host, &required(KEY)).await;
    assert_eq!(rejection.reason(), "SignatureInvalid");
    assert!(rejection.to_string().contains("of another image"), "{rejection}");
}

#[tokio::test]
async fn an_index_may_lead_to_what_is_signed() {
    let of = digest(MANIFEST);
    let entry = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": of, "size": MANIFEST.len(),
        "platform": {"architecture": "wasm", "os": "wasip2"}});
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry]});
    let content = Content::unsigned().with("manifests/1", index.to_string().as_bytes());
    let content = content.with(&format!("manifests/{of}"), MANIFEST);
    assert_eq!(reason(content.clone(), KEY).await, "SignatureMissing");
    assert_eq!(reason(content.simple(&of, 1), KEY).await, PASSED);
}

#[tokio::test]
async fn a_registry_that_does_not_tell_is_asked_again() {
    let host = serve(|path, _, _| match path {
        path if path.contains(".sig") => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        path => Content::unsigned().answer(path),
    })
    .await;
    let rejection = outcome(&Fixture::new(&host), &host, &required(KEY)).await;
    assert_eq!(rejection.reason(), "RegistryUnreachable", "{rejection}");
    assert!(rejection.is_transient());
}

#[tokio::test]
async fn of_a_thousand_signatures_a_few_are_looked_at() {
    let asked = Arc::new(AtomicUsize::new(0));
    let content = Content::unsigned().simple(&digest(MANIFEST), 1000);
    let host = serve({
        let asked = asked.clone();
        move |path, _, _| {
            asked.fetch_add(1, Ordering::Relaxed);
            content.answer(path)
        }
    })
    .await;
    assert_eq!(outcome(&Fixture::new(&host), &host, &required(OTHER_KEY)).await.reason(), "SignatureInvalid");
    let asked = asked.load(Ordering::Relaxed);
    assert!(asked < 50, "{asked} requests");
}

#[tokio::test]
async fn what_was_verified_is_remembered_for_whom_it_was() {
    let (gone, content) = (Arc::new(AtomicBool::new(false)), Content::unsigned().simple(&digest(MANIFEST), 1));
    let host = serve({
        let gone = gone.clone();
        move |path, _, _| match gone.load(Ordering::Relaxed) {
            true => Content::unsigned().answer(path),
            false => content.answer(path),
        }
    })
    .await;
    let fixture = Fixture::new(&host);
    assert_eq!(outcome(&fixture, &host, &required(KEY)).await.reason(), PASSED);
    gone.store(true, Ordering::Relaxed);
    assert_eq!(outcome(&fixture, &host, &required(KEY)).await.reason(), PASSED);
    assert_eq!(outcome(&fixture, &host, &required(OTHER_KEY)).await.reason(), "SignatureMissing");
}
