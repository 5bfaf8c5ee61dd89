//! Placement by real Nodes: labels, taints, what can be allocated.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{core::v1::Node, events::v1::Event};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use podless_crds::ConditionType::{Placed, Ready};
use podless_operator::reconcile::children::recorded;
use serde_json::{Value, json};

use crate::operator::Operator;

/// A Node without a machine.
async fn make_node(nodes: &Api<Node>, name: &str) -> Result<()> {
    let _ = nodes.delete(name, &DeleteParams::default()).await;
    let node: Node = serde_json::from_value(json!({"metadata": {"name": name, "labels": {"disk": name}}}))?;
    nodes.create(&PostParams::default(), &node).await?;
    let status = json!({"status": {"allocatable": {"cpu": "2"}, "capacity": {"cpu": "2"}}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}

async fn placed(operator: &Operator, name: &str) -> Result<Vec<(String, u32)>> {
    let record = recorded(&operator.slice(name).await?).context("a record")?;
    Ok(record.nodes.into_iter().map(|(node, n)| (node, n.replicas)).collect())
}

/// Waits until a service is on these nodes.
async fn is_on(operator: &Operator, name: &str, want: &[(&str, u32)]) -> Result<()> {
    operator
        .until(&format!("{name} is on {want:?}"), async || {
            let placed = placed(operator, name).await?;
            let placed: Vec<_> = placed.iter().map(|(node, n)| (node.as_str(), *n)).collect();
            ensure!(placed == want, "{placed:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn nodes_are_chosen_by_what_they_are_and_have() -> Result<()> {
    let mut operator = Operator::start("op-place").await?;
    let nodes = Api::<Node>::all(operator.kube.clone());
    for name in ["place-1", "place-2"] {
        make_node(&nodes, name).await?;
        operator.connect_shim(name, &[]);
    }
    let on = |spec: Value| {
        let mut all = json!({"image": "good:1"});
        all.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
        all
    };
    let patch = async |name: &str, spec: Value| -> Result<()> {
        nodes.patch(name, &PatchParams::default(), &Patch::Merge(&spec)).await?;
        Ok(())
    };

    // No node has it: it is said how many did not; then one has.
    operator.apply("chosen", on(json!({"nodeSelector": {"disk": "fast"}}))).await?;
    let nowhere = operator.says("chosen", Ready, "False NoNode").await?;
    let said = serde_json::to_string(&nowhere.status)?;
    assert!(said.contains("nodes fit: ") && said.contains("2 didn't match nodeSelector"), "{said}");
    operator
        .until("an Event says so", async || {
            let events = operator.api::<Event>().list(&Default::default()).await?;
            ensure!(events.iter().any(|event| event.reason.as_deref() == Some("NoNode")), "no such Event");
            Ok(())
        })
        .await?;
    patch("place-2", json!({"metadata": {"labels": {"disk": "fast"}}})).await?;
    operator.serving("chosen").await?;
    is_on(&operator, "chosen", &[("place-2", 1)]).await?;

    // A taint moves who does not tolerate it.
    operator.apply("plain", on(json!({"replicas": 2}))).await?;
    operator.serving("plain").await?;
    is_on(&operator, "plain", &[("place-1", 1), ("place-2", 1)]).await?;
    patch("place-1", json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}})).await?;
    is_on(&operator, "plain", &[("place-2", 2)]).await?;
    let tolerates = json!({"replicas": 2, "tolerations": [{"key": "gpu", "operator": "Exists"}]});
    operator.apply("plain", on(tolerates)).await?;
    is_on(&operator, "plain", &[("place-1", 1), ("place-2", 1)]).await?;
    patch("place-1", json!({"spec": {"taints": null}})).await?;

    // So does cordoning.
    patch("place-1", json!({"spec": {"unschedulable": true}})).await?;
    operator.apply("plain", on(json!({"replicas": 2}))).await?;
    is_on(&operator, "plain", &[("place-2", 2)]).await?;
    patch("place-1", json!({"spec": {"unschedulable": null}})).await?;
    is_on(&operator, "plain", &[("place-1", 1), ("place-2", 1)]).await?;

    // Two CPUs on each, of which somebody else has taken one and a half of the first node.
    let half = json!({"replicas": 3, "nodeSelector": {"disk": "place-1"}, "resources": {"requests": {"cpu": "500m"}}});
    operator.apply("other", on(half)).await?;
    operator.serving("other").await?;
    operator.apply("large", on(json!({"replicas": 4, "resources": {"requests": {"cpu": 1}}}))).await?;
    let short = operator.says("large", Ready, "False NoNode").await?;
    let said = serde_json::to_string(&short.status)?;
    assert!(said.contains("2 of 4 replicas placed: ") && said.contains("2 had insufficient cpu"), "{said}");
    is_on(&operator, "large", &[("place-2", 2)]).await?;
    operator.says("large", Placed, "False NoNode").await?;
    operator.apply("large", on(json!({"replicas": 2, "resources": {"requests": {"cpu": 1}}}))).await?;
    operator.serving("large").await?;

    for name in ["place-1", "place-2"] {
        nodes.delete(name, &DeleteParams::default()).await?;
    }
    operator.end().await
}
