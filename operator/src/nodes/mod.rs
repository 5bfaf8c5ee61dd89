//! WasmNodes: one for each node that has a shim, owned by its Node, so that it goes with it. In: what shims say; out:
//! their status, written when it is news and not more often than every ten seconds. IO; what to say is in `status`.

pub mod facts;
mod status;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams},
    runtime::{
        WatchStreamExt,
        events::Recorder,
        reflector::{self, Store},
        watcher,
    },
};
use podless_crds::{FIELD_MANAGER, WasmNode, WasmNodeSpec, WasmNodeStatus};
use serde_json::json;

use crate::{
    link::Hub,
    metrics::Metrics,
    reconcile::{events, plan::PATIENCE, service_ref},
    said,
};
use status::{Said, connected, disconnected, is_news, turns};

/// Between two writes of one node's status.
const INTERVAL: Duration = Duration::from_secs(10);

/// Writes WasmNodes.
pub struct Nodes {
    /// The API server.
    pub client: Client,
    /// Publishes Events.
    pub recorder: Recorder,
    /// The shims.
    pub hub: Arc<Hub>,
    /// Their pods.
    pub pods: Store<Pod>,
    /// When this replica became the leader.
    pub leading_since: Instant,
    /// Counts.
    pub metrics: Metrics,
}

impl Nodes {
    /// Keeps every WasmNode current for as long as this replica leads.
    pub async fn keep(self) -> std::convert::Infallible {
        let (store, writer) = reflector::store::<WasmNode>();
        let watch = watcher(Api::<WasmNode>::all(self.client.clone()), watcher::Config::default());
        let watch = watch.default_backoff().reflect(writer).for_each(async |event| {
            if let Err(error) = event {
                tracing::warn!(error = said::watch(&error), "WasmNodes cannot be watched for now");
            }
        });
        let write = async {
            // The writer lives as long as this future: this cannot fail.
            let _ = store.wait_until_ready().await;
            let mut members = self.hub.members();
            loop {
                self.pass(&store).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                let _ = tokio::time::timeout(INTERVAL, members.changed()).await;
            }
        };
        tokio::select! {
            () = watch => std::future::pending().await,
            never = write => never,
        }
    }

    async fn pass(&self, store: &Store<WasmNode>) {
        let known: HashMap<_, _> = store.state().into_iter().map(|node| (node.name_any(), node)).collect();
        for (name, new) in self.statuses(&known) {
            let old = known.get(&name).map(AsRef::as_ref);
            if let Err(error) = self.write(&name, old, new).await {
                tracing::warn!(error = said::api(&error), node = name, "a WasmNode cannot be written for now");
            }
        }
        let connected = self.hub.sessions().shims().values().filter(|shim| shim.connected).count();
        self.metrics.counted(connected, self.hub.services().len());
    }

    /// The statuses that are news, by node.
    fn statuses(&self, known: &HashMap<String, Arc<WasmNode>>) -> Vec<(String, WasmNodeStatus)> {
        let now = Time(Timestamp::now());
        let names: HashMap<_, _> =
            self.hub.services().iter().filter_map(|s| service_ref(s)).map(|s| (s.uid, (s.namespace, s.name))).collect();
        let terminating: Vec<_> = self
            .pods
            .state()
            .iter()
            .filter(|p| p.metadata.deletion_timestamp.is_some())
            .filter_map(|p| p.uid())
            .collect();
        let sessions = self.hub.sessions();
        let mut speakers = BTreeMap::new();
        for shim in sessions.shims().values().filter(|shim| shim.connected && shim.report.is_some()) {
            // While one shim replaces another, the one that stays speaks for the node.
            let rank = (!terminating.contains(&shim.identity.pod_uid), shim.since);
            let speaker = speakers.entry(shim.identity.node.clone()).or_insert((rank, shim));
            if speaker.0 < rank {
                *speaker = (rank, shim);
            }
        }
        let mut all: Vec<_> = speakers
            .iter()
            .map(|(node, (_, shim))| {
                let said = Said {
                    hello: &shim.hello,
                    report: shim.report.as_ref(),
                    services: &shim.measured,
                    matches: sessions.matches(shim),
                    slow: sessions.slow(&shim.identity.pod_uid),
                };
                let old = status_of(known.get(node));
                (node.clone(), connected(&old, &said, |uid| names.get(uid).cloned(), &now))
            })
            .collect();
        if self.leading_since.elapsed() > PATIENCE {
            let connected: HashSet<_> =
                sessions.shims().values().filter(|shim| shim.connected).map(|shim| &shim.identity.node).collect();
            let silent = known.keys().filter(|node| !connected.contains(node));
            all.extend(silent.map(|node| (node.clone(), disconnected(&status_of(known.get(node)), &now))));
        }
        all.retain(|(node, new)| is_news(new, &status_of(known.get(node))));
        all
    }

    async fn write(&self, name: &str, known: Option<&WasmNode>, status: WasmNodeStatus) -> Result<(), kube::Error> {
        let api = Api::<WasmNode>::all(self.client.clone());
        let params = PatchParams::apply(FIELD_MANAGER).force();
        if known.is_none() {
            let node = Api::<Node>::all(self.client.clone()).get_metadata(name).await?;
            let mut object = WasmNode::new(name, WasmNodeSpec::default());
            object.metadata.owner_references = Some(vec![OwnerReference {
                api_version: Node::api_version(&()).into_owned(),
                kind: Node::kind(&()).into_owned(),
                name: node.name_any(),
                uid: node.uid().unwrap_or_default(),
                ..Default::default()
            }]);
            api.patch(name, &params, &Patch::Apply(&object)).await?;
        }
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            resource_version: known.and_then(ResourceExt::resource_version),
            ..Default::default()
        };
        let body = json!({
            "apiVersion": WasmNode::api_version(&()),
            "kind": WasmNode::kind(&()),
            "metadata": metadata,
            "status": status,
        });
        let written = api.patch_status(name, &params, &Patch::Apply(&body)).await?;
        self.metrics.status_written();
        let told = known.and_then(|node| node.status.as_ref()).zip(written.status.as_ref());
        let told = told.map(|(old, new)| turns(old, new)).unwrap_or_default();
        events::publish(&self.recorder, &written.object_ref(&()), told).await;
        Ok(())
    }
}

fn status_of(node: Option<&Arc<WasmNode>>) -> WasmNodeStatus {
    node.and_then(|node| node.status.clone()).unwrap_or_default()
}
