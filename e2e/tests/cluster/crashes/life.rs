//! The whole life of a service: made, changed, scaled, deleted. In: an operator that may fail under way; out: what is
//! there at each stage, without what differs from one life to the next. IO.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use podless_crds::{ConditionType, WasmService};
use podless_e2e::{Cluster, Namespace, eventually};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(90);
/// Every child of a service has it, with the service's name.
const CHILDREN: &str = "podless.dev/service";

/// Names of what is compared, with its normal form.
pub(crate) type Stages = BTreeMap<&'static str, Value>;

/// Lives through everything.
pub(crate) async fn live(cluster: &Cluster, namespace: &Namespace, images: &[String; 2]) -> Result<Stages> {
    let mut stages = Stages::new();
    namespace.apply("life", json!({"image": images[0], "replicas": 3})).await?;
    stages.insert("1 made", stage(namespace, 3).await?);
    namespace.apply("life", json!({"image": images[1], "replicas": 3, "concurrency": 7})).await?;
    stages.insert("2 changed", stage(namespace, 3).await?);
    namespace.apply("life", json!({"image": images[1], "replicas": 6, "concurrency": 7})).await?;
    stages.insert("3 scaled", stage(namespace, 6).await?);
    namespace.services().delete("life", &DeleteParams::default()).await?;
    let ours = ListParams::default().labels(CHILDREN);
    eventually("nothing is left", PATIENCE, async || {
        let services = Api::<Service>::namespaced(cluster.kube.clone(), &namespace.name).list(&ours).await?;
        let slices = namespace.slices().list(&ours).await?;
        let left: Vec<_> = services.iter().map(|s| s.name_any()).chain(slices.iter().map(|s| s.name_any())).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    Ok(stages)
}

/// Waits until this generation serves everywhere, and looks at it.
async fn stage(namespace: &Namespace, replicas: i32) -> Result<Value> {
    let whole = |s: &WasmService| {
        let status = s.status.as_ref();
        podless_e2e::is(s, ConditionType::Ready, "True")
            && status.is_some_and(|status| status.ready_replicas == replicas && status.placements.len() == 3)
    };
    // On every node: a new leader may have begun with those whose shims had come back to it.
    let service = namespace.until("life", "every replica serves, spread over all nodes", whole).await?;
    eventually("the endpoints are as status says", PATIENCE, async || {
        let children = namespace.kube_services().get("life").await?;
        let slice = namespace.slice("life").await?;
        let ready = slice.endpoints.iter().filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true));
        ensure!(ready.count() == 3 && slice.endpoints.len() == 3, "{:?}", slice.endpoints);
        let mut all = json!({"object": service, "service": children, "slice": slice});
        normalise(&mut all);
        Ok(all)
    })
    .await
}

/// Takes out what is different in each life: ids, times, addresses, measurements, counters.
fn normalise(value: &mut Value) {
    const OTHER: [&str; 23] = [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "managedFields",
        "clusterIP",
        "clusterIPs",
        "lastTransitionTime",
        "instances",
        "density",
        "coldStart",
        "compileMillis",
        "cacheHit",
        "targetPort",
        "selfLink",
        "generation",
        "observedGeneration",
        "message",
        "podless.dev/placements",
        "endpointslice.kubernetes.io/last-change-trigger-time",
        "image",
        "digest",
        "fingerprint",
        "nodePort",
    ];
    match value {
        Value::Object(fields) => {
            // What is assigned is compared by what each node takes.
            let placements = fields.get("podless.dev/placements").and_then(Value::as_str).map(str::to_owned);
            fields.retain(|name, _| !OTHER.contains(&name.as_str()));
            if let Some(nodes) = placements.and_then(|text| serde_json::from_str::<Value>(&text).ok()) {
                fields.insert("nodes".to_owned(), nodes["nodes"].clone());
            }
            // The port of the slice is the service's own.
            if fields.get("name").is_some_and(|name| name == "http") && fields.get("port") != Some(&json!(80)) {
                fields.remove("port");
            }
            fields.values_mut().for_each(normalise);
        }
        Value::Array(items) => {
            items.iter_mut().for_each(normalise);
            items.sort_by_key(|item| item.to_string());
        }
        _ => {}
    }
}
