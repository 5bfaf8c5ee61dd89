//! Where a service goes. In: what it asks for, the shims that may be used, what others have been given; out: replicas by
//! node, and why not all. Pure; who decides is `schedule`.

use std::collections::BTreeMap;

use super::shims::Shims;
use crate::{
    nodes::facts::NodeFacts,
    reconcile::{observe::Observed, views::ShimView},
    schedule::{self, Ask, Cost, Misfit, Node, sentence},
};

/// Where a service goes.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// Replicas by node. All of them are 0 when the service is stopped: these nodes answer that it is. And when it is
    /// parked: these load it for the first request.
    pub(super) replicas: BTreeMap<String, u32>,
    /// Why not all replicas have a place.
    pub(super) short: Option<String>,
}

/// Decides.
pub(super) fn place(
    o: &Observed,
    shims: &Shims<'_>,
    loads: &BTreeMap<String, Cost>,
    each: Cost,
    current: &BTreeMap<String, u32>,
    activation_nodes: usize,
) -> Places {
    let spec = &o.service.spec;
    // A Node that the watch does not show though its shim is there: whoever it has stays, as if it were as they want it.
    // To others it is one without labels or taints.
    let unknown = NodeFacts::default();
    let node = |name: &str| match o.nodes.get(name) {
        Some(facts) => Node::new(facts),
        None => Node { unseen: current.contains_key(name), ..Node::new(&unknown) },
    };
    let nodes = nodes_of(shims.usable.iter().copied(), loads, node);
    let (asked, parked) = (o.demand.wanted(), o.demand.is_parked());
    let ask = Ask {
        service: &o.id.uid,
        // Who has no replicas has one place at least, where requests are answered all the same.
        replicas: asked.max(1),
        node_selector: &spec.node_selector,
        affinity: spec.required_nodes(),
        tolerations: &spec.tolerations,
        each,
    };
    let placement = match parked {
        true => schedule::activation_set(&ask, &nodes, activation_nodes),
        false => {
            // What was decided a moment ago is done if it is still possible.
            let rebalanced = o.rebalance.as_ref().and_then(|moved| {
                let placement = schedule::place(&ask, &nodes, &moved.done(current));
                placement.replicas.contains_key(&moved.to).then_some(placement)
            });
            rebalanced.unwrap_or_else(|| schedule::place(&ask, &nodes, current))
        }
    };
    let kept = stay(current, shims);
    let placed: u32 = placement.replicas.values().sum();
    let why = || {
        let waiting = shims.unmade.iter().filter(|shim| !nodes.contains_key(&shim.node));
        let waiting: BTreeMap<_, _> = waiting.map(|shim| (shim.node.as_str(), shim.target.as_str())).collect();
        let elsewhere =
            o.nodes.keys().filter(|name| !nodes.contains_key(*name) && !waiting.contains_key(name.as_str()));
        let mut misfits = placement.misfits.clone();
        for target in waiting.values() {
            *misfits.entry(Misfit::NoArtifact((*target).to_owned())).or_default() += 1;
        }
        sentence(&misfits, elsewhere.count(), placed > 0)
    };
    if asked == 0 {
        let short = (parked && placed == 0).then(why);
        // What is stopped stays where it is; what is parked has places of its own, and stays where none fits.
        let stays = placed == 0 || !parked && !kept.is_empty();
        let places = if stays { kept } else { placement.replicas };
        return Places { replicas: places.into_keys().map(|node| (node, 0)).collect(), short };
    }
    let short = (placed < asked).then(|| match placed {
        0 => why(),
        _ => format!("{placed} of {asked} replicas placed: {}", why()),
    });
    // What serves goes on serving where it is while it fits nowhere.
    let replicas = if placed == 0 { kept } else { placement.replicas };
    Places { replicas, short }
}

/// The places there are, but for those whose shim is gone.
pub(super) fn stay(current: &BTreeMap<String, u32>, shims: &Shims<'_>) -> BTreeMap<String, u32> {
    let usable = |node: &String| shims.usable.iter().any(|shim| shim.node == *node);
    current.iter().filter(|(node, _)| usable(node)).map(|(node, n)| (node.clone(), *n)).collect()
}

/// The nodes of shims that may be used, with what is taken of them. `node` makes one of what Kubernetes says of it.
pub(crate) fn nodes_of<'a, 's>(
    shims: impl Iterator<Item = &'s ShimView>,
    loads: &BTreeMap<String, Cost>,
    node: impl Fn(&str) -> Node<'a>,
) -> BTreeMap<String, Node<'a>> {
    let mut nodes: BTreeMap<String, Node<'a>> = BTreeMap::new();
    for shim in shims {
        let node = nodes.entry(shim.node.clone()).or_insert_with(|| {
            let used = loads.get(&shim.node).copied().unwrap_or_default();
            Node { used, silent: true, ..node(&shim.node) }
        });
        // While one shim replaces another, the larger one counts.
        node.memory = node.memory.max(shim.memory);
        node.slots = node.slots.max(shim.slots.map(u64::from));
        node.silent &= !shim.connected && shim.slots.is_none();
    }
    nodes
}
