//! The shims' pods, as Kubernetes sees them. In: a watch of the release's namespace; out: who is there, and a reconcile
//! when that changes. IO.

use std::{collections::HashMap, sync::Arc};

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        reflector::{self, Store},
        watcher,
    },
};

use crate::{
    link::{Hub, auth::SHIM_SERVICE_ACCOUNT},
    reconcile::quantity,
    said,
};

/// What matters of a shim's pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShimPod {
    /// Its uid.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Its address; empty before it has one.
    pub ip: String,
    /// Its addresses, one for each family; that one is the first.
    pub ips: Vec<String>,
    /// Its Ready condition.
    pub ready: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// Its memory limit in bytes: what all services of its node share.
    pub memory: Option<u64>,
}

impl ShimPod {
    /// Reads a pod; `None` for one that has no node yet or has ended for good. Pure.
    pub fn of(pod: &Pod) -> Option<Self> {
        let status = pod.status.as_ref();
        if status.and_then(|s| s.phase.as_deref()).is_some_and(|phase| phase == "Failed" || phase == "Succeeded") {
            return None;
        }
        let ip = status.and_then(|s| s.pod_ip.clone()).unwrap_or_default();
        let others = status.iter().flat_map(|s| s.pod_ips.iter().flatten()).map(|other| other.ip.clone());
        let others = others.filter(|other| *other != ip);
        let conditions = status.iter().flat_map(|s| s.conditions.iter().flatten());
        Some(Self {
            uid: pod.uid()?,
            name: pod.name_any(),
            node: pod.spec.as_ref()?.node_name.clone()?,
            ips: [ip.clone()].into_iter().chain(others).filter(|ip| !ip.is_empty()).collect(),
            ip,
            ready: conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True"),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            memory: pod.spec.as_ref().and_then(memory_limit),
        })
    }
}

/// The memory limits of a pod's containers together; `None` when one of them has none.
fn memory_limit(spec: &PodSpec) -> Option<u64> {
    let limit =
        |container: &Container| quantity::bytes(&container.resources.as_ref()?.limits.as_ref()?.get("memory")?.0);
    spec.containers.iter().map(limit).sum()
}

/// The pods of a store that are shims.
pub fn shim_pods(store: &Store<Pod>) -> Vec<ShimPod> {
    store.state().iter().filter_map(|pod| ShimPod::of(pod)).collect()
}

/// A store that [`follow`] fills.
pub fn store() -> (Store<Pod>, reflector::store::Writer<Pod>) {
    reflector::store()
}

/// Fills the store, and wakes every service when a shim's pod changed in a way that matters.
pub async fn follow(client: Client, namespace: String, hub: Arc<Hub>, writer: reflector::store::Writer<Pod>) {
    let api = Api::<Pod>::namespaced(client, &namespace);
    let pods = writer.as_reader();
    let only_shims = watcher::Config::default().fields(&format!("spec.serviceAccountName={SHIM_SERVICE_ACCOUNT}"));
    let events = watcher(api, only_shims).default_backoff().reflect(writer);
    pin_mut!(events);
    let mut last = HashMap::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => continue,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error = said::watch(&error), "the shims' pods cannot be watched for now");
                continue;
            }
        }
        let now: HashMap<_, _> = shim_pods(&pods).into_iter().map(|pod| (pod.uid.clone(), pod)).collect();
        if now != last {
            for gone in last.keys().filter(|uid| !now.contains_key(*uid)) {
                hub.sessions().forget_pod(gone);
                hub.autoscale.gone(gone);
            }
            last = now;
            hub.membership_changed();
        }
    }
}
