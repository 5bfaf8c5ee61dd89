//! Which nodes take how many replicas of a service. In: the replicas, the nodes with their load, what is placed now;
//! out: what should be placed. Pure: the same input gives the same answer.
//!
//! Nodes of one service differ by one replica at most, because kube-proxy balances endpoints evenly. A replica moves
//! only when the spread or a node that went away demands it.

use std::{cmp::Reverse, collections::BTreeMap};

use sha2::{Digest, Sha256};

/// Endpoints that one EndpointSlice may hold: the API server's own limit, and so the most nodes of a service.
const MAX_NODES: usize = 1000;

/// Spreads `replicas` over `nodes` (name → requests in flight that other services may put there), starting from
/// `current` (node → replicas). Empty when there is no node.
pub fn spread(
    service: &str,
    replicas: u32,
    nodes: &BTreeMap<String, u64>,
    current: &BTreeMap<String, u32>,
) -> BTreeMap<String, u32> {
    let count = nodes.len().min(replicas as usize).min(MAX_NODES);
    if count == 0 {
        return BTreeMap::new();
    }
    let has = |node: &str| current.get(node).copied().unwrap_or(0);
    let tie = |node: &str| stable_hash(&[service, node]);

    // Who has most keeps its place; the rest of the places go to the least loaded.
    let mut chosen: Vec<(&String, u64)> = nodes.iter().map(|(node, load)| (node, *load)).collect();
    chosen.sort_by_cached_key(|(node, load)| {
        let has = has(node);
        let load = if has > 0 { 0 } else { *load };
        (Reverse(has), load, tie(node))
    });
    chosen.truncate(count);

    let (base, extra) = (replicas / count as u32, replicas as usize % count);
    // One more goes first to who has it already, then to the least loaded.
    chosen.sort_by_cached_key(|(node, load)| {
        let keeps = has(node) > base;
        (Reverse(keeps), if keeps { 0 } else { *load }, tie(node))
    });
    chosen.iter().enumerate().map(|(i, (node, _))| ((*node).clone(), base + u32::from(i < extra))).collect()
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
    use proptest::{collection::btree_map, prelude::*};

    fn nodes() -> impl Strategy<Value = BTreeMap<String, u64>> {
        btree_map("[a-f]", 0..1000u64, 0..6)
    }

    /// Replicas that must start on a node that did not have them.
    fn started(from: &BTreeMap<String, u32>, to: &BTreeMap<String, u32>) -> u32 {
        to.iter().map(|(node, n)| n.saturating_sub(from.get(node).copied().unwrap_or(0))).sum()
    }

    /// The least that any even spread over that many of these nodes must start, by trying them all.
    fn least_started(replicas: u32, nodes: &BTreeMap<String, u64>, current: &BTreeMap<String, u32>) -> u32 {
        let names: Vec<_> = nodes.keys().collect();
        let count = names.len().min(replicas as usize);
        let (base, extra) = (replicas / count as u32, replicas % count as u32);
        let mut least = u32::MAX;
        for pick in 0..3u32.pow(names.len() as u32) {
            // Each node: not chosen, base, or base + 1.
            let digits: Vec<_> = (0..names.len()).map(|i| pick / 3u32.pow(i as u32) % 3).collect();
            let with = |d| digits.iter().filter(|&&digit| digit == d).count() as u32;
            if with(2) != extra || with(1) + extra != count as u32 {
                continue;
            }
            let to = names.iter().zip(&digits).filter(|(_, d)| **d > 0);
            least = least.min(started(current, &to.map(|(n, d)| ((*n).clone(), base + d - 1)).collect()));
        }
        least
    }

    proptest! {
        #[test]
        fn even_complete_and_minimal(
            replicas in 1..40u32, nodes in nodes(), current in btree_map("[a-h]", 1..9u32, 0..6),
        ) {
            let to = spread("s", replicas, &nodes, &current);
            prop_assert_eq!(&to, &spread("s", replicas, &nodes, &current));
            if nodes.is_empty() {
                prop_assert!(to.is_empty());
                return Ok(());
            }
            prop_assert_eq!(to.values().sum::<u32>(), replicas);
            prop_assert_eq!(to.len(), nodes.len().min(replicas as usize));
            prop_assert!(to.values().max().unwrap() - to.values().min().unwrap() <= 1);
            prop_assert!(to.keys().all(|node| nodes.contains_key(node)));
            prop_assert_eq!(started(&current, &to), least_started(replicas, &nodes, &current));
        }

        #[test]
        fn what_is_well_placed_stays(replicas in 1..40u32, nodes in nodes(), other in nodes()) {
            let first = spread("s", replicas, &nodes, &BTreeMap::new());
            let loads = nodes.keys().map(|n| (n.clone(), other.get(n).copied().unwrap_or(0))).collect();
            prop_assert_eq!(&spread("s", replicas, &loads, &first), &first);
        }

        #[test]
        fn a_node_that_joins_or_leaves_moves_little(replicas in 1..40u32, mut nodes in nodes()) {
            nodes.insert("a".to_owned(), 0);
            let without: BTreeMap<_, _> = nodes.iter().filter(|(n, _)| *n != "a").map(|(n, l)| (n.clone(), *l)).collect();
            let before = spread("s", replicas, &without, &BTreeMap::new());
            let joined = spread("s", replicas, &nodes, &before);
            let gets = joined.get("a").copied().unwrap_or(0);
            prop_assert!(before.is_empty() || started(&before, &joined) == gets, "only the new node starts anything");
            let left = spread("s", replicas, &without, &joined);
            prop_assert!(without.is_empty() || started(&joined, &left) == gets, "only what was on it starts again");
        }
    }

    #[test]
    fn the_least_loaded_nodes_come_first() {
        let nodes = BTreeMap::from([("a".to_owned(), 500), ("b".to_owned(), 0), ("c".to_owned(), 100)]);
        let on = |replicas| spread("s", replicas, &nodes, &BTreeMap::new()).into_iter().collect::<Vec<_>>();
        assert_eq!(on(1), [("b".to_owned(), 1)]);
        assert_eq!(on(2), [("b".to_owned(), 1), ("c".to_owned(), 1)]);
        assert_eq!(on(7), [("a".to_owned(), 2), ("b".to_owned(), 3), ("c".to_owned(), 2)]);
    }

    #[test]
    fn equal_nodes_are_chosen_by_service() {
        let nodes: BTreeMap<_, _> = (0..8).map(|i| (format!("n{i}"), 0)).collect();
        let places: std::collections::BTreeSet<_> =
            (0..64).flat_map(|i| spread(&format!("s{i}"), 1, &nodes, &BTreeMap::new()).into_keys()).collect();
        assert_eq!(places.len(), 8, "64 services of one replica each use every node");
    }
}
