//! A cache that somebody or something has changed: a thousand flipped bits, a file exchanged behind our back.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use podless_artifact::{ChildProgram, Grants, Pipeline, push, seal::SealKey};
use podless_engine::Recipe;
use sha2::{Digest, Sha256};

use crate::support::{Fixture, Registry, guest, options, random};

/// What the cache keeps, by its file.
fn kept(cache: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(cache).expect("a folder").map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path).expect("read"))).collect()
}

#[tokio::test]
async fn none_of_a_thousand_flipped_bits_is_ever_used() {
    const FLIPS: usize = 1000;
    let fixture = Fixture::new("registry.local");
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&guest("hello")).expect("written");
    let made = fixture
        .pipeline
        .build_file(file.path(), Grants::default(), Recipe::default(), |_| ())
        .await
        .expect("an artifact");
    let whole = kept(fixture.cache.path());
    assert!(whole.len() >= 2, "{:?}", whole.keys());

    // The same cache for who cannot compile: what is not taken from it is not to be had.
    let mut options = options(fixture.cache.path(), "registry.local");
    options.child = ChildProgram { path: "/bin/false".into(), arguments: vec![] };
    let pipeline = Pipeline::new(options, Arc::new(SealKey::from_random([5; 32]))).expect("a pipeline");
    let restore = || whole.iter().for_each(|(path, bytes)| fs::write(path, bytes).expect("written"));
    let mut random = random(1);
    for flip in 0..FLIPS {
        let (path, bytes) = whole.iter().nth(flip % whole.len()).expect("a file");
        let bit = random() as usize % (bytes.len() * 8);
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(path, flipped).expect("written");
        let outcome = pipeline.build_file(file.path(), Grants::default(), Recipe::default(), |_| ()).await;
        assert!(outcome.is_err(), "bit {bit} of {} was not noticed", path.display());
        restore();
    }
    let again =
        pipeline.build_file(file.path(), Grants::default(), Recipe::default(), |_| ()).await.expect("it is whole");
    assert!(again.cache_hit());
    assert_eq!(again.seal().code_sha256, made.seal().code_sha256);
}

#[tokio::test]
async fn what_was_verified_is_what_is_handed_out() {
    let registry = Registry::start();
    let (fixture, image) = (Fixture::new(&registry.host), registry.image("hello:1"));
    push(guest("hello"), &image, None, true).await.expect("pushed");
    fixture.build(&image).await.expect("an artifact");
    // Of the cache, so that it is a file that was hashed and not one that was just written.
    let made = fixture.build(&image).await.expect("an artifact");
    assert!(made.cache_hit());
    for (path, bytes) in kept(fixture.cache.path()) {
        let other = path.with_extension("other");
        fs::write(&other, vec![0; bytes.len()]).and_then(|()| fs::rename(other, path)).expect("exchanged");
    }
    let mut code = vec![0; usize::try_from(made.seal().code_size).expect("a size")];
    made.code().read_exact_at(&mut code, 0).expect("read");
    assert_eq!(hex::encode(Sha256::digest(&code)), made.seal().code_sha256);
    assert!(!fixture.build(&image).await.expect("an artifact").cache_hit(), "what lies there now is nobody's");
}
