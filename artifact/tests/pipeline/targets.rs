//! The same image for other machines and in other ways: code of its own each, named apart in the cache and by the seal.

use std::os::unix::fs::FileExt;

use podless_artifact::{Grants, SealedArtifact, Wanted, push};
use podless_engine::{CompilerOptions, Optimize, Recipe, Target, WASMTIME_VERSION};

use crate::support::{Fixture, Registry, guest, machine_code, wanted};

/// Bytes 18 and 19 of an ELF file say for which machine it is.
fn machine(artifact: &SealedArtifact) -> u16 {
    let mut bytes = [0; 2];
    artifact.code().read_exact_at(&mut bytes, 18).expect("a header");
    u16::from_le_bytes(bytes)
}

#[tokio::test]
async fn each_target_has_code_and_a_seal_of_its_own() {
    let registry = Registry::start();
    let fixture = Fixture::new(&registry.host);
    let (hello, image) = (guest("hello"), registry.image("hello:1"));
    push(hello.clone(), &image, None, true).await.expect("pushed");
    let build = async |recipe: Recipe| {
        let wanted = Wanted { recipe, ..wanted(&image, Grants::default()) };
        fixture.pipeline.build(wanted, |_| ()).await.expect("an artifact")
    };
    let mut codes = vec![];
    for target in Target::ALL {
        let recipe = Recipe { target, ..Recipe::default() };
        let made = build(recipe).await;
        let seal = fixture.trusted.open(made.sealed()).expect("our seal");
        assert_eq!((seal.target.as_str(), seal.fingerprint.clone()), (target.as_str(), recipe.fingerprint()));
        assert_eq!(seal.wasmtime, WASMTIME_VERSION);
        assert!(seal.made_at.ends_with('Z') && seal.made_at.len() == "2026-01-31T12:00:00Z".len(), "{}", seal.made_at);
        // EM_AARCH64, EM_X86_64.
        assert_eq!(machine(&made), if target == Target::Aarch64 { 183 } else { 62 }, "{target}");
        assert!(!made.cache_hit(), "{target}");
        let again = build(recipe).await;
        assert!(again.cache_hit(), "{target}");
        assert_eq!(again.seal(), made.seal(), "{target}");
        codes.push(seal.code_sha256);
    }
    let fast =
        Recipe { options: CompilerOptions { optimize: Optimize::Fast, ..Default::default() }, ..Recipe::default() };
    let made = build(fast).await;
    assert!(!made.cache_hit());
    assert_eq!(made.seal().fingerprint, Recipe::default().fingerprint(), "the same engine runs it");
    assert_eq!(made.seal().code_size, machine_code(&hello, fast).len() as u64);
    codes.push(made.seal().code_sha256.clone());
    codes.sort();
    codes.dedup();
    assert_eq!(codes.len(), 4, "each is other code");
}
