//! What an image is known to mean. In: a WasmService; out: the pin in its status, if it is for what the spec says now. Pure.
//!
//! The pin is also the proof that this namespace could get the image, with the pull secrets that it names: it is written
//! after the registry has given it, by the operator, and no role of users may write status. So another namespace that only
//! names the digest has none, and is sent to the registry.

use podless_crds::WasmService;
use sha2::{Digest, Sha256};

use crate::build::Pin;

/// Names what an image is resolved for: each revision, with its pull secrets. What a digest means no revision changes.
pub(super) fn resolved_for(service: &WasmService) -> String {
    let revision = &service.spec.revision;
    let secrets = service.spec.image_pull_secrets.iter().map(|secret| &secret.name);
    let mut hash = Sha256::new();
    if revision.image.contains('@') {
        hash.update(&revision.image);
    } else {
        // A spec that was read is always JSON.
        hash.update(serde_json::to_vec(revision).unwrap_or_default());
    }
    for secret in secrets {
        hash.update([0]);
        hash.update(secret);
    }
    hex::encode(&hash.finalize()[..8])
}

/// What status says that the reference means, when it says so of this reference and what it is resolved for now.
pub(super) fn pin(service: &WasmService) -> Option<Pin> {
    let image = service.status.as_ref()?.image.as_ref()?;
    let holds =
        image.reference == service.spec.revision.image && image.resolved_for.as_ref() == Some(&resolved_for(service));
    let component = image.component.clone().filter(|_| holds)?;
    let (digest, manifest) = (image.digest.clone(), image.manifest.clone());
    Some(Pin { digest, manifest, component, size: u64::try_from(image.size).ok()? })
}

#[cfg(test)]
mod tests {
    use podless_crds::{EnvVar, Image, LocalObjectReference, WasmServiceStatus};
    use serde_json::json;

    use super::*;

    fn service(image: &str) -> WasmService {
        let mut service =
            WasmService::new("s", serde_json::from_value(json!({"image": image, "replicas": 1})).expect("a spec"));
        let image = Image {
            reference: image.to_owned(),
            digest: "sha256:i".into(),
            manifest: Some("sha256:m".into()),
            size: 5,
            component: Some("sha256:c".into()),
            resolved_for: Some(resolved_for(&service)),
            ..Image::default()
        };
        service.status = Some(WasmServiceStatus { image: Some(image), ..Default::default() });
        service
    }

    #[test]
    fn a_pin_holds_for_its_revision_and_its_secrets() {
        let (tag, digest) = ("r/a:1", "r/a@sha256:00");
        let manifest = Some("sha256:m".into());
        let pinned = Pin { digest: "sha256:i".into(), manifest, component: "sha256:c".into(), size: 5 };
        let env = || serde_json::from_value::<EnvVar>(json!({"name": "A", "value": "b"})).expect("a variable");
        type Change<'a> = &'a dyn Fn(&mut WasmService);
        let changes: [(&str, Change<'_>, [bool; 2]); 7] = [
            ("nothing", &|_| (), [true, true]),
            ("replicas", &|s| s.spec.replicas = Some(3), [true, true]),
            ("environment", &|s| s.spec.revision.env.push(env()), [false, true]),
            ("secrets", &|s| s.spec.image_pull_secrets.push(LocalObjectReference { name: "r".into() }), [false, false]),
            ("image", &|s| s.spec.revision.image.push('0'), [false, false]),
            (
                "old status",
                &|s| drop(s.status.as_mut().and_then(|s| s.image.as_mut()?.resolved_for.take())),
                [false; 2],
            ),
            ("no status", &|s| s.status = None, [false, false]),
        ];
        for (what, change, want) in changes {
            for (image, want) in [tag, digest].into_iter().zip(want) {
                let mut service = service(image);
                change(&mut service);
                assert_eq!(pin(&service), want.then(|| pinned.clone()), "{what} of {image}");
            }
        }
    }
}
