//! Manifests, as a registry answers with them. They go the whole way: a registry on loopback sends them to a pipeline.

use std::sync::{Arc, LazyLock, Mutex};

use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use podless_artifact::{ChildProgram, Grants, Options, Pipeline, Wanted, seal::SealKey};
use podless_engine::Recipe;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// A registry that answers with the manifest of the moment, and a pipeline that asks it.
struct Rig {
    runtime: Runtime,
    pipeline: Pipeline,
    image: String,
    manifest: Arc<Mutex<Vec<u8>>>,
    asked: Arc<Mutex<Vec<String>>>,
    _cache: tempfile::TempDir,
}

static RIG: LazyLock<Mutex<Rig>> = LazyLock::new(|| {
    let runtime = Runtime::new().expect("a runtime");
    let (manifest, asked) = (Arc::new(Mutex::new(vec![])), Arc::new(Mutex::new(vec![])));
    let (sent, heard) = (manifest.clone(), asked.clone());
    let answer = move |request: Request| {
        let path = request.uri().path().to_owned();
        let answer: Response = match path.contains("/manifests/") {
            true => sent.lock().expect("a lock").clone().into_response(),
            false => StatusCode::NOT_FOUND.into_response(),
        };
        heard.lock().expect("a lock").push(path);
        async { answer }
    };
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let host = listener.local_addr().expect("an address").to_string();
    runtime.spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    let cache = tempfile::tempdir().expect("a folder");
    let mut options = Options::new(cache.path(), ChildProgram { path: "/bin/false".into(), arguments: vec![] });
    options.registry.plain_http = vec![host.clone()];
    let key = Arc::new(SealKey::from_random([5; 32]));
    let pipeline = runtime.block_on(async { Pipeline::new(options, key) }).expect("a pipeline");
    Mutex::new(Rig { runtime, pipeline, image: format!("{host}/a:1"), manifest, asked, _cache: cache })
});

fn is_sha256(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.strip_prefix("sha256:").is_some_and(|digits| digits.len() == 64 && digits.bytes().all(hex))
}

/// What must be true of any manifest: it is refused in a sentence, and only what has a digest's form is asked for.
fn check(manifest: &[u8]) {
    let rig = RIG.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    manifest.clone_into(&mut rig.manifest.lock().expect("a lock"));
    rig.asked.lock().expect("a lock").clear();
    let building = rig.pipeline.build(wanted(&rig.image), |_| ());
    let rejection = rig.runtime.block_on(building).expect_err("there is no component");
    let (reason, message) = (rejection.reason(), rejection.to_string());
    let asked = rig.asked.lock().expect("a lock").clone();
    let names: Vec<_> = asked.iter().filter_map(|path| path.strip_prefix("/v2/a/")).collect();
    assert_eq!(names.len(), asked.len(), "{asked:?}");
    assert_eq!(names.first(), Some(&"manifests/1"));
    assert!(names.len() <= 3, "{names:?}");
    let (mut manifests, mut blobs) = (0, 0);
    for name in &names[1..] {
        let (kind, digest) = name.split_once('/').expect("a kind");
        assert!(is_sha256(digest), "{name}");
        *(if kind == "blobs" { &mut blobs } else { &mut manifests }) += 1;
    }
    assert!(manifests <= 1 && blobs <= 1, "{names:?}");
    let expected = match (manifests, blobs) {
        (_, 1) => &["ImageNotFound"][..],
        (1, _) => &["DigestMismatch"],
        _ => &["UnsupportedLayer", "PrecompiledLayer", "TooLarge", "RegistryUnreachable"],
    };
    assert!(expected.contains(&reason), "{reason}: {message}");
    assert!(message.len() < 8000 && !message.contains(char::is_control), "{message:?}");
}

fn wanted(image: &str) -> Wanted<'_> {
    Wanted {
        tenant: "",
        image,
        pinned: None,
        grants: Grants::default(),
        recipe: Recipe::default(),
        logins: &[],
        default_logins: &[],
        signatures: &[],
        revoked: &[],
    }
}

#[test]
fn fuzz_of_the_corpus() {
    include_str!("corpus/manifests.jsonl").lines().for_each(|line| check(line.as_bytes()));
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("application/wasm".to_owned()),
        Just("application/vnd.wasm.content.layer.v1+wasm".to_owned()),
        Just("application/vnd.oci.image.manifest.v1+json".to_owned()),
        Just("wasm".to_owned()),
        any::<String>(),
    ]
}

fn digest() -> impl Strategy<Value = String> {
    prop_oneof!["[0-9a-f]{64}".prop_map(|hex| format!("sha256:{hex}")), "sha256:[0-9a-fA-F./%]{0,70}", any::<String>(),]
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0u64..100_000_000).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ]
}

fn descriptor() -> impl Strategy<Value = Value> {
    (text(), digest(), number(), proptest::option::of(text())).prop_map(|(media_type, digest, size, architecture)| {
        let mut descriptor = json!({"mediaType": media_type, "digest": digest, "size": size});
        if let Some(architecture) = architecture {
            descriptor["platform"] = json!({"architecture": architecture});
            descriptor["annotations"] = json!({"org.opencontainers.image.title": architecture});
            descriptor["urls"] = json!([architecture]);
        }
        descriptor
    })
}

fn manifest() -> impl Strategy<Value = String> {
    let list = || proptest::option::of(proptest::collection::vec(descriptor(), 0..4));
    (list(), list(), text()).prop_map(|(layers, manifests, media_type)| {
        let mut manifest = json!({"schemaVersion": 2, "mediaType": media_type});
        layers.into_iter().for_each(|layers| manifest["layers"] = layers.into());
        manifests.into_iter().for_each(|manifests| manifest["manifests"] = manifests.into());
        manifest.to_string()
    })
}

proptest! {
    #[test]
    fn fuzz_of_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        check(&bytes);
    }

    #[test]
    fn fuzz_of_what_looks_like_one(manifest in manifest()) {
        check(manifest.as_bytes());
    }

    #[test]
    fn fuzz_of_one_that_was_changed(manifest in manifest(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let mut bytes = manifest.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = with;
        check(&bytes);
    }
}
