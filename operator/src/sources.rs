//! ConfigMaps and Secrets that services name. In: watches of all of them that may be read, of their metadata only; out:
//! a reconcile of who names one that has changed. IO, but for [`names`]. Nothing is kept: what they hold is read when
//! it is needed.

use std::{collections::HashSet, sync::Arc};

use futures::{StreamExt, future::join_all};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client, ResourceExt,
    core::PartialObjectMeta,
    runtime::watcher::{self, Event},
};
use podless_crds::WasmService;

use crate::{
    build::Builds,
    link::Hub,
    namespaces::{Namespaced, Namespaces, patient},
    reconcile::{
        env::{Kind, Source, sources},
        service_ref,
    },
};

/// Follows both kinds for as long as this replica leads.
pub async fn follow(client: Client, namespaces: &Namespaces, hub: Arc<Hub>, builds: Arc<Builds>) {
    let maps = namespaces.apis(&client).into_iter();
    let maps = maps.map(|api| follow_kind::<ConfigMap>(api, Kind::ConfigMap, &hub, &builds));
    let secrets = namespaces.apis(&client).into_iter();
    let secrets = secrets.map(|api| follow_kind::<Secret>(api, Kind::Secret, &hub, &builds));
    tokio::join!(join_all(maps), join_all(secrets));
}

async fn follow_kind<K: Namespaced>(api: Api<PartialObjectMeta<K>>, kind: Kind, hub: &Hub, builds: &Arc<Builds>) {
    let only = api.namespace().map(str::to_owned);
    let mut seen = patient(api, watcher::Config::default());
    while let Some(seen) = seen.next().await {
        match seen.event() {
            Some(Event::Apply(object) | Event::Delete(object)) => {
                let namespace = object.namespace().unwrap_or_default();
                wake(hub, builds, |service| names(service, kind, &namespace, &object.name_any()));
            }
            // What has changed while nobody watched is not known.
            Some(Event::InitDone) => wake(hub, builds, |service| {
                let here = only.is_none() || only == service.metadata.namespace;
                here && names_any(service, kind)
            }),
            Some(Event::Init | Event::InitApply(_)) | None => {}
        }
    }
}

fn wake(hub: &Hub, builds: &Arc<Builds>, concerned: impl Fn(&WasmService) -> bool) {
    for service in hub.services().iter().filter(|service| concerned(service)) {
        if let Some(service) = service_ref(service) {
            builds.again(&service.uid);
            hub.wake.one(&service);
        }
    }
}

/// Whether a service names this object, in its environment or for its registry.
fn names(service: &WasmService, kind: Kind, namespace: &str, name: &str) -> bool {
    service.metadata.namespace.as_deref() == Some(namespace)
        && all(service).contains(&Source { kind, name: name.to_owned() })
}

fn names_any(service: &WasmService, kind: Kind) -> bool {
    all(service).iter().any(|source| source.kind == kind)
}

fn all(service: &WasmService) -> HashSet<Source> {
    let secrets = service.spec.image_pull_secrets.iter();
    let secrets = secrets.map(|secret| Source { kind: Kind::Secret, name: secret.name.clone() });
    sources(service).into_iter().chain(secrets).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_names_what() {
        let spec = json!({
            "image": "r/a:1",
            "imagePullSecrets": [{"name": "regcred"}],
            "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "a"}}},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "a"}}},
            ],
        });
        let mut service = WasmService::new("s", serde_json::from_value(spec).expect("a spec"));
        service.metadata.namespace = Some("n".into());
        for (kind, namespace, name, want) in [
            (Kind::Secret, "n", "s", true),
            (Kind::Secret, "n", "regcred", true),
            (Kind::ConfigMap, "n", "m", true),
            (Kind::ConfigMap, "n", "s", false),
            (Kind::Secret, "other", "s", false),
            (Kind::Secret, "n", "t", false),
        ] {
            assert_eq!(names(&service, kind, namespace, name), want, "{kind} {namespace}/{name}");
        }
        assert!(names_any(&service, Kind::Secret) && names_any(&service, Kind::ConfigMap));
        service.spec.revision.env.clear();
        assert!(names_any(&service, Kind::Secret) && !names_any(&service, Kind::ConfigMap));
    }
}
