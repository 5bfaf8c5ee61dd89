//! The shared port on the real cluster: any node answers for any host, the oldest has it, and who has nothing to do with
//! it loses nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, api::DeleteParams};
use podless_crds::ConditionType::HostsAccepted;
use podless_e2e::{Cluster, Guest, Plan, RELEASE_NAMESPACE, Target, Traffic, eventually, get};
use serde_json::{Value, json};

/// The Service through which all shims are asked.
async fn shared(cluster: &Cluster, host: &str) -> Result<Target> {
    let services = Api::<Service>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE);
    let address = services.get("podless-shared").await?.spec.and_then(|spec| spec.cluster_ip);
    let address = format!("{}:80", address.context("no address")?).parse()?;
    Ok(Target { address, host: host.to_owned() })
}

/// Waits until this is what comes back, ten times in a row: kube-proxy asks one shim or another.
async fn answers(target: &Target, path: &str, want: &str) -> Result<()> {
    eventually(&format!("{}{path} answers {want:?}", target.host), Duration::from_secs(60), async || {
        for _ in 0..10 {
            let answer = get(target, path).await?;
            let got = format!("{} {}", answer.status.as_u16(), answer.body.trim_end());
            ensure!(got == want, "{got:?}");
        }
        Ok(())
    })
    .await
}

fn hello(image: &str, greeting: &str, hosts: &[&str]) -> Value {
    json!({"image": image, "env": [{"name": "GREETING", "value": greeting}], "hosts": hosts})
}

#[tokio::test]
async fn the_oldest_has_a_host_on_every_node_and_the_next_when_it_goes() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let (one, two) = (cluster.namespace("e2e-hosts").await?, cluster.namespace("e2e-hosts-two").await?);
    let image = cluster.registry.push_guest("hello", "e2e/hosts:1").await?;
    let (shop, page) = (shared(&cluster, "shop.example").await?, shared(&cluster, "deep.any.example").await?);
    let by = shared(&cluster, "by.example").await?;
    // Of each one replica, on one node, or none at all: every node answers.
    one.apply("shop", hello(&image, "shop", &["shop.example", "*.any.example"])).await?;
    let mut fixed = hello(&image, "by", &["by.example"]);
    fixed["replicas"] = 1.into();
    one.apply("by", fixed).await?;
    for name in ["shop", "by"] {
        one.until_condition(name, HostsAccepted, "True", "Done").await?;
        one.ready(name).await?;
    }
    answers(&shop, "/", "200 shop").await?;
    answers(&page, "/", "200 shop").await?;
    answers(&by, "/", "200 by").await?;
    answers(&shared(&cluster, "nobody.example").await?, "/", "404 no service has this host").await?;
    let plan = Plan { guest: Guest::Any, most: Duration::from_secs(240), ..Plan::default() };
    let traffic = Traffic::with(&by, plan)?;
    traffic.flows().await?;

    two.apply("late", hello(&image, "late", &["shop.example", "late.example"])).await?;
    let message = two.until_condition("late", HostsAccepted, "False", "HostnameConflict").await?;
    ensure!(message.contains("shop.example") && !message.contains("e2e-hosts"), "{message}");
    two.ready("late").await?;
    let events = cluster.events(&two.name, "late").await?;
    ensure!(events.iter().any(|(reason, _)| reason == "HostnameConflict"), "{events:?}");
    answers(&shared(&cluster, "late.example").await?, "/", "200 late").await?;
    answers(&shop, "/", "200 shop").await?;
    // In its own namespace a part of it goes to another.
    one.apply("api", hello(&image, "api", &["shop.example/api"])).await?;
    answers(&shop, "/api/v1", "200 api").await?;
    answers(&shop, "/apis", "200 shop").await?;
    one.services().delete("api", &DeleteParams::default()).await?;
    answers(&shop, "/api/v1", "200 shop").await?;

    one.services().delete("shop", &DeleteParams::default()).await?;
    answers(&shop, "/", "200 late").await?;
    two.until_condition("late", HostsAccepted, "True", "Done").await?;
    answers(&page, "/", "404 no service has this host").await?;
    let seen = traffic.stop().await?;
    eprintln!("beside hosts that change hands: {seen}");
    seen.none_lost(100)?;
    two.delete().await?;
    one.delete().await
}
