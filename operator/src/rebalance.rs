//! Evens out what nodes are given, for as long as this replica leads. In: shims, Nodes and what services have been given;
//! out: a service that is to move, one at a time, told to its next reconcile. IO, but for [`Since`] and [`Idle`]; who
//! decides is `schedule`, and `moves` says how far a move is.
//!
//! Gentle: it can wait. Nothing moves while a shim has just come or gone, or is told to go, or a Node has just been tainted; nor
//! a service that has just changed; nor the next before the last one serves where it went, or was given up.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, runtime::reflector::Store};

use crate::{
    ledger::Ledger,
    link::{Hub, content::Assigned, sessions::Sessions},
    moves::{Moves, NextMove, Stage},
    nodes::facts::{AllNodes, NodeStore, Taint},
    reconcile::{
        plan::nodes_of,
        views::{ShimView, views},
    },
    schedule::{Ask, Cost, Move, Node, Placed, rebalance},
    shims::shim_pods,
    wake::ServiceRef,
};

/// Between two looks, and so between two moves.
const LOOK: Duration = Duration::from_secs(2);
/// For this long nothing has changed of what a move depends on. After this it is looked again whether there is one.
const STEADY: Duration = Duration::from_secs(30);

/// Since when things are as they are, by name.
#[derive(Debug)]
struct Since<T>(HashMap<String, (T, Instant)>);

impl<T> Default for Since<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: PartialEq> Since<T> {
    /// Things are so now; those that are not named are no more.
    fn see(&mut self, things: impl IntoIterator<Item = (String, T)>, now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        self.0 = things
            .into_iter()
            .map(|(name, thing)| {
                let known = before.remove(&name).filter(|(before, _)| *before == thing);
                let since = known.map_or(now, |(_, since)| since);
                (name, (thing, since))
            })
            .collect();
    }

    /// It has been so for long enough.
    fn steady(&self, name: &str, now: Instant) -> bool {
        self.0.get(name).is_some_and(|(_, since)| now.duration_since(*since) >= STEADY)
    }

    fn all_steady(&self, now: Instant) -> bool {
        self.0.keys().all(|name| self.steady(name, now))
    }
}

/// What a shim is for placing: whether it can be given something, and the taints of its Node.
#[derive(Debug, PartialEq)]
struct Use {
    usable: bool,
    taints: Option<Vec<Taint>>,
}

/// What rebalancing needs.
pub struct Rebalance {
    /// The shims, and what is assigned to them.
    pub hub: Arc<Hub>,
    /// Their pods.
    pub pods: Store<Pod>,
    /// The cluster's Nodes.
    pub nodes: NodeStore,
    /// What services have been given.
    pub ledger: Arc<Mutex<Ledger>>,
    /// Where the decision is left for the service's reconcile.
    pub next: Arc<NextMove>,
    /// When this replica became the leader.
    pub leading_since: Instant,
}

impl Rebalance {
    /// Looks again and again.
    pub async fn keep(self) -> Infallible {
        let this = Arc::new(self);
        let (mut shims, mut services) = (Since::default(), Since::default());
        let mut moves = Moves::default();
        let mut idle: Option<Idle> = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let now = Instant::now();
            let assigned: Vec<Arc<Assigned>> = this.hub.sessions().all_assigned().cloned().collect();
            services.see(assigned.iter().map(|a| (a.service.uid.clone(), a.generation)), now);
            if let Some(moved) = moves.look(|moved| this.stage(moved, &assigned), now) {
                tell(&moved, &assigned);
            }
            let views = this.steady_shims(&mut shims, now);
            if views.is_none() {
                moves.withdraw();
            }
            let seen = this.seen();
            let looks = moves.is_idle() && idle.as_ref().is_none_or(|idle| idle.is_over(&seen, now));
            let mut woken = None;
            if let Some(views) = views.filter(|_| looks) {
                let may = |a: &&Arc<Assigned>| services.steady(&a.service.uid, now) && moves.may_move(&a.service.uid);
                let movable = assigned.iter().filter(may).cloned().collect();
                let moved = this.clone().decided(views, movable).await;
                idle = moved.is_none().then_some(Idle { seen, since: now });
                woken = moved.as_ref().and_then(|moved| assigned.iter().find(|a| a.service.uid == moved.service));
                moved.into_iter().for_each(|moved| moves.begin(moved, now));
            }
            this.next.offer(moves.offered().cloned());
            woken.into_iter().for_each(|assigned| this.hub.wake.one(&assigned.service));
        }
    }

    /// The shims that can be given something, if all there are have been as they are for a while, and most can.
    fn steady_shims(&self, since: &mut Since<Use>, now: Instant) -> Option<Vec<ShimView>> {
        let mut all = views(&self.hub.sessions(), &shim_pods(&self.pods), "", 0, self.leading_since, now);
        let facts = self.nodes.all();
        let seen = all.iter().map(|shim| {
            let taints = facts.get(&shim.node).map(|node| node.taints.clone());
            (shim.pod_uid.clone(), Use { usable: usable(shim), taints })
        });
        since.see(seen, now);
        let there = all.len();
        all.retain(usable);
        (since.all_steady(now) && all.len() * 2 > there).then_some(all)
    }

    fn stage(&self, moved: &Move, assigned: &[Arc<Assigned>]) -> Stage {
        let Some(assigned) = assigned.iter().find(|a| a.service.uid == moved.service) else { return Stage::Served };
        match moved.done(&assigned.replicas) != assigned.replicas {
            true => Stage::Offered,
            false if is_served(assigned, &self.hub.sessions()) => Stage::Served,
            false => Stage::Made,
        }
    }

    fn seen(&self) -> Seen {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        Seen { nodes: self.nodes.all(), loads: ledger.loads.all().clone() }
    }

    /// Decides where it holds up nobody: of a thousand nodes and ten thousand services it takes a while.
    async fn decided(self: Arc<Self>, views: Vec<ShimView>, movable: Vec<Arc<Assigned>>) -> Option<Move> {
        tokio::task::spawn_blocking(move || self.decide(&views, &movable)).await.ok().flatten()
    }

    fn decide(&self, views: &[ShimView], movable: &[Arc<Assigned>]) -> Option<Move> {
        let specs: HashMap<_, _> = self.hub.services().into_iter().filter_map(|s| Some((s.uid()?, s))).collect();
        let movable: Vec<_> = {
            let sessions = self.hub.sessions();
            let movable = movable.iter().filter(|a| !a.parked && is_served(a, &sessions));
            movable.filter_map(|a| Some((a, specs.get(&a.service.uid)?))).collect()
        };
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let placed = movable.iter().filter_map(|(a, service)| {
            // What is being rolled out is not moved as well.
            let settled = service.metadata.generation == Some(a.content.service_generation);
            let ask = Ask {
                service: &a.service.uid,
                replicas: a.replicas.values().sum(),
                node_selector: &service.spec.node_selector,
                affinity: service.spec.required_nodes(),
                tolerations: &service.spec.tolerations,
                each: each(a, ledger.loads.of(&a.service.uid)?)?,
            };
            settled.then_some(Placed { ask, on: &a.replicas })
        });
        let placed: Vec<_> = placed.collect();
        let facts = self.nodes.all();
        // Of a Node that is not shown it is not known what may go there.
        let shown = views.iter().filter(|shim| facts.contains_key(&shim.node));
        let nodes = nodes_of(shown, ledger.loads.all(), |name| Node::new(&facts[name]));
        drop(ledger);
        rebalance(&nodes, &placed)
    }
}

/// What a decision was made by, but for services that were yet to serve.
#[derive(Debug, PartialEq)]
struct Seen {
    nodes: AllNodes,
    loads: BTreeMap<String, Cost>,
}

/// There was nothing to do.
#[derive(Debug)]
struct Idle {
    seen: Seen,
    since: Instant,
}

impl Idle {
    /// Something has changed, or some time has passed.
    fn is_over(&self, seen: &Seen, now: Instant) -> bool {
        self.seen != *seen || now.duration_since(self.since) >= STEADY
    }
}

fn tell(moved: &Move, assigned: &[Arc<Assigned>]) {
    // One that has gone elsewhere meanwhile has not made this move.
    let made = |a: &&Arc<Assigned>| a.service.uid == moved.service && a.replicas.contains_key(&moved.to);
    if let Some(ServiceRef { namespace, name, .. }) = assigned.iter().find(made).map(|a| &a.service) {
        let Move { from, to, .. } = moved;
        tracing::info!(namespace, service = name, from, to, "moves, because its node is given far more");
    }
}

fn usable(shim: &ShimView) -> bool {
    shim.assignable() && !shim.ejected && !shim.slow
}

/// Every shim that is to serve it does, as it is assigned now.
fn is_served(assigned: &Assigned, sessions: &Sessions) -> bool {
    let Assigned { service, generation, .. } = assigned;
    assigned.budgets.keys().all(|pod| {
        let shim = sessions.shims().get(pod).filter(|shim| shim.connected);
        shim.and_then(|shim| shim.known.get(&service.uid)).is_some_and(|serves| serves >= generation)
    })
}

/// What one replica takes, of a service that has one on some node.
fn each(assigned: &Assigned, taken: &BTreeMap<String, Cost>) -> Option<Cost> {
    let ones = assigned.replicas.iter().filter(|(_, replicas)| **replicas == 1);
    ones.filter_map(|(node, _)| taken.get(node).copied()).max_by_key(|cost| cost.slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_steady_no_more() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut since = Since::default();
        let mut see = |things: &[(&str, u32)], seconds| {
            since.see(things.iter().map(|(name, thing)| ((*name).to_owned(), *thing)), at(seconds));
            let steady: Vec<_> = things.iter().map(|(name, _)| since.steady(name, at(seconds))).collect();
            (steady, since.all_steady(at(seconds)))
        };
        assert_eq!(see(&[("a", 1), ("b", 1)], 0), (vec![false, false], false));
        assert_eq!(see(&[("a", 1), ("b", 1)], 29), (vec![false, false], false));
        assert_eq!(see(&[("a", 1), ("b", 2)], 30), (vec![true, false], false), "another is not the same");
        assert_eq!(see(&[("a", 1)], 40), (vec![true], true), "nobody waits for who is gone");
        assert_eq!(see(&[("a", 1), ("b", 2)], 60), (vec![true, false], false), "who comes back is new");
        assert_eq!(see(&[("a", 1), ("b", 2)], 90), (vec![true, true], true));
        assert_eq!(see(&[], 91), (vec![], true));
    }

    #[test]
    fn nothing_to_do_is_found_once_until_something_changes() {
        let start = Instant::now();
        let seen = |slots| Seen {
            nodes: AllNodes::default(),
            loads: BTreeMap::from([("a".to_owned(), Cost { slots, ..Cost::default() })]),
        };
        let idle = Idle { seen: seen(1), since: start };
        let soon = start + STEADY / 2;
        assert!(!idle.is_over(&seen(1), soon));
        assert!(idle.is_over(&seen(2), soon));
        assert!(idle.is_over(&seen(1), start + STEADY));
    }
}
