//! An even spread with minimal movement. In: replicas, nodes with their room, what is placed now; out: replicas by
//! node. Pure.
//!
//! The nodes of one service differ by one replica at most, because kube-proxy balances endpoints evenly: where one node
//! has little room, either every node takes little, or that node takes none; whichever places more.

use std::{cmp::Reverse, collections::BTreeMap};

use super::stable_hash;

/// Most nodes of a service: its first slice remembers each of them, in an annotation that has room for so many.
const MAX_NODES: usize = 1000;

/// A node that can take replicas of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Replicas that fit.
    pub(super) replicas: u32,
    /// Something speaks against it, when there is another.
    pub(super) avoid: bool,
    /// Requests in flight that other services may put there.
    pub(super) load: u64,
}

/// Spreads `replicas` over `nodes`, starting from `current` (node → replicas). As many as fit, on as many nodes as
/// possible; empty when none fits.
pub(super) fn spread(
    service: &str,
    replicas: u32,
    nodes: &BTreeMap<String, Room>,
    current: &BTreeMap<String, u32>,
) -> BTreeMap<String, u32> {
    let rooms: Vec<u32> = nodes.values().map(|room| room.replicas).filter(|room| *room > 0).collect();
    let Some((count, replicas)) = widest(replicas, rooms) else { return BTreeMap::new() };
    let (base, extra) = (replicas / count, replicas % count);

    // Who has most keeps its place, and who has the code already comes next; then the least loaded.
    let rank = |node: &String, room: &Room| {
        let has = current.get(node).copied();
        let new = (room.avoid, room.load);
        (Reverse(has), if has.is_some() { (false, 0) } else { new }, stable_hash(&[service, node]))
    };
    let mut ranked: Vec<_> = nodes.iter().filter(|(_, room)| room.replicas >= base.max(1)).collect();
    ranked.sort_by_cached_key(|(node, room)| rank(node, room));
    // One more goes first to who has it already.
    let keeps = |node: &String| current.get(node).is_some_and(|has| *has > base);
    let mut larger: Vec<_> = ranked.iter().filter(|(_, room)| room.replicas > base).map(|(node, _)| *node).collect();
    larger.sort_by_key(|node| Reverse(keeps(node)));
    larger.truncate(extra as usize);
    let mut placed: BTreeMap<String, u32> = larger.into_iter().map(|node| (node.clone(), base + 1)).collect();
    for (node, _) in ranked {
        if placed.len() == count as usize {
            break;
        }
        placed.entry(node.clone()).or_insert(base);
    }
    placed
}

/// On how many nodes the most replicas fit evenly, and how many these are.
fn widest(replicas: u32, mut rooms: Vec<u32>) -> Option<(u32, u32)> {
    rooms.sort_unstable_by_key(|room| Reverse(*room));
    let most = rooms.len().min(replicas as usize).min(MAX_NODES);
    let fits = |count: usize| {
        let least = rooms[count - 1];
        let above = rooms.partition_point(|room| *room > least);
        u64::from(least).saturating_mul(count as u64).saturating_add(above as u64).min(u64::from(replicas)) as u32
    };
    (1..=most).map(|count| (fits(count), count)).max().map(|(replicas, count)| (count as u32, replicas))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::btree_map, prelude::*};

    type Placed = BTreeMap<String, u32>;

    fn nodes(room: impl Strategy<Value = u32>) -> impl Strategy<Value = BTreeMap<String, Room>> {
        let room = (room, any::<bool>(), 0..1000u64);
        btree_map("[a-f]", room.prop_map(|(replicas, avoid, load)| Room { replicas, avoid, load }), 0..6)
    }

    fn ample() -> impl Strategy<Value = BTreeMap<String, Room>> {
        nodes(Just(u32::MAX))
    }

    /// Replicas that must start on a node that did not have them.
    fn started(from: &Placed, to: &Placed) -> u32 {
        to.iter().map(|(node, n)| n.saturating_sub(from.get(node).copied().unwrap_or(0))).sum()
    }

    /// The best even spread by trying them all: most replicas, then most nodes, then least that must start.
    fn best(replicas: u32, nodes: &BTreeMap<String, Room>, current: &Placed) -> (u32, usize, u32) {
        let names: Vec<_> = nodes.iter().collect();
        let mut best = (0, 0, Reverse(0));
        for base in 0..=replicas {
            for pick in 0..3u32.pow(names.len() as u32) {
                // Each node: not chosen, base, or base + 1.
                let digit = |i: usize| pick / 3u32.pow(i as u32) % 3;
                let to: Placed = (0..names.len())
                    .filter(|i| digit(*i) > 0 && base + digit(*i) > 1)
                    .map(|i| (names[i].0.clone(), base + digit(i) - 1))
                    .collect();
                let total: u32 = to.values().sum();
                if total <= replicas && to.iter().all(|(node, n)| *n <= nodes[node].replicas) {
                    best = best.max((total, to.len(), Reverse(started(current, &to))));
                }
            }
        }
        (best.0, best.1, best.2.0)
    }

    proptest! {
        #[test]
        fn even_complete_and_minimal(
            replicas in 1..12u32, nodes in nodes(0..7u32), current in btree_map("[a-h]", 0..5u32, 0..6),
        ) {
            let to = spread("s", replicas, &nodes, &current);
            prop_assert_eq!(&to, &spread("s", replicas, &nodes, &current));
            prop_assert!(to.iter().all(|(node, n)| *n > 0 && *n <= nodes[node].replicas), "{:?}", to);
            if let (Some(most), Some(least)) = (to.values().max(), to.values().min()) {
                prop_assert!(most - least <= 1, "{:?}", to);
            }
            let got = (to.values().sum::<u32>(), to.len(), started(&current, &to));
            prop_assert_eq!(got, best(replicas, &nodes, &current));
        }

        #[test]
        fn all_of_them_where_there_is_room(replicas in 1..40u32, nodes in ample()) {
            let to = spread("s", replicas, &nodes, &BTreeMap::new());
            prop_assert_eq!(to.values().sum::<u32>(), if nodes.is_empty() { 0 } else { replicas });
            prop_assert_eq!(to.len(), nodes.len().min(replicas as usize));
        }

        #[test]
        fn what_is_well_placed_stays(replicas in 1..40u32, nodes in nodes(0..9u32), other in ample()) {
            let first = spread("s", replicas, &nodes, &BTreeMap::new());
            let load = |node: &String| other.get(node).map_or((false, 0), |room| (room.avoid, room.load));
            let loaded = nodes.iter().map(|(node, room)| {
                let (avoid, load) = load(node);
                (node.clone(), Room { avoid, load, ..*room })
            }).collect();
            prop_assert_eq!(&spread("s", replicas, &loaded, &first), &first);
        }

        #[test]
        fn a_node_that_joins_or_leaves_moves_little(replicas in 1..40u32, mut nodes in ample()) {
            nodes.insert("a".to_owned(), Room { replicas: u32::MAX, avoid: false, load: 0 });
            let without: BTreeMap<_, _> = nodes.iter().filter(|(n, _)| *n != "a").map(|(n, r)| (n.clone(), *r)).collect();
            let before = spread("s", replicas, &without, &BTreeMap::new());
            let joined = spread("s", replicas, &nodes, &before);
            let gets = joined.get("a").copied().unwrap_or(0);
            prop_assert!(before.is_empty() || started(&before, &joined) == gets, "only the new node starts anything");
            let left = spread("s", replicas, &without, &joined);
            prop_assert!(without.is_empty() || started(&joined, &left) == gets, "only what was on it starts again");
        }
    }

    fn room(replicas: u32, load: u64) -> Room {
        Room { replicas, avoid: false, load }
    }

    #[test]
    fn the_least_loaded_nodes_come_first_and_those_to_avoid_last() {
        let mut nodes = BTreeMap::from([
            ("a".to_owned(), room(u32::MAX, 500)),
            ("b".to_owned(), room(u32::MAX, 0)),
            ("c".to_owned(), room(u32::MAX, 100)),
        ]);
        let on =
            |nodes: &BTreeMap<String, Room>, n| spread("s", n, nodes, &BTreeMap::new()).into_iter().collect::<Vec<_>>();
        assert_eq!(on(&nodes, 1), [("b".to_owned(), 1)]);
        assert_eq!(on(&nodes, 2), [("b".to_owned(), 1), ("c".to_owned(), 1)]);
        assert_eq!(on(&nodes, 7), [("a".to_owned(), 2), ("b".to_owned(), 3), ("c".to_owned(), 2)]);
        nodes.insert("b".to_owned(), Room { avoid: true, ..room(u32::MAX, 0) });
        assert_eq!(on(&nodes, 1), [("c".to_owned(), 1)]);
    }

    #[test]
    fn little_room_is_used_when_that_places_more() {
        let on = |rooms: &[u32], replicas| {
            let nodes = rooms.iter().enumerate().map(|(i, r)| (format!("n{i}"), room(*r, 0))).collect();
            spread("s", replicas, &nodes, &BTreeMap::new()).into_values().collect::<Vec<_>>()
        };
        assert_eq!(on(&[1, 5], 2), [1, 1]);
        assert_eq!(on(&[1, 5], 5), [5], "evenly on both would be three");
        assert_eq!(on(&[1, 5], 9), [5]);
        assert_eq!(on(&[2, 2, 3], 9), [2, 2, 3]);
        assert_eq!(on(&[0, 0], 3), [] as [u32; 0]);
    }

    #[test]
    fn who_has_been_stopped_starts_where_its_code_is() {
        let nodes: BTreeMap<_, _> = (0..8).map(|i| (format!("n{i}"), room(u32::MAX, i * 100))).collect();
        let stopped = BTreeMap::from([("n7".to_owned(), 0)]);
        assert_eq!(spread("s", 1, &nodes, &stopped), BTreeMap::from([("n7".to_owned(), 1)]));
    }

    #[test]
    fn equal_nodes_are_chosen_by_service() {
        let nodes: BTreeMap<_, _> = (0..8).map(|i| (format!("n{i}"), room(u32::MAX, 0))).collect();
        let places: std::collections::BTreeSet<_> =
            (0..64).flat_map(|i| spread(&format!("s{i}"), 1, &nodes, &BTreeMap::new()).into_keys()).collect();
        assert_eq!(places.len(), 8, "64 services of one replica each use every node");
    }
}
