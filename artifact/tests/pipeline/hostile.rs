//! Registries that mean ill, or that want a login: a few routes of the protocol, answered as each test says.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use podless_artifact::{Grants, Login, Rejection, SealedArtifact, Wanted, push};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::support::{Fixture, Registry, guest, wanted};

/// Serves this handler on a port of its own until the test ends.
pub(crate) async fn serve(answer: impl Fn(&str, &HeaderMap, SocketAddr) -> Response + Send + Sync + 'static) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let answer = Arc::new(answer);
    let app = Router::new().fallback(move |request: Request| {
        let answer = answer.clone();
        async move { answer(request.uri().path(), request.headers(), address) }
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    address.to_string()
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

pub(crate) fn manifest(layer: &[u8]) -> Vec<u8> {
    manifest_of(&digest(layer), layer.len() as u64)
}

pub(crate) fn manifest_of(digest: &str, size: u64) -> Vec<u8> {
    let layer = json!({"mediaType": "application/wasm", "digest": digest, "size": size,
        "urls": ["http://127.0.0.1:1/elsewhere"]});
    json!({"schemaVersion": 2, "layers": [layer]}).to_string().into_bytes()
}

fn endless() -> Response {
    let chunks = futures::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from(vec![b' '; 64 << 10])));
    Body::from_stream(chunks).into_response()
}

fn not_found() -> Response {
    StatusCode::NOT_FOUND.into_response()
}

#[tokio::test]
async fn answers_without_an_end_are_cut_off() {
    let manifests = serve(|_, _, _| endless()).await;
    let (reason, message) = Fixture::new(&manifests).refusal(&format!("{manifests}/a:1")).await;
    assert_eq!(reason, "RegistryUnreachable", "{message}");
    assert!(message.contains("longer than"), "{message}");

    let blobs = serve(|path, _, _| if path.contains("manifests") { manifest(b"x").into_response() } else { endless() });
    let blobs = blobs.await;
    assert_eq!(Fixture::new(&blobs).refusal(&format!("{blobs}/a:1")).await.0, "DigestMismatch");
}

#[tokio::test]
async fn other_bytes_than_promised_are_refused() {
    let host = serve(|path, _, _| match path {
        path if path.contains("manifests") => manifest(b"what was promised").into_response(),
        _ => b"what is delivered".into_response(),
    })
    .await;
    let fixture = Fixture::new(&host);
    assert_eq!(fixture.refusal(&format!("{host}/a:1")).await.0, "DigestMismatch");
    let by_digest = format!("{host}/a@{}", digest(b"another manifest"));
    assert_eq!(fixture.refusal(&by_digest).await.0, "DigestMismatch");
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_it_is_pulled() {
    for (body, reason) in [
        (b"no json".to_vec(), "UnsupportedLayer"),
        (b"{}".to_vec(), "UnsupportedLayer"),
        (manifest_of("sha256:../../../etc/passwd", 1), "UnsupportedLayer"),
        (manifest_of(&digest(b"x"), 1 << 40), "TooLarge"),
        (json!({"manifests": []}).to_string().into_bytes(), "UnsupportedLayer"),
        // An index that leads to itself is no manifest.
        (
            json!({"manifests": [{"mediaType": "m", "digest": "latest", "size": 1}]}).to_string().into_bytes(),
            "UnsupportedLayer",
        ),
    ] {
        let text = String::from_utf8_lossy(&body).into_owned();
        let host = serve(move |path, _, _| {
            assert!(path.contains("/manifests/"), "{path} was asked for");
            body.clone().into_response()
        })
        .await;
        let (got, message) = Fixture::new(&host).refusal(&format!("{host}/a:latest")).await;
        assert_eq!(got, reason, "{text}: {message}");
    }
}

#[tokio::test]
async fn naming_a_digest_is_not_having_the_component() {
    let registry = Registry::start();
    let image = registry.image("private:1");
    let component = guest("hello");
    push(component.clone(), &image, None, true).await.expect("pushed");

    let (layer, there) = (manifest(&component), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let shown = there.clone();
    let thief = serve(move |path, _, _| match path {
        path if path.contains("manifests") => layer.clone().into_response(),
        _ if shown.load(std::sync::atomic::Ordering::SeqCst) => component.clone().into_response(),
        _ => not_found(),
    })
    .await;
    let fixture = Fixture::with(&registry.host, |options| options.registry.plain_http.push(thief.clone()));
    fixture.build(&image).await.expect("an artifact");
    let stolen = format!("{thief}/mine:1");
    assert_eq!(fixture.refusal(&stolen).await.0, "ImageNotFound", "the cache knows it, and does not tell");

    there.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(fixture.build(&stolen).await.expect("an artifact").cache_hit(), "shown, it need not be compiled again");
}

async fn build_as(fixture: &Fixture, image: &str, logins: &[Login]) -> Result<SealedArtifact, Rejection> {
    let wanted = Wanted { logins, ..wanted(image, Grants::default()) };
    fixture.pipeline.build(wanted, |_| ()).await
}

fn login(registry: &str, password: &str) -> Vec<Login> {
    vec![Login { registry: registry.to_owned(), username: "user".to_owned(), password: password.to_owned() }]
}

/// Wants `Authorization` to be one of these, and says so with a challenge.
fn guarded(path: &str, headers: &HeaderMap, wanted: &str, challenge: &str, component: &[u8]) -> Response {
    if headers.get(header::AUTHORIZATION).is_none_or(|value| value != wanted) {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response();
    }
    match path {
        path if path.contains("manifests") => manifest(component).into_response(),
        _ => component.to_vec().into_response(),
    }
}

#[tokio::test]
async fn logins_are_used_where_they_belong_and_never_told() {
    let component = guest("hello");
    let basic = {
        let component = component.clone();
        // user:right
        serve(move |path, headers, _| guarded(path, headers, "Basic dXNlcjpyaWdodA==", "Basic realm=\"r\"", &component))
            .await
    };
    let bearer = serve(move |path, headers, own| {
        if path == "/token" {
            let known = headers.get(header::AUTHORIZATION).is_some_and(|value| value == "Basic dXNlcjpyaWdodA==");
            return if known {
                json!({"token": "t0k"}).to_string().into_response()
            } else {
                StatusCode::FORBIDDEN.into_response()
            };
        }
        let challenge = format!("Bearer realm=\"http://{own}/token\",service=\"s\"");
        guarded(path, headers, "Bearer t0k", &challenge, &component)
    })
    .await;
    for host in [&basic, &bearer] {
        let fixture = Fixture::new(host);
        let image = format!("{host}/a:1");
        build_as(&fixture, &image, &login(host, "right")).await.expect("an artifact");
        for (logins, says) in [
            (vec![], "who has not logged in: name a secret"),
            (login(host, "wrong-secret"), "check the credentials"),
            (
                login("elsewhere.local", "right"),
                "are for other registries: name a secret with credentials for 127.0.0.1:",
            ),
        ] {
            let rejection = build_as(&fixture, &image, &logins).await.expect_err("refused");
            assert_eq!(rejection.reason(), "Unauthorized");
            let (message, debug) = (rejection.to_string(), format!("{rejection:?} {logins:?}"));
            assert!(message.contains(says), "{message}");
            assert!(!message.contains("wrong-secret") && !debug.contains("wrong-secret"), "{debug}");
        }
    }
}

#[tokio::test]
async fn a_login_is_not_carried_elsewhere() {
    // Whoever is redirected to sees no credentials.
    let elsewhere = serve(|_, headers, _| {
        if headers.contains_key(header::AUTHORIZATION) { StatusCode::IM_A_TEAPOT } else { StatusCode::BAD_GATEWAY }
            .into_response()
    })
    .await;
    let there = format!("localhost:{}", elsewhere.rsplit_once(':').expect("a port").1);
    let target = format!("http://{there}/stolen");
    let host = serve(move |_, headers, _| match headers.get(header::AUTHORIZATION) {
        None => (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"r\"")]).into_response(),
        Some(_) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, target.clone())]).into_response(),
    })
    .await;
    let fixture = Fixture::with(&host, |options| options.registry.plain_http.push(there));
    let image = format!("{host}/a:1");
    let rejection = build_as(&fixture, &image, &login(&host, "right")).await.expect_err("refused");
    assert!(rejection.to_string().contains("502"), "{rejection}");

    // A token service that is not reached by https is not asked.
    let host = serve(|_, _, own| {
        let challenge = format!("Bearer realm=\"ftp://{own}/token\"");
        (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response()
    })
    .await;
    let (reason, message) = Fixture::new(&host).refusal(&format!("{host}/a:1")).await;
    assert_eq!(reason, "RegistryUnreachable");
    assert!(message.contains("https"), "{message}");
}
