//! What matters of the cluster's Nodes for placing. In: a watch of all Nodes; out: labels, taints and what can be
//! allocated, by name, and a reconcile of every service when that changes. IO, but for [`NodeFacts::of`].

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::sync::watch;

use crate::{reconcile::quantity, said, wake::Wake};

/// The label that names a node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Taint of a Node that was cordoned.
pub const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Taints that say how a Node is. The pods of a DaemonSet, which services live in, tolerate them by themselves, and who
/// is lost is found out by the operator itself, sooner.
const OWN_FINDINGS: [&str; 6] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/network-unavailable",
];

/// What matters of a Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints, but for those that only say how it is.
    pub taints: Vec<Taint>,
    /// Thousandths of a CPU that can be allocated.
    pub cpu_millis: Option<u64>,
}

/// A taint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// NoSchedule, PreferNoSchedule or NoExecute.
    pub effect: String,
}

impl NodeFacts {
    /// Reads a Node. Pure.
    pub fn of(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let taints = spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        let mut taints: Vec<_> = taints
            .filter(|taint| !OWN_FINDINGS.contains(&taint.key.as_str()))
            .map(|taint| Taint {
                key: taint.key.clone(),
                value: taint.value.clone().unwrap_or_default(),
                effect: taint.effect.clone(),
            })
            .collect();
        // Kubernetes adds the taint a moment later.
        let cordoned = spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
        if cordoned && !taints.iter().any(|taint| taint.key == UNSCHEDULABLE) {
            let (key, effect) = (UNSCHEDULABLE.to_owned(), "NoSchedule".to_owned());
            taints.push(Taint { key, value: String::new(), effect });
        }
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        Self {
            labels: node.labels().clone(),
            taints,
            cpu_millis: allocatable.and_then(|all| quantity::millis(&all.get("cpu")?.0)),
        }
    }
}

/// All Nodes by name; shared, because every reconcile looks at them.
pub type AllNodes = Arc<BTreeMap<String, NodeFacts>>;

/// The end that reconciles look at.
#[derive(Clone)]
pub struct NodeStore(watch::Receiver<Option<AllNodes>>);

/// The end that [`follow`] fills.
pub struct NodeWriter(watch::Sender<Option<AllNodes>>);

/// A store that [`follow`] fills.
pub fn store() -> (NodeStore, NodeWriter) {
    let (writer, store) = watch::channel(None);
    (NodeStore(store), NodeWriter(writer))
}

impl NodeStore {
    /// Every Node that is known.
    pub fn all(&self) -> AllNodes {
        self.0.borrow().clone().unwrap_or_default()
    }

    /// Waits until every Node is known: a Node without its labels fits nobody.
    pub async fn wait_until_ready(&self) -> Result<(), watch::error::RecvError> {
        self.0.clone().wait_for(Option::is_some).await.map(|_| ())
    }
}

/// Fills the store, and wakes every service when a Node changed in a way that matters.
pub async fn follow(client: Client, wake: Wake, writer: NodeWriter) {
    let events = watcher(Api::<Node>::all(client), watcher::Config::default()).default_backoff();
    pin_mut!(events);
    let (mut all, mut listed) = (BTreeMap::new(), BTreeMap::new());
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => {
                listed = BTreeMap::new();
                continue;
            }
            Ok(Event::InitApply(node)) => {
                listed.insert(node.name_any(), NodeFacts::of(&node));
                continue;
            }
            Ok(Event::InitDone) => all = std::mem::take(&mut listed),
            Ok(Event::Apply(node)) => {
                all.insert(node.name_any(), NodeFacts::of(&node));
            }
            Ok(Event::Delete(node)) => {
                all.remove(&node.name_any());
            }
            Err(error) => {
                tracing::warn!(error = said::watch(&error), "Nodes cannot be watched for now");
                continue;
            }
        }
        let changed = writer.0.send_if_modified(|known| {
            let changed = known.as_deref() != Some(&all);
            if changed {
                *known = Some(Arc::new(all.clone()));
            }
            changed
        });
        if changed {
            wake.all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_matters_of_a_node() {
        let node = |spec| -> Node {
            let status = json!({"allocatable": {"cpu": "1930m", "memory": "16Gi"}});
            let metadata = json!({"name": "n", "labels": {"zone": "a"}});
            serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).expect("a node")
        };
        let facts = NodeFacts::of(&node(json!({})));
        assert_eq!((facts.labels["zone"].as_str(), facts.cpu_millis), ("a", Some(1930)));
        let keys = |spec| NodeFacts::of(&node(spec)).taints.into_iter().map(|taint| taint.key).collect::<Vec<_>>();
        let taint = |key: &str| json!({"key": key, "effect": "NoSchedule"});
        assert_eq!(keys(json!({"taints": [taint("gpu"), taint("node.kubernetes.io/not-ready")]})), ["gpu"]);
        assert_eq!(keys(json!({"unschedulable": true})), [UNSCHEDULABLE]);
        assert_eq!(keys(json!({"unschedulable": true, "taints": [taint(UNSCHEDULABLE)]})), [UNSCHEDULABLE]);
    }
}
