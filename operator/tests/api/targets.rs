//! Nodes of several kinds: what is compiled, and who gets it.

use anyhow::{Context as _, Result, ensure};
use podless_crds::ConditionType::{Precompiled, Ready};
use podless_engine::Target;
use podless_operator::reconcile::children::recorded;
use serde_json::json;

use crate::operator::Operator;

async fn is_on(operator: &Operator, name: &str, want: &[(&str, u32)]) -> Result<()> {
    operator
        .until(&format!("{name} is on {want:?}"), async || {
            let record = recorded(&operator.slice(name).await?).context("a record")?;
            let placed: Vec<_> = record.nodes.iter().map(|(node, n)| (node.as_str(), n.replicas)).collect();
            ensure!(placed == want, "{placed:?}");
            Ok(())
        })
        .await
}

async fn is_made_for(operator: &Operator, name: &str, want: &[&str]) -> Result<()> {
    operator
        .until(&format!("{name} is compiled for {want:?}"), async || {
            let status = operator.serving(name).await?.status.context("a status")?;
            let targets: Vec<_> = status.artifacts.iter().map(|artifact| artifact.target.as_str()).collect();
            ensure!(targets == want, "{targets:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn each_kind_of_node_gets_machine_code_of_its_own() -> Result<()> {
    let mut operator = Operator::start("op-targets").await?;
    operator.connect_shim("targets-amd", &[]);
    operator.apply("both", json!({"image": "good:1", "replicas": 2})).await?;
    operator.apply("one", json!({"image": "good:not-for-aarch64", "replicas": 2})).await?;
    is_made_for(&operator, "both", &["x86-64-v3"]).await?;
    is_on(&operator, "both", &[("targets-amd", 2)]).await?;

    operator.connect_target("arm", "targets-arm", &[], Target::Aarch64);
    is_made_for(&operator, "both", &["x86-64-v3", "aarch64"]).await?;
    is_on(&operator, "both", &[("targets-amd", 1), ("targets-arm", 1)]).await?;
    operator
        .until("it is said that there is none for the other kind", async || {
            let service = operator.says("one", Precompiled, "True Done").await?;
            let conditions = service.status.context("a status")?.conditions;
            let compiled = conditions.iter().find(|c| c.type_ == Precompiled.as_str()).context("Precompiled")?;
            ensure!(compiled.message.ends_with("none for aarch64: it does not compile"), "{}", compiled.message);
            Ok(())
        })
        .await?;
    is_on(&operator, "one", &[("targets-amd", 2)]).await?;
    operator.says("one", Ready, "True Serving").await?;

    // A new tag means the same on both.
    operator.apply("both", json!({"image": "good:2", "replicas": 2})).await?;
    is_made_for(&operator, "both", &["x86-64-v3", "aarch64"]).await?;
    Ok(())
}
