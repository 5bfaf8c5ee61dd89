//! A shim takes another's place while what that one serves cannot be made: it is not told that it has everything.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    ResourceExt,
    api::{DeleteParams, PostParams},
};
use podless_operator::reconcile::children::recorded;
use serde_json::json;

use crate::operator::{Operator, told};

#[tokio::test]
async fn who_replaces_a_shim_waits_for_what_a_new_leader_cannot_make() -> Result<()> {
    let mut operator = Operator::start("op-replaced").await?;
    let _old = operator.connect_shim("n1", &[]);
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"token": "t"}});
    let secret: Secret = serde_json::from_value(secret)?;
    operator.api::<Secret>().create(&PostParams::default(), &secret).await?;
    let token = json!({"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}});
    operator.apply("hello", json!({"image": "good:1", "replicas": 1, "env": [token]})).await?;
    let uid = operator.serving("hello").await?.uid().context("a uid")?;
    let generation = recorded(&operator.slice("hello").await?).context("a record")?.generation;

    // The next leader finds the Secret gone.
    operator.api::<Secret>().delete("s", &DeleteParams::default()).await?;
    let Operator { kube, namespace, context, tasks } = operator;
    drop((context, tasks));
    let mut operator = Operator::again(kube, &namespace).await?;
    let _old = operator.connect_shim("n1", &[(uid.as_str(), generation)]);
    let new = operator.connect_pod("new", "n1", &[]);
    let elsewhere = operator.connect_shim("n2", &[]);
    operator
        .until("who replaces nobody has been told everything", async || {
            ensure!(told(&elsewhere) == ["synced"], "{:?}", told(&elsewhere));
            Ok(())
        })
        .await?;
    assert!(told(&new).is_empty(), "{:?}", told(&new));

    operator.api::<Secret>().create(&PostParams::default(), &secret).await?;
    operator
        .until("the new one has been told first of what the old one serves", async || {
            ensure!(
                told(&new) == [format!("assign hello {generation} budget 100"), "synced".into()],
                "{:?}",
                told(&new)
            );
            Ok(())
        })
        .await?;
    operator.end().await
}
