//! Where a service that is scaled to zero waits for its first request. In: what one replica asks for, the nodes; out: so
//! many of them, in different zones where there are. Pure.
//!
//! By rendezvous hashing: a node that comes or goes moves only what it takes or leaves itself.

use std::collections::{BTreeMap, BTreeSet};

use super::{Ask, Cost, Node, Placement, fit::fit, place, stable_hash};
use crate::nodes::facts::ZONE;

/// Chooses `size` nodes, or as many as would take one replica; each is given one.
pub fn activation_set(ask: &Ask<'_>, nodes: &BTreeMap<String, Node<'_>>, size: usize) -> Placement {
    // Who is silent has it already, or it would not be among the nodes.
    let mut rest: BTreeMap<_, _> = nodes
        .iter()
        .filter_map(|(name, node)| {
            // It takes nothing of the node until it is asked: who else has taken how much does not matter.
            let free = Node { used: Cost::default(), ..node.clone() };
            let rank = (fit(ask, name, &free, 1).ok()?.avoid, stable_hash(&[ask.service, name]));
            Some((name, (node.facts.labels.get(ZONE), rank)))
        })
        .collect();
    let (mut chosen, mut zones) = (BTreeMap::new(), BTreeSet::new());
    while chosen.len() < size.max(1) {
        let first = rest.iter().min_by_key(|(_, (zone, (avoid, hash)))| (*avoid, zones.contains(zone), *hash));
        let Some((&name, &(zone, _))) = first else { break };
        rest.remove(name);
        zones.insert(zone);
        chosen.insert(name.clone(), 1);
    }
    if chosen.is_empty() {
        return place(ask, nodes, &BTreeMap::new());
    }
    Placement { replicas: chosen, misfits: BTreeMap::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::facts::NodeFacts;
    use proptest::prelude::*;

    fn choose(service: &str, zones: &BTreeMap<String, u8>, size: usize) -> BTreeSet<String> {
        let facts = |zone: &u8| NodeFacts {
            labels: BTreeMap::from([(ZONE.to_owned(), zone.to_string())]),
            taints: vec![],
            cpu_millis: None,
        };
        let facts: BTreeMap<_, _> = zones.iter().map(|(name, zone)| (name, facts(zone))).collect();
        let nodes = facts.iter().map(|(name, facts)| ((*name).clone(), Node::new(facts))).collect();
        let ask = Ask {
            service,
            replicas: 1,
            node_selector: &BTreeMap::new(),
            affinity: None,
            tolerations: &[],
            each: Cost::default(),
        };
        activation_set(&ask, &nodes, size).replicas.into_keys().collect()
    }

    proptest! {
        #[test]
        fn a_node_that_comes_takes_one_place_at_most(
            zones in proptest::collection::btree_map("[b-h]", Just(0u8), 1..7), size in 1..4usize, service in "[s-w]",
        ) {
            let before = choose(&service, &zones, size);
            prop_assert_eq!(before.len(), size.min(zones.len()));
            let mut more = zones.clone();
            more.insert("a".to_owned(), 0);
            let after = choose(&service, &more, size);
            let gone: Vec<_> = before.difference(&after).collect();
            prop_assert!(gone.len() <= 1 && (gone.is_empty() || after.contains("a")), "{:?} → {:?}", before, after);
        }

        #[test]
        fn zones_differ_while_there_are_others(
            zones in proptest::collection::btree_map("[a-h]", 0..3u8, 1..8), size in 1..4usize, service in "[s-w]",
        ) {
            let chosen = choose(&service, &zones, size);
            let seen: BTreeSet<_> = chosen.iter().map(|name| zones[name]).collect();
            let all: BTreeSet<_> = zones.values().collect();
            prop_assert_eq!(seen.len(), chosen.len().min(all.len()));
        }
    }

    #[test]
    fn services_wait_on_different_nodes() {
        let zones = ["a", "b", "c"].map(|name| (name.to_owned(), 0)).into();
        let first = |service: usize| choose(&service.to_string(), &zones, 1);
        let used: BTreeSet<_> = (0..30).flat_map(first).collect();
        assert_eq!(used.len(), 3);
    }
}
