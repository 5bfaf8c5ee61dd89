//! Environment from ConfigMaps and Secrets: it is waited for, rolled out when it changes, and shown nowhere.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Secret},
    events::v1::Event,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use podless_crds::ConditionType::{Available, Placed, Ready};
use podless_operator::reconcile::children::recorded;
use serde_json::{Value, json};

use crate::operator::Operator;

async fn secret(operator: &Operator, value: Option<&str>) -> Result<()> {
    let data = value.map_or(json!({}), |value| json!({"token": value}));
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": data});
    operator.api::<Secret>().delete("s", &DeleteParams::default()).await.map(|_| ()).or_else(|error| match error {
        kube::Error::Api(status) if status.code == 404 => Ok(()),
        error => Err(error),
    })?;
    operator.api::<Secret>().patch("s", &PatchParams::apply("test"), &Patch::Apply(&object)).await?;
    Ok(())
}

async fn colour(operator: &Operator, value: &str) -> Result<()> {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"colour": value}});
    let params = PatchParams::apply("test").force();
    operator.api::<ConfigMap>().patch("m", &params, &Patch::Apply(&object)).await?;
    Ok(())
}

/// Waits until the shims have this environment.
async fn has(operator: &Operator, uid: &str, want: &[(&str, &str)]) -> Result<()> {
    operator
        .until("the environment is rolled out", async || {
            let assigned = operator.context.hub.sessions().assigned(uid).context("assigned")?;
            // Values in a message would be values in a log: these are a test's.
            let have: Vec<_> = assigned.content.env.iter().collect();
            ensure!(have == want, "{have:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn values_come_when_they_are_there_and_roll_out_when_they_change() -> Result<()> {
    let mut operator = Operator::start("op-env").await?;
    let _shim = operator.connect_shim("n1", &[]);
    let spec = json!({"image": "good:1", "env": [
        {"name": "PLAIN", "value": "p"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}},
        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "colour", "optional": true}}},
    ]});
    operator.apply("hello", spec).await?;
    let waits = operator.says("hello", Ready, "False EnvInvalid").await?;
    operator.says("hello", Placed, "False EnvInvalid").await?;
    let said = serde_json::to_string(&waits.status)?;
    assert!(said.contains(r#"Secret \"s\" is not in this namespace"#), "{said}");
    secret(&operator, None).await?;
    operator
        .until("the key is named", async || {
            let status = serde_json::to_value(operator.says("hello", Ready, "False EnvInvalid").await?.status)?;
            ensure!(status.to_string().contains("has no key"), "{status}");
            Ok(())
        })
        .await?;

    secret(&operator, Some("hush-1")).await?;
    let ready = operator.serving("hello").await?;
    let (uid, generation) = (ready.uid().context("a uid")?, ready.metadata.generation);
    has(&operator, &uid, &[("PLAIN", "p"), ("TOKEN", "hush-1")]).await?;
    colour(&operator, "blue").await?;
    has(&operator, &uid, &[("PLAIN", "p"), ("TOKEN", "hush-1"), ("COLOUR", "blue")]).await?;
    secret(&operator, Some("hush-2")).await?;
    has(&operator, &uid, &[("PLAIN", "p"), ("TOKEN", "hush-2"), ("COLOUR", "blue")]).await?;
    let ready = operator.serving("hello").await?;
    assert_eq!(ready.metadata.generation, generation, "the object is as it was");
    let rolled = recorded(&operator.slice("hello").await?).context("a record")?.generation;
    assert!(rolled >= 3, "each change is an assignment: {rolled}");

    // It goes: what serves goes on serving, and is told.
    operator.api::<Secret>().delete("s", &DeleteParams::default()).await?;
    operator.says("hello", Ready, "False EnvInvalid").await?;
    operator.says("hello", Available, "True Serving").await?;
    has(&operator, &uid, &[("PLAIN", "p"), ("TOKEN", "hush-2"), ("COLOUR", "blue")]).await?;
    // It comes back as it was: that is nothing new to the shims.
    let before = recorded(&operator.slice("hello").await?).context("a record")?.generation;
    secret(&operator, Some("hush-2")).await?;
    operator.serving("hello").await?;
    assert_eq!(recorded(&operator.slice("hello").await?).context("a record")?.generation, before);

    // Nothing that anybody can read has a value of the secret.
    let events = operator.api::<Event>().list(&Default::default()).await?;
    let service = operator.serving("hello").await?;
    let readable: Vec<Value> = vec![
        serde_json::to_value(&events.items)?,
        serde_json::to_value(&service)?,
        serde_json::to_value(operator.slice("hello").await?)?,
    ];
    assert!(!readable.iter().any(|object| object.to_string().contains("hush")), "{readable:?}");
    assert!(events.iter().any(|event| event.reason.as_deref() == Some("EnvInvalid")), "an Event says what is missing");
    operator.end().await
}
