//! Kubernetes' own HorizontalPodAutoscaler scales a service, by its scale subresource and under load: nothing is lost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::Api;
use podless_crds::ConditionType::Ready;
use podless_e2e::{Cluster, Namespace, Plan, Traffic, eventually, is, soak};
use serde_json::json;

use crate::adapter::{Adapter, METRIC, unregister};

/// What the metric is to be for each replica.
const EACH: u32 = 10;
/// Most replicas.
const MOST: i32 = 8;

/// Waits until the autoscaler wants so many replicas, and sees that they are there.
async fn scaled(namespace: &Namespace, autoscalers: &Api<HorizontalPodAutoscaler>, replicas: i32) -> Result<()> {
    eventually(&format!("{replicas} replicas"), Duration::from_secs(90), async || {
        let seen = autoscalers.get("probe").await?.status.context("the autoscaler has seen nothing")?;
        ensure!((seen.desired_replicas, seen.current_replicas) == (replicas, Some(replicas)), "{seen:?}");
        let service = namespace.services().get("probe").await?;
        let serving = service.status.as_ref().map(|status| status.ready_replicas);
        ensure!(is(&service, Ready, "True") && service.spec.replicas == Some(replicas), "{:?}", service.spec.replicas);
        ensure!(serving == Some(replicas), "{serving:?}");
        Ok(())
    })
    .await
}

/// Up and down, to the most and to the least that the autoscaler may.
async fn follow(cluster: &Cluster, namespace: &Namespace, adapter: &Adapter) -> Result<()> {
    let rounds = if soak() { 10 } else { 1 };
    let image = cluster.registry.push_guest("probe", "e2e/hpa:1").await?;
    namespace.apply("probe", json!({"image": image, "replicas": 2})).await?;
    namespace.ready("probe").await?;
    let plan = Plan { most: Duration::from_secs(240) * rounds, ..Plan::default() };
    let traffic = Traffic::with(&namespace.target("probe").await?, plan)?;
    traffic.flows().await?;
    adapter.register(cluster, namespace).await?;
    let autoscalers = Api::<HorizontalPodAutoscaler>::namespaced(cluster.kube.clone(), &namespace.name);
    let target = json!({"type": "AverageValue", "averageValue": EACH.to_string()});
    let autoscaler = serde_json::from_value(json!({
        "metadata": {"name": "probe"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "podless.dev/v1alpha1", "kind": "WasmService", "name": "probe"},
            "minReplicas": 1, "maxReplicas": MOST,
            "metrics": [{"type": "External", "external": {"metric": {"name": METRIC}, "target": target}}],
            // At once, in both directions.
            "behavior": {
                "scaleUp": {"policies": [{"type": "Pods", "value": 100, "periodSeconds": 15}]},
                "scaleDown": {"stabilizationWindowSeconds": 0},
            },
        },
    }))?;
    autoscalers.create(&Default::default(), &autoscaler).await?;
    for _ in 0..rounds {
        for (value, replicas) in [(55, 6), (20, 2), (1000, MOST), (0, 1)] {
            let start = Instant::now();
            adapter.set(value);
            scaled(namespace, &autoscalers, replicas).await?;
            eprintln!("a metric of {value}: {replicas} replicas after {:.1?}", start.elapsed());
            traffic.another(90).await?; // kube-proxy hears of it meanwhile
        }
    }
    let seen = traffic.stop().await?;
    eprintln!("scaled by an autoscaler: {seen}");
    seen.none_lost(4 * 90)
}

#[tokio::test]
async fn a_horizontal_pod_autoscaler_scales_a_service_and_nothing_is_lost() -> Result<()> {
    let cluster = Cluster::connect().await?;
    // A test before this one may have been killed with it, and then no namespace could go.
    unregister(&cluster).await?;
    let namespace = cluster.namespace("e2e-hpa").await?;
    let adapter = Adapter::start().await?;
    let followed = follow(&cluster, &namespace, &adapter).await;
    unregister(&cluster).await?;
    followed?;
    namespace.delete().await
}
