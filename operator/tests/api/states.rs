//! From each state that an object may be left in, everything is put right.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    core::v1::{ResourceQuota, Service},
    discovery::v1::EndpointSlice,
    events::v1::Event,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use podless_crds::{ConditionType, WasmService};
use podless_operator::reconcile::children::{recorded, recorded_port, slice_name};
use serde_json::json;

use crate::operator::{Operator, told};

#[tokio::test]
async fn every_intermediate_state_is_put_right() -> Result<()> {
    let mut operator = Operator::start("op-states").await?;
    let (one, two) = (operator.connect_shim("n1", &[]), operator.connect_shim("n2", &[]));

    // From nothing.
    operator.apply("hello", json!({"image": "good:1", "replicas": 3})).await?;
    let ready = operator.serving("hello").await?;
    let status = ready.status.clone().context("a status")?;
    assert_eq!((status.replicas, status.ready_replicas, status.placements.len()), (3, 3, 2));
    assert_eq!(status.image.context("an image")?.digest, "sha256:good:1");
    let port = recorded_port(&operator.slice("hello").await?).context("a port")?;
    let (service, slice) = operator.children("hello", port, 2).await?;
    for child in [service.owner_references(), slice.owner_references()] {
        assert_eq!(child.iter().map(|o| &o.uid).collect::<Vec<_>>(), [ready.metadata.uid.as_ref().context("uid")?]);
    }
    assert!(service.spec.context("a spec")?.selector.is_none());
    let mut budgets: Vec<_> = [&one, &two].into_iter().flat_map(told).filter(|t| t != "synced").collect();
    budgets.sort();
    assert_eq!(budgets, ["assign hello 1 budget 100", "assign hello 1 budget 200"]);
    operator
        .until("an Event that it serves", async || {
            let events = operator.api::<Event>().list(&Default::default()).await?;
            let reasons: Vec<_> = events.iter().filter_map(|e| e.reason.clone()).collect();
            ensure!(reasons.iter().filter(|r| *r == "Serving").count() == 1, "{reasons:?}");
            Ok(())
        })
        .await?;

    // The Service is missing.
    operator.api::<Service>().delete("hello", &DeleteParams::default()).await?;
    operator.children("hello", port, 2).await?;
    // The slice is missing.
    operator.api::<EndpointSlice>().delete(&slice_name("hello"), &DeleteParams::default()).await?;
    operator.children("hello", port, 2).await?;
    // The slice has the wrong port and no endpoints.
    let wrong = json!({"ports": [{"name": "http", "port": 81}], "endpoints": []});
    let slices = operator.api::<EndpointSlice>();
    slices.patch(&slice_name("hello"), &PatchParams::default(), &Patch::Merge(&wrong)).await?;
    operator.children("hello", port, 2).await?;
    // Somebody points the Service elsewhere.
    let wrong = json!({"spec": {"ports": [{"name": "http", "port": 80, "targetPort": 22}]}});
    operator.api::<Service>().patch("hello", &PatchParams::default(), &Patch::Merge(&wrong)).await?;
    operator.children("hello", port, 2).await?;
    // Somebody gives the port another number, and the Service a selector: neither is what apply would merge away.
    let wrong = [
        json!({"spec": {"ports": [{"name": "http", "port": 8080, "targetPort": 1}]}}),
        json!({"spec": {"ports": [{"name": "http", "port": 80}, {"name": "more", "port": 8080}]}}),
        json!({"spec": {"selector": {"app": "theirs"}}}),
    ];
    for wrong in wrong {
        let theirs = PatchParams { field_manager: Some("somebody".into()), ..Default::default() };
        operator.api::<Service>().patch("hello", &theirs, &Patch::Merge(&wrong)).await?;
        operator.children("hello", port, 2).await?;
        operator.serving("hello").await?;
    }
    // Status is lost.
    let none = json!({"status": null});
    operator.api::<WasmService>().patch_status("hello", &PatchParams::default(), &Patch::Merge(&none)).await?;
    operator.serving("hello").await?;
    let record = recorded(&operator.slice("hello").await?).context("a record")?;
    assert_eq!(record.generation, 1, "nothing of this was news to the shims");

    // A Service that is not ours.
    let theirs = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken"},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 8080}]},
    });
    let theirs: Service = serde_json::from_value(theirs)?;
    let before = operator.api::<Service>().create(&PostParams::default(), &theirs).await?;
    operator.apply("taken", json!({"image": "good:1"})).await?;
    operator.says("taken", ConditionType::Ready, "False ServiceConflict").await?;
    let after = operator.api::<Service>().get("taken").await?;
    assert_eq!(before.resource_version(), after.resource_version(), "theirs is untouched");
    operator.api::<Service>().delete("taken", &DeleteParams::default()).await?;
    operator.serving("taken").await?;

    // A quota that leaves no room for another Service: the user is told, and it is tried again.
    let quota = json!({"metadata": {"name": "none"}, "spec": {"hard": {"count/services": "2"}}});
    let quota: ResourceQuota = serde_json::from_value(quota)?;
    operator.api::<ResourceQuota>().create(&PostParams::default(), &quota).await?;
    operator
        .until("the quota is in force", async || {
            let quota = operator.api::<ResourceQuota>().get("none").await?;
            ensure!(quota.status.and_then(|s| s.used).is_some_and(|used| !used.is_empty()), "not yet");
            Ok(())
        })
        .await?;
    operator.apply("third", json!({"image": "good:1"})).await?;
    let third = operator.says("third", ConditionType::Ready, "False Refused").await?;
    assert!(serde_json::to_string(&third.status)?.contains("exceeded quota"), "{:?}", third.status);
    operator.api::<ResourceQuota>().delete("none", &DeleteParams::default()).await?;
    operator.serving("third").await?;

    // A broken new image leaves the old one serving; a good one mends it.
    operator.apply("hello", json!({"image": "broken:1", "replicas": 3})).await?;
    let broken = operator.says("hello", ConditionType::Ready, "False CoreModule").await?;
    operator.says("hello", ConditionType::Available, "True EarlierGeneration").await?;
    assert_eq!(broken.status.and_then(|s| s.image).context("an image")?.digest, "sha256:good:1");
    operator.children("hello", port, 2).await?;
    operator.apply("hello", json!({"image": "good:2", "replicas": 3})).await?;
    operator.serving("hello").await?;

    // Another replica takes over: the shims keep what they have, and what they know that is gone is withdrawn.
    let uid = ready.uid().context("a uid")?;
    let generation = recorded(&operator.slice("hello").await?).context("a record")?.generation;
    let before = (operator.slice("hello").await?, operator.api::<WasmService>().get("hello").await?);
    let Operator { kube, namespace, context, tasks } = operator;
    drop((context, tasks));
    let mut operator = Operator::again(kube, &namespace).await?;
    let known = [(uid.as_str(), generation), ("00000000-gone", 4)];
    let (one, two) = (operator.connect_shim("n1", &known), operator.connect_shim("n2", &known));
    for shim in [&one, &two] {
        operator
            .until("the shims are synced and the one that is gone is withdrawn", async || {
                let told = told(shim);
                ensure!(told.contains(&"synced".to_owned()), "{told:?}");
                ensure!(told.contains(&"withdraw 00000000-gone".to_owned()), "{told:?}");
                Ok(())
            })
            .await?;
        assert!(!told(shim).iter().any(|t| t.contains("assign hello")), "{:?}", told(shim));
    }
    let after = (operator.slice("hello").await?, operator.api::<WasmService>().get("hello").await?);
    assert_eq!(before.0.endpoints, after.0.endpoints);
    assert_eq!((before.0.ports, before.1.status), (after.0.ports, after.1.status));

    // Deletion: the shims are told, and Kubernetes takes the rest.
    operator.api::<WasmService>().delete("hello", &DeleteParams::default()).await?;
    operator
        .until("everything is gone", async || {
            ensure!(told(&one).contains(&format!("withdraw {uid}")), "{:?}", told(&one));
            ensure!(operator.api::<Service>().get_opt("hello").await?.is_none(), "the Service is there");
            ensure!(
                operator.api::<EndpointSlice>().get_opt(&slice_name("hello")).await?.is_none(),
                "the slice is there"
            );
            Ok(())
        })
        .await?;
    operator.end().await
}
