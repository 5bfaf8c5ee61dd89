//! Mirrors: asked first, shown nothing that is not theirs, and passed over when they are away or wrong.

use std::sync::{Arc, Mutex};

use axum::{
    http::{StatusCode, header},
    response::IntoResponse,
};
use podless_artifact::Options;

use crate::{
    hostile::{digest, manifest, serve},
    registries::{basic, build, challenge, has, login, open, shows, torn},
    support::{Fixture, guest},
};

/// A pipeline for which `host` is asked through this mirror first, given as in `host/prefix`.
fn mirrored(host: &str, mirror: &str) -> Fixture {
    Fixture::with(host, |options: &mut Options| {
        options.registry.plain_http.push(mirror.split('/').next().expect("a host").to_owned());
        options.registry.mirrors = vec![format!("{host}={mirror}").parse().expect("a mirror")];
    })
}

#[tokio::test]
async fn mirrors_are_asked_first_and_the_registry_last() {
    let component = guest("hello");
    let (host, at_host) = open(component.clone()).await;
    let image = format!("{host}/team/a:1");

    let (mirror, at_mirror) = open(component.clone()).await;
    mirrored(&host, &format!("{mirror}/hub")).build(&image).await.expect("an artifact");
    assert_eq!(at_mirror.lock().expect("no panic")[0], "/v2/hub/team/a/manifests/1");
    assert!(at_host.lock().expect("no panic").is_empty(), "the mirror had it");

    let empty = serve(|_, _, _| StatusCode::NOT_FOUND.into_response()).await;
    let broken = serve(|_, _, _| StatusCode::INTERNAL_SERVER_ERROR.into_response()).await;
    for mirror in [&*empty, &*broken, "127.0.0.1:9"] {
        at_host.lock().expect("no panic").clear();
        mirrored(&host, mirror).build(&image).await.unwrap_or_else(|error| panic!("{mirror}: {error}"));
        assert_eq!(at_host.lock().expect("no panic").len(), 2, "{mirror}: manifest and component");
    }

    // Who is right about it is asked; the other cannot be.
    let (reason, message) = mirrored("127.0.0.1:9", &empty).refusal("127.0.0.1:9/team/a:1").await;
    assert_eq!(reason, "ImageNotFound", "{message}");
}

#[tokio::test]
async fn a_mirror_is_shown_its_own_credentials_only() {
    let component = guest("hello");
    let (host, _) = open(component.clone()).await;
    let shown = Arc::new(Mutex::new(vec![]));
    let mirror = {
        let shown = shown.clone();
        serve(move |path, headers, _| {
            if shows(headers, &basic("mirrors")) {
                return has(path, &component);
            }
            shown.lock().expect("no panic").extend(headers.get(header::AUTHORIZATION).cloned());
            challenge("Basic realm=\"r\"")
        })
        .await
    };
    let fixture = mirrored(&host, &mirror);
    let image = format!("{host}/a:1");
    build(&fixture, &image, &[login(&host, "registrys")], &[]).await.expect("an artifact from the registry");
    build(&fixture, &image, &[login(&mirror, "mirrors")], &[]).await.expect("an artifact from the mirror");
    assert!(shown.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn a_mirror_that_is_wrong_is_passed_over() {
    let component = guest("hello");
    let (host, at_host) = open(component.clone()).await;
    let pinned = format!("{host}/team/a@{}", digest(&manifest(&component)));

    let liar = serve(|path, _, _| has(path, b"something else")).await;
    mirrored(&host, &liar).build(&pinned).await.expect("an artifact, the manifest from the registry");

    // Their manifest is right.
    let half = component.len() / 2;
    let mut longer = component.clone();
    longer.push(0);
    let mut other = component.clone();
    other[half] ^= 1;
    for (what, blob, breaks) in [("other", other, false), ("longer", longer, false), ("torn", component.clone(), true)]
    {
        let component = component.clone();
        let wrong = serve(move |path, _, _| match path.contains("/manifests/") {
            true => has(path, &component),
            false if breaks => torn(&blob, half),
            false => has(path, &blob),
        })
        .await;
        at_host.lock().expect("no panic").clear();
        mirrored(&host, &wrong).build(&pinned).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(at_host.lock().expect("no panic").len(), 1, "{what}: the component alone");
    }
    let (reason, _) = mirrored("127.0.0.1:9", &liar).refusal(&pinned.replace(&host, "127.0.0.1:9")).await;
    assert_eq!(reason, "DigestMismatch", "nobody has it");
}
