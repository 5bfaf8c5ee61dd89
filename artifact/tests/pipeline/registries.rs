//! Registries as they are: several logins, proxies, redirects, too many requests, and connections that break.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures::StreamExt;
use podless_artifact::{Grants, Login, Proxies, Rejection, SealedArtifact, Wanted};
use serde_json::json;

use crate::{
    hostile::{manifest, serve},
    support::{Fixture, guest, wanted},
};

/// Answers as a registry with this component does.
pub(crate) fn has(path: &str, component: &[u8]) -> Response {
    if path.contains("/manifests/") { manifest(component).into_response() } else { component.to_vec().into_response() }
}

/// A registry with the component, and the requests that it got: their paths, and who asked.
pub(crate) async fn open(component: Vec<u8>) -> (String, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(vec![]));
    let paths = asked.clone();
    let host = serve(move |path, _, _| {
        paths.lock().expect("no panic").push(path.to_owned());
        has(path, &component)
    });
    (host.await, asked)
}

pub(crate) fn login(registry: &str, password: &str) -> Login {
    Login { registry: registry.to_owned(), username: "user".to_owned(), password: password.to_owned() }
}

pub(crate) fn basic(password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("user:{password}")))
}

pub(crate) fn shows(headers: &HeaderMap, value: &str) -> bool {
    headers.get(header::AUTHORIZATION).is_some_and(|shown| shown == value)
}

pub(crate) fn challenge(text: &str) -> Response {
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, text)]).into_response()
}

pub(crate) async fn build(
    fixture: &Fixture,
    image: &str,
    logins: &[Login],
    default_logins: &[Login],
) -> Result<SealedArtifact, Rejection> {
    let wanted = Wanted { logins, default_logins, ..wanted(image, Grants::default()) };
    fixture.pipeline.build(wanted, |_| ()).await
}

#[tokio::test]
async fn logins_are_tried_one_after_another() {
    let component = guest("hello");
    let shown = Arc::new(Mutex::new(vec![]));
    let host = {
        let (component, shown) = (component.clone(), shown.clone());
        serve(move |path, headers, _| {
            if path.contains("/hidden/") && shows(headers, &basic("other")) {
                return StatusCode::NOT_FOUND.into_response();
            }
            if shows(headers, &basic("right")) {
                return has(path, &component);
            }
            let value = headers.get(header::AUTHORIZATION).map(|value| value.to_str().expect("text").to_owned());
            shown.lock().expect("no panic").extend(value);
            challenge("Basic realm=\"r\"")
        })
        .await
    };
    let fixture = Fixture::new(&host);
    let image = format!("{host}/team/a:1");
    let part = |path: &str, password: &str| login(&format!("{host}/{path}"), password);
    for (own, defaults, before) in [
        (vec![part("team/a", "old"), part("team", "right"), login(&host, "never")], vec![], vec!["old"]),
        (vec![part("other", "never"), login(&host, "old")], vec![login(&host, "right")], vec!["old"]),
        (vec![], vec![login("elsewhere.example", "never"), login(&host, "right")], vec![]),
    ] {
        shown.lock().expect("no panic").clear();
        build(&fixture, &image, &own, &defaults).await.expect("an artifact");
        let want: Vec<_> = before.into_iter().map(basic).collect();
        assert_eq!(*shown.lock().expect("no panic"), want);
    }
    let hidden = format!("{host}/hidden/a:1");
    build(&fixture, &hidden, &[login(&host, "other"), login(&host, "right")], &[]).await.expect("not hidden from all");
    for (own, defaults, says) in [
        (vec![login(&host, "old")], vec![], "check the credentials"),
        (vec![login("elsewhere.example", "old")], vec![], "are for other registries"),
        (vec![], vec![login(&host, "old")], "to the operator's own user: name a secret"),
        (vec![], vec![login("elsewhere.example", "old")], "to who has not logged in: name a secret"),
    ] {
        let rejection = build(&fixture, &image, &own, &defaults).await.expect_err("refused");
        assert_eq!(rejection.reason(), "Unauthorized");
        assert!(rejection.to_string().contains(says), "{rejection}");
    }
}

#[tokio::test]
async fn a_login_out_of_date_does_not_hide_what_is_public() {
    let component = guest("hello");
    let host = serve(move |path, headers, own| match path {
        "/token" if headers.contains_key(header::AUTHORIZATION) => StatusCode::UNAUTHORIZED.into_response(),
        "/token" => json!({"access_token": "for-all"}).to_string().into_response(),
        _ if shows(headers, "Bearer for-all") => has(path, &component),
        _ => challenge(&format!("Bearer realm=\"http://{own}/token\"")),
    })
    .await;
    let fixture = Fixture::new(&host);
    build(&fixture, &format!("{host}/a:1"), &[login(&host, "old")], &[]).await.expect("an artifact");
}

#[tokio::test]
async fn nobody_is_sent_to_where_no_registry_is() {
    for target in ["https://169.254.169.254/latest/meta-data", "https://localhost:9/", "https://10.0.0.1/"] {
        let redirects = serve(move |_, _, _| (StatusCode::FOUND, [(header::LOCATION, target)]).into_response());
        let tokens = serve(move |_, _, _| challenge(&format!("Bearer realm=\"{target}\"")));
        for host in [redirects.await, tokens.await] {
            let (reason, message) = Fixture::new(&host).refusal(&format!("{host}/a:1")).await;
            assert_eq!(reason, "RegistryUnreachable", "{message}");
            assert!(message.contains("registries.allowedHosts") && message.contains("it sends to"), "{message}");
        }
    }
    let (elsewhere, asked) = open(guest("hello")).await;
    let plain = serve(move |_, _, _| {
        (StatusCode::FOUND, [(header::LOCATION, format!("http://{elsewhere}/v2/a"))]).into_response()
    });
    let plain = plain.await;
    let (reason, message) = Fixture::new(&plain).refusal(&format!("{plain}/a:1")).await;
    assert_eq!(reason, "RegistryUnreachable", "{message}");
    assert!(message.contains("TLS") && asked.lock().expect("no panic").is_empty(), "{message}");
    let circle = serve(|path, _, _| (StatusCode::FOUND, [(header::LOCATION, path.to_owned())]).into_response()).await;
    let (_, message) = Fixture::new(&circle).refusal(&format!("{circle}/a:1")).await;
    assert!(message.contains("without an end"), "{message}");
}

#[tokio::test]
async fn who_is_sent_to_does_not_say_where_to_log_in() {
    let shown = Arc::new(Mutex::new(vec![]));
    let elsewhere = {
        let shown = shown.clone();
        serve(move |_, headers, own| {
            shown.lock().expect("no panic").extend(headers.get(header::AUTHORIZATION).cloned());
            challenge(&format!("Bearer realm=\"http://{own}/token\""))
        })
        .await
    };
    for closed in [false, true] {
        let target = format!("http://{elsewhere}/a");
        let host = serve(move |_, headers, _| match closed && !shows(headers, &basic("secret")) {
            true => challenge("Basic realm=\"r\""),
            false => (StatusCode::FOUND, [(header::LOCATION, target.clone())]).into_response(),
        })
        .await;
        let fixture = Fixture::with(&host, |options| options.registry.plain_http.push(elsewhere.clone()));
        let logins = [login(&host, "secret")];
        let rejection = build(&fixture, &format!("{host}/a:1"), &logins, &[]).await.expect_err("refused");
        assert_eq!(rejection.reason(), "RegistryUnreachable", "{rejection}");
        assert!(rejection.to_string().contains("401"), "{rejection}");
    }
    assert!(shown.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn a_registry_on_this_machine_must_be_listed() {
    for host in ["127.0.0.1:9", "localhost:9", "169.254.169.254"] {
        let image = format!("{host}/a:1");
        let (reason, message) = Fixture::new("elsewhere.example").refusal(&image).await;
        assert_eq!(reason, "RegistryUnreachable", "{message}");
        assert!(message.contains("registries.allowedHosts"), "{message}");
    }
    let listed = Fixture::with("elsewhere.example", |options| options.registry.allowed_hosts.push("localhost".into()));
    let (_, message) = listed.refusal("localhost:9/a:1").await;
    assert!(message.contains("onnection refused"), "asked, but nobody is there: {message}");
}

#[tokio::test]
async fn who_asks_for_time_is_given_it() {
    let component = guest("hello");
    for status in [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE] {
        let (busy, component) = (AtomicUsize::new(1), component.clone());
        let host = serve(move |path, _, _| match busy.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => (status, [(header::RETRY_AFTER, "1")]).into_response(),
            Err(_) => has(path, &component),
        })
        .await;
        let started = Instant::now();
        Fixture::new(&host).build(&format!("{host}/a:1")).await.expect("an artifact");
        assert!(started.elapsed() >= Duration::from_secs(1), "{status}: asked again at once");
    }
    let host = serve(|_, _, _| (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "600")]).into_response()).await;
    let started = Instant::now();
    let rejection = Fixture::new(&host).build(&format!("{host}/a:1")).await.expect_err("busy");
    assert!(started.elapsed() < Duration::from_secs(5), "what takes long is not waited for");
    assert_eq!((rejection.reason(), rejection.retry_after()), ("RegistryUnreachable", Some(Duration::from_secs(600))));
    assert!(rejection.is_transient() && rejection.to_string().contains("429"), "{rejection}");
}

/// The first bytes of what is announced as the whole, and then the connection breaks.
pub(crate) fn torn(whole: &[u8], most: usize) -> Response {
    let first = Bytes::copy_from_slice(&whole[..most.min(whole.len())]);
    let breaks = async {
        // What stands before it goes out first.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("torn"))
    };
    let parts = futures::stream::iter([Ok(first)]).chain(futures::stream::once(breaks));
    (StatusCode::OK, [(header::CONTENT_LENGTH, whole.len())], Body::from_stream(parts)).into_response()
}

#[tokio::test]
async fn what_breaks_off_is_gone_on_with() {
    let component = guest("hello");
    let half = component.len() / 2;
    let ranges = Arc::new(Mutex::new(vec![]));
    let resumable = {
        let (component, ranges) = (component.clone(), ranges.clone());
        serve(move |path, headers, _| {
            if path.contains("/manifests/") {
                return manifest(&component).into_response();
            }
            let Some(range) = headers.get(header::RANGE) else { return torn(&component, half) };
            let range = range.to_str().expect("text").to_owned();
            let from: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().expect("a number");
            ranges.lock().expect("no panic").push(from);
            let said = format!("bytes {from}-{}/{}", component.len() - 1, component.len());
            (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, said)], component[from..].to_vec()).into_response()
        })
        .await
    };
    Fixture::new(&resumable).build(&format!("{resumable}/a:1")).await.expect("an artifact");
    let ranges = ranges.lock().expect("no panic").clone();
    assert!(matches!(ranges[..], [from] if from > 0 && from <= half), "{ranges:?}");

    let again = {
        let (component, asked) = (component.clone(), AtomicUsize::new(0));
        serve(move |path, _, _| match asked.fetch_add(1, SeqCst) {
            1 => torn(&component, half),
            _ => has(path, &component),
        })
        .await
    };
    Fixture::new(&again).build(&format!("{again}/a:1")).await.expect("an artifact, begun again");

    let asked = Arc::new(AtomicUsize::new(0));
    let never = {
        let asked = asked.clone();
        serve(move |path, _, _| {
            if path.contains("/manifests/") {
                return manifest(&component).into_response();
            }
            asked.fetch_add(1, SeqCst);
            torn(&component, half)
        })
        .await
    };
    let (reason, message) = Fixture::new(&never).refusal(&format!("{never}/a:1")).await;
    assert_eq!(reason, "RegistryUnreachable", "{message}");
    assert_eq!(asked.load(SeqCst), 2, "begun again once");
}

#[tokio::test]
async fn another_part_than_was_asked_for_is_refused() {
    let component = guest("hello");
    let host = serve(move |path, headers, _| {
        if path.contains("/manifests/") {
            return manifest(&component).into_response();
        }
        if headers.contains_key(header::RANGE) {
            let said = format!("bytes 0-{}/{}", component.len() - 1, component.len());
            return (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, said)], component.clone()).into_response();
        }
        torn(&component, component.len() / 2)
    })
    .await;
    let (_, message) = Fixture::new(&host).refusal(&format!("{host}/a:1")).await;
    assert!(message.contains("another part"), "{message}");
}

#[tokio::test]
async fn proxies_are_used_but_where_they_are_not_to_be() {
    let component = guest("hello");
    let through = Arc::new(Mutex::new(vec![]));
    let proxy = {
        let (component, through) = (component.clone(), through.clone());
        serve(move |path, headers, _| {
            through.lock().expect("no panic").push(headers[header::HOST].to_str().expect("text").to_owned());
            has(path, &component)
        })
        .await
    };
    let with = |plain: &str, no: &'static str| {
        let proxy = format!("http://{proxy}");
        Fixture::with(plain, move |options| {
            options.registry.proxies = Proxies::from_variables(|name| match name {
                "HTTP_PROXY" => Some(proxy.clone()),
                "no_proxy" => Some(no.to_owned()),
                _ => None,
            });
        })
    };
    // Only the proxy knows who that is.
    let unknown = "registry.invalid:5000";
    with(unknown, "").build(&format!("{unknown}/a:1")).await.expect("an artifact through the proxy");
    assert_eq!(*through.lock().expect("no panic"), [unknown, unknown]);

    let (direct, asked) = open(component).await;
    with(&direct, "10.0.0.0/8,127.0.0.0/8").build(&format!("{direct}/a:1")).await.expect("an artifact");
    assert_eq!((asked.lock().expect("no panic").len(), through.lock().expect("no panic").len()), (2, 2));
}

#[tokio::test]
async fn a_component_may_be_as_large_as_it_is_said() {
    let component = guest("hello");
    let (host, asked) = open(component.clone()).await;
    let image = format!("{host}/a:1");
    let most = component.len() as u64;
    let small = Fixture::with(&host, |options| options.component_bytes = most - 1);
    let (reason, message) = small.refusal(&image).await;
    assert_eq!((reason, asked.lock().expect("no panic").len()), ("TooLarge", 1), "{message}");
    assert!(message.contains(&format!("may have {}", most - 1)), "{message}");
    let enough = Fixture::with(&host, |options| options.component_bytes = most);
    enough.build(&image).await.expect("an artifact");
}
