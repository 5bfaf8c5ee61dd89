//! Fields of the spec that a cluster shows best: values from objects, scaling to nothing and back, chosen nodes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use podless_crds::ConditionType::{Available, Placed, Ready};
use podless_e2e::{Cluster, Namespace, Traffic, eventually, get, is};
use serde_json::{Value, json};

use crate::crashes::nodes::serve;

/// What a change may take to be seen by the next request.
const SOON: Duration = Duration::from_secs(60);

/// Applies a ConfigMap or a Secret.
async fn apply(namespace: &Namespace, cluster: &Cluster, kind: &ApiResource, name: &str, data: Value) -> Result<()> {
    let mut object = json!({"apiVersion": "v1", "kind": kind.kind, "metadata": {"name": name}});
    object[if kind.kind == "Secret" { "stringData" } else { "data" }] = data;
    let api = Api::<DynamicObject>::namespaced_with(cluster.kube.clone(), &namespace.name, kind);
    api.patch(name, &PatchParams::apply("e2e").force(), &Patch::Apply(&object)).await?;
    Ok(())
}

#[tokio::test]
async fn values_of_secrets_and_maps_are_rolled_out_when_they_change() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-env").await?;
    let image = cluster.registry.push_guest("probe", "e2e/env:1").await?;
    let (secrets, maps) = (ApiResource::erase::<Secret>(&()), ApiResource::erase::<ConfigMap>(&()));
    let env = json!([
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}},
        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "colour", "optional": true}}},
    ]);
    namespace.apply("probe", json!({"image": image, "replicas": 2, "env": env})).await?;
    namespace.until_condition("probe", Placed, "False", "EnvInvalid").await?;
    apply(&namespace, &cluster, &secrets, "s", json!({"token": "hush-1"})).await?;
    namespace.ready("probe").await?;
    let target = namespace.target("probe").await?;
    let has = async |want: &str| {
        eventually(&format!("the component has {want:?}"), SOON, async || {
            let answer = get(&target, "/env").await?;
            ensure!(answer.status == StatusCode::OK && answer.body == want, "{answer:?}");
            Ok(())
        })
        .await
    };
    has("TOKEN=hush-1\n").await?;
    let traffic = Traffic::echo(&target)?;
    traffic.flows().await?;
    apply(&namespace, &cluster, &maps, "m", json!({"colour": "blue"})).await?;
    has("TOKEN=hush-1\nCOLOUR=blue\n").await?;
    apply(&namespace, &cluster, &secrets, "s", json!({"token": "hush-2"})).await?;
    has("TOKEN=hush-2\nCOLOUR=blue\n").await?;
    // It goes, and what was rolled out goes on serving.
    Api::<Secret>::namespaced(cluster.kube.clone(), &namespace.name).delete("s", &Default::default()).await?;
    namespace.until_condition("probe", Ready, "False", "EnvInvalid").await?;
    has("TOKEN=hush-2\nCOLOUR=blue\n").await?;
    traffic.stop().await?.none_lost(10)?;
    namespace.delete().await
}

#[tokio::test]
async fn a_service_is_stopped_and_started_by_its_scale() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-scale").await?;
    let image = cluster.registry.push_guest("hello", "e2e/scale:1").await?;
    namespace.apply("hello", json!({"image": image})).await?;
    namespace.ready("hello").await?;
    let target = namespace.target("hello").await?;
    let answers = async |status: StatusCode| {
        eventually(&format!("it answers {status}"), SOON, async || {
            let answer = get(&target, "/").await?;
            ensure!(answer.status == status, "{answer:?}");
            Ok(answer)
        })
        .await
    };
    answers(StatusCode::OK).await?;
    let services = namespace.services();
    let scale = async |replicas: i32| -> Result<()> {
        let patch = json!({"spec": {"replicas": replicas}});
        services.patch_scale("hello", &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    };
    scale(0).await?;
    namespace.until_condition("hello", Ready, "True", "Stopped").await?;
    namespace.until_condition("hello", Available, "False", "Stopped").await?;
    let answer = answers(StatusCode::SERVICE_UNAVAILABLE).await?;
    assert!(answer.body.contains("stopped"), "{answer:?}");
    assert!(answer.first_byte < Duration::from_secs(1), "at once: {answer:?}");
    let shown = services.get_scale("hello").await?.status.context("a scale")?;
    assert_eq!((shown.replicas, shown.selector.as_deref()), (0, Some("podless.dev/service=hello")));

    scale(3).await?;
    namespace
        .until("hello", "three replicas are ready", |s| {
            is(s, Ready, "True") && s.status.as_ref().is_some_and(|status| status.ready_replicas == 3)
        })
        .await?;
    answers(StatusCode::OK).await?;
    namespace.delete().await
}

#[tokio::test]
async fn a_service_keeps_off_the_nodes_that_it_does_not_require_and_nothing_is_lost() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-affinity").await?;
    let image = cluster.registry.push_guest("probe", "e2e/affinity:1").await?;
    let nodes = cluster.nodes().await?;
    let spec = |terms: Value| {
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        json!({"image": image, "replicas": nodes.len(), "affinity": {"nodeAffinity": required}})
    };
    let hostname = |operator: &str, nodes: &[&String]| json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": operator, "values": nodes}]});
    let but = |away: &String| nodes.iter().filter(|node| *node != away).collect::<Vec<_>>();
    let is_on =
        async |want: Vec<&String>| serve(&namespace, "probe", |ready| ready.iter().eq(want.iter().copied())).await;

    namespace.apply("probe", spec(json!([hostname("NotIn", &[&nodes[0]])]))).await?;
    namespace.ready("probe").await?;
    is_on(but(&nodes[0])).await?;
    let traffic = Traffic::echo(&namespace.target("probe").await?)?;
    traffic.flows().await?;

    // By the name of the Node, and with another term that no node meets.
    let last = nodes.last().context("a node")?;
    let named = json!({"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": [last]}]});
    namespace.apply("probe", spec(json!([hostname("In", &[&"nowhere".to_owned()]), named]))).await?;
    is_on(but(last)).await?;
    namespace.ready("probe").await?;
    traffic.another(20).await?;

    // Nowhere fits: it stays.
    namespace.apply("probe", spec(json!([{}]))).await?;
    let message = namespace.until_condition("probe", Ready, "False", "NoNode").await?;
    let all = nodes.len();
    assert!(message.contains(&format!("{all} didn't match node affinity/selector")), "{message}");
    is_on(but(last)).await?;
    traffic.another(20).await?;
    traffic.stop().await?.none_lost(40)?;
    namespace.delete().await
}

#[tokio::test]
async fn services_move_to_the_nodes_that_they_choose_and_nothing_is_lost() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-place").await?;
    let image = cluster.registry.push_guest("probe", "e2e/place:1").await?;
    let nodes = cluster.nodes().await?;
    let spec = |selector: Value| json!({"image": image, "replicas": 2, "nodeSelector": selector});
    let label = async |node: &str, value: Value| -> Result<()> {
        let patch = json!({"metadata": {"labels": {"e2e.podless.dev/place": value}}});
        let api = Api::<Node>::all(cluster.kube.clone());
        api.patch_metadata(node, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    };
    let is_on = async |want: &[&str]| {
        eventually(&format!("it is on {want:?}"), SOON, async || {
            let slice = namespace.slice("probe").await?;
            let ready = slice.endpoints.iter().filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true)));
            let mut on: Vec<_> = ready.filter_map(|endpoint| endpoint.node_name.as_deref()).collect();
            on.sort_unstable();
            ensure!(on == want, "{on:?}");
            Ok(())
        })
        .await
    };
    // A test before this one may have failed with them.
    for node in &nodes {
        label(node, Value::Null).await?;
    }
    namespace.apply("probe", spec(json!({"e2e.podless.dev/place": "here"}))).await?;
    let message = namespace.until_condition("probe", Ready, "False", "NoNode").await?;
    let all = nodes.len();
    assert!(message.contains(&format!("0/{all} nodes fit: {all} didn't match nodeSelector")), "{message}");
    label(&nodes[0], json!("here")).await?;
    namespace.ready("probe").await?;
    is_on(&[&nodes[0]]).await?;

    let traffic = Traffic::echo(&namespace.target("probe").await?)?;
    traffic.flows().await?;
    label(&nodes[1], json!("here")).await?;
    is_on(&[&nodes[0], &nodes[1]]).await?;
    label(&nodes[0], Value::Null).await?;
    is_on(&[&nodes[1]]).await?;
    traffic.another(20).await?;
    // Nowhere fits: it stays.
    label(&nodes[1], Value::Null).await?;
    namespace.until_condition("probe", Ready, "False", "NoNode").await?;
    is_on(&[&nodes[1]]).await?;
    traffic.another(20).await?;
    traffic.stop().await?.none_lost(40)?;
    namespace.delete().await
}
