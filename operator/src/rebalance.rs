//! Evens out what nodes are given, for as long as this replica leads. In: shims, Nodes and what services have been given;
//! out: a service that is to move, one at a time, told to its next reconcile. IO, but for [`Since`]; who decides is
//! `schedule`.
//!
//! Gentle: it can wait. Nothing moves while a shim has just come or gone, or is told to go, or a Node has just been tainted; nor
//! a service that has just changed; nor the next before the last one serves where it went.

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
    nodes::facts::{NodeStore, Taint},
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
/// For this long nothing has changed of what a move depends on.
const STEADY: Duration = Duration::from_secs(30);

/// The move that is to be made next, if nothing has come between by then.
#[derive(Debug, Default)]
pub struct NextMove(Mutex<Option<Move>>);

impl NextMove {
    /// What nobody has taken by now was decided by what is no more.
    fn offer(&self, moved: Option<Move>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = moved;
    }

    /// The move, if it is this service's: once.
    pub fn take(&self, service: &str) -> Option<Move> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take_if(|moved| moved.service == service)
    }
}

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
        let (mut shims, mut services) = (Since::default(), Since::default());
        let mut under_way: Option<String> = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let now = Instant::now();
            let assigned: Vec<Arc<Assigned>> = self.hub.sessions().all_assigned().cloned().collect();
            services.see(assigned.iter().map(|a| (a.service.uid.clone(), a.generation)), now);
            let views = self.steady_shims(&mut shims, now);
            // Once it serves it is done: what becomes of it later holds up nobody.
            under_way = under_way.filter(|last| !self.serves(last, &assigned));
            let moved = views.filter(|_| under_way.is_none()).and_then(|views| {
                let steady = assigned.iter().filter(|a| services.steady(&a.service.uid, now));
                self.decide(&views, steady)
            });
            let who = moved.as_ref().and_then(|moved| assigned.iter().find(|a| a.service.uid == moved.service));
            self.next.offer(moved.clone());
            if let (Some(moved), Some(Assigned { service, .. })) = (moved, who.map(Arc::as_ref)) {
                let (ServiceRef { namespace, name, uid }, Move { from, to, .. }) = (service, &moved);
                tracing::info!(namespace, service = name, from, to, "moves, because its node is given far more");
                under_way = Some(uid.clone());
                self.hub.wake.one(service);
            }
        }
    }

    /// The shims that can be given something, if all there are have been as they are for a while, and most can.
    fn steady_shims(&self, since: &mut Since<Use>, now: Instant) -> Option<Vec<ShimView>> {
        let mut all = views(&self.hub.sessions(), &shim_pods(&self.pods), "", self.leading_since, now);
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

    /// Whether the service serves all that was assigned last; also when it is gone.
    fn serves(&self, service: &str, assigned: &[Arc<Assigned>]) -> bool {
        let sessions = self.hub.sessions();
        assigned.iter().filter(|a| a.service.uid == service).all(|a| is_served(a, &sessions))
    }

    fn decide<'a>(&self, views: &[ShimView], assigned: impl Iterator<Item = &'a Arc<Assigned>>) -> Option<Move> {
        let specs: HashMap<_, _> = self.hub.services().into_iter().filter_map(|s| Some((s.uid()?, s))).collect();
        let movable: Vec<_> = {
            let sessions = self.hub.sessions();
            let movable = |a: &&Arc<Assigned>| !a.parked && is_served(a, &sessions);
            assigned.filter(movable).filter_map(|a| Some((a, specs.get(&a.service.uid)?))).collect()
        };
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let placed = movable.iter().filter_map(|(a, service)| {
            // What is being rolled out is not moved as well.
            let settled = service.metadata.generation == Some(a.content.service_generation);
            let ask = Ask {
                service: &a.service.uid,
                replicas: a.replicas.values().sum(),
                node_selector: &service.spec.node_selector,
                affinity: service.spec.affinity.required(),
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
    fn a_move_is_taken_once_and_by_its_service() {
        let next = NextMove::default();
        let moved = Move { service: "s".into(), from: "a".into(), to: "b".into() };
        next.offer(Some(moved.clone()));
        assert_eq!((next.take("t"), next.take("s"), next.take("s")), (None, Some(moved.clone()), None));
        next.offer(Some(moved));
        next.offer(None);
        assert_eq!(next.take("s"), None);
    }
}
