//! Which nodes take how many replicas of a service. In: what the service asks for, the nodes with what others have
//! been given there, what is placed now; out: what should be placed, and why not all. Pure: the same input gives the
//! same answer.
//!
//! `fit` says how much room each node has, by `affinity` among others, `spread` uses it evenly and with the least
//! movement, `activation` says where nothing waits for its first request, `loads` remembers what was given. A replica
//! moves only when the spread, the service's own constraints or a node that changed demand it; or, one at a time, when
//! `rebalance` finds that nodes are given far more than others.

mod activation;
mod affinity;
mod fit;
mod loads;
mod rebalance;
mod spread;

use std::collections::BTreeMap;

use podless_crds::{NodeSelector, Toleration};
use sha2::{Digest, Sha256};

pub use activation::activation_set;
pub use fit::Misfit;
pub use loads::{Cost, Loads};
pub use rebalance::{Move, Placed, rebalance};
use spread::{Room, spread};

use crate::nodes::facts::NodeFacts;

/// What a service asks for.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// Its uid.
    pub service: &'a str,
    /// Its replicas.
    pub replicas: u32,
    /// Labels that its nodes must have.
    pub node_selector: &'a BTreeMap<String, String>,
    /// What its nodes must match beside that.
    pub affinity: Option<&'a NodeSelector>,
    /// Taints that it tolerates.
    pub tolerations: &'a [Toleration],
    /// What one replica takes.
    pub each: Cost,
}

/// A node with a shim.
#[derive(Clone, Debug)]
pub struct Node<'a> {
    /// What Kubernetes says of it.
    pub facts: &'a NodeFacts,
    /// Memory for services, in bytes; not known: no bound.
    pub memory: Option<u64>,
    /// Instances that may be live at once; not known: no bound.
    pub slots: Option<u64>,
    /// What other services have been given.
    pub used: Cost,
    /// Its shim has not told this leader anything yet: it keeps what it has and gets no more.
    pub silent: bool,
    /// The watch does not show it, and it has the service already: what the service requires of it is not asked.
    pub unseen: bool,
}

impl<'a> Node<'a> {
    /// A node that has been given nothing, and of which no bound is known.
    pub fn new(facts: &'a NodeFacts) -> Self {
        Self { facts, memory: None, slots: None, used: Cost::default(), silent: false, unseen: false }
    }
}

/// What should be placed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Replicas by node.
    pub replicas: BTreeMap<String, u32>,
    /// Why nodes take no more, and how many of them; empty when everything was placed.
    pub misfits: BTreeMap<Misfit, usize>,
}

/// Places a service on nodes, starting from `current` (node → replicas).
pub fn place(ask: &Ask<'_>, nodes: &BTreeMap<String, Node<'_>>, current: &BTreeMap<String, u32>) -> Placement {
    let has = |name: &str| current.get(name).copied().unwrap_or(0);
    let fits: BTreeMap<_, _> = nodes.iter().map(|(name, node)| (name, fit::fit(ask, name, node, has(name)))).collect();
    let rooms: BTreeMap<String, Room> = fits
        .iter()
        .filter_map(|(name, fit)| {
            let fit = fit.as_ref().ok()?;
            let room = Room { replicas: fit.replicas, avoid: fit.avoid, load: nodes[*name].used.slots };
            Some(((*name).clone(), room))
        })
        .collect();
    let replicas = spread(ask.service, ask.replicas, &rooms, current);
    let mut misfits = BTreeMap::new();
    if replicas.values().sum::<u32>() < ask.replicas {
        for (name, fit) in fits {
            let misfit = match fit {
                Err(misfit) => misfit,
                Ok(fit) if replicas.get(name) == Some(&fit.replicas) => fit.bound.unwrap_or(Misfit::Uneven),
                Ok(_) => Misfit::Uneven,
            };
            *misfits.entry(misfit).or_default() += 1;
        }
    }
    Placement { replicas, misfits }
}

/// Whether a service may be on the node of this name, however much is taken of it.
pub fn admits(ask: &Ask<'_>, name: &str, facts: &NodeFacts) -> bool {
    fit::fit(ask, name, &Node::new(facts), 0).is_ok()
}

/// Why a service has no more nodes, in `kubectl describe pod`'s own style. `elsewhere` are nodes without a shim.
pub fn sentence(misfits: &BTreeMap<Misfit, usize>, elsewhere: usize, more: bool) -> String {
    let mut misfits = misfits.clone();
    if elsewhere > 0 {
        *misfits.entry(Misfit::NoShim).or_default() += elsewhere;
    }
    let nodes: usize = misfits.values().sum();
    let each: Vec<_> = misfits.iter().map(|(misfit, n)| format!("{n} {misfit}")).collect();
    format!("0/{nodes} nodes fit{}: {}", if more { " more" } else { "" }, each.join(", "))
}

/// A hash that is the same in every process and version: SHA-256's first eight bytes over the parts.
pub fn stable_hash(parts: &[&str]) -> u64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
        hash.update([0]);
    }
    hash.finalize().iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::facts::Taint;
    use proptest::prelude::*;

    fn facts(zone: u8, tainted: bool, cpu: u64) -> NodeFacts {
        let taint = Taint { key: "k".into(), value: "v".into(), effect: "NoSchedule".into() };
        NodeFacts {
            labels: BTreeMap::from([("zone".into(), zone.to_string())]),
            taints: if tainted { vec![taint] } else { vec![] },
            cpu_millis: Some(cpu),
        }
    }

    #[derive(Clone, Debug)]
    struct Wish {
        replicas: u32,
        zone: Option<u8>,
        cpu: u64,
        slots: u64,
    }

    fn wish() -> impl Strategy<Value = Wish> {
        (0..12u32, proptest::option::of(0..2u8), 0..400u64, 1..20_000u64)
            .prop_map(|(replicas, zone, cpu, slots)| Wish { replicas, zone, cpu, slots })
    }

    proptest! {
        /// Many services, placed and placed again in any order, as the reconciler does.
        #[test]
        fn capacity_is_never_exceeded_and_only_eligible_nodes_are_used(
            nodes in proptest::collection::btree_map("[a-e]", (0..2u8, any::<bool>(), 0..2000u64), 1..5),
            wishes in proptest::collection::vec(("[s-w]", wish()), 1..30),
        ) {
            let facts: BTreeMap<_, _> = nodes.iter().map(|(n, (zone, taint, cpu))| (n.clone(), facts(*zone, *taint, *cpu))).collect();
            let mut loads = Loads::default();
            let mut placed: BTreeMap<String, (BTreeMap<String, u32>, u64)> = BTreeMap::new();
            for (service, wish) in wishes {
                let others = loads.without(&service);
                let nodes: BTreeMap<_, _> = facts.iter().map(|(name, facts)| {
                    let used = others.get(name).copied().unwrap_or_default();
                    (name.clone(), Node { slots: Some(1000), used, ..Node::new(facts) })
                }).collect();
                let selector: BTreeMap<_, _> = wish.zone.iter().map(|zone| ("zone".to_owned(), zone.to_string())).collect();
                let each = Cost { slots: wish.slots, cpu_millis: wish.cpu, memory: 0 };
                let ask = Ask { service: &service, replicas: wish.replicas, node_selector: &selector, affinity: None, tolerations: &[], each };
                let current = placed.get(&service).map(|(places, _)| places.clone()).unwrap_or_default();
                let placement = place(&ask, &nodes, &current);
                prop_assert_eq!(&placement, &place(&ask, &nodes, &current), "same input, same output");
                let total: u32 = placement.replicas.values().sum();
                prop_assert!(total <= wish.replicas);
                prop_assert_eq!(total < wish.replicas, !placement.misfits.is_empty());
                prop_assert!(total == wish.replicas || placement.misfits.values().sum::<usize>() == nodes.len());
                for (node, n) in &placement.replicas {
                    prop_assert!(facts[node].taints.is_empty());
                    prop_assert!(wish.zone.is_none_or(|zone| facts[node].labels["zone"] == zone.to_string()));
                    prop_assert!(*n == 1 || u64::from(*n) * wish.slots <= 1000, "more than could be served at once");
                }
                loads.set(&service, placement.replicas.iter().map(|(node, n)| (node.clone(), each.times(*n))).collect());
                placed.insert(service, (placement.replicas, wish.cpu));
                for (node, facts) in &facts {
                    let taken: u64 = placed.values().map(|(places, cpu)| u64::from(places.get(node).copied().unwrap_or(0)) * cpu).sum();
                    prop_assert!(Some(taken) <= facts.cpu_millis, "{node}: {taken} of {:?}", facts.cpu_millis);
                }
            }
        }
    }

    #[test]
    fn why_not_is_said_as_kubectl_does() {
        let (fast, tainted, full) = (facts(0, false, 1000), facts(1, true, 1000), facts(1, false, 100));
        let nodes = BTreeMap::from([
            ("a".to_owned(), Node::new(&fast)),
            ("b".to_owned(), Node::new(&tainted)),
            ("c".to_owned(), Node::new(&full)),
        ]);
        let selector = BTreeMap::from([("zone".to_owned(), "1".to_owned())]);
        let each = |cpu_millis| Cost { slots: 1, cpu_millis, memory: 0 };
        let ask = |replicas, cpu| Ask {
            service: "s",
            replicas,
            node_selector: &selector,
            affinity: None,
            tolerations: &[],
            each: each(cpu),
        };
        let placement = place(&ask(1, 200), &nodes, &BTreeMap::new());
        assert!(placement.replicas.is_empty());
        assert_eq!(
            sentence(&placement.misfits, 2, false),
            "0/5 nodes fit: 2 had no shim that is connected and runs this operator's engine, 1 didn't match nodeSelector, \
             1 had an untolerated taint {k: v}, 1 had insufficient cpu"
        );
        let placement = place(&ask(3, 50), &nodes, &BTreeMap::new());
        assert_eq!(placement.replicas, BTreeMap::from([("c".to_owned(), 2)]));
        assert_eq!(
            sentence(&placement.misfits, 0, true),
            "0/3 nodes fit more: 1 didn't match nodeSelector, 1 had an untolerated taint {k: v}, 1 had insufficient cpu"
        );
    }
}
