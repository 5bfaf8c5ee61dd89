//! The native peer in pods: a Deployment and its Service, as a user has them. IO.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use podless_e2e::{Cluster, Namespace, Target, eventually};
use serde_json::json;

/// The image that `make bench-scaling` gives to the nodes.
const IMAGE: &str = "podless.local/peers/crud-axum:1";
const NAME: &str = "native";

/// The peer.
pub(crate) struct Pods {
    deployments: Api<Deployment>,
    pods: Api<Pod>,
    /// Where its Service answers.
    pub(crate) target: Target,
}

impl Pods {
    /// Creates it without a pod. It has no probe, so that it serves as soon as it runs.
    pub(crate) async fn create(cluster: &Cluster, namespace: &Namespace) -> Result<Self> {
        let labels = json!({"app": NAME});
        let deployment = json!({
            "metadata": {"name": NAME},
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "automountServiceAccountToken": false,
                        "enableServiceLinks": false,
                        "terminationGracePeriodSeconds": 2,
                        "containers": [{
                            "name": "crud", "image": IMAGE, "imagePullPolicy": "Never",
                            "ports": [{"containerPort": 8080}],
                        }],
                    },
                },
            },
        });
        let service = json!({
            "metadata": {"name": NAME},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
        });
        let deployments = Api::<Deployment>::namespaced(cluster.kube.clone(), &namespace.name);
        let services = Api::<Service>::namespaced(cluster.kube.clone(), &namespace.name);
        deployments.create(&Default::default(), &serde_json::from_value(deployment)?).await?;
        services.create(&Default::default(), &serde_json::from_value(service)?).await?;
        let pods = Api::namespaced(cluster.kube.clone(), &namespace.name);
        Ok(Self { deployments, pods, target: namespace.target(NAME).await? })
    }

    /// Says how many there are to be.
    pub(crate) async fn scale(&self, replicas: usize) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        self.deployments.patch_scale(NAME, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Waits until there are so many, all ready, and none that ends.
    pub(crate) async fn until(&self, replicas: usize) -> Result<()> {
        eventually(&format!("{replicas} pods"), Duration::from_secs(300), async || {
            let deployment = self.deployments.get(NAME).await?;
            let ready = deployment.status.and_then(|status| status.ready_replicas).unwrap_or(0);
            ensure!(usize::try_from(ready)? == replicas, "{ready} are ready");
            let there = self.uids().await?.len();
            ensure!(there == replicas, "{there} are there");
            Ok(())
        })
        .await
    }

    /// The uids of its pods.
    pub(crate) async fn uids(&self) -> Result<Vec<String>> {
        let pods = self.pods.list(&ListParams::default().labels(&format!("app={NAME}"))).await?;
        Ok(pods.into_iter().filter_map(|pod| pod.metadata.uid).collect())
    }
}
