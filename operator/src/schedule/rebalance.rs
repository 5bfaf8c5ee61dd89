//! Which service should move so that no node is given far more than another. In: the nodes with what they have been given,
//! the services that may move; out: one move, or none. Pure.
//!
//! Nothing else moves what is well placed, so a node that joins, or comes back, would wait for what is new. Both nodes of
//! a move end below what the more loaded one had: so moves end, and none is ever taken back.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use podless_crds::{NodeSelector, Toleration};

use super::{Ask, Cost, Node, fit::fit};

/// Nodes that differ by less than this part of what each has on average are even enough.
const EVEN: u64 = 5;
/// For services that require the same, no more than this many of the least loaded nodes that have it are tried: who looks
/// at a thousand nodes and ten thousand services must come to an end soon.
const TARGETS: usize = 16;

/// A service that may move.
#[derive(Clone, Debug)]
pub struct Placed<'a> {
    /// What it asks for.
    pub ask: Ask<'a>,
    /// Its replicas by node.
    pub on: &'a BTreeMap<String, u32>,
}

/// A service leaves one node for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Its uid.
    pub service: String,
    /// The node that it leaves.
    pub from: String,
    /// The node that it goes to.
    pub to: String,
}

impl Move {
    /// The places as they are when it is done; as they are when there is nothing to do any more.
    pub fn done(&self, current: &BTreeMap<String, u32>) -> BTreeMap<String, u32> {
        let mut places = current.clone();
        if !places.contains_key(&self.to)
            && let Some(replicas) = places.remove(&self.from)
        {
            places.insert(self.to.clone(), replicas);
        }
        places
    }
}

/// Finds the move that relieves the most loaded node that can be relieved: of the largest service that can leave it, to the
/// least loaded node that takes it, if that one does not become the more loaded of the two. Only a single replica moves: a
/// service that has more of them on a node is on every node that it can use.
pub fn rebalance(nodes: &BTreeMap<String, Node<'_>>, services: &[Placed<'_>]) -> Option<Move> {
    find(nodes, services, |ask, name, node| fit(ask, name, node, 0).is_ok_and(|fit| !fit.avoid))
}

/// What a service requires of its nodes, whatever it takes there. Most services require the same, which is nothing.
type Required<'a> = (&'a BTreeMap<String, String>, Option<&'a NodeSelector>, &'a [Toleration]);

fn find(
    nodes: &BTreeMap<String, Node<'_>>,
    services: &[Placed<'_>],
    mut takes: impl FnMut(&Ask<'_>, &str, &Node<'_>) -> bool,
) -> Option<Move> {
    let mean = nodes.values().map(load).sum::<u64>() / nodes.len().max(1) as u64;
    let mut by_load: Vec<_> = nodes.iter().collect();
    by_load.sort_by_key(|(_, node)| load(node));
    let least = by_load.first()?.1;
    let uneven = |most: &Node<'_>, least: &Node<'_>| load(most).saturating_sub(load(least)) > mean / EVEN;
    if !uneven(by_load.last()?.1, least) {
        return None;
    }
    let mut on: HashMap<&str, Vec<&Placed<'_>>> = HashMap::new();
    for service in services {
        for (node, _) in service.on.iter().filter(|(_, replicas)| **replicas == 1) {
            on.entry(node).or_default().push(service);
        }
    }
    let mut targets: HashMap<Required<'_>, Vec<(&String, &Node<'_>)>> = HashMap::new();
    by_load.iter().rev().take_while(|(_, most)| uneven(most, least)).find_map(|(from, most)| {
        let mut here = on.remove(from.as_str()).unwrap_or_default();
        here.sort_by_key(|service| (Reverse(service.ask.each.slots), service.ask.service));
        here.iter().find_map(|service| {
            let ask = &service.ask;
            let targets = targets.entry((ask.node_selector, ask.affinity, ask.tolerations)).or_insert_with(|| {
                let small = Ask { each: Cost::default(), ..ask.clone() };
                by_load.iter().filter(|(name, node)| takes(&small, name, node)).take(TARGETS).copied().collect()
            });
            let after = load(most).saturating_sub(share(service, most));
            let evens = |to: &Node<'_>| uneven(most, to) && load(to).saturating_add(share(service, to)) <= after;
            let free = |to: &String| !service.on.contains_key(to);
            let (to, _) = targets.iter().find(|(to, node)| evens(node) && free(to) && takes(ask, to, node))?;
            Some(Move { service: ask.service.to_owned(), from: (*from).clone(), to: (*to).clone() })
        })
    })
}

/// What a node is given, as `spread` counts it.
fn load(node: &Node<'_>) -> u64 {
    node.used.slots
}

/// What one replica takes of a node's slots: no more than there are.
fn share(service: &Placed<'_>, node: &Node<'_>) -> u64 {
    node.slots.map_or(service.ask.each.slots, |all| service.ask.each.slots.min(all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::facts::{NodeFacts, Taint};
    use proptest::{collection::btree_map, prelude::*};

    /// A service: what one replica takes, the zone that it asks for, its places.
    #[derive(Clone, Debug)]
    struct Service {
        each: Cost,
        zone: BTreeMap<String, String>,
        on: BTreeMap<String, u32>,
    }

    type Services = BTreeMap<String, Service>;

    fn service(slots: u64, on: &[&str]) -> Service {
        let on = on.iter().map(|node| ((*node).to_owned(), 1)).collect();
        Service { each: Cost { slots, ..Cost::default() }, zone: BTreeMap::new(), on }
    }

    fn plain(nodes: &[&str]) -> BTreeMap<String, NodeFacts> {
        nodes.iter().map(|node| ((*node).to_owned(), NodeFacts::default())).collect()
    }

    fn used_by_node(services: &Services) -> HashMap<&str, Cost> {
        let mut used: HashMap<&str, Cost> = HashMap::new();
        for (service, (node, replicas)) in services.values().flat_map(|s| s.on.iter().map(move |on| (s, on))) {
            let all = used.entry(node).or_default();
            *all = *all + service.each.times(*replicas);
        }
        used
    }

    fn used(node: &str, services: &Services) -> Cost {
        used_by_node(services).get(node).copied().unwrap_or_default()
    }

    fn next(facts: &BTreeMap<String, NodeFacts>, services: &Services) -> Option<Move> {
        counted(facts, services).0
    }

    /// The move, and how often it was tried whether a service fits on a node.
    fn counted(facts: &BTreeMap<String, NodeFacts>, services: &Services) -> (Option<Move>, usize) {
        let used = used_by_node(services);
        let node = |name: &String, facts| {
            let used = used.get(name.as_str()).copied().unwrap_or_default();
            Node { used, ..Node::new(facts) }
        };
        let nodes = facts.iter().map(|(name, facts)| (name.clone(), node(name, facts))).collect();
        let placed: Vec<_> = services
            .iter()
            .map(|(uid, s)| {
                let ask = Ask {
                    service: uid,
                    replicas: 1,
                    node_selector: &s.zone,
                    affinity: None,
                    tolerations: &[],
                    each: s.each,
                };
                Placed { ask, on: &s.on }
            })
            .collect();
        let mut tries = 0;
        let moved = find(&nodes, &placed, |ask, name, node| {
            tries += 1;
            fit(ask, name, node, 0).is_ok_and(|fit| !fit.avoid)
        });
        assert_eq!(rebalance(&nodes, &placed), moved);
        (moved, tries)
    }

    fn carry_out(moved: &Move, services: &mut Services) {
        let service = services.get_mut(&moved.service).expect("one of them");
        service.on = moved.done(&service.on);
    }

    /// All of them, one after another.
    fn settle(facts: &BTreeMap<String, NodeFacts>, services: &mut Services) -> Vec<Move> {
        let mut moves = vec![];
        while let Some(moved) = next(facts, services) {
            carry_out(&moved, services);
            moves.push(moved);
        }
        moves
    }

    /// What the nodes are given, most first.
    fn loads(facts: &BTreeMap<String, NodeFacts>, services: &Services) -> Vec<u64> {
        let mut loads: Vec<_> = facts.keys().map(|node| used(node, services).slots).collect();
        loads.sort_by_key(|load| Reverse(*load));
        loads
    }

    #[test]
    fn a_node_that_comes_back_gets_its_share_and_nothing_else_moves() {
        let facts = plain(&["a", "b", "c"]);
        let mut services: Services =
            (0..12).map(|i| (format!("s{i:02}"), service(100, &[["a", "b"][i % 2]]))).collect();
        let moves = settle(&facts, &mut services);
        assert_eq!(loads(&facts, &services), [400, 400, 400]);
        assert!(moves.len() == 4 && moves.iter().all(|moved| moved.to == "c"), "{moves:?}");
    }

    #[test]
    fn what_differs_by_one_service_or_a_fifth_stays() {
        let facts = plain(&["a", "b"]);
        let on = |slots: u64, a: usize, b: usize| -> Services {
            let nodes = std::iter::repeat_n("a", a).chain(std::iter::repeat_n("b", b));
            nodes.enumerate().map(|(i, node)| (format!("s{i:03}"), service(slots, &[node]))).collect()
        };
        for (mut services, want) in [
            (on(100, 1, 0), vec![100, 0]),
            (on(100, 2, 1), vec![200, 100]),
            (on(100, 2, 0), vec![100, 100]),
            (on(1, 55, 45), vec![55, 45]),
            (on(1, 60, 40), vec![55, 45]),
        ] {
            settle(&facts, &mut services);
            assert_eq!(loads(&facts, &services), want);
        }
    }

    #[test]
    fn only_what_fits_moves_and_to_no_node_that_is_to_be_avoided() {
        let mut facts = plain(&["a", "b"]);
        let mut services =
            Services::from([("s".to_owned(), service(100, &["a"])), ("t".to_owned(), service(100, &["a"]))]);
        facts.get_mut("b").expect("b").cpu_millis = Some(500);
        for service in services.values_mut() {
            service.each.cpu_millis = 501;
        }
        assert_eq!(next(&facts, &services), None);
        services.get_mut("t").expect("t").each.cpu_millis = 500;
        assert_eq!(next(&facts, &services).map(|moved| moved.service), Some("t".to_owned()));
        let (key, effect) = ("k".to_owned(), "PreferNoSchedule".to_owned());
        facts.get_mut("b").expect("b").taints = vec![Taint { key, value: String::new(), effect }];
        assert_eq!(next(&facts, &services), None);
    }

    #[test]
    fn a_large_cluster_is_looked_at_in_few_tries() {
        let name = |n: usize| format!("n{n:04}");
        let mut facts: BTreeMap<_, _> = (0..1000).map(|n| (name(n), NodeFacts::default())).collect();
        // Half of the nodes have everything, and it fits nowhere; some of the others are to be kept free.
        let taint = Taint { key: "k".to_owned(), value: String::new(), effect: "NoSchedule".to_owned() };
        for (n, facts) in facts.values_mut().enumerate() {
            facts.cpu_millis = Some(500);
            facts.taints = if n < 100 { vec![taint.clone()] } else { vec![] };
        }
        let mut services: Services =
            (0..10_000).map(|s| (format!("s{s:05}"), service(10, &[&name(500 + s % 500)]))).collect();
        for service in services.values_mut() {
            service.each.cpu_millis = 501;
        }
        let (moved, tries) = counted(&facts, &services);
        assert_eq!(moved, None);
        assert!(tries <= facts.len() + services.len() * TARGETS, "{tries}");

        // One can be moved: past the nodes that are even less loaded, and take nothing.
        services.get_mut("s09999").expect("the last one").each.cpu_millis = 500;
        let (moved, _) = counted(&facts, &services);
        assert_eq!(moved, Some(Move { service: "s09999".into(), from: name(999), to: name(100) }));
    }

    #[test]
    fn several_replicas_of_one_node_stay() {
        let facts = plain(&["a", "b"]);
        let mut many = service(100, &["a"]);
        many.on.insert("a".to_owned(), 4);
        assert_eq!(next(&facts, &Services::from([("s".to_owned(), many)])), None);
    }

    #[test]
    fn a_move_that_is_too_late_is_none() {
        let moved = Move { service: "s".into(), from: "a".into(), to: "b".into() };
        let on = |nodes: &[&str]| service(1, nodes).on;
        assert_eq!(moved.done(&on(&["a", "c"])), on(&["b", "c"]));
        assert_eq!(moved.done(&on(&["a", "b"])), on(&["a", "b"]));
        assert_eq!(moved.done(&on(&["c"])), on(&["c"]));
    }

    fn zoned() -> impl Strategy<Value = BTreeMap<String, NodeFacts>> {
        let facts = (0..2u8, 500..3000u64).prop_map(|(zone, cpu)| NodeFacts {
            labels: BTreeMap::from([("zone".to_owned(), zone.to_string())]),
            taints: vec![],
            cpu_millis: Some(cpu),
        });
        btree_map("[a-e]", facts, 1..5)
    }

    fn services() -> impl Strategy<Value = Services> {
        let places = btree_map("[a-e]", prop_oneof![4 => Just(1u32), 1 => 2..4u32], 0..3);
        let service =
            (1..300u64, 0..300u64, proptest::option::of(0..2u8), places).prop_map(|(slots, cpu, zone, on)| {
                let zone = zone.iter().map(|zone| ("zone".to_owned(), zone.to_string())).collect();
                Service { each: Cost { slots, cpu_millis: cpu, memory: 0 }, zone, on }
            });
        btree_map("[s-z][0-9]", service, 0..25)
    }

    proptest! {
        /// The loads, most first, fall with each move as words fall in a dictionary: so moves end.
        #[test]
        fn each_move_evens_and_takes_what_may_be_used(facts in zoned(), mut services in services()) {
            let mut before = loads(&facts, &services);
            while let Some(moved) = next(&facts, &services) {
                let cpu = used(&moved.to, &services).cpu_millis;
                carry_out(&moved, &mut services);
                let after = loads(&facts, &services);
                prop_assert!(after < before, "{:?}: {:?} → {:?}", moved, before, after);
                before = after;
                let (service, node) = (&services[&moved.service], &facts[&moved.to]);
                prop_assert!(service.zone.get("zone").is_none_or(|zone| *zone == node.labels["zone"]));
                let taken = used(&moved.to, &services).cpu_millis;
                prop_assert!(taken == cpu || Some(taken) <= node.cpu_millis, "{} of {:?}", taken, node.cpu_millis);
                prop_assert_eq!(service.on[&moved.to], 1);
            }
        }

        /// Where services are alike and may go anywhere, nodes end even.
        #[test]
        fn alike_services_end_even(on in proptest::collection::vec(0..5usize, 0..60), nodes in 1..6usize) {
            let names = &["a", "b", "c", "d", "e"][..nodes];
            let facts = plain(names);
            let mut services: Services =
                on.iter().enumerate().map(|(i, on)| (format!("s{i}"), service(10, &[names[on % nodes]]))).collect();
            let moves = settle(&facts, &mut services);
            prop_assert!(moves.len() <= services.len(), "none moves twice: {:?}", moves);
            let loads = loads(&facts, &services);
            let (most, least, mean) = (loads[0], loads[nodes - 1], loads.iter().sum::<u64>() / nodes as u64);
            prop_assert!(most - least < 20 || most - least <= mean / EVEN, "{:?}", loads);
        }
    }
}
