//! How often an instance answers: what a service asks for reaches the shims, and a change is a new generation.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podless_e2e::{Cluster, Target, eventually, get};
use serde_json::json;

/// The numbers of so many requests within their instances.
async fn numbers(target: &Target, path: &str, count: usize) -> Result<Vec<u32>> {
    let mut numbers = vec![];
    for _ in 0..count {
        let answer = get(target, path).await?;
        numbers.push(answer.body.trim().parse().with_context(|| format!("{answer:?}"))?);
    }
    Ok(numbers)
}

#[tokio::test]
async fn instances_answer_as_often_as_their_service_says() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-instances").await?;
    let old = cluster.registry.push_guest("probe", "e2e/instances:0.2").await?;
    let new = cluster.registry.push_guest("reuse-p3", "e2e/instances:0.3").await?;
    let thrice = json!({"maxInvocations": 3});
    namespace.apply("old", json!({"image": old, "replicas": 1, "instance": thrice})).await?;
    namespace.apply("new", json!({"image": new, "replicas": 1})).await?;
    for (name, path, most) in [("old", "/fresh", 3), ("new", "/", 128)] {
        let target = namespace.answers(name).await?;
        eventually(&format!("an instance of {name} answers again"), Duration::from_secs(20), async || {
            let numbers = numbers(&target, path, 20).await?;
            ensure!(numbers.iter().all(|number| (1..=most).contains(number)), "{numbers:?}");
            ensure!(numbers.contains(&3), "{numbers:?}");
            Ok(())
        })
        .await?;
    }
    // As it is with each: whoever asks for a fresh one gets it.
    let once = json!({"maxInvocations": 1});
    namespace.apply("new", json!({"image": new, "replicas": 1, "instance": once})).await?;
    let target = namespace.answers("new").await?;
    eventually("each request has an instance of its own", Duration::from_secs(20), async || {
        let numbers = numbers(&target, "/", 20).await?;
        ensure!(numbers.iter().all(|number| *number == 1), "{numbers:?}");
        Ok(())
    })
    .await?;
    for wrong in [json!({"maxInvocations": 0}), json!({"poolSize": -1}), json!({"maxConcurrency": 1001})] {
        let refused = namespace.apply("wrong", json!({"image": old, "instance": wrong})).await;
        ensure!(refused.is_err(), "{wrong} is none");
    }
    namespace.delete().await
}
