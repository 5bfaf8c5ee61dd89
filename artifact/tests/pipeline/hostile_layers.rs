//! Manifests and layers that are made to be a trap: too many, in a circle, with a way out of the folder, packed, torn, or
//! dripping. Each is refused with a reason, or what is bad in it has no effect, and nothing is left behind.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    response::IntoResponse,
};
use podless_artifact::push;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    hostile::{digest, manifest, manifest_of, serve},
    support::{Fixture, Registry, guest},
};

/// An image that a registry answers for with this manifest, whatever is asked for; how often it was asked.
async fn with_manifest(manifest: Value) -> (String, Arc<AtomicUsize>) {
    let (body, asked) = (manifest.to_string(), Arc::new(AtomicUsize::new(0)));
    let counted = asked.clone();
    let host = serve(move |path, _, _| {
        counted.fetch_add(1, SeqCst);
        assert!(path.contains("/manifests/"), "{path} was asked for");
        body.clone().into_response()
    })
    .await;
    (host, asked)
}

#[tokio::test]
async fn ten_thousand_layers_are_too_many() {
    let short = json!({"mediaType": "application/wasm", "digest": "d", "size": 1});
    let whole = json!({"mediaType": "application/wasm", "digest": digest(b"x"), "size": 1});
    for (layer, reason, says) in
        [(short, "UnsupportedLayer", "10000 layers"), (whole, "RegistryUnreachable", "longer than")]
    {
        let (host, asked) = with_manifest(json!({"schemaVersion": 2, "layers": vec![layer; 10_000]})).await;
        let (got, message) = Fixture::new(&host).refusal(&format!("{host}/a:1")).await;
        assert_eq!(got, reason, "{message}");
        assert!(message.contains(says) && message.len() < 1000, "{message}");
        assert_eq!(asked.load(SeqCst), 1, "it is not asked again at once");
    }
}

/// A digest cannot lead back to itself, so a circle is a chain that its registry makes longer each time it is asked.
#[tokio::test]
async fn indexes_in_a_circle_are_not_followed() {
    let inner = json!({"manifests": [{"mediaType": "m", "digest": digest(b"next"), "size": 1}]}).to_string();
    let outer = json!({"manifests": [{"mediaType": "m", "digest": digest(inner.as_bytes()), "size": 1}]}).to_string();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let host = serve(move |path, _, _| {
        counted.fetch_add(1, SeqCst);
        if path.ends_with("/latest") { outer.clone() } else { inner.clone() }.into_response()
    })
    .await;
    let (reason, message) = Fixture::new(&host).refusal(&format!("{host}/a:latest")).await;
    assert_eq!(reason, "UnsupportedLayer", "{message}");
    assert_eq!(asked.load(SeqCst), 2, "an index, and what it names");
}

fn all_files(folder: &Path) -> BTreeSet<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { all_files(&path) } else { [path].into() }).collect()
}

#[tokio::test]
async fn a_title_names_no_file() {
    let (component, outside) = (guest("hello"), tempfile::tempdir().expect("a folder"));
    let title = format!("../../../../../..{}/escaped", outside.path().display());
    let mut with_title: Value = serde_json::from_slice(&manifest(&component)).expect("JSON");
    with_title["layers"][0]["annotations"] = json!({"org.opencontainers.image.title": title});
    let with_title = with_title.to_string();
    let host = serve(move |path, _, _| match path {
        path if path.contains("manifests") => with_title.clone().into_response(),
        _ => component.clone().into_response(),
    })
    .await;
    let fixture = Fixture::new(&host);
    fixture.build(&format!("{host}/a:1")).await.expect("an artifact");
    assert_eq!(all_files(outside.path()), BTreeSet::new());
    let titled = |path: &Path| path.display().to_string().contains("escaped");
    assert!(!all_files(fixture.cache.path()).iter().any(|path| titled(path)));
}

/// What `gzip` makes of anything, as far as one looks.
const GZIP: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x4b\x4c\x4a\x06\0\xc2\x41\x24\x35\x03\0\0\0";

#[tokio::test]
async fn what_is_packed_is_told_so() {
    let registry = Registry::start();
    let image = registry.push(&[(GZIP, "application/wasm")], "packed:1").await;
    let (reason, message) = Fixture::new(&registry.host).refusal(&image).await;
    assert_eq!(reason, "NotWebAssembly", "{message}");
    assert!(message.contains("gzip"), "{message}");
}

#[tokio::test]
async fn more_and_fewer_bytes_than_promised_are_refused() {
    let component = guest("hello");
    let size = component.len() as u64;
    for promised in [size - 1, size + 1, 0] {
        let (component, named) = (component.clone(), digest(&component));
        let host = serve(move |path, _, _| match path {
            path if path.contains("manifests") => manifest_of(&named, promised).into_response(),
            _ => component.clone().into_response(),
        })
        .await;
        let (reason, message) = Fixture::new(&host).refusal(&format!("{host}/a:1")).await;
        assert_eq!(reason, "DigestMismatch", "{promised} were promised: {message}");
    }
}

/// Bytes that come one by one, never so slowly that silence would end it. The clock is the test's: it jumps to the next
/// timer whenever everybody waits.
#[tokio::test(start_paused = true)]
async fn a_blob_that_drips_is_given_up() {
    let promised = 1 << 20;
    let host = serve(move |path, _, _| {
        if path.contains("manifests") {
            return manifest_of(&digest(b"x"), promised).into_response();
        }
        let drips = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            Some((Ok::<_, Infallible>(Bytes::from_static(b"x")), ()))
        });
        Body::from_stream(drips).into_response()
    })
    .await;
    let (fixture, started) = (Fixture::new(&host), Instant::now());
    let (reason, message) = fixture.refusal(&format!("{host}/a:1")).await;
    assert_eq!(reason, "RegistryUnreachable", "{message}");
    assert!(message.contains("did not arrive within"), "{message}");
    assert!(started.elapsed() < Duration::from_secs(3600), "{:?}", started.elapsed());
}

/// Who is refused changes nothing for whoever is served from the same cache.
#[tokio::test]
async fn a_refusal_leaves_the_cache_as_it_is() {
    let registry = Registry::start();
    let image = registry.image("good:1");
    push(guest("hello"), &image, None, true).await.expect("pushed");
    let packed = registry.push(&[(GZIP, "application/wasm")], "packed:1").await;
    let fixture = Fixture::new(&registry.host);
    fixture.build(&image).await.expect("an artifact");
    let before = all_files(fixture.cache.path());
    fixture.refusal(&packed).await;
    assert_eq!(all_files(fixture.cache.path()), before);
    assert!(fixture.build(&image).await.expect("an artifact").cache_hit());
}
