//! Hosts on a real API server: who has one that several ask for, what is said to the others, and what policies leave.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use podless_crds::{ConditionType, WasmPolicy, WasmService};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::operator::{Operator, make_namespace, told};

const ACCEPTED: ConditionType = ConditionType::HostsAccepted;

fn asks(hosts: &[&str]) -> Value {
    json!({"image": "good:1", "hosts": hosts})
}

/// The same operator's services in another namespace.
async fn beside(operator: &Operator, namespace: &str) -> Result<Operator> {
    make_namespace(&operator.kube, namespace).await?;
    let (kube, context) = (operator.kube.clone(), operator.context.clone());
    Ok(Operator { kube, namespace: namespace.to_owned(), context, tasks: JoinSet::new() })
}

fn said(service: &WasmService) -> (Vec<String>, String) {
    let status = service.status.clone().unwrap_or_default();
    let condition = status.conditions.into_iter().find(|c| c.type_ == ACCEPTED.as_str());
    (status.hosts, condition.map(|c| c.message).unwrap_or_default())
}

/// What shims are told that a service has.
fn assigned(operator: &Operator, service: &WasmService) -> Vec<String> {
    let uid = service.metadata.uid.as_deref().unwrap_or_default();
    operator.context.hub.sessions().assigned(uid).map(|assigned| assigned.hosts.clone()).unwrap_or_default()
}

#[tokio::test]
async fn the_oldest_has_a_host_until_it_goes() -> Result<()> {
    let mut operator = Operator::start("op-hosts").await?;
    let other = beside(&operator, "op-hosts-two").await?;
    let shims = ["n1", "n2", "n3"].map(|node| operator.connect_shim(node, &[]));
    operator.apply("shop", asks(&["shop.test", "*.shop.test"])).await?;
    let shop = operator.says("shop", ACCEPTED, "True Done").await?;
    operator.serving("shop").await?;
    ensure!(said(&shop).0 == ["shop.test", "*.shop.test"], "{:?}", said(&shop));
    ensure!(operator.slice("shop").await?.endpoints.len() == 1, "a host is no endpoint");
    operator
        .until("every shim is told", async || {
            ensure!(shims.iter().all(|shim| told(shim).iter().any(|told| told.starts_with("assign shop"))), "not yet");
            Ok(())
        })
        .await?;

    // Another tenant gets no page beside it, and is not told whose it is. What it asks for beside that it has.
    other.apply("thief", asks(&["shop.test/pay", "x.shop.test", "own.test"])).await?;
    let thief = other.says("thief", ACCEPTED, "False HostnameConflict").await?;
    other.serving("thief").await?;
    let (hosts, message) = said(&thief);
    ensure!(hosts == ["own.test"] && message.contains("shop.test/pay") && message.contains("x.shop.test"), "{message}");
    ensure!(!message.contains("op-hosts") && !message.contains("WasmService \""), "{message}");
    ensure!(assigned(&other, &thief) == ["own.test"], "{:?}", assigned(&other, &thief));
    other
        .until("an Event says so", async || {
            let events = other.api::<Event>().list(&Default::default()).await?;
            ensure!(events.iter().any(|e| e.reason.as_deref() == Some("HostnameConflict")), "no Event");
            Ok(())
        })
        .await?;
    // In its own namespace paths are shared, each with one.
    operator.apply("pay", asks(&["shop.test/pay", "shop.test"])).await?;
    let (hosts, message) = said(&operator.says("pay", ACCEPTED, "False HostnameConflict").await?);
    ensure!(hosts == ["shop.test/pay"] && message.contains("WasmService \"shop\" has shop.test"), "{message}");

    // The oldest takes one back; then it goes, and so does the next.
    operator.apply("shop", asks(&["shop.test"])).await?;
    other
        .until("the wildcard is gone", async || {
            let (hosts, _) = said(&other.api::<WasmService>().get("thief").await?);
            ensure!(hosts == ["x.shop.test", "own.test"], "{hosts:?}");
            Ok(())
        })
        .await?;
    for name in ["shop", "pay"] {
        operator.api::<WasmService>().delete(name, &DeleteParams::default()).await?;
    }
    let thief = other.says("thief", ACCEPTED, "True Done").await?;
    ensure!(assigned(&other, &thief).len() == 3, "{:?}", assigned(&other, &thief));
    other.apply("thief", json!({"image": "good:1"})).await?;
    let thief = other.says("thief", ACCEPTED, "True Done").await?;
    ensure!(said(&thief).0.is_empty() && assigned(&other, &thief).is_empty(), "it asks for none");
    other.end().await?;
    operator.end().await
}

#[tokio::test]
async fn a_policy_says_which_hosts_a_namespace_may_have() -> Result<()> {
    const NAME: &str = "op-host-policy";
    let mut operator = Operator::start(NAME).await?;
    operator.connect_shim("n1", &[]);
    let policies = Api::<WasmPolicy>::all(operator.kube.clone());
    if policies.get_opt(NAME).await?.is_some() {
        policies.delete(NAME, &DeleteParams::default()).await?;
    }
    operator.apply("before", asks(&["before.test"])).await?;
    operator.says("before", ACCEPTED, "True Done").await?;
    let policy = json!({
        "apiVersion": "podless.dev/v1alpha1", "kind": "WasmPolicy", "metadata": {"name": NAME},
        "spec": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAME}}, "hosts": ["*.own.test"]},
    });
    policies.patch(NAME, &PatchParams::apply("test").force(), &Patch::Apply(&policy)).await?;
    operator
        .until("the policy is seen", async || {
            let status = policies.get(NAME).await?.status.context("no status")?;
            ensure!(status.conditions.iter().any(|c| c.status == "True"), "{status:?}");
            Ok(())
        })
        .await?;
    operator.apply("after", asks(&["a.own.test", "after.test/path"])).await?;
    let after = operator.says("after", ACCEPTED, "False PolicyViolation").await?;
    operator.serving("after").await?;
    let (hosts, message) = said(&after);
    let want = "WasmPolicy \"op-host-policy\" does not allow the host after.test (spec.hosts): it allows *.own.test";
    ensure!(hosts == ["a.own.test"] && message == want, "{hosts:?} {message}");
    // What was let pass goes on, and nothing more of that kind.
    operator.apply("before", asks(&["before.test", "more.test"])).await?;
    let (hosts, _) = said(&operator.says("before", ACCEPTED, "False PolicyViolation").await?);
    ensure!(hosts == ["before.test"], "{hosts:?}");
    policies.delete(NAME, &DeleteParams::default()).await?;
    for name in ["before", "after"] {
        operator.says(name, ACCEPTED, "True Done").await?;
    }
    operator.end().await
}

#[tokio::test]
async fn what_is_no_host_is_refused_by_its_field() -> Result<()> {
    let operator = Operator::start("op-host-words").await?;
    let long = [["a".repeat(63).as_str(); 4].join("."), "test".to_owned()].join(".");
    for (host, taken) in [
        ("hello.example.com", true),
        ("localhost", true),
        ("*.example.com", true),
        ("xn--bcher-kva.example", true),
        ("hello.example.com/api/v1.2", true),
        ("10.0.0.1", false),
        ("[::1]", false),
        ("Hello.example.com", false),
        ("hello.example.com.", false),
        ("hello.example.com:80", false),
        ("https://hello.example.com", false),
        ("bücher.example", false),
        ("*", false),
        ("a.*.example.com", false),
        ("-a.example.com", false),
        ("hello..example.com", false),
        ("hello.example.com/", false),
        ("hello.example.com//api", false),
        ("hello.example.com/../api", false),
        ("hello.example.com/a?b", false),
        ("/api", false),
        ("", false),
        (&long, false),
    ] {
        let object = json!({
            "apiVersion": "podless.dev/v1alpha1", "kind": "WasmService", "metadata": {"name": "words"},
            "spec": asks(&[host]),
        });
        let params = PatchParams::apply("test").dry_run().force();
        let answer = operator.api::<WasmService>().patch("words", &params, &Patch::Apply(&object)).await;
        match answer {
            Ok(_) => ensure!(taken, "{host:?} was taken"),
            Err(error) => ensure!(!taken && error.to_string().contains("spec.hosts"), "{host:?}: {error}"),
        }
    }
    operator.end().await
}
