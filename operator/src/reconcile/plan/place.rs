//! Where a service goes. In: what it asks for, the shims that may be used, what others have been given; out: replicas by
//! node, and why not all. Pure; who decides is `schedule`.

use std::collections::BTreeMap;

use super::shims::Shims;
use crate::{
    nodes::facts::NodeFacts,
    reconcile::observe::Observed,
    schedule::{self, Ask, Cost, Node, sentence},
};

/// Where a service goes.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// Replicas by node. All of them are 0 when the service is stopped: these nodes answer that it is.
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
) -> Places {
    let unknown = NodeFacts::default();
    let nodes = nodes(o, shims, loads, &unknown);
    let spec = &o.service.spec;
    let asked = spec.replicas();
    let ask = Ask {
        service: &o.id.uid,
        // Who is stopped has one place at least, where requests are answered that it is.
        replicas: asked.max(1),
        node_selector: &spec.node_selector,
        tolerations: &spec.tolerations,
        each,
    };
    let placement = schedule::place(&ask, &nodes, current);
    let kept = stay(current, shims);
    if asked == 0 {
        let places = if kept.is_empty() { placement.replicas } else { kept };
        return Places { replicas: places.into_keys().map(|node| (node, 0)).collect(), short: None };
    }
    let placed: u32 = placement.replicas.values().sum();
    let short = (placed < asked).then(|| {
        let elsewhere = o.nodes.keys().filter(|name| !nodes.contains_key(*name)).count();
        let why = sentence(&placement.misfits, elsewhere, placed > 0);
        if placed > 0 { format!("{placed} of {asked} replicas placed: {why}") } else { why }
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

/// The nodes of the shims that may be used. A Node that the watch has not shown yet is one without labels or taints.
fn nodes<'a>(
    o: &'a Observed,
    shims: &Shims<'a>,
    loads: &BTreeMap<String, Cost>,
    unknown: &'a NodeFacts,
) -> BTreeMap<String, Node<'a>> {
    let mut nodes: BTreeMap<String, Node<'a>> = BTreeMap::new();
    for shim in &shims.usable {
        let node = nodes.entry(shim.node.clone()).or_insert_with(|| Node {
            facts: o.nodes.get(&shim.node).unwrap_or(unknown),
            memory: None,
            slots: None,
            used: loads.get(&shim.node).copied().unwrap_or_default(),
            silent: true,
        });
        // While one shim replaces another, the larger one counts.
        node.memory = node.memory.max(shim.memory);
        node.slots = node.slots.max(shim.slots.map(u64::from));
        node.silent &= !shim.connected && shim.slots.is_none();
    }
    nodes
}
