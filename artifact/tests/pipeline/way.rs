//! The way of a good component, and what the cache saves.

use std::{io::Read, sync::Mutex, time::Instant};

use podless_artifact::{Grant, Grants, Progress, Wanted, push, seal::HttpWorld};
use podless_engine::{Recipe, Target};
use sha2::{Digest, Sha256};

use crate::support::{Fixture, Registry, guest, machine_code, wanted};

#[tokio::test]
async fn a_component_becomes_a_sealed_artifact_once() {
    let registry = Registry::start();
    let fixture = Fixture::new(&registry.host);
    let component = guest("hello");
    let image = registry.image("hello:1");
    let digest = push(component.clone(), &image, None, true).await.expect("pushed");

    let steps = Mutex::new(vec![]);
    let started = Instant::now();
    let made = fixture
        .pipeline
        .build(wanted(&image, Grants::default()), |step| steps.lock().unwrap().push(step))
        .await
        .expect("an artifact");
    let miss = started.elapsed();
    assert_eq!(made.image_digest(), digest);
    assert_eq!(made.component_size(), component.len() as u64);
    assert!(!made.cache_hit());
    assert!(made.imports().iter().any(|i| i.interface.starts_with("wasi:http/types@") && i.grant == Grant::Granted));
    let steps = steps.into_inner().unwrap();
    let total = component.len() as u64;
    assert_eq!(steps[..2], [Progress::Resolving, Progress::Pulling { done: 0, total }]);
    assert!(steps.contains(&Progress::Pulling { done: total, total }));
    assert_eq!(steps.last(), Some(&Progress::Compiling));

    let seal = fixture.trusted.open(made.sealed()).expect("our seal");
    assert_eq!(&seal, made.seal());
    assert_eq!(seal.component, format!("sha256:{}", hex::encode(Sha256::digest(&component))));
    assert_eq!((seal.http, seal.fingerprint), (HttpWorld::P2, podless_engine::fingerprint(Target::default())));
    let mut code = vec![];
    std::fs::File::read_to_end(&mut made.code().try_clone().expect("a file"), &mut code).expect("read");
    assert_eq!(seal.code_size, code.len() as u64);
    assert_eq!(seal.code_sha256, hex::encode(Sha256::digest(&code)));
    assert_eq!(code, machine_code(&component, Recipe::default()), "the child compiles as everybody does");

    let started = Instant::now();
    let again = fixture.build(&image).await.expect("an artifact");
    let hit = started.elapsed();
    assert!(again.cache_hit());
    assert_eq!((again.seal(), again.compile_millis()), (made.seal(), made.compile_millis()));
    eprintln!(
        "hello: {} bytes of wasm, {} of machine code, compiled in {} ms; {miss:?} without the cache, {hit:?} with it",
        component.len(),
        code.len(),
        made.compile_millis()
    );
}

#[tokio::test]
async fn a_pin_goes_before_the_tag() {
    let registry = Registry::start();
    let fixture = Fixture::new(&registry.host);
    let image = registry.image("moving:1");
    let first = push(guest("hello"), &image, None, true).await.expect("pushed");
    let second = push(guest("probe"), &image, None, true).await.expect("pushed");
    let unpinned = wanted(&image, Grants::default());
    let pinned = Wanted { pinned: Some(&first), ..unpinned };
    assert_eq!(fixture.pipeline.build(unpinned, |_| ()).await.expect("an artifact").image_digest(), second);
    assert_eq!(fixture.pipeline.build(pinned, |_| ()).await.expect("an artifact").image_digest(), first);
}

#[tokio::test]
async fn both_lines_of_wasi_and_every_layout_are_taken() {
    let registry = Registry::start();
    let fixture = Fixture::new(&registry.host);
    let image = registry.image("p3:1");
    push(guest("hello-p3"), &image, None, true).await.expect("pushed");
    assert_eq!(fixture.build(&image).await.expect("an artifact").seal().http, HttpWorld::P3);

    let hello = guest("hello");
    for (n, layout) in [
        "application/vnd.wasm.content.layer.v1+wasm",
        "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
        "application/vnd.module.wasm.content.layer.v1+wasm",
    ]
    .into_iter()
    .enumerate()
    {
        let image = registry.push(&[(&hello, layout)], &format!("layouts:{n}")).await;
        fixture.build(&image).await.unwrap_or_else(|error| panic!("{layout}: {error}"));
    }
}

#[tokio::test]
async fn grants_are_judged_each_time() {
    let registry = Registry::start();
    let fixture = Fixture::new(&registry.host);
    let image = registry.image("logger:1");
    push(guest("logger"), &image, None, true).await.expect("pushed");
    let (granted, none) = (Grants { logging: true, ..Grants::default() }, Grants::default());

    let (reason, message) = fixture.refusal(&image).await;
    assert_eq!(reason, "ImportDenied");
    assert!(message.contains("spec.capabilities.logging"), "{message}");
    assert!(!fixture.build_with(&image, granted).await.expect("an artifact").cache_hit());
    assert!(fixture.build_with(&image, granted).await.expect("an artifact").cache_hit());
    assert_eq!(fixture.build_with(&image, none).await.expect_err("denied").reason(), "ImportDenied");
}

#[tokio::test]
async fn a_damaged_cache_is_made_again() {
    let registry = Registry::start();
    let fixture = Fixture::new(&registry.host);
    let image = registry.image("hello:1");
    push(guest("hello"), &image, None, true).await.expect("pushed");
    let made = fixture.build(&image).await.expect("an artifact");
    let code = fixture.cache.path().join(format!("{}.cwasm", made.seal().code_sha256));
    let mut bytes = std::fs::read(&code).expect("the code");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&code, bytes).expect("written");
    let again = fixture.build(&image).await.expect("an artifact");
    assert!(!again.cache_hit());
    assert!(again.seal().is_same_code(made.seal()), "{:?}", again.seal());
}
