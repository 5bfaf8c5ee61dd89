//! Endpoints as a real API server has them: many, in several slices; in the families of the Service; for whom they are
//! meant.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use podless_crds::{ConditionType::Ready, WasmService};
use podless_operator::reconcile::children::recorded;
use serde_json::{Value, json};

use crate::operator::{Operator, Shim};

const SHIMS: usize = 250;

fn connect(operator: &mut Operator, known: &[(&str, u64)]) -> Vec<Shim> {
    (0..SHIMS).map(|n| operator.connect_shim(&format!("many-{n:03}"), known)).collect()
}

async fn slices(operator: &Operator, service: &str) -> Result<Vec<EndpointSlice>> {
    let of = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let mut slices = operator.api::<EndpointSlice>().list(&of).await?.items;
    slices.sort_by_key(ResourceExt::name_any);
    Ok(slices)
}

/// Waits until a service has slices of these sizes, with each endpoint in one, and ready.
async fn has(operator: &Operator, service: &str, sizes: &[usize]) -> Result<Vec<EndpointSlice>> {
    operator
        .until(&format!("{service} has slices of {sizes:?}"), async || {
            let slices = slices(operator, service).await?;
            let now: Vec<_> = slices.iter().map(|slice| slice.endpoints.len()).collect();
            ensure!(now == sizes, "{now:?}");
            let endpoints: Vec<_> = slices.iter().flat_map(|slice| &slice.endpoints).collect();
            let ready = |conditions: &k8s_openapi::api::discovery::v1::EndpointConditions| conditions.ready;
            ensure!(endpoints.iter().all(|e| e.conditions.as_ref().and_then(ready) == Some(true)), "not all are ready");
            let mut nodes: Vec<_> = endpoints.iter().filter_map(|endpoint| endpoint.node_name.as_deref()).collect();
            nodes.sort();
            nodes.dedup();
            ensure!(nodes.len() == endpoints.len(), "{} nodes of {} endpoints", nodes.len(), endpoints.len());
            Ok(slices)
        })
        .await
}

fn versions(slices: &[EndpointSlice]) -> Vec<Option<String>> {
    slices.iter().map(ResourceExt::resource_version).collect()
}

/// Reconciles that were done, as /metrics counts them.
fn reconciles(operator: &Operator) -> Result<u64> {
    let text = operator.context.metrics.text();
    let line = text.lines().find_map(|line| line.strip_prefix("podless_operator_reconciles_total{result=\"done\"} "));
    Ok(line.context("no such metric")?.parse()?)
}

#[tokio::test]
async fn hundreds_of_endpoints_there_and_back() -> Result<()> {
    let mut operator = Operator::start("op-slices").await?;
    let _shims = connect(&mut operator, &[]);
    operator.apply("large", json!({"image": "good:1", "replicas": SHIMS})).await?;
    let uid = operator.serving("large").await?.uid().context("a uid")?;
    let before = has(&operator, "large", &[100, 100, 50]).await?;
    let names: Vec<_> = before.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["large-podless", "large-podless-2", "large-podless-3"]);
    assert!(before.iter().all(|slice| slice.owner_references().iter().any(|owner| owner.uid == uid)));

    // Looked at anew, nothing is written again.
    let done = reconciles(&operator)?;
    operator.context.hub.wake.all();
    operator
        .until("it is reconciled again", async || {
            ensure!(reconciles(&operator)? > done, "not yet");
            Ok(())
        })
        .await?;
    assert_eq!(versions(&slices(&operator, "large").await?), versions(&before));

    // What somebody deletes or empties is there again: it first fills what has room.
    let api = operator.api::<EndpointSlice>();
    api.delete("large-podless-2", &DeleteParams::default()).await?;
    has(&operator, "large", &[100, 50, 100]).await?;
    api.patch("large-podless-3", &PatchParams::default(), &Patch::Merge(&json!({"endpoints": []}))).await?;
    has(&operator, "large", &[100, 100, 50]).await?;

    // It shrinks while there is no operator: the next one finds those that are not needed any more.
    let generation = recorded(&operator.slice("large").await?).context("a record")?.generation;
    let Operator { kube, namespace, context, tasks } = operator;
    drop((context, tasks));
    let fewer = json!({"spec": {"replicas": 90}});
    let services = Api::<WasmService>::namespaced(kube.clone(), &namespace);
    services.patch("large", &PatchParams::default(), &Patch::Merge(&fewer)).await?;
    let mut operator = Operator::again(kube, &namespace).await?;
    let _shims = connect(&mut operator, &[(uid.as_str(), generation)]);
    operator.serving("large").await?;
    has(&operator, "large", &[90]).await?;

    // A further slice that is somebody else's.
    let theirs = json!({"metadata": {"name": "taken-podless-2"}, "addressType": "IPv4", "endpoints": []});
    let theirs: EndpointSlice = serde_json::from_value(theirs)?;
    let theirs = operator.api::<EndpointSlice>().create(&PostParams::default(), &theirs).await?;
    operator.apply("taken", json!({"image": "good:1", "replicas": 120})).await?;
    let refused = operator.says("taken", Ready, "False ServiceConflict").await?;
    assert!(serde_json::to_string(&refused.status)?.contains("taken-podless-2"), "{:?}", refused.status);
    let now = operator.api::<EndpointSlice>().get("taken-podless-2").await?;
    assert_eq!(now.resource_version(), theirs.resource_version(), "theirs is untouched");
    operator.api::<EndpointSlice>().delete("taken-podless-2", &DeleteParams::default()).await?;
    operator.serving("taken").await?;
    has(&operator, "taken", &[100, 20]).await?;
    operator.end().await
}

#[tokio::test]
async fn the_service_says_families_and_distribution() -> Result<()> {
    let mut operator = Operator::start("op-families").await?;
    let _shim = operator.connect_shim("n1", &[]);
    let hello = |more: Value| {
        let mut spec = json!({"image": "good:1"});
        spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        spec
    };
    let is = async |policy: &str, distribution: Option<&str>, hints: Value| {
        operator
            .until(&format!("{policy} {distribution:?} {hints}"), async || {
                let spec = operator.api::<Service>().get("hello").await?.spec.context("a spec")?;
                ensure!(spec.ip_family_policy.as_deref() == Some(policy), "{:?}", spec.ip_family_policy);
                ensure!(spec.traffic_distribution.as_deref() == distribution, "{:?}", spec.traffic_distribution);
                let slice = serde_json::to_value(operator.slice("hello").await?)?;
                ensure!(slice["endpoints"][0]["conditions"]["ready"] == true, "not ready");
                ensure!(slice["endpoints"][0]["hints"] == hints, "{}", slice["endpoints"]);
                Ok(spec)
            })
            .await
    };
    operator.apply("hello", hello(json!({}))).await?;
    let spec = is("PreferDualStack", None, Value::Null).await?;
    let families = spec.ip_families.context("families")?;
    assert_eq!(slices(&operator, "hello").await?.len(), 1, "the shim has one address, of {families:?}");

    // Its node has no zone.
    operator.apply("hello", hello(json!({"trafficDistribution": "PreferSameNode"}))).await?;
    is("PreferDualStack", Some("PreferSameNode"), json!({"forNodes": [{"name": "n1"}]})).await?;
    let single = json!({"spec": {"ipFamilyPolicy": "SingleStack"}});
    operator.api::<Service>().patch("hello", &PatchParams::default(), &Patch::Merge(&single)).await?;
    is("PreferDualStack", Some("PreferSameNode"), json!({"forNodes": [{"name": "n1"}]})).await?;

    operator.apply("hello", hello(json!({}))).await?;
    is("PreferDualStack", None, Value::Null).await?;
    // What somebody else sets is not what the object says.
    let theirs = json!({"spec": {"trafficDistribution": "PreferClose"}});
    operator.api::<Service>().patch("hello", &PatchParams::default(), &Patch::Merge(&theirs)).await?;
    is("PreferDualStack", None, Value::Null).await?;
    operator.serving("hello").await?;
    operator.end().await
}
