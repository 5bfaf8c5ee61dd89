//! Many broken services beside a good one: it is ready soon, and the API server is not written to without end.

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice, events::v1::Event};
use kube::{ResourceExt, api::ListParams};
use podless_crds::{ConditionType::Ready, WasmService};
use serde_json::json;

use crate::operator::Operator;

const BROKEN: usize = 500;

/// How often anything of this namespace was written: versions are counted by what each object says of itself.
async fn versions(operator: &Operator) -> Result<Vec<(String, String)>> {
    let mut all = vec![];
    macro_rules! list {
        ($($kind:ty),+) => {$(
            for object in operator.api::<$kind>().list_metadata(&ListParams::default()).await? {
                all.push((object.uid().unwrap_or_default(), object.resource_version().unwrap_or_default()));
            }
        )+};
    }
    list!(WasmService, Service, EndpointSlice, Event);
    all.sort();
    Ok(all)
}

/// Writes of status, as /metrics counts them.
fn status_writes(operator: &Operator) -> Result<usize> {
    let text = operator.context.metrics.text();
    let line = text.lines().find_map(|line| line.strip_prefix("podless_operator_status_writes_total "));
    Ok(line.context("no such metric")?.parse()?)
}

#[tokio::test]
async fn five_hundred_broken_services_disturb_no_good_one() -> Result<()> {
    let mut operator = Operator::start("op-many").await?;
    let _shim = operator.connect_shim("n1", &[]);
    let broken = |i: usize| match i % 4 {
        0 => json!({"image": format!("broken:{i}")}),
        1 => json!({"image": "broken:same"}),
        2 => json!({"image": "good:1", "nodeSelector": {"no": "node"}}),
        _ => json!({"image": "good:1", "env": [
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "a"}}},
        ]}),
    };
    let before = status_writes(&operator)?;
    let names: Vec<_> = (0..BROKEN).map(|i| (format!("broken-{i}"), broken(i))).collect();
    let apply = stream::iter(names).map(|(name, spec)| {
        let operator = &operator;
        async move { operator.apply(&name, spec).await }
    });
    let all = async { apply.buffer_unordered(16).try_for_each(|_| async { Ok(()) }).await };
    let told = async || {
        let services = operator.api::<WasmService>().list(&ListParams::default()).await?;
        let told = services.iter().filter(|service| {
            let conditions = service.status.iter().flat_map(|status| &status.conditions);
            conditions.into_iter().any(|c| c.type_ == Ready.as_str() && c.status == "False")
        });
        anyhow::Ok(told.count())
    };
    let good = async {
        operator.apply("good", json!({"image": "good:1"})).await?;
        operator.serving("good").await?;
        told().await
    };
    let ((), ahead) = tokio::try_join!(all, good)?;
    assert!(ahead < BROKEN / 2, "the good one waited for {ahead} broken ones");

    operator
        .until("each is told", async || {
            let told = told().await?;
            ensure!(told == BROKEN, "{told} of {BROKEN}");
            Ok(())
        })
        .await?;
    let writes = status_writes(&operator)? - before;
    assert!(writes <= 3 * BROKEN + 20, "{writes} writes of status");

    // Nothing of it is written again when somebody looks at all of them anew.
    let settled = versions(&operator).await?;
    operator.context.hub.wake.all();
    operator.apply("good", json!({"image": "good:2"})).await?;
    operator.serving("good").await?;
    let good = operator.api::<WasmService>().get("good").await?;
    let now = versions(&operator).await?;
    let changed = now.iter().filter(|object| !settled.contains(object)).count();
    assert!(changed <= 8, "{changed} objects were written: {}", good.name_any());
    operator.end().await
}
