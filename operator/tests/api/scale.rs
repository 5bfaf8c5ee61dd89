//! The scale subresource, and what stopped means.

use anyhow::{Result, ensure};
use kube::api::{Patch, PatchParams};
use podless_crds::{
    ConditionType::{Available, Ready},
    WasmService,
};
use serde_json::json;

use crate::operator::{Operator, spread, told};

#[tokio::test]
async fn services_are_scaled_stopped_and_started_as_kubectl_does() -> Result<()> {
    let mut operator = Operator::start("op-scale").await?;
    let shims = [operator.connect_shim("n1", &[]), operator.connect_shim("n2", &[])];
    operator.apply("hello", json!({"image": "good:1"})).await?;
    operator.serving("hello").await?;
    let services = operator.api::<WasmService>();
    let scaled_to = async |replicas: i32| -> Result<()> {
        let scale = json!({"spec": {"replicas": replicas}});
        services.patch_scale("hello", &PatchParams::default(), &Patch::Merge(&scale)).await?;
        Ok(())
    };
    let shows = async |replicas: i32| {
        operator
            .until(&format!("the scale shows {replicas}"), async || {
                let scale = services.get_scale("hello").await?;
                let status = scale.status.unwrap_or_default();
                ensure!(status.replicas == replicas, "{status:?}");
                ensure!(status.selector.as_deref() == Some("podless.dev/service=hello"), "{status:?}");
                Ok(())
            })
            .await
    };
    shows(1).await?;
    assert!(shims.iter().all(|shim| spread(shim).is_empty()), "the first shim has no connections to share");
    scaled_to(4).await?;
    operator.serving("hello").await?;
    shows(4).await?;
    operator
        .until("who had the connections is asked to share them", async || {
            let mut spread: Vec<_> = shims.iter().map(spread).collect();
            spread.sort();
            ensure!(spread == [vec![], vec![(1, 2)]], "{spread:?}");
            Ok(())
        })
        .await?;

    scaled_to(0).await?;
    operator.says("hello", Ready, "True Stopped").await?;
    operator.says("hello", Available, "False Stopped").await?;
    shows(0).await?;
    let slice = operator.slice("hello").await?;
    assert_eq!(slice.endpoints.len(), 2, "who asks is answered that it is stopped");
    assert!(shims.iter().all(|shim| told(shim).last().is_some_and(|told| told.ends_with("budget 0"))));

    scaled_to(2).await?;
    operator.serving("hello").await?;
    shows(2).await?;
    operator.end().await
}
