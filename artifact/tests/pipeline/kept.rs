//! What needs no registry: images that are pinned, of which the cache has the code, or gets it back.

use std::{collections::BTreeSet, os::unix::fs::FileExt, sync::Arc};

use podless_artifact::{Grants, Pin, Pipeline, SealedArtifact, Wanted, push};
use podless_engine::Recipe;

use crate::support::{Fixture, Registry, guest, wanted};

/// Gives an artifact back, as a shim does.
fn give_back(pipeline: &Pipeline, made: &SealedArtifact) {
    let mut code = vec![0; made.seal().code_size as usize];
    made.code().read_exact_at(&mut code, 0).expect("the code");
    let mut receiving =
        pipeline.receive(made.note().as_bytes(), &made.seal().component, Recipe::default()).expect("its note");
    code.chunks(64 << 10).try_for_each(|piece| receiving.write(piece)).expect("its code");
    receiving.finish().expect("whole");
}

#[tokio::test]
async fn a_pinned_image_needs_no_registry_while_its_code_is_kept() {
    let registry = Registry::start();
    let fixture = Fixture::new(&registry.host);
    let image = registry.image("logger:1");
    push(guest("logger"), &image, None, true).await.expect("pushed");
    let granted = Grants { logging: true, ..Grants::default() };
    let made = fixture.build_with(&image, granted).await.expect("an artifact");
    drop(registry);

    let (digest, component) = (made.image_digest(), made.seal().component.as_str());
    let pin = Pin { digest, manifest: None, component, size: made.component_size() };
    let kept = fixture.pipeline.kept(wanted(&image, granted), pin).await.expect("no error").expect("an artifact");
    assert_eq!((kept.seal(), kept.image_digest()), (made.seal(), made.image_digest()));
    assert_eq!((kept.imports(), kept.component_size()), (made.imports(), made.component_size()));
    let denied = fixture.pipeline.kept(wanted(&image, Grants::default()), pin).await.expect_err("denied");
    assert_eq!(denied.reason(), "ImportDenied", "grants are judged each time");
    // Of an index it is the manifest in it that is revoked.
    let inner = Pin { manifest: Some("sha256:11"), ..pin };
    let revoked = [Arc::new(BTreeSet::from(["sha256:11".to_owned()]))];
    let without = Wanted { revoked: &revoked, ..wanted(&image, granted) };
    let refused = fixture.pipeline.kept(without, inner).await.expect_err("revoked");
    assert_eq!(refused.reason(), "Revoked");
    assert!(fixture.pipeline.kept(without, pin).await.expect("no error").is_some(), "the same component elsewhere");
    let other = Pin { component: "sha256:00", ..pin };
    assert!(fixture.pipeline.kept(wanted(&image, granted), other).await.expect("no error").is_none());

    // A cache that begins with nothing.
    let empty = Fixture::new("nowhere:1");
    assert!(!empty.pipeline.seems_kept(pin.component, Recipe::default()).await.expect("no error"));
    assert!(empty.pipeline.kept(wanted(&image, granted), pin).await.expect("no error").is_none());
    give_back(&empty.pipeline, &made);
    assert!(empty.pipeline.seems_kept(pin.component, Recipe::default()).await.expect("no error"));
    let back = empty.pipeline.kept(wanted(&image, granted), pin).await.expect("no error").expect("an artifact");
    assert_eq!((back.seal(), back.imports(), back.note()), (made.seal(), made.imports(), made.note()));
    assert_eq!(back.sealed(), made.sealed(), "the same to whoever has it");
}
