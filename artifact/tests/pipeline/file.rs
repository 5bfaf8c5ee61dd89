//! A file of this machine in place of an image, and looking without serving.

use std::{fs, io::Write};

use podless_artifact::{Grant, Grants, http_world, needs, push, seal::HttpWorld, verdicts};
use podless_engine::Recipe;
use sha2::{Digest, Sha256};

use crate::support::{Fixture, Registry, guest, machine_code, wanted};

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("written");
    file
}

#[tokio::test]
async fn a_file_goes_the_way_of_an_image() {
    let registry = Registry::start();
    let fixture = Fixture::new(&registry.host);
    let (hello, image) = (guest("hello"), registry.image("hello:1"));
    let path = file(&hello);
    let none = Grants::default();
    let made = fixture.pipeline.build_file(path.path(), none, Recipe::default(), |_| ()).await.expect("an artifact");
    assert_eq!((made.image_digest(), made.component_size()), (digest(&hello).as_str(), hello.len() as u64));
    assert!(!made.cache_hit());
    assert!(
        fixture
            .pipeline
            .build_file(path.path(), none, Recipe::default(), |_| ())
            .await
            .expect("an artifact")
            .cache_hit()
    );

    // Having compiled a file is not having been shown the image.
    push(hello, &image, None, true).await.expect("pushed");
    let from_image = fixture.build(&image).await.expect("an artifact");
    assert!(from_image.cache_hit());
    assert_eq!(from_image.seal(), made.seal());
}

#[tokio::test]
async fn what_is_no_component_is_told_so() {
    let fixture = Fixture::new("registry.local");
    for (bytes, reason) in [
        (&b"good evening"[..], "NotWebAssembly"),
        (b"", "NotWebAssembly"),
        (b"\0asm\x01\0\0\0", "CoreModule"),
        (b"\0asm\x0d\0\x01\0", "NoHttpExport"),
    ] {
        let path = file(bytes);
        let rejection = fixture
            .pipeline
            .build_file(path.path(), Grants::ALL, Recipe::default(), |_| ())
            .await
            .expect_err("refused");
        assert_eq!(rejection.reason(), reason, "{rejection}");
    }
    let missing = fixture.pipeline.build_file("/nowhere/x.wasm".as_ref(), Grants::ALL, Recipe::default(), |_| ()).await;
    let message = missing.expect_err("refused").to_string();
    assert!(message.contains("/nowhere/x.wasm") && message.contains("No such file"), "{message}");

    let large = tempfile::NamedTempFile::new().expect("a file");
    large.as_file().set_len((64 << 20) + 1).expect("a sparse file");
    let rejection =
        fixture.pipeline.build_file(large.path(), Grants::ALL, Recipe::default(), |_| ()).await.expect_err("refused");
    assert_eq!(rejection.reason(), "TooLarge", "{rejection}");
    let left = fs::read_dir(fixture.cache.path().join("unfinished")).expect("a folder").count();
    assert_eq!(left, 0, "nothing is left behind");
}

#[tokio::test]
async fn looking_grants_nothing_and_knows_the_sizes() {
    let registry = Registry::start();
    let fixture = Fixture::new(&registry.host);
    let (logger, image) = (guest("logger"), registry.image("logger:1"));
    let manifest = push(logger.clone(), &image, None, true).await.expect("pushed");
    let found = fixture.pipeline.inspect(wanted(&image, Grants::default()), |_| ()).await.expect("looked at");
    assert_eq!((&found.digest, found.component_size), (&manifest, logger.len() as u64));
    assert!(found.code_size > found.component_size / 4, "{found:?}");
    assert_eq!(http_world(&found.facts).expect("a handler"), HttpWorld::P2);
    assert_eq!(needs(&found.facts), Grants { logging: true, ..Grants::default() });
    let denied = |grants| verdicts(&found.facts, grants).iter().filter(|v| v.import.grant == Grant::Denied).count();
    assert_eq!((denied(Grants::default()), denied(needs(&found.facts))), (1, 0));
    assert_eq!(fixture.refusal(&image).await.0, "ImportDenied", "it was looked at, and is granted no more for that");

    // A component that nobody could serve has a size too.
    let path = file(&guest("no-http"));
    let found = fixture.pipeline.inspect_file(path.path(), Recipe::default(), |_| ()).await.expect("looked at");
    assert!(found.code_size > 0 && http_world(&found.facts).is_err());
    let code = fixture.pipeline.compile_file(path.path(), Recipe::default(), |_| ()).await.expect("compiled");
    assert_eq!(code.size(), found.code_size);
    let out = tempfile::tempdir().expect("a folder");
    code.save(&out.path().join("code")).expect("saved");
    let expected = machine_code(&guest("no-http"), Recipe::default());
    assert_eq!(fs::read(out.path().join("code")).expect("read"), expected);
}
